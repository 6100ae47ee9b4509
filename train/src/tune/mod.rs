//! Fine-tuning: the last stages of a backbone, trained with a head.
//!
//! The head is fitted on frozen features first. Then photos' activations at the cut, where the frozen part ends, run through the
//! stages behind it and the head, epoch after epoch ([`course`]). What comes of it is a run whose model holds the tuned tensors:
//! the engine runs them like any others. The arithmetic of a step knows no network: [`optimiser`], [`schedule`], [`loss`],
//! [`mix`], [`clip`], [`average`].

mod average;
mod checkpoint;
mod clip;
mod course;
mod find_lr;
#[cfg(test)]
mod golden;
mod loss;
mod mix;
mod network;
mod optimiser;
mod schedule;
mod speed;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use headstock_backbone::{Layer, Trainable};
use headstock_heads::folds::{Fold, hold_out, stratified_folds};
use headstock_heads::{CalibrationMethod, Differentiable, Logits, Registry, Tensors};
use headstock_loader::ImageRef;
use headstock_loader::split::stratified_group_k_fold;
use sha2::{Digest, Sha256};

use self::course::{Course, Parts, Setup, Tuned};
pub use self::find_lr::{LrCurve, LrPoint, find_lr};
use self::network::Network;
pub use self::speed::{TuningSpeed, tuning_speed};
use crate::activations::{Activations, Cut, Kept, Photos};
use crate::config::{BackboneOptions, Config, KeptIn, Settings, TuneOptions, Views};
use crate::error::TrainError;
use crate::features::{Features, Stock, View};
use crate::fit::{
    Calibrated, FOLDS, Learned, Learner, Outcome, backbone_record, judge, logits, owned, resolved,
};
use crate::matrix::Matrix;
use crate::prepared::Prepared;
use crate::progress::Progress;
use crate::run::{BackboneRecord, CONFIG, Resumed, RunPlace, Seconds, Unfinished, split};
use crate::samples::Samples;

/// Values that a thread takes at a time.
const BLOCK: usize = 1 << 14;

/// Photos held out, below which nothing is calibrated by them.
const FEWEST: usize = 10;

/// Tunes as `settings` say and writes a run; if it is stopped before, [`resume`] goes on.
pub(crate) fn train(
    settings: &Settings,
    place: &RunPlace,
    progress: &dyn Progress,
) -> Result<Outcome, TrainError> {
    let reserved = place.reserve(&settings.source)?;
    let unfinished = Unfinished::begin(reserved, settings.head.kind(), &settings.options.to_toml())?;
    tracing::info!("if this is interrupted: headstock train --resume {}", unfinished.folder().display());
    go_on(settings, unfinished, progress)
}

/// Goes on with a tuning that was stopped, where its last checkpoint is. It ends with the same run as one that was not.
///
/// # Errors
/// [`TrainError::Usage`] where there is none, another program is at it, or settings, photos or weights are not those that it
/// began with; [`TrainError`] as for training. What the last checkpoint holds is not lost.
pub fn resume(
    folder: &Path,
    heads: &Registry,
    progress: &dyn Progress,
) -> Result<(Settings, Outcome), TrainError> {
    let resumed = Unfinished::resume(folder)?;
    let settings = Config::read(&folder.join(CONFIG))?.relative_to_here().resolve(heads)?;
    let outcome = match resumed {
        Resumed::Finished(metrics) => {
            tracing::info!("{} is finished already", folder.display());
            Outcome { folder: folder.into(), metrics: *metrics, example: None }
        }
        Resumed::Unfinished(unfinished) => go_on(&settings, unfinished, progress)?,
    };
    Ok((settings, outcome))
}

fn go_on(
    settings: &Settings,
    unfinished: Unfinished,
    progress: &dyn Progress,
) -> Result<Outcome, TrainError> {
    match tune(settings, &unfinished, progress) {
        Ok((prepared, learned, test)) => {
            prepared.finish(settings, learned, |_| Ok(test), |files| unfinished.finish(files))
        }
        Err(error) => {
            if course::has_begun(&unfinished) {
                let folder = unfinished.folder().display();
                tracing::info!("what was learned is kept: headstock train --resume {folder}");
            } else {
                unfinished.discard();
            }
            Err(error)
        }
    }
}

