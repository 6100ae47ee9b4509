//! Fine-tuning: training the last stages of a backbone together with a head.
//!
//! The head is fitted on frozen features first. Then the activations at the split point, where the frozen
//! stages end, run through the trained stages and the head, epoch after epoch ([`trainer`]). The result is a
//! run whose model contains the fine-tuned tensors, which the engine runs like any others. The arithmetic of
//! a step does not depend on the network: [`optimizer`], [`schedule`], [`loss`], [`mix`], [`clip`], [`ema`].

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
use headstock_heads::{CalibrationMethod, Differentiable, Logits, Tensors};
use headstock_inference::{BackboneOptions, BackboneRecord, CONFIG_FILE, PretrainedBackbone, Progress};
use headstock_loader::ImageRef;
use headstock_split::{SplitIndices, hold_out, stratified_folds, stratified_group_k_fold};
use sha2::{Digest, Sha256};

pub use self::find_lr::{LrCurve, LrPoint, find_lr};
use self::model::FinetuneModel;
pub use self::speed::{FinetuneSpeed, measure_finetune_speed};
use self::trainer::{FinetuneResult, Trainer, TrainerConfig};
use crate::activations::{ActivationCache, ActivationSource, SplitPoint};
use crate::config::{AugmentMode, Config, Registries, Settings, TuneOptions};
use crate::error::{Remedy, TrainError};
use crate::features::ExtractedFeatures;
use crate::fit::{
    CalibrationResult, HeadFitter, MAX_FOLDS, TrainOutcome, TrainedModel, eval_logits, evaluate_calibration,
    owned_params, resolved_config,
};
use crate::prepared_data::PreparedData;
use crate::run::{PhaseSeconds, ResumeState, RunDir, RunInProgress};
use crate::sample_features::SampleFeatures;
use crate::samples::{SampleSet, split_csv};

/// Values per parallel block of elementwise operations.
const BLOCK_LEN: usize = 1 << 14;

/// Fewest held-out images that are used for calibration.
const MIN_CALIBRATION_SAMPLES: usize = 10;

/// Fine-tunes as `settings` say and writes a run. If it is interrupted, [`resume`] continues it.
pub(crate) fn start_finetune(
    settings: &Settings,
    run_dir: &RunDir,
    progress: &dyn Progress,
) -> Result<TrainOutcome, TrainError> {
    let reservation = run_dir.reserve(&settings.source)?;
    let run = RunInProgress::begin(reservation, settings.head.kind(), &settings.to_options().to_toml())?;
    tracing::info!("if the training is interrupted, it can be resumed from {}", run.folder.display());
    run_to_end(settings, run, progress)
}

/// Continues an interrupted fine-tuning, the run in `folder`, from its latest checkpoint. The result is the
/// same as without the interruption. Also returns the settings of the run.
///
/// # Errors
/// [`TrainError::Usage`] if there is nothing to resume, another program is training the run, or settings,
/// images or weights have changed since the run began; [`TrainError`] as for training. The latest checkpoint
/// stays.
pub fn resume(
    folder: &Path,
    registries: &Registries,
    progress: &dyn Progress,
) -> Result<(Settings, TrainOutcome), TrainError> {
    let resumed = RunInProgress::resume(folder)?;
    let settings = Config::read(&folder.join(CONFIG_FILE))?.with_overrides_from_cwd().resolve(registries)?;
    let outcome = match resumed {
        ResumeState::Finished(metrics) => {
            tracing::info!(
                "the training of {} is already finished: there is nothing to resume",
                folder.display()
            );
            TrainOutcome { folder: folder.into(), metrics: *metrics, example: None }
        }
        ResumeState::InProgress(run) => run_to_end(&settings, run, progress)?,
    };
    Ok((settings, outcome))
}

