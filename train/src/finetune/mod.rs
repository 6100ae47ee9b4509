//! Fine-tuning: the last stages of a backbone, trained with a head.
//!
//! The head is fitted on frozen features first. Then photos' activations at the cut, where the frozen part ends, run through the
//! stages behind it and the head, epoch after epoch ([`course`]). What comes of it is a run whose model holds the tuned tensors:
//! the engine runs them like any others. The arithmetic of a step knows no network: [`optimiser`], [`schedule`], [`loss`],
//! [`mix`], [`clip`], [`average`].

mod checkpoint_file;
mod clip;
mod ema;
mod find_lr;
#[cfg(test)]
mod golden;
mod loss;
mod mix;
mod model;
mod optimizer;
mod schedule;
mod speed;
#[cfg(test)]
mod tests;
mod trainer;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use headstock_backbone::{FeatureLayer, TrainableBackbone};
use headstock_heads::folds::{Fold, hold_out, stratified_folds};
use headstock_heads::{CalibrationMethod, Differentiable, Logits, Registry, Tensors};
use headstock_loader::ImageRef;
use headstock_loader::split::stratified_group_k_fold;
use sha2::{Digest, Sha256};

pub use self::find_lr::{LrCurve, LrPoint, find_lr};
use self::model::FinetuneModel;
pub use self::speed::{FinetuneSpeed, measure_finetune_speed};
use self::trainer::{FinetuneResult, HoldoutSplit, Trainer, TrainerConfig};
use crate::activations::{ActivationCache, ActivationSource, HalfPrecision, SplitPoint};
use crate::config::{AugmentMode, BackboneOptions, CacheDtype, Config, Settings, TuneOptions};
use crate::error::TrainError;
use crate::features::{ExtractedFeatures, PretrainedBackbone, ViewIndex};
use crate::fit::{
    CalibrationResult, HeadFitter, MAX_FOLDS, TrainOutcome, TrainedModel, backbone_record, eval_logits,
    evaluate_calibration, owned_params, resolved_config,
};
use crate::prepared_data::PreparedData;
use crate::progress::Progress;
use crate::run::{BackboneRecord, CONFIG, PhaseSeconds, ResumeState, RunDir, RunInProgress, split_csv};
use crate::sample_features::SampleFeatures;
use crate::samples::SampleSet;

/// Values that a thread takes at a time.
const BLOCK_LEN: usize = 1 << 14;

/// Photos held out, below which nothing is calibrated by them.
const MIN_CALIBRATION_SAMPLES: usize = 10;

/// Tunes as `settings` say and writes a run; if it is stopped before, [`resume`] goes on.
pub(crate) fn start_finetune(
    settings: &Settings,
    place: &RunDir,
    progress: &dyn Progress,
) -> Result<TrainOutcome, TrainError> {
    let reserved = place.reserve(&settings.source)?;
    let unfinished =
        RunInProgress::with_trainer(reserved, settings.head.kind(), &settings.options.to_toml())?;
    tracing::info!("if this is interrupted: headstock train --resume {}", unfinished.folder().display());
    run_to_end(settings, unfinished, progress)
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
) -> Result<(Settings, TrainOutcome), TrainError> {
    let resumed = RunInProgress::resume(folder)?;
    let settings = Config::read(&folder.join(CONFIG))?.with_overrides_from_cwd().resolve(heads)?;
    let outcome = match resumed {
        ResumeState::Finished(metrics) => {
            tracing::info!("{} is finished already", folder.display());
            TrainOutcome { folder: folder.into(), metrics: *metrics, example: None }
        }
        ResumeState::InProgress(unfinished) => run_to_end(&settings, unfinished, progress)?,
    };
    Ok((settings, outcome))
}