/// What a tuning begins with.
struct Ready {
    prepared: Prepared,
    parts: Parts,
    /// The class of each sample.
    labels: Vec<u32>,
    /// The head's parameters, and those that its fit chose.
    start: Tensors,
    chosen: Vec<(String, f64)>,
    seconds: Seconds,
}

impl Ready {
    /// Sees to it that features are there, holds photos out, and fits the head where it is to start fitted; `begun` where a
    /// checkpoint has it already.
    fn new(settings: &Settings, begun: bool, progress: &dyn Progress) -> Result<Self, TrainError> {
        let options = &settings.options.tune;
        let mut prepared = Prepared::new(settings, progress)?;
        let parts = parts(&prepared.samples, &prepared.train, options)?;
        let labels = prepared.samples.rows.iter().map(|row| row.label).collect();
        let mut seconds = Seconds { features: prepared.seconds, ..Seconds::default() };
        let (start, chosen) = if options.starts_fitted() && !begun {
            let Prepared { samples, matrix, views, .. } = &mut prepared;
            let mut learner = Learner { samples, matrix, views: *views, progress };
            let what = format!("fitting {}", settings.head.kind());
            let (fitted, fit) = learner.fit(settings.head.as_ref(), None, &parts.fit, &what)?;
            seconds.fit = fit;
            (fitted.head.tensors()?, owned(fitted.chosen))
        } else {
            let (width, classes) = (prepared.matrix.width(), prepared.samples.classes.len());
            (differentiable(settings)?.initial_parameters(width, classes)?, Vec::new())
        };
        Ok(Self { prepared, parts, labels, start, chosen, seconds })
    }
}

fn differentiable(settings: &Settings) -> Result<&dyn Differentiable, TrainError> {
    settings.head.differentiable().filter(|_| !settings.options.tune.is_off()).ok_or_else(|| {
        TrainError::Usage("nothing is tuned: name the first stage to tune, such as tune.from=layer4".into())
    })
}

/// Calls `act` with the network that is to be trained, and what it is trained on.
fn set_up<R>(
    ready: &Ready,
    settings: &Settings,
    unfinished: Option<&Unfinished>,
    progress: &dyn Progress,
    act: impl FnOnce(Setup<'_>, Network<'_>) -> Result<R, TrainError>,
) -> Result<R, TrainError> {
    let Ready { prepared, parts, labels, start, chosen, .. } = ready;
    let (options, head) = (&settings.options.tune, differentiable(settings)?);
    let (Some(stage), Some(stock), Some(photos), Matrix::Cached(features)) =
        (options.stage(), &prepared.stock, &prepared.photos, &prepared.matrix)
    else {
        return Err(TrainError::Usage("a backbone is tuned on photos, and there are only features".into()));
    };
    let BackboneOptions { device, precision, .. } = stock.options();
    let trunk = Trainable::load_on(stock.checkpoint(), stage, options.batch_norm, *device, *precision)?;
    tell(&trunk, stage, parts);
    let network = Network::new(trunk, head, start)?;
    let wanted = wanted_views(photos.len(), parts, options, prepared.views);
    let photos =
        Photos { stock, backbone: None, options: &settings.options, photos, hashes: features.hashes() };
    let activations = Activations::prepare(photos, cut(stage, options), &wanted, progress)?;
    let setup = Setup {
        options,
        parts,
        labels,
        class_weights: class_weights(options, parts, labels, prepared.samples.classes.len()),
        views: prepared.views,
        activations: &activations,
        unfinished,
        origin: origin(settings, prepared, stock),
        chosen: chosen.clone(),
    };
    act(setup, network)
}

/// How much a photo of each class counts, by those that are learned from, `[C]`.
fn class_weights(options: &TuneOptions, parts: &Parts, labels: &[u32], classes: usize) -> Vec<f64> {
    let mut counts = vec![0; classes];
    parts.fit.iter().for_each(|&photo| counts[labels[photo] as usize] += 1);
    options.class_weight.sample_weights(&counts)
}