/// Trains, tests and finishes the run. After an error the run stays if it has a checkpoint to resume from;
/// without one its folder is removed.
fn run_to_end(
    settings: &Settings,
    run: RunInProgress,
    progress: &dyn Progress,
) -> Result<TrainOutcome, TrainError> {
    match train_and_test(settings, &run, progress) {
        Ok((prepared, trained, test_logits)) => {
            prepared.test_and_write(settings, trained, |_| Ok(test_logits), |files| run.finish(files))
        }
        Err(error) if trainer::has_checkpoint(&run) => {
            Err(error.with_remedy(Remedy::Resume(run.folder.clone())))
        }
        Err(error) => {
            run.discard();
            Err(error)
        }
    }
}

/// What fine-tuning starts from: the prepared data, the holdout split, and the head's initial parameters.
struct PreparedFinetune {
    prepared: PreparedData,
    split: SplitIndices,
    /// The label of each sample of the data set, training and test.
    labels: Vec<u32>,
    /// The head's initial parameters.
    initial_head: Tensors,
    /// The hyperparameters chosen by the fit of the initial head.
    chosen_params: Vec<(String, f64)>,
    seconds: PhaseSeconds,
}

impl PreparedFinetune {
    /// Prepares the data, holds out training samples for validation, and fits the initial head if
    /// `tune.head_init` says so. If the `run` has a checkpoint, which contains the head, the head is not
    /// fitted.
    fn prepare(
        settings: &Settings,
        run: Option<&RunInProgress>,
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let options = &settings.tune;
        let mut prepared = PreparedData::prepare(settings, progress)?;
        let split = hold_out_split(&prepared.samples, &prepared.train, options)?;
        let labels = prepared.samples.rows.iter().map(|row| row.label).collect();
        let mut seconds = PhaseSeconds { features: prepared.seconds, ..PhaseSeconds::default() };
        let has_checkpoint = run.is_some_and(trainer::has_checkpoint);
        let (initial_head, chosen_params) = if options.head_starts_fitted() && !has_checkpoint {
            let PreparedData { samples, features, n_augmented, .. } = &mut prepared;
            let mut fitter = HeadFitter { samples, features, n_augmented: *n_augmented, progress };
            let task = format!("fitting {}", settings.head.kind());
            let (fitted, fit) = fitter.fit(settings.head.as_ref(), None, &split.train, &task)?;
            seconds.fit = fit;
            (fitted.head.tensors()?, owned_params(fitted.chosen))
        } else {
            let (width, classes) = (prepared.features.width(), prepared.samples.classes.len());
            (differentiable_head(settings)?.initial_parameters(width, classes)?, Vec::new())
        };
        Ok(Self { prepared, split, labels, initial_head, chosen_params, seconds })
    }
}

/// The configured head, which is trained together with the backbone.
///
/// # Errors
/// [`TrainError::Usage`] if only the head is trained.
fn differentiable_head(settings: &Settings) -> Result<&dyn Differentiable, TrainError> {
    settings.head.differentiable().filter(|_| !settings.tune.is_off()).ok_or_else(|| {
        TrainError::Usage("no stage of the backbone is chosen to be fine-tuned".into())
            .with_remedy(Remedy::Finetune)
    })
}

