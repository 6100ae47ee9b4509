//! Training: features, fit, test, and a run.

use std::path::{Path, PathBuf};
use std::time::Instant;

use headstock_heads::{Features, FitContext, Fitted, Head, TrainingSet};

use crate::config::{Options, Settings};
use crate::error::TrainError;
use crate::features::Stock;
use crate::matrix::Matrix;
use crate::metrics::Predictions;
use crate::prepared::Prepared;
use crate::progress::Progress;
use crate::report;
use crate::run::{
    BackboneRecord, Counts, HeadRecord, Model, ModelRecord, Reserved, RunFiles, RunMetrics, RunPlace,
    Seconds, TestRow, history, predictions, split,
};
use crate::samples::Samples;

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
    Prepared::new(settings, progress)?.train(settings, place, progress)
}

impl Prepared {
    /// Fits the head of `settings` on the training part, tests it and writes a run. But for the head they are the settings
    /// that this was made of.
    ///
    /// # Errors
    /// [`TrainError`]; nothing is written then.
    pub fn train(
        &self,
        settings: &Settings,
        place: Reserved<'_>,
        progress: &dyn Progress,
    ) -> Result<Outcome, TrainError> {
        let Self { samples, matrix, kept, train, test: tested_on, .. } = self;
        let started = Instant::now();
        let Fitted { head, history: fit_history, .. } = fit(settings, samples, train, matrix, progress)?;
        let fit = started.elapsed().as_secs_f64();

        let started = Instant::now();
        let tested = test(head.as_ref(), matrix, tested_on)?;
        let labels = samples.labels(tested_on);
        let metrics = RunMetrics {
            test: tested.metrics(&labels),
            counts: Counts {
                classes: samples.classes.len(),
                train: train.len(),
                test: tested_on.len(),
                views: self.views,
                skipped: samples.rows.len() - kept.len(),
                computed: matrix.computed(),
            },
            seconds: Seconds { features: self.seconds, fit, test: started.elapsed().as_secs_f64() },
        };

        let record = record(settings, self.stock.as_ref(), samples, matrix.width());
        let classes = samples.classes.names();
        let rows: Vec<TestRow<'_>> = tested_on
            .iter()
            .map(|&i| TestRow { path: &samples.rows[i].id, label: samples.rows[i].label })
            .collect();
        let files = RunFiles {
            config: resolved(settings, self.stock.as_ref()),
            model: Model::to_bytes(&record, &head.tensors()?)?,
            metrics: serde_json::to_string_pretty(&metrics).expect("figures are JSON") + "\n",
            history: history(&fit_history),
            split: split(samples, kept),
            predictions: predictions(&rows, &tested, classes),
            report: report::html(&record, &metrics, &rows, &tested),
        };
        let folder = place.write(settings.head.kind(), &files)?;
        let example = self.photos.as_ref().map(|photos| photos[tested_on[0]].clone());
        Ok(Outcome { folder, metrics, example })
    }
}

/// Fits the head on the plain view of each training sample and its augmented ones.
fn fit(
    settings: &Settings,
    samples: &Samples,
    rows: &[usize],
    matrix: &Matrix,
    progress: &dyn Progress,
) -> Result<Fitted<dyn Head>, TrainError> {
    let views = settings.options.features.views;
    let copies = views as usize + 1;
    let mut values = Vec::with_capacity(rows.len() * copies * matrix.width());
    for view in 0..=views {
        matrix.append(rows, view, &mut values)?;
    }
    let labels = samples.labels(rows).repeat(copies);
    let photos = (0..rows.len() as u32).collect::<Vec<_>>().repeat(copies);
    let data = TrainingSet::new(Features::new(&values, matrix.width())?, &labels, samples.classes.len())?;
    let data = data.with_photos(&photos)?;
    progress.begin(&format!("fitting {}", settings.head.kind()), 0, "steps");
    let context = FitContext { on_step: &|done, total| progress.reach(done, total), start: None };
    let fitted = settings.head.fit(&data, &context);
    progress.end();
    Ok(fitted?)
}

/// What the head predicts for some rows.
pub(crate) fn test(head: &dyn Head, matrix: &Matrix, rows: &[usize]) -> Result<Predictions, TrainError> {
    let mut values = Vec::with_capacity(rows.len() * matrix.width());
    matrix.append(rows, 0, &mut values)?;
    Ok(Predictions::new(&head.logits(Features::new(&values, matrix.width())?)?))
}

fn record(settings: &Settings, stock: Option<&Stock>, samples: &Samples, width: usize) -> ModelRecord {
    let head = HeadRecord { kind: settings.head.kind().into(), parameters: settings.head.table() };
    let stock = stock.map(|stock| {
        let checkpoint = stock.checkpoint();
        let backbone = BackboneRecord {
            architecture: checkpoint.architecture().to_string(),
            source: source(stock),
            sha256: checkpoint.sha256().into(),
            layer: stock.options().layer,
            precision: stock.options().precision,
        };
        (checkpoint.preprocessing().clone(), backbone)
    });
    ModelRecord::new(head, samples.classes.names().to_vec(), width, stock)
}

/// Where the weights came from, without the folders above a local file: the same run elsewhere has the same bytes.
fn source(stock: &Stock) -> String {
    let weights = &stock.options().weights;
    if weights.starts_with("hf://") {
        return stock.checkpoint().origin().into();
    }
    Path::new(weights).file_name().map_or_else(|| weights.clone(), |name| name.to_string_lossy().into_owned())
}

/// The settings, with the commit that a branch of the hub stood at: the same weights the next time.
fn resolved(settings: &Settings, stock: Option<&Stock>) -> String {
    let mut options: Options = settings.options.clone();
    if let (Some(backbone), Some(stock)) = (&mut options.backbone, stock)
        && backbone.weights.starts_with("hf://")
    {
        backbone.weights = stock.checkpoint().origin().into();
    }
    options.to_toml()
}
