//! Training: features, fit, test, and a run.

use std::path::{Path, PathBuf};
use std::time::Instant;

use headstock_heads::{Features, FitContext, Fitted, Head, TrainingSet};

use crate::config::{Options, Settings};
use crate::error::TrainError;
use crate::features::{Stock, View};
use crate::matrix::Matrix;
use crate::metrics::Predictions;
use crate::progress::Progress;
use crate::report;
use crate::run::{
    BackboneRecord, Counts, HeadRecord, Model, ModelRecord, RunFiles, RunMetrics, RunPlace, Seconds, TestRow,
    history, predictions, split,
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
    let Fitted { head, history: fit_history, .. } = fit(settings, &samples, &parts.train, &matrix, progress)?;
    let fit = started.elapsed().as_secs_f64();

    let started = Instant::now();
    let tested = test(head.as_ref(), &matrix, &parts.test)?;
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
        seconds: Seconds { features, fit, test: started.elapsed().as_secs_f64() },
    };

    let record = record(settings, stock.as_ref(), &samples, matrix.width());
    let classes = samples.classes.names();
    let rows: Vec<TestRow<'_>> = parts
        .test
        .iter()
        .map(|&i| TestRow { path: &samples.rows[i].id, label: samples.rows[i].label })
        .collect();
    let files = RunFiles {
        config: resolved(settings, stock.as_ref()),
        model: Model::to_bytes(&record, &head.tensors()?)?,
        metrics: serde_json::to_string_pretty(&metrics).expect("figures are JSON") + "\n",
        history: history(&fit_history),
        split: split(&samples, &kept),
        predictions: predictions(&rows, &tested, classes),
        report: report::html(&record, &metrics, &rows, &tested),
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
