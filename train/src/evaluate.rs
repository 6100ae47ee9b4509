//! A run, tested anew.

use crate::config::Settings;
use crate::error::TrainError;
use crate::fit::test;
use crate::matrix::Matrix;
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::run::Run;
use crate::samples::{Part, Samples};

/// What testing a run anew gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The figures.
    pub metrics: Metrics,
    /// How many samples were tested.
    pub samples: usize,
    /// How many photos were left out because they cannot be read.
    pub skipped: usize,
    /// Whether these are the samples that the run was tested on.
    pub same_samples: bool,
}

/// Tests a run on the test part of `settings`, which are the run's own or others.
///
/// # Errors
/// [`TrainError`]; [`TrainError::Data`] when the classes are not those of the run.
pub fn evaluate(run: &Run, settings: &Settings, progress: &dyn Progress) -> Result<Evaluation, TrainError> {
    let model = &run.model;
    let (samples, inputs) = Samples::read(settings)?;
    if samples.classes.names() != model.record.classes {
        return Err(TrainError::Data(format!(
            "the data has the classes {}, but the run was trained on {}",
            samples.classes.names().join(", "),
            model.record.classes.join(", ")
        )));
    }
    let tested = samples.of(Part::Test);
    let stock = model.stock(settings, progress)?;
    let matrix =
        Matrix::prepare(inputs.only(&tested), stock.as_ref(), settings, &vec![0; tested.len()], progress)?;
    let present = matrix.present((0..tested.len()).collect());
    if present.is_empty() {
        return Err(TrainError::Data("no photo of the test part can be read".into()));
    }
    let rows: Vec<usize> = present.iter().map(|&i| tested[i]).collect();
    let predictions = test(model.head.as_ref(), &matrix, &present)?;
    let before = run.split()?;
    let before = before.iter().filter(|row| row.split == Part::Test.as_str()).map(|row| row.path.as_str());
    Ok(Evaluation {
        metrics: predictions.metrics(&samples.labels(&rows)),
        samples: present.len(),
        skipped: tested.len() - present.len(),
        same_samples: before.eq(rows.iter().map(|&row| samples.rows[row].id.as_str())),
    })
}