/// Fits the head, tunes, and computes the features of the photos to be tested: what was learned, and the test part's logits.
fn tune(
    settings: &Settings,
    unfinished: &Unfinished,
    progress: &dyn Progress,
) -> Result<(Prepared, Learned, Logits), TrainError> {
    let ready = Ready::new(settings, course::has_begun(unfinished), progress)?;
    unfinished.write_config(&resolved(settings, ready.prepared.stock.as_ref()))?;
    let started = Instant::now();
    let (tuned, head, history, chosen) =
        set_up(&ready, settings, Some(unfinished), progress, |setup, network| {
            let Tuned { network, history, chosen } = Course::new(setup, network)?.run(progress)?;
            let head = settings.head.load(&network.head_tensors()?)?;
            Ok((network.tuned_tensors()?, head, history, chosen))
        })?;
    let Ready { mut prepared, parts, seconds, .. } = ready;
    let tune = Some(started.elapsed().as_secs_f64());

    let started = Instant::now();
    let stock = prepared.stock.take().expect("photos have a backbone").with_tensors(&tuned)?;
    let (test, held_out) = (prepared.test.as_slice(), parts.held_out.as_slice());
    let (photos, both) = (prepared.photos.as_deref().unwrap_or_default(), [test, held_out].concat());
    let photos: Vec<ImageRef> = both.iter().map(|&photo| photos[photo].clone()).collect();
    let features = Features::prepare(&stock, &settings.options, &photos, &vec![0; photos.len()], progress)?;
    let computed = prepared.matrix.computed() + features.computed();
    let matrix = Matrix::Cached(features);
    let of = |rows: Range<usize>| logits(head.as_ref(), &matrix, &rows.collect::<Vec<_>>());
    let tested = of(0..test.len())?;
    let judged = if held_out.len() < FEWEST { None } else { Some(of(test.len()..both.len())?) };
    if judged.is_none() && !held_out.is_empty() && settings.options.calibration != CalibrationMethod::None {
        tracing::warn!(
            "probabilities are not calibrated, and there are no conformal sets: {} photos are held out, and it takes {FEWEST}",
            held_out.len()
        );
    }
    let labels = prepared.samples.labels(held_out);
    let groups = groups(&prepared.samples, held_out);
    let calibrated = calibrate(settings.options.calibration, judged.as_ref(), &labels, groups.as_deref())?;
    let calibration = started.elapsed().as_secs_f64();
    let (preprocessing, record) = backbone_record(&stock);
    let backbone = Some((preprocessing, BackboneRecord { tuned: settings.options.tune.stage(), ..record }));
    prepared.stock = Some(stock);
    let learned = Learned {
        head,
        tuned,
        backbone,
        history,
        chosen,
        calibrated,
        earlier: None,
        samples: parts.fit.len(),
        computed,
        seconds: Seconds { tune, calibration, ..seconds },
    };
    Ok((prepared, learned, tested))
}

/// The training photos in two: those that are learned from and those that are held out. No group is in both.
fn parts(samples: &Samples, train: &[usize], options: &TuneOptions) -> Result<Parts, TrainError> {
    let labels = samples.labels(train);
    if options.validation == 0.0 {
        tracing::info!(
            "nothing is held out (`tune.validation = 0`): the last epoch is kept, and probabilities are not calibrated"
        );
        return Ok(Parts { fit: train.to_vec(), held_out: Vec::new() });
    }
    let Fold { fit, held_out } = match groups(samples, train) {
        None => hold_out(&labels, None, options.validation, options.seed),
        Some(groups) => {
            let folds = (1.0 / options.validation).round().max(2.0) as usize;
            let seed = (options.seed % u64::from(u32::MAX)) as u32;
            let splits = stratified_group_k_fold(&labels, &groups, folds, seed)
                .map_err(|error| TrainError::Data(error.message_with_names(&samples.classes)))?;
            // A class of one group lies in one fold whole: where that is held out there is nothing to learn the class from.
            let classes = |rows: &[usize]| rows.iter().map(|&row| labels[row]).collect::<BTreeSet<_>>().len();
            let all = labels.iter().collect::<BTreeSet<_>>().len();
            let split =
                splits.into_iter().find(|split| !split.test.is_empty() && classes(&split.train) == all);
            split.map_or_else(
                || Fold { fit: (0..train.len()).collect(), held_out: Vec::new() },
                |split| Fold { fit: split.train, held_out: split.test },
            )
        }
    };
    if held_out.is_empty() {
        tracing::warn!(
            "no class has enough photos to hold out {} of them: all epochs run, and the last one is kept",
            options.validation
        );
    }
    let rows = |part: Vec<usize>| part.into_iter().map(|i| train[i]).collect();
    Ok(Parts { fit: rows(fit), held_out: rows(held_out) })
}

