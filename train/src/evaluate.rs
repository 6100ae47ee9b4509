//! Evaluation of a run on its own test set or on other data.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use headstock_inference::Progress;
use headstock_loader::dataset::PassedOverReason;
use serde::Serialize;

use crate::atomic_write;
use crate::config::{DataSourceConfig, Registries, Settings};
use crate::error::{Remedy, TrainError};
use crate::fit::eval_logits;
use crate::metrics::Metrics;
use crate::run::{ConformalMetrics, Run, TrainTestOverlap};
use crate::sample_features::SampleFeatures;
use crate::samples::{SampleInputs, SampleSet, Subset};

/// The result of evaluating a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// The metrics.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Metrics of conformal sets; `None` if the run has no conformal scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conformal: Option<ConformalMetrics>,
    /// The number of samples tested.
    pub samples: usize,
    /// The number of images skipped because they cannot be read.
    pub skipped: usize,
    /// The files and rows of the data that are not used, by reason; with those of `skipped`.
    pub passed_over: BTreeMap<PassedOverReason, usize>,
    /// Whether these are the samples that the run was tested on when it was trained, told by their content.
    pub same_samples: bool,
    /// The overlap with the samples that the run was trained on; `None` if those are unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trained_on: Option<TrainTestOverlap>,
}

/// Computes the test metrics of a run: on the test set listed in its `split.csv` if `settings` name the run's
/// own data and split, otherwise on the test set of the data of `settings`. Samples that the run was trained
/// on are recognized by content and counted, with a warning; the other samples get metrics of their own.
///
/// # Errors
/// Any [`TrainError`]; [`TrainError::Data`] if images are missing or the classes are not those of the run.
pub fn evaluate(
    run: &Run,
    settings: &Settings,
    registries: &Registries,
    progress: &dyn Progress,
) -> Result<Evaluation, TrainError> {
    let model = &run.model;
    let split = run.split()?;
    let run_settings = run.settings(&[], registries)?;
    let is_run_data = run_settings.source == settings.source && run_settings.split == settings.split;
    let has_test_data = match &settings.source {
        DataSourceConfig::Images(source) => source.test_data().is_some(),
        DataSourceConfig::Features(_) => false,
    };
    if settings.split.has_no_test_set() && (is_run_data || !has_test_data) {
        let problem = "the run has no test set: all photos were trained on, and its figures are those of a \
                       cross-validation; give other photos to test on";
        return Err(TrainError::Data(problem.into()).with_remedy(Remedy::OtherTestImages));
    }
    let (samples, inputs) = if is_run_data {
        SampleSet::read_run_test_set(settings, &model.record.classes, &split, progress)?
    } else {
        read_other_test_data(settings, &model.record.classes, progress)?
    };

    let pretrained = match &settings.backbone {
        Some(options) if model.record.backbone.is_some() => Some(model.open_backbone(options, progress)?),
        _ => None,
    };
    let mut options = settings.extract_options();
    let temp_dir;
    if inputs.images().is_some() && !is_writable(options.cache) {
        tracing::info!(
            "the feature cache {} is not writable, so features are computed again in each evaluation: allow \
             writing to it, or choose a different folder",
            options.cache.display()
        );
        temp_dir = tempfile::tempdir().map_err(TrainError::io("create", Path::new("a temporary folder")))?;
        options.cache = temp_dir.path();
    }
    let n_samples = samples.rows.len();
    // Only the evaluation view: the number of augmented views of each sample is 0.
    let features =
        SampleFeatures::prepare(inputs, pretrained.as_ref(), options, &vec![0; n_samples], progress)?;
    let present = features.readable_rows((0..n_samples).collect());
    if present.is_empty() {
        let problem = "no photo of the test set can be read";
        return Err(TrainError::Data(problem.into()).with_remedy(Remedy::ExamineImages));
    }
    let predictions = model.predictions(&eval_logits(model.head.as_ref(), &features, &present)?)?;
    let labels = samples.labels(&present);
    let content_hash = |row: usize| features.content_hash(present[row]);
    let overlap =
        |hashes| TrainTestOverlap::from_predictions(&hashes, model, &predictions, &labels, content_hash);
    let trained_hashes =
        if run.has_other_contents(settings) { None } else { run.trained_on_hashes(progress)? };
    let trained_on = trained_hashes.map(overlap).transpose()?;
    if let Some(overlap) = trained_on.as_ref().filter(|overlap| overlap.samples > 0) {
        tracing::warn!(
            "the run was trained on {} of the {} photos that are tested here, so the results look better \
             than on new photos: test on new photos",
            overlap.samples,
            labels.len()
        );
    }
    // By content, so that it does not matter where the data is; by the settings in a run of an earlier version.
    let same_samples = match run.tested_on_hashes()? {
        Some(tested_on) => {
            let n_tested = split.iter().filter(|row| row.split == Subset::Test.as_str()).count();
            present.len() == n_tested
                && present.iter().filter_map(|&row| features.content_hash(row)).collect::<BTreeSet<_>>()
                    == tested_on
        }
        None => is_run_data && present.len() == n_samples,
    };
    // The cache is closed before its temporary folder is removed.
    drop(features);
    Ok(Evaluation {
        metrics: Metrics::from_predictions(&predictions, &labels),
        conformal: ConformalMetrics::from_predictions(model, &predictions, &labels)?,
        samples: present.len(),
        skipped: n_samples - present.len(),
        passed_over: samples.passed_over_with(n_samples - present.len()),
        same_samples,
        trained_on,
    })
}

