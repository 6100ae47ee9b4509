use headstock_testing::noise;

use crate::config::Settings;
use crate::in_memory_features::InMemoryFeatures;
use crate::sample_features::SampleFeatures;
use crate::samples::{SampleInputs, SampleSet};
use crate::tests::fixtures::TestFolder;

use super::*;
use crate::run::RunDir;
use crate::train;

mod invariance;
mod leaks;

const FEATURES_CONFIG: &str = "[data]\nfeatures = \"x.npy\"\n";

fn train_to(folder: &TestFolder, settings: &Settings, name: &str) -> TrainOutcome {
    let run_dir = RunDir::Named(folder.path(name));
    train(settings, None, &run_dir, &()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn a_feature_that_is_not_finite_is_reported_with_its_sample() {
    let folder = TestFolder::new();
    let rows = [[0.0, 1.0], [1.0, 0.0], [0.0, 2.0], [2.0, 0.0]].map(Vec::from);
    folder.write_features(&rows, &[0, 1, 0, 1], None);
    let settings = folder.settings(FEATURES_CONFIG, &[] as &[&str]);
    let (samples, inputs) = SampleSet::read_unsplit(&settings, &()).unwrap();
    let SampleInputs::Features(mut table) = inputs else { panic!("these are features") };
    table.values[2 * table.width + 1] = f32::INFINITY;
    let mut features = SampleFeatures::InMemory(InMemoryFeatures::new(table));
    let mut fitter = HeadFitter { samples: &samples, features: &mut features, n_augmented: 0, progress: &() };
    let error = fitter.fit(settings.head.as_ref(), None, &[3, 2, 1], "").err().unwrap();
    assert_eq!(error.kind(), headstock_inference::FailureKind::Data);
    let message = error.to_string();
    assert!(message.starts_with("feature 1 of `2` is inf: features must be finite; "), "{message}");
}