/// Loads the stages to train, caches the activations before them, and calls `act` with the model and the
/// configuration of its trainer; returns the result of `act`. A callback, because the configuration borrows
/// the activations. Checkpoints are saved in `run`, if given.
fn with_trainer_config<R>(
    prepared_finetune: &PreparedFinetune,
    settings: &Settings,
    run: Option<&RunInProgress>,
    progress: &dyn Progress,
    act: impl FnOnce(TrainerConfig<'_>, FinetuneModel<'_>) -> Result<R, TrainError>,
) -> Result<R, TrainError> {
    let PreparedFinetune { prepared, split, labels, initial_head, chosen_params, .. } = prepared_finetune;
    let (options, head) = (&settings.tune, differentiable_head(settings)?);
    let (Some(stage), Some(pretrained), Some(images), SampleFeatures::Cached(features)) =
        (options.first_stage(), &prepared.pretrained, &prepared.images, &prepared.features)
    else {
        return Err(TrainError::NeedsImages);
    };
    let BackboneOptions { device, precision, .. } = &pretrained.options;
    let backbone =
        TrainableBackbone::load(pretrained.checkpoint(), stage, options.batch_norm, *device, *precision)?;
    log_summary(&backbone, stage, split);
    let model = FinetuneModel::new(backbone, head, initial_head)?;
    let n_augmented = views_to_cache(images.len(), split, options, prepared.n_augmented);
    let source = ActivationSource {
        pretrained,
        backbone: None,
        options: settings.extract_options(),
        images,
        hashes: &features.hashes,
    };
    let activations = ActivationCache::prepare(source, split_point(stage, options), &n_augmented, progress)?;
    let config = TrainerConfig {
        options,
        split,
        labels,
        class_weights: class_weights(options, split, labels, prepared.samples.classes.len()),
        n_augmented: prepared.n_augmented,
        activations: &activations,
        run,
        fingerprint: fingerprint(&resolved_config(settings, Some(pretrained)), prepared, pretrained),
        chosen_params: chosen_params.clone(),
    };
    act(config, model)
}

/// Weight of each class in the loss, `[C]`, by `tune.class_weight` from the class counts of the samples that
/// are trained on. `labels` are those of all samples.
fn class_weights(options: &TuneOptions, split: &SplitIndices, labels: &[u32], n_classes: usize) -> Vec<f64> {
    let mut counts = vec![0; n_classes];
    split.train.iter().for_each(|&row| counts[labels[row] as usize] += 1);
    options.class_weight.sample_weights(&counts)
}

/// Fits the head, fine-tunes, extracts the features of the test and held-out samples by the fine-tuned
/// backbone, and calibrates. Returns the prepared data, the trained model, and the logits of the test set.
fn train_and_test(
    settings: &Settings,
    run: &RunInProgress,
    progress: &dyn Progress,
) -> Result<(PreparedData, TrainedModel, Logits), TrainError> {
    let prepared_finetune = PreparedFinetune::prepare(settings, Some(run), progress)?;
    run.write_config(&resolved_config(settings, prepared_finetune.prepared.pretrained.as_ref()))?;
    let started = Instant::now();
    let (tuned_tensors, head, history, chosen_params) =
        with_trainer_config(&prepared_finetune, settings, Some(run), progress, |config, model| {
            let FinetuneResult { model, history, chosen_params } =
                Trainer::new(config, model)?.run(progress)?;
            let head = settings.head.load(&model.head_tensors()?)?;
            Ok((model.backbone_tensors()?, head, history, chosen_params))
        })?;
    let PreparedFinetune { mut prepared, split, seconds, .. } = prepared_finetune;
    let tune_seconds = started.elapsed().as_secs_f64();

    let started = Instant::now();
    let pretrained =
        prepared.pretrained.take().expect("photos have a backbone").with_tensors(&tuned_tensors)?;
    let (test, held_out) = (prepared.test.as_slice(), split.test.as_slice());
    let rows = [test, held_out].concat();
    let images = prepared.images.as_deref().unwrap_or_default();
    let images: Vec<ImageRef> = rows.iter().map(|&row| images[row].clone()).collect();
    let options = settings.extract_options();
    let features =
        ExtractedFeatures::prepare(&pretrained, options, &images, &vec![0; images.len()], progress)?;
    let n_computed = prepared.features.computed() + features.computed();
    let features = SampleFeatures::Cached(features);
    let logits_of =
        |indices: Range<usize>| eval_logits(head.as_ref(), &features, &indices.collect::<Vec<_>>());
    let test_logits = logits_of(0..test.len())?;
    let can_calibrate = held_out.len() >= MIN_CALIBRATION_SAMPLES;
    let held_out_logits = if can_calibrate { Some(logits_of(test.len()..rows.len())?) } else { None };
    let method = settings.calibration;
    if !can_calibrate && !held_out.is_empty() && method != CalibrationMethod::None {
        tracing::warn!(
            "probabilities are not calibrated, and there are no conformal sets: too few photos are held out \
             ({}, but {MIN_CALIBRATION_SAMPLES} are needed); raise `validation` or add photos",
            held_out.len()
        );
    }
    let labels = prepared.samples.labels(held_out);
    let groups = prepared.samples.groups(held_out);
    let calibration = calibrate_on_held_out(method, held_out_logits.as_ref(), &labels, groups.as_deref())?;
    let calibration_seconds = started.elapsed().as_secs_f64();
    let tuned = settings.tune.first_stage();
    let record = BackboneRecord { tuned, ..BackboneRecord::new(&pretrained) };
    let backbone = Some((pretrained.checkpoint().preprocessing().clone(), record));
    prepared.pretrained = Some(pretrained);
    let trained = TrainedModel {
        head,
        tuned_tensors,
        backbone,
        history,
        chosen_params,
        calibration,
        out_of_fold: None,
        previously_trained_on: None,
        cold_logits: None,
        n_train_samples: split.train.len(),
        n_computed,
        seconds: PhaseSeconds { tune: Some(tune_seconds), calibration: calibration_seconds, ..seconds },
    };
    Ok((prepared, trained, test_logits))
}