fn run_to_end(
    settings: &Settings,
    unfinished: RunInProgress,
    progress: &dyn Progress,
) -> Result<TrainOutcome, TrainError> {
    match train_and_test(settings, &unfinished, progress) {
        Ok((prepared, learned, test)) => {
            prepared.test_and_write(settings, learned, |_| Ok(test), |files| unfinished.finish(files))
        }
        Err(error) => {
            if trainer::has_checkpoint(&unfinished) {
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
struct PreparedFinetune {
    prepared: PreparedData,
    split: HoldoutSplit,
    /// The class of each sample.
    labels: Vec<u32>,
    /// The head's parameters, and those that its fit chose.
    initial_head: Tensors,
    chosen_params: Vec<(String, f64)>,
    seconds: PhaseSeconds,
}

impl PreparedFinetune {
    /// Sees to it that features are there, holds photos out, and fits the head where it is to start fitted; `begun` where a
    /// checkpoint has it already.
    fn new(settings: &Settings, begun: bool, progress: &dyn Progress) -> Result<Self, TrainError> {
        let options = &settings.options.tune;
        let mut prepared = PreparedData::new(settings, progress)?;
        let parts = hold_out_split(&prepared.samples, &prepared.train, options)?;
        let labels = prepared.samples.rows.iter().map(|row| row.label).collect();
        let mut seconds = PhaseSeconds { features: prepared.seconds, ..PhaseSeconds::default() };
        let (start, chosen) = if options.head_starts_fitted() && !begun {
            let PreparedData { samples, features: matrix, n_views: views, .. } = &mut prepared;
            let mut learner = HeadFitter { samples, features: matrix, n_views: *views, progress };
            let what = format!("fitting {}", settings.head.kind());
            let (fitted, fit) = learner.fit(settings.head.as_ref(), None, &parts.fit, &what)?;
            seconds.fit = fit;
            (fitted.head.tensors()?, owned_params(fitted.chosen))
        } else {
            let (width, classes) = (prepared.features.width(), prepared.samples.classes.len());
            (differentiable_head(settings)?.initial_parameters(width, classes)?, Vec::new())
        };
        Ok(Self { prepared, split: parts, labels, initial_head: start, chosen_params: chosen, seconds })
    }
}

fn differentiable_head(settings: &Settings) -> Result<&dyn Differentiable, TrainError> {
    settings.head.differentiable().filter(|_| !settings.options.tune.is_off()).ok_or_else(|| {
        TrainError::Usage("nothing is tuned: name the first stage to tune, such as tune.from=layer4".into())
    })
}

/// Calls `act` with the network that is to be trained, and what it is trained on.
fn with_trainer_config<R>(
    ready: &PreparedFinetune,
    settings: &Settings,
    unfinished: Option<&RunInProgress>,
    progress: &dyn Progress,
    act: impl FnOnce(TrainerConfig<'_>, FinetuneModel<'_>) -> Result<R, TrainError>,
) -> Result<R, TrainError> {
    let PreparedFinetune {
        prepared, split: parts, labels, initial_head: start, chosen_params: chosen, ..
    } = ready;
    let (options, head) = (&settings.options.tune, differentiable_head(settings)?);
    let (Some(stage), Some(stock), Some(photos), SampleFeatures::Cached(features)) =
        (options.first_stage(), &prepared.pretrained, &prepared.images, &prepared.features)
    else {
        return Err(TrainError::Usage("a backbone is tuned on photos, and there are only features".into()));
    };
    let BackboneOptions { device, precision, .. } = stock.options();
    let trunk = TrainableBackbone::load_on_device(
        stock.checkpoint(),
        stage,
        options.batch_norm,
        *device,
        *precision,
    )?;
    log_summary(&trunk, stage, parts);
    let network = FinetuneModel::new(trunk, head, start)?;
    let wanted = views_to_cache(photos.len(), parts, options, prepared.n_views);
    let photos = ActivationSource {
        pretrained: stock,
        backbone: None,
        options: &settings.options,
        images: photos,
        hashes: features.hashes(),
    };
    let activations = ActivationCache::prepare(photos, split_point(stage, options), &wanted, progress)?;
    let setup = TrainerConfig {
        options,
        split: parts,
        labels,
        class_weights: class_weights(options, parts, labels, prepared.samples.classes.len()),
        n_views: prepared.n_views,
        activations: &activations,
        run: unfinished,
        fingerprint: fingerprint(settings, prepared, stock),
        chosen_params: chosen.clone(),
    };
    act(setup, network)
}

/// How much a photo of each class counts, by those that are learned from, `[C]`.
fn class_weights(options: &TuneOptions, parts: &HoldoutSplit, labels: &[u32], classes: usize) -> Vec<f64> {
    let mut counts = vec![0; classes];
    parts.fit.iter().for_each(|&photo| counts[labels[photo] as usize] += 1);
    options.class_weight.sample_weights(&counts)
}

/// Fits the head, tunes, and computes the features of the photos to be tested: what was learned, and the test part's logits.
fn train_and_test(
    settings: &Settings,
    unfinished: &RunInProgress,
    progress: &dyn Progress,
) -> Result<(PreparedData, TrainedModel, Logits), TrainError> {
    let ready = PreparedFinetune::new(settings, trainer::has_checkpoint(unfinished), progress)?;
    unfinished.write_config(&resolved_config(settings, ready.prepared.pretrained.as_ref()))?;
    let started = Instant::now();
    let (tuned, head, history, chosen) =
        with_trainer_config(&ready, settings, Some(unfinished), progress, |setup, network| {
            let FinetuneResult { model: network, history, chosen_params: chosen } =
                Trainer::new(setup, network)?.run(progress)?;
            let head = settings.head.load(&network.head_tensors()?)?;
            Ok((network.backbone_tensors()?, head, history, chosen))
        })?;
    let PreparedFinetune { mut prepared, split: parts, seconds, .. } = ready;
    let tune = Some(started.elapsed().as_secs_f64());

    let started = Instant::now();
    let stock = prepared.pretrained.take().expect("photos have a backbone").with_tensors(&tuned)?;
    let (test, held_out) = (prepared.test.as_slice(), parts.held_out.as_slice());
    let (photos, both) = (prepared.images.as_deref().unwrap_or_default(), [test, held_out].concat());
    let photos: Vec<ImageRef> = both.iter().map(|&photo| photos[photo].clone()).collect();
    let features =
        ExtractedFeatures::prepare(&stock, &settings.options, &photos, &vec![0; photos.len()], progress)?;
    let computed = prepared.features.computed() + features.computed();
    let matrix = SampleFeatures::Cached(features);
    let of = |rows: Range<usize>| eval_logits(head.as_ref(), &matrix, &rows.collect::<Vec<_>>());
    let tested = of(0..test.len())?;
    let judged =
        if held_out.len() < MIN_CALIBRATION_SAMPLES { None } else { Some(of(test.len()..both.len())?) };
    if judged.is_none() && !held_out.is_empty() && settings.options.calibration != CalibrationMethod::None {
        tracing::warn!(
            "probabilities are not calibrated, and there are no conformal sets: {} photos are held out, and it takes {MIN_CALIBRATION_SAMPLES}",
            held_out.len()
        );
    }
    let labels = prepared.samples.labels(held_out);
    let groups = sample_groups(&prepared.samples, held_out);
    let calibrated =
        calibrate_on_held_out(settings.options.calibration, judged.as_ref(), &labels, groups.as_deref())?;
    let calibration = started.elapsed().as_secs_f64();
    let (preprocessing, record) = backbone_record(&stock);
    let backbone =
        Some((preprocessing, BackboneRecord { tuned: settings.options.tune.first_stage(), ..record }));
    prepared.pretrained = Some(stock);
    let learned = TrainedModel {
        head,
        tuned_tensors: tuned,
        backbone,
        history,
        chosen_params: chosen,
        calibration: calibrated,
        previously_trained_on: None,
        n_train_samples: parts.fit.len(),
        n_computed: computed,
        seconds: PhaseSeconds { tune, calibration, ..seconds },
    };
    Ok((prepared, learned, tested))
}

/// The training photos in two: those that are learned from and those that are held out. No group is in both.
fn hold_out_split(
    samples: &SampleSet,
    train: &[usize],
    options: &TuneOptions,
) -> Result<HoldoutSplit, TrainError> {
    let labels = samples.labels(train);
    if options.validation == 0.0 {
        tracing::info!(
            "nothing is held out (`tune.validation = 0`): the last epoch is kept, and probabilities are not calibrated"
        );
        return Ok(HoldoutSplit { fit: train.to_vec(), held_out: Vec::new() });
    }
    let Fold { fit, held_out } = match sample_groups(samples, train) {
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
    Ok(HoldoutSplit { fit: rows(fit), held_out: rows(held_out) })
}

/// The group of each of `rows`, where there are groups.
fn sample_groups(samples: &SampleSet, rows: &[usize]) -> Option<Vec<u32>> {
    rows.iter().map(|&row| samples.rows[row].group).collect()
}

fn log_summary(trunk: &TrainableBackbone, stage: FeatureLayer, parts: &HoldoutSplit) {
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
fn split_point(stage: FeatureLayer, options: &TuneOptions) -> Option<SplitPoint> {
    let layer = FeatureLayer::ALL.into_iter().rev().find(|layer| *layer < stage)?;
    let kept = match options.keep {
        CacheDtype::F16 => HalfPrecision::F16,
        CacheDtype::Bf16 => HalfPrecision::Bf16,
    };
    let limit = (options.space * 1e9) as u64;
    Some(SplitPoint { layer, dtype: kept, cache_limit: Some(limit) })
}

/// The renderings of each photo that are worth keeping.
fn views_to_cache(
    photos: usize,
    parts: &HoldoutSplit,
    options: &TuneOptions,
    views: ViewIndex,
) -> Vec<Option<ViewIndex>> {
    let mut wanted = vec![None; photos];
    if options.views == AugmentMode::Kept {
        parts.fit.iter().for_each(|&photo| wanted[photo] = Some(views));
    }
    parts.held_out.iter().for_each(|&photo| wanted[photo] = Some(0));
    wanted
}

/// What a course depends on, as text of a fixed length.
fn fingerprint(settings: &Settings, prepared: &PreparedData, stock: &PretrainedBackbone) -> String {
    let rows = prepared.readable.iter();
    let groups: Vec<u8> =
        rows.clone().flat_map(|&row| group_bytes(prepared.samples.rows[row].group)).collect();
    let photos: Vec<u8> = match &prepared.features {
        SampleFeatures::Cached(features) => rows.flat_map(|&row| features.hashes()[row]).flatten().collect(),
        SampleFeatures::InMemory(_) => Vec::new(),
    };
    let mut hash = Sha256::new();
    for part in [
        resolved_config(settings, Some(stock)).as_bytes(),
        &split_csv(&prepared.samples, &prepared.readable),
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
fn calibrate_on_held_out(
    method: CalibrationMethod,
    logits: Option<&Logits>,
    labels: &[u32],
    groups: Option<&[u32]>,
) -> Result<CalibrationResult, TrainError> {
    let (Some(logits), true) = (logits, method != CalibrationMethod::None) else {
        return Ok(CalibrationResult::default());
    };
    let apart = groups.map_or(labels.len(), |groups| groups.iter().collect::<BTreeSet<_>>().len());
    if apart < 2 {
        tracing::warn!(
            "probabilities are not calibrated, and there are no conformal sets: all photos held out are of one group"
        );
        return Ok(CalibrationResult::default());
    }
    // By photo or group, not by class: a class of which one photo is held out would be in no fold.
    let folds = stratified_folds(&vec![0; labels.len()], groups, MAX_FOLDS.min(apart));
    let mut calibrated = evaluate_calibration(method, logits, labels, &folds)?;
    if let Some(held_out) = &mut calibrated.held_out {
        held_out.n_folds = 1;
    }
    Ok(calibrated)
}
