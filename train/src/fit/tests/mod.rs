use crate::config::Settings;
use crate::features::View;
use crate::fixtures::{Folder, noise};
use crate::samples::Samples;

use super::*;

mod leaks;
mod metamorphosis;

const GIVEN: &str = "[data]\nfeatures = \"x.npy\"\n";

fn train_to(folder: &Folder, settings: &Settings, name: &str) -> Outcome {
    let place = RunPlace::Named(folder.path(name));
    train(settings, None, &place, &()).unwrap_or_else(|error| panic!("{name}: {error}"))
}