/// Splits the training samples, the rows `train`, into those that are trained on and those that are held out
/// to choose the best epoch and to calibrate. No group is in both. Nothing is held out if `tune.validation`
/// is 0 or, with a warning, if the classes or groups are too small.
fn hold_out_split(
    samples: &SampleSet,
    train: &[usize],
    options: &TuneOptions,
) -> Result<SplitIndices, TrainError> {
    let labels = samples.labels(train);
    if options.validation == 0.0 {
        tracing::info!(
            "no photos are held out (`validation = 0`): the model of the last epoch is used, and \
             probabilities are not calibrated"
        );
        return Ok(SplitIndices { train: train.to_vec(), test: Vec::new() });
    }
    let SplitIndices { train: fit, test: held_out } = match samples.groups(train) {
        None => hold_out(&labels, None, options.validation, options.seed),
        Some(groups) => {
            let n_folds = (1.0 / options.validation).round().max(2.0) as usize;
            let seed = (options.seed % u64::from(u32::MAX)) as u32;
            let splits = stratified_group_k_fold(&labels, &groups, n_folds, seed)?;
            // A class with a single group is in one fold entirely; that fold cannot be held out, or the class
            // could not be learned.
            let n_classes =
                |rows: &[usize]| rows.iter().map(|&row| labels[row]).collect::<BTreeSet<_>>().len();
            let n_all_classes = labels.iter().collect::<BTreeSet<_>>().len();
            let split = splits
                .into_iter()
                .find(|split| !split.test.is_empty() && n_classes(&split.train) == n_all_classes);
            split.unwrap_or_else(|| SplitIndices { train: (0..train.len()).collect(), test: Vec::new() })
        }
    };
    if held_out.is_empty() {
        tracing::warn!(
            "no class has enough photos to hold out the fraction {} of them (`validation`): all epochs \
             run, the model of the last epoch is used, and probabilities are not calibrated; add photos",
            options.validation
        );
    }
    let rows_at = |indices: Vec<usize>| indices.into_iter().map(|i| train[i]).collect();
    Ok(SplitIndices { train: rows_at(fit), test: rows_at(held_out) })
}

/// Logs the number of parameters and images that are trained.
fn log_summary(backbone: &TrainableBackbone, stage: FeatureLayer, split: &SplitIndices) {
    let n_values: usize =
        backbone.parameters().iter().map(|parameter| parameter.shape.iter().product::<usize>()).sum();
    tracing::info!(
        "fine-tuning the backbone from {stage} on: {:.1} million parameters; photos trained on: {}, held \
         out: {}",
        n_values as f64 / 1e6,
        split.train.len(),
        split.test.len()
    );
}

