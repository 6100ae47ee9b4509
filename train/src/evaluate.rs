//! A run, tested anew.

use std::fs;
use std::path::Path;

use headstock_heads::Registry;

use crate::config::{Settings, Source};
use crate::error::TrainError;
use crate::files;
use crate::fit::logits;
use crate::matrix::Matrix;
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::run::{ConformalMetrics, Run, TrainedOn};
use crate::samples::{Inputs, Part, Samples};

/// What testing a run anew gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The figures.
    pub metrics: Metrics,
    /// How conformal sets did; none where the run has no scores to make them of.
    pub conformal: Option<ConformalMetrics>,
    /// How many samples were tested.
    pub samples: usize,
    /// How many photos were left out because they cannot be read.
    pub skipped: usize,
    /// Whether these are the paths that the run was tested on, with the same classes.
    pub same_samples: bool,
    /// How many of the samples the run was trained on, and the figures of the others; none where it is not known.
    pub trained_on: Option<TrainedOn>,
}

/// Tests a run anew: on the test part that its `split.csv` lists when `settings` name the run's own data, else on the test
/// part of theirs. Photos that the run was trained on are counted by their content, in a warning too, and the others have figures of
/// their own.
///
/// # Errors
/// [`TrainError`]; [`TrainError::Data`] when photos are gone, or the classes are not those of the run.
pub fn evaluate(
    run: &Run,
    settings: &Settings,
    heads: &Registry,
    progress: &dyn Progress,
) -> Result<Evaluation, TrainError> {
    let model = &run.model;
    let split = run.split()?;
    let own = run.settings(&[], heads)?;
    let is_own = own.source == settings.source && own.options.split == settings.options.split;
    let (samples, inputs) = if is_own {
        Samples::of_run(settings, &model.record.classes, &split, progress)?
    } else {
        others(settings, &model.record.classes, progress)?
    };

    let stock = model.stock(settings, progress)?;
    let mut options = settings.options.clone();
    let mut temporary = None;
    if inputs.photos().is_some() && !can_write(&options.features.cache) {
        tracing::info!("{} cannot be written to: features are not kept", options.features.cache.display());
        let folder = tempfile::tempdir().map_err(TrainError::io("make", Path::new("a temporary folder")))?;
        options.features.cache = folder.path().to_path_buf();
        temporary = Some(folder);
    }
    let count = samples.rows.len();
    let matrix = Matrix::prepare(inputs, stock.as_ref(), &options, &vec![0; count], progress)?;
    let present = matrix.present((0..count).collect());
    if present.is_empty() {
        return Err(TrainError::Data("no photo of the test part can be read".into()));
    }
    let predictions = model.predictions(&logits(model.head.as_ref(), &matrix, &present)?)?;
    let labels = samples.labels(&present);
    let content = |row: usize| matrix.content(present[row]);
    let trained_on = match run.trained_on(progress)? {
        Some(known) => Some(TrainedOn::of(&known, model, &predictions, &labels, content)?),
        None => None,
    };
    if let Some(known) = trained_on.filter(|known| known.samples > 0) {
        tracing::warn!(
            "the run was trained on {} of these {} photos: the figures flatter it",
            known.samples,
            labels.len()
        );
    }
    drop((matrix, temporary));
    Ok(Evaluation {
        metrics: predictions.metrics(&labels),
        conformal: ConformalMetrics::of(model, &predictions, &labels)?,
        samples: present.len(),
        skipped: count - present.len(),
        same_samples: is_own && present.len() == count,
        trained_on,
    })
}

/// The test part of other data than the run's.
fn others(
    settings: &Settings,
    classes: &[String],
    progress: &dyn Progress,
) -> Result<(Samples, Inputs), TrainError> {
    if let Source::Photos { test: Some(test), .. } = &settings.source {
        return Samples::only_tested(test, classes, progress);
    }
    let (samples, inputs) = Samples::read(settings, progress)?;
    if samples.classes.names() != classes {
        return Err(TrainError::Data(format!(
            "the data has the classes {}, but the run was trained on {}",
            samples.classes.names().join(", "),
            classes.join(", ")
        )));
    }
    let tested = samples.of(Part::Test);
    let rows = tested.iter().map(|&row| samples.rows[row].clone()).collect();
    Ok((Samples { rows, ..samples }, inputs.only(&tested)))
}

/// Whether files can be made in a folder.
fn can_write(folder: &Path) -> bool {
    fs::create_dir_all(folder).is_ok() && files::temporary_in(folder).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Folder;
    use crate::recording::{Made, registry, write};
    use crate::run::RunPlace;
    use crate::{recording, train};

    // effect: data.on_error x evaluate RUN
    #[test]
    fn a_test_photo_that_cannot_be_read_any_more_is_counted_and_the_samples_are_others() {
        let folder = Folder::new();
        folder.weights("backbone");
        folder.two_classes(16);
        let config = "calibration = \"none\"\n[data]\nfolder = \"photos\"\non_error = \"skip\"\n[split]\ntest_size = 0.5\n\
                      [backbone]\nweights = \"backbone\"\nlayer = \"stem\"\n[head]\nkind = \"ridge\"\n";
        let settings = folder.settings(config, &[""; 0]);
        let place = RunPlace::Named(folder.path("run"));
        let outcome = train(&settings, None, &place, &()).unwrap();
        let run = Run::open(&folder.path("run"), &registry()).unwrap();
        let found = evaluate(&run, &settings, &registry(), &()).unwrap();
        assert_eq!((found.same_samples, found.samples, found.skipped), (true, 8, 0));
        assert_eq!(found.metrics, outcome.metrics.test);

        let split = run.split().unwrap();
        let tested = split.iter().find(|row| row.split == "test").unwrap();
        folder.write(&format!("photos/{}", tested.path), "no photo");
        let found = evaluate(&run, &settings, &registry(), &()).unwrap();
        assert_eq!((found.same_samples, found.samples, found.skipped), (false, 7, 1));
    }

    #[test]
    fn data_of_as_many_classes_with_other_names_is_refused() {
        let made = |names: [&str; 2]| {
            let folder = tempfile::tempdir().unwrap();
            let row = |row: usize| Made {
                values: vec![(row % 2) as f32, row as f32],
                class: names[row % 2].into(),
                group: None,
            };
            write(folder.path(), "x", &(0..20).map(row).collect::<Vec<_>>());
            let settings = recording::settings(folder.path(), "x", "[split]\ntest_size = 0.5");
            (folder, settings)
        };
        let (folder, own) = made(["cat", "dog"]);
        train(&own, None, &RunPlace::Named(folder.path().join("run")), &()).unwrap();
        let run = Run::open(&folder.path().join("run"), &registry()).unwrap();
        let (_same, same) = made(["cat", "dog"]);
        assert_eq!(evaluate(&run, &same, &registry(), &()).unwrap().samples, 10);
        let (_other, other) = made(["cat", "fox"]);
        let error = evaluate(&run, &other, &registry(), &()).unwrap_err().to_string();
        assert!(error.contains("the classes cat, fox, but the run was trained on cat, dog"), "{error}");
    }
}