/// Reads the test set of data that is not the run's own, to evaluate the run on: the images for testing only,
/// if `settings` name any, otherwise the test set of the split. `classes` are the class names of the run, in
/// the order of its labels; labels are numbered in the same way, and other classes are refused. Returns the
/// test samples, and their images or features in the same order.
fn read_other_test_data(
    settings: &Settings,
    classes: &[String],
    progress: &dyn Progress,
) -> Result<(SampleSet, SampleInputs), TrainError> {
    if let DataSourceConfig::Images(source) = &settings.source
        && let Some(test) = source.test_data()
    {
        return SampleSet::read_test_only(test.as_ref(), settings, classes, progress);
    }
    let (samples, inputs) = SampleSet::read(settings, progress)?;
    if samples.classes.names() != classes {
        return Err(TrainError::Data(format!(
            "the data has the classes {}, but the run was trained on {}: give data with the same classes, or \
             train a new run on this data",
            samples.classes.names().join(", "),
            classes.join(", ")
        )));
    }
    let test_rows = samples.rows_of(Subset::Test);
    let rows = test_rows.iter().map(|&row| samples.rows[row].clone()).collect();
    Ok((SampleSet { rows, ..samples }, inputs.select(&test_rows)))
}

/// Whether files can be created in `folder`; creates it if it does not exist.
fn is_writable(folder: &Path) -> bool {
    fs::create_dir_all(folder).is_ok() && atomic_write::temp_file_in(folder).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::RunDir;
    use crate::tests::fixtures::TestFolder;
    use crate::tests::recording_head::{self, FeatureRow, registry_with_recording, write_features};
    use crate::train;

    // effect: data.on_error x evaluate RUN
    #[test]
    fn a_test_image_that_became_unreadable_is_counted_as_skipped() {
        let folder = TestFolder::new();
        folder.write_backbone("backbone");
        folder.write_two_classes(16);
        let config = "calibration = \"none\"\n[data]\nfolder = \"photos\"\non_error = \"skip\"\n[split]\ntest_size = 0.5\n\
                      [backbone]\nweights = \"backbone\"\nlayer = \"stem\"\n[head]\nkind = \"ridge\"\n";
        let settings = folder.settings(config, &[""; 0]);
        let run_dir = RunDir::Named(folder.path("run"));
        let outcome = train(&settings, None, &run_dir, &()).unwrap();
        let run = Run::open(&folder.path("run"), &registry_with_recording().into()).unwrap();
        let found = evaluate(&run, &settings, &registry_with_recording().into(), &()).unwrap();
        assert_eq!((found.same_samples, found.samples, found.skipped), (true, 8, 0));
        assert_eq!(found.metrics, outcome.metrics.test);

        let split = run.split().unwrap();
        let tested = split.iter().find(|row| row.split == "test").unwrap();
        folder.write(&format!("photos/{}", tested.path), "no photo");
        let found = evaluate(&run, &settings, &registry_with_recording().into(), &()).unwrap();
        assert_eq!((found.same_samples, found.samples, found.skipped), (false, 7, 1));

        for row in split.iter().filter(|row| row.split == "test") {
            folder.write(&format!("photos/{}", row.path), "no photo");
        }
        let error = evaluate(&run, &settings, &registry_with_recording().into(), &()).unwrap_err();
        assert!(matches!(error, TrainError::WithRemedy { remedy: Remedy::ExamineImages, .. }), "{error:?}");
    }

    #[test]
    fn data_with_other_class_names_is_refused() {
        let project = |names: [&str; 2]| {
            let folder = tempfile::tempdir().unwrap();
            let make_row = |row: usize| FeatureRow {
                values: vec![(row % 2) as f32, row as f32],
                class: names[row % 2].into(),
                group: None,
            };
            write_features(folder.path(), "x", &(0..20).map(make_row).collect::<Vec<_>>());
            let settings = recording_head::features_settings(folder.path(), "x", "[split]\ntest_size = 0.5");
            (folder, settings)
        };
        let (folder, own_settings) = project(["cat", "dog"]);
        train(&own_settings, None, &RunDir::Named(folder.path().join("run")), &()).unwrap();
        let run = Run::open(&folder.path().join("run"), &registry_with_recording().into()).unwrap();
        let (_same, same_classes) = project(["cat", "dog"]);
        assert_eq!(
            evaluate(&run, &same_classes, &registry_with_recording().into(), &()).unwrap().samples,
            10
        );
        let (_other, other_classes) = project(["cat", "fox"]);
        let error =
            evaluate(&run, &other_classes, &registry_with_recording().into(), &()).unwrap_err().to_string();
        assert!(error.contains("the classes cat, fox, but the run was trained on cat, dog"), "{error}");
    }
}
