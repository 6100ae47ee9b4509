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
