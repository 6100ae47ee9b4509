use crate::config::Settings;
use crate::fixtures::{TestFolder, noise};
use crate::samples::SampleSet;

use super::*;

mod invariance;
mod leaks;

const FEATURES_CONFIG: &str = "[data]\nfeatures = \"x.npy\"\n";

fn train_to(folder: &TestFolder, settings: &Settings, name: &str) -> TrainOutcome {
    let run_dir = RunDir::Named(folder.path(name));
    train(settings, None, &run_dir, &()).unwrap_or_else(|error| panic!("{name}: {error}"))
}