/// The group of each of `rows`, where there are groups.
fn groups(samples: &Samples, rows: &[usize]) -> Option<Vec<u32>> {
    rows.iter().map(|&row| samples.rows[row].group).collect()
}

fn tell(trunk: &Trainable, stage: Layer, parts: &Parts) {
    let values: usize =
        trunk.parameters().iter().map(|parameter| parameter.shape.iter().product::<usize>()).sum();
    tracing::info!(
        "tuning from {stage} on: {:.1} million parameters, {} photos, {} held out",
        values as f64 / 1e6,
        parts.fit.len(),
        parts.held_out.len()
    );
}

/// Where the frozen part ends: before the first stage that is tuned, or nowhere.
fn cut(stage: Layer, options: &TuneOptions) -> Option<Cut> {
    let layer = Layer::ALL.into_iter().rev().find(|layer| *layer < stage)?;
    let kept = match options.keep {
        KeptIn::F16 => Kept::F16,
        KeptIn::Bf16 => Kept::Bf16,
    };
    let limit = (options.space * 1e9) as u64;
    Some(Cut { layer, kept, limit: Some(limit) })
}

/// The renderings of each photo that are worth keeping.
fn wanted_views(photos: usize, parts: &Parts, options: &TuneOptions, views: View) -> Vec<Option<View>> {
    let mut wanted = vec![None; photos];
    if options.views == Views::Kept {
        parts.fit.iter().for_each(|&photo| wanted[photo] = Some(views));
    }
    parts.held_out.iter().for_each(|&photo| wanted[photo] = Some(0));
    wanted
}

/// What a course depends on, as text of a fixed length.
fn origin(settings: &Settings, prepared: &Prepared, stock: &Stock) -> String {
    let rows = prepared.kept.iter();
    let groups: Vec<u8> =
        rows.clone().flat_map(|&row| group_bytes(prepared.samples.rows[row].group)).collect();
    let photos: Vec<u8> = match &prepared.matrix {
        Matrix::Cached(features) => rows.flat_map(|&row| features.hashes()[row]).flatten().collect(),
        Matrix::Given(_) => Vec::new(),
    };
    let mut hash = Sha256::new();
    for part in [
        resolved(settings, Some(stock)).as_bytes(),
        &split(&prepared.samples, &prepared.kept),
        &groups,
        &photos,
        stock.checkpoint().fingerprint().as_bytes(),
    ] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn group_bytes(group: Option<u32>) -> [u8; 8] {
    group.map_or(u64::MAX, u64::from).to_le_bytes()
}

/// Calibrates by the logits of the photos that were held out, `[N, C]`; photos of a group are on one side when a calibration is
/// judged.
fn calibrate(
    method: CalibrationMethod,
    logits: Option<&Logits>,
    labels: &[u32],
    groups: Option<&[u32]>,
) -> Result<Calibrated, TrainError> {
    let (Some(logits), true) = (logits, method != CalibrationMethod::None) else {
        return Ok(Calibrated::default());
    };
    let apart = groups.map_or(labels.len(), |groups| groups.iter().collect::<BTreeSet<_>>().len());
    if apart < 2 {
        tracing::warn!(
            "probabilities are not calibrated, and there are no conformal sets: all photos held out are of one group"
        );
        return Ok(Calibrated::default());
    }
    // By photo or group, not by class: a class of which one photo is held out would be in no fold.
    let folds = stratified_folds(&vec![0; labels.len()], groups, FOLDS.min(apart));
    let mut calibrated = judge(method, logits, labels, &folds)?;
    if let Some(held_out) = &mut calibrated.held_out {
        held_out.folds = 1;
    }
    Ok(calibrated)
}
