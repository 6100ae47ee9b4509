//! Training: features, fit, calibration, test, and a run.

mod calibrate;
mod learn;
mod record;

use std::path::PathBuf;
use std::time::Instant;

use headstock_heads::{Fitted, Logits};

use self::calibrate::{Calibrated, calibrate};
use self::learn::Learner;
pub(crate) use self::learn::logits;
use crate::config::Settings;
use crate::error::TrainError;
use crate::features::{Stock, View};
use crate::matrix::Matrix;
use crate::metrics::Predictions;
use crate::progress::Progress;
use crate::report;
use crate::run::{
    CalibrationMetrics, Change, ConformalMetrics, Counts, Model, ModelRecord, RunFiles, RunMetrics, RunPlace,
    Seconds, TestRow, history, predictions, split,
};
use crate::samples::{Part, Samples};

/// What training ended with.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The run's folder.
    pub folder: PathBuf,
    /// Its figures.
    pub metrics: RunMetrics,
    /// A photo of the test part, to try the run on; none where there are only features.
    pub example: Option<PathBuf>,
}

/// Trains as `settings` say and writes a run.
///
/// # Errors
/// [`TrainError`]; nothing is written then but features, which the next try finds.
pub fn train(settings: &Settings, place: &RunPlace, progress: &dyn Progress) -> Result<Outcome, TrainError> {
    let place = place.reserve(&settings.source)?;
    let started = Instant::now();
    let (samples, inputs) = Samples::read(settings)?;
    let stock =
        settings.options.backbone.as_ref().map(|options| Stock::open(options, progress)).transpose()?;
    let wanted = settings.options.features.views;
    let views: Vec<View> =
        samples.rows.iter().map(|row| if row.part == Part::Train { wanted } else { 0 }).collect();
    let photos = inputs.photos().map(<[PathBuf]>::to_vec);
    let matrix = Matrix::prepare(inputs, stock.as_ref(), &settings.options, &views, progress)?;
    let listed = samples.rows.len();
    let kept = matrix.present((0..listed).collect());
    let parts = Parts::of(&samples, &kept)?;
    let features = started.elapsed().as_secs_f64();

    let started = Instant::now();
    let learner = Learner { samples: &samples, matrix: &matrix, views: wanted, progress };
    let what = format!("fitting {}", settings.head.kind());
    let Fitted { head, history: fit_history, chosen } =
        learner.fit(settings.head.as_ref(), &parts.train, &what)?;
    let fit = started.elapsed().as_secs_f64();

    let started = Instant::now();
    let fixed = settings.head.with_chosen(&chosen)?;
    let calibrated = calibrate(&learner, fixed.as_ref(), &parts.train, settings.options.calibration)?;
    let calibration = started.elapsed().as_secs_f64();

    let started = Instant::now();
    let record = ModelRecord::new(
        record::head(settings),
        samples.classes.names().to_vec(),
        matrix.width(),
        stock.as_ref().map(record::backbone),
        calibrated.calibration.clone(),
    );
    let conformal = calibrated.held_out.as_ref().map(|held_out| held_out.conformal.clone());
    let model = Model { record, head, conformal };
    let logits = logits(model.head.as_ref(), &matrix, &parts.test)?;
    let tested = model.predictions(&logits)?;
    let labels = samples.labels(&parts.test);
    let metrics = RunMetrics {
        test: tested.metrics(&labels),
        counts: Counts {
            classes: samples.classes.len(),
            train: parts.train.len(),
            test: parts.test.len(),
            views: wanted,
            skipped: listed - kept.len(),
            computed: matrix.computed(),
        },
        calibration: calibration_metrics(&calibrated, &logits, &tested, &labels),
        conformal: ConformalMetrics::of(&model, &tested, &labels)?,
        seconds: Seconds { features, fit, calibration, test: started.elapsed().as_secs_f64() },
    };

    let rows: Vec<TestRow<'_>> = parts
        .test
        .iter()
        .map(|&i| TestRow { path: &samples.rows[i].id, label: samples.rows[i].label })
        .collect();
    let files = RunFiles {
        config: record::settings(settings, stock.as_ref()),
        model: model.to_bytes()?,
        metrics: serde_json::to_string_pretty(&metrics).expect("figures are JSON") + "\n",
        history: history(&fit_history),
        split: split(&samples, &kept),
        predictions: predictions(&rows, &tested, &model.record.classes),
        report: report::html(&model.record, &metrics, &rows, &tested),
    };
    let folder = place.write(settings.head.kind(), &files)?;
    let example = photos.map(|photos| photos[parts.test[0]].clone());
    Ok(Outcome { folder, metrics, example })
}

/// The samples of each part that have features.
struct Parts {
    train: Vec<usize>,
    test: Vec<usize>,
}

impl Parts {
    /// Every class must be left with something to learn from, and there must be something to test on.
    fn of(samples: &Samples, kept: &[usize]) -> Result<Self, TrainError> {
        let of = |part| kept.iter().copied().filter(|&i| samples.rows[i].part == part).collect();
        let parts = Self { train: of(Part::Train), test: of(Part::Test) };
        let mut counts = vec![0; samples.classes.len()];
        for &i in &parts.train {
            counts[samples.rows[i].label as usize] += 1;
        }
        let lost = counts.iter().zip(samples.classes.names()).find(|(count, _)| **count == 0);
        if let Some((_, class)) = lost {
            return Err(TrainError::Data(format!("no training photo of class `{class}` can be read")));
        }
        if parts.test.is_empty() {
            return Err(TrainError::Data("no photo of the test part can be read".into()));
        }
        Ok(parts)
    }
}

/// What calibration does to the figures of the test part, and did to those of the photos held out.
fn calibration_metrics(
    calibrated: &Calibrated,
    logits: &Logits,
    tested: &Predictions,
    labels: &[u32],
) -> Option<CalibrationMetrics> {
    let held_out = calibrated.held_out.as_ref()?;
    Some(CalibrationMetrics {
        method: calibrated.calibration.method(),
        temperature: calibrated.calibration.temperature(),
        dropped: held_out.dropped,
        folds: held_out.folds,
        samples: held_out.samples,
        test: Change {
            before: Predictions::new(logits).metrics(labels).reliability(),
            after: tested.metrics(labels).reliability(),
        },
        out_of_fold: Change { before: held_out.before, after: held_out.after },
    })
}