/// The layer before `stage`, the first trained one; `None` for the stem.
fn last_frozen_layer(stage: FeatureLayer) -> Option<FeatureLayer> {
    FeatureLayer::ALL.into_iter().rev().find(|layer| *layer < stage)
}

/// The layer before the first trained stage, where the frozen stages end; `None` if all stages are trained.
fn split_point(stage: FeatureLayer, options: &TuneOptions) -> Option<SplitPoint> {
    let layer = last_frozen_layer(stage)?;
    let cache_limit = Some((options.cache_gb * 1e9) as u64);
    Some(SplitPoint { layer, dtype: options.cache_dtype, cache_limit })
}

/// Number of augmented views to cache of each image, besides the evaluation view; `None` for no view.
/// Held-out images are validated in their evaluation view only; views that are drawn for each epoch cannot be
/// cached.
fn views_to_cache(
    n_images: usize,
    split: &SplitIndices,
    options: &TuneOptions,
    n_augmented: u32,
) -> Vec<Option<u32>> {
    let mut views = vec![None; n_images];
    if options.augment == AugmentMode::Cached {
        split.train.iter().for_each(|&row| views[row] = Some(n_augmented));
    }
    split.test.iter().for_each(|&row| views[row] = Some(0));
    views
}

/// SHA-256 (hex) of everything that training depends on: the text of its config, samples, groups, image bytes
/// and weights. A checkpoint stores it, so that [`resume`] refuses a training whose inputs have changed.
fn fingerprint(config: &str, prepared: &PreparedData, pretrained: &PretrainedBackbone) -> String {
    let rows = prepared.readable.iter();
    // The bytes of no group differ from those of every group.
    let group_bytes = |group: Option<u32>| group.map_or(u64::MAX, u64::from).to_le_bytes();
    let groups: Vec<u8> =
        rows.clone().flat_map(|&row| group_bytes(prepared.samples.rows[row].group)).collect();
    let images: Vec<u8> = match &prepared.features {
        SampleFeatures::Cached(features) => {
            rows.flat_map(|&row| features.hashes[row]).flat_map(|hash| hash.bytes).collect()
        }
        SampleFeatures::InMemory(_) => Vec::new(),
    };
    let mut hash = Sha256::new();
    for part in [
        config.as_bytes(),
        &split_csv(&prepared.samples, &prepared.readable),
        &groups,
        &images,
        pretrained.checkpoint().fingerprint().as_bytes(),
    ] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())
}

/// Calibrates by `method` on the `logits` `[N, C]` of the held-out samples with their `labels` and `groups`
/// `[N]`. Groups stay on one side when the calibration is evaluated. Nothing is calibrated without logits
/// and, with a warning, if all samples belong to one group.
fn calibrate_on_held_out(
    method: CalibrationMethod,
    logits: Option<&Logits>,
    labels: &[u32],
    groups: Option<&[u32]>,
) -> Result<CalibrationResult, TrainError> {
    let (Some(logits), true) = (logits, method != CalibrationMethod::None) else {
        return Ok(CalibrationResult::default());
    };
    let n_units = groups.map_or(labels.len(), |groups| groups.iter().collect::<BTreeSet<_>>().len());
    if n_units < 2 {
        tracing::warn!(
            "probabilities are not calibrated, and there are no conformal sets: all held-out photos belong \
             to one group, but calibration needs at least two groups; raise `validation`"
        );
        return Ok(CalibrationResult::default());
    }
    // By sample or group, not by class: a class with one held-out sample would be in no fold.
    let folds = stratified_folds(&vec![0; labels.len()], groups, MAX_FOLDS.min(n_units));
    let (mut result, _) = evaluate_calibration(method, logits, labels, &folds)?;
    if let Some(held_out) = &mut result.held_out {
        // The folds only evaluate the calibration; the logits come from one holdout split.
        held_out.n_folds = 1;
    }
    Ok(result)
}
