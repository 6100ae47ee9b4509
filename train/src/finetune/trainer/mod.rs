//! The training loop of fine-tuning: epochs, optimizer steps, validation after each epoch, and checkpoints.

mod checkpointing;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use headstock_backbone::{FeatureLayer, StageActivations};
use headstock_heads::{HeadError, History};
use headstock_inference::Progress;
use headstock_split::{KeyedRng, SplitIndices};

pub(super) use self::checkpointing::has_checkpoint;
use self::checkpointing::{BestEpoch, TrainState, initial_state};
use super::clip::clip_grad_norm;
use super::ema::Ema;
use super::loss::{CrossEntropy, log_loss_and_hits};
use super::mix::BatchMixing;
use super::model::{FinetuneModel, OptimizedParameter, ParameterGroup};
use super::optimizer::{Optimizer, OptimizerState, StepParams};
use super::schedule::Schedule;
use crate::activations::{ActivationCache, BatchItem, OnBatch};
use crate::config::{AugmentMode, OptimizerKind, TuneOptions};
use crate::error::{Remedy, TrainError};
use crate::features::{ViewId, ViewIndex};
use crate::run::RunInProgress;

/// Time between checkpoints within an epoch.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// Keys of the random streams, combined with the seed: order of the images, choice of views, mixup and
/// CutMix.
const ORDER_STREAM: u64 = 1;
const VIEW_STREAM: u64 = 2;
const MIXING_STREAM: u64 = 3;

/// Source of batches of activations: [`ActivationCache`], or a formula in tests.
pub(super) trait ActivationBatches {
    /// See [`ActivationCache::shape`].
    fn shape(&self) -> [usize; 3];

    /// See [`ActivationCache::for_each_batch`].
    fn for_each_batch(
        &self,
        batches: &[Vec<BatchItem>],
        on_batch: &mut OnBatch<'_>,
    ) -> Result<(), TrainError>;
}

impl ActivationBatches for ActivationCache<'_> {
    fn shape(&self) -> [usize; 3] {
        self.shape()
    }

    fn for_each_batch(
        &self,
        batches: &[Vec<BatchItem>],
        on_batch: &mut OnBatch<'_>,
    ) -> Result<(), TrainError> {
        self.for_each_batch(batches, on_batch)
    }
}

/// The configuration and data of a training.
pub(super) struct TrainerConfig<'a> {
    pub(super) options: &'a TuneOptions,
    /// Row indices of the samples that are trained on, and of those that are held out (`test`).
    pub(super) split: &'a SplitIndices,
    /// The label of each sample of the data set, indexed by row.
    pub(super) labels: &'a [u32],
    /// Weight of each class in the loss, `[C]`.
    pub(super) class_weights: Vec<f64>,
    /// Number of cached augmented views of an image.
    pub(super) n_augmented: u32,
    pub(super) activations: &'a dyn ActivationBatches,
    /// The run that checkpoints are saved in; `None` for a training without checkpoints.
    pub(super) run: Option<&'a RunInProgress>,
    /// Fingerprint of everything that training depends on; a resumed training must have the same.
    pub(super) fingerprint: String,
    /// Hyperparameters chosen by the head's fit.
    pub(super) chosen_params: Vec<(String, f64)>,
}

impl TrainerConfig<'_> {
    /// Optimizer steps per epoch.
    pub(super) fn steps_per_epoch(&self) -> u64 {
        let n_batches = self.split.train.len().div_ceil(self.options.batch_size);
        n_batches.div_ceil(self.options.grad_accum_steps) as u64
    }
}

/// Factor of the peak learning rates in the optimizer step after this number of others.
type LrFactor = dyn Fn(u64) -> f64;

/// A fine-tuning in progress.
pub(super) struct Trainer<'a> {
    config: TrainerConfig<'a>,
    model: FinetuneModel<'a>,
    optimizer: Optimizer,
    optimizer_states: BTreeMap<String, OptimizerState>,
    ema: Option<Ema>,
    lr_factor: Box<LrFactor>,
    loss: CrossEntropy,
    mixing: BatchMixing,
    state: TrainState,
    last_saved: Instant,
    save_interval: Duration,
}

/// The result of fine-tuning.
pub(super) struct FinetuneResult<'a> {
    pub(super) model: FinetuneModel<'a>,
    /// A row per epoch.
    pub(super) history: History,
    /// Hyperparameters chosen by the head's first fit.
    pub(super) chosen_params: Vec<(String, f64)>,
}

impl<'a> Trainer<'a> {
    /// A trainer that starts from the latest checkpoint of the run, if there is one, or else from the
    /// beginning.
    ///
    /// # Errors
    /// [`TrainError::Usage`] if the checkpoint belongs to other settings, images or weights;
    /// [`TrainError::Inference`] if it is damaged.
    pub(super) fn new(config: TrainerConfig<'a>, mut model: FinetuneModel<'a>) -> Result<Self, TrainError> {
        let options = config.options;
        let optimizer = match options.optimizer {
            OptimizerKind::Sgd => Optimizer::Sgd { momentum: options.momentum, nesterov: options.nesterov },
            OptimizerKind::AdamW => Optimizer::AdamW,
        };
        let steps_per_epoch = config.steps_per_epoch();
        let warmup_fraction =
            (options.warmup_epochs > 0.0).then_some(options.warmup_epochs / options.epochs as f64);
        let schedule = Schedule {
            kind: options.schedule,
            step_epochs: options.step_epochs,
            step_gamma: options.step_gamma,
            warmup_fraction,
            total_steps: steps_per_epoch * options.epochs,
            steps_per_epoch,
        };
        let ema = options
            .ema_decay
            .map(|decay| Ema::new(decay, model.named_values_mut().iter().map(|(_, values)| &**values)));
        let state = initial_state(&config);
        let loss = CrossEntropy {
            label_smoothing: options.label_smoothing,
            class_weights: Some(config.class_weights.clone()),
        };
        let if_positive = |alpha: f64| (alpha > 0.0).then_some(alpha);
        let mixing = BatchMixing { mixup: if_positive(options.mixup), cutmix: if_positive(options.cutmix) };
        let mut trainer = Self {
            config,
            model,
            optimizer,
            optimizer_states: BTreeMap::new(),
            ema,
            lr_factor: Box::new(move |steps_done| schedule.lr_factor(steps_done)),
            loss,
            mixing,
            state,
            last_saved: Instant::now(),
            save_interval: CHECKPOINT_INTERVAL,
        };
        trainer.load_checkpoint()?;
        Ok(trainer)
    }

    /// Saves a checkpoint at every step, for tests.
    #[cfg(test)]
    pub(super) fn with_checkpoint_every_step(self) -> Self {
        Self { save_interval: Duration::ZERO, ..self }
    }

    /// Trains to the end. Returns the model of the best epoch on the held-out samples, or of the last epoch
    /// if none are held out.
    ///
    /// # Errors
    /// [`TrainError::Inference`] if the loss diverges; [`TrainError`] of activations and checkpoints. The latest
    /// checkpoint stays.
    pub(super) fn run(mut self, progress: &dyn Progress) -> Result<FinetuneResult<'a>, TrainError> {
        let TrainerConfig { options, split, .. } = &self.config;
        let (options, n_samples) = (*options, split.train.len() as u64);
        if self.state == initial_state(&self.config) {
            if options.head_starts_fitted() {
                self.validate()?;
            }
            self.save_checkpoint()?;
        }
        let n_done = self.state.epochs_done * n_samples
            + (self.state.batches_done as u64 * options.batch_size as u64).min(n_samples);
        progress.begin("fine-tuning", options.epochs * n_samples - n_done, "photos");
        let mut outcome = Ok(());
        while outcome.is_ok() && !self.is_finished() {
            outcome = self.train_epoch(progress);
        }
        progress.end();
        outcome?;
        if self.state.best.is_some() {
            self.load_best()?;
        } else {
            self.swap_ema();
        }
        let has_held_out = !self.config.split.test.is_empty();
        let columns = ["epoch", "lr", "loss", "validation_loss", "validation_accuracy"];
        let columns = columns[..if has_held_out { 5 } else { 3 }].to_vec();
        let TrainState { history, chosen_params, .. } = self.state;
        Ok(FinetuneResult { model: self.model, history: History { columns, rows: history }, chosen_params })
    }

    /// Learning-rate range test: trains with `lr_factor(n)` times the learning rates in the step after `n`
    /// others, for `steps` steps or until `should_stop` returns true for a loss. Returns the loss before each
    /// step.
    ///
    /// # Errors
    /// The errors of [`run`](Self::run), but a non-finite loss ends the test without an error.
    pub(super) fn lr_range_test(
        mut self,
        lr_factor: Box<LrFactor>,
        steps: u64,
        mut should_stop: impl FnMut(f64) -> bool,
        progress: &dyn Progress,
    ) -> Result<Vec<f64>, TrainError> {
        self.lr_factor = lr_factor;
        self.model.set_trainable_from(self.config.options.first_stage_in(0));
        let activations = self.config.activations;
        let grad_accum_steps = self.config.options.grad_accum_steps;
        let (mut losses, mut loss_sum) = (Vec::new(), 0.0);
        progress.begin("trying learning rates", steps, "steps");
        let mut stopped = steps == 0;
        while !stopped {
            let batches = self.epoch_batches(self.state.epochs_done);
            activations.for_each_batch(&batches, &mut |index, values| {
                loss_sum += self.train_batch(&batches[index], values, batches.len())?;
                let n_accumulated = self.state.batches_done % grad_accum_steps;
                if n_accumulated > 0 && self.state.batches_done < batches.len() {
                    // The optimizer step comes with a later batch.
                    return Ok(ControlFlow::Continue(()));
                }
                let n_batches = if n_accumulated > 0 { n_accumulated } else { grad_accum_steps };
                let loss = loss_sum / n_batches as f64;
                loss_sum = 0.0;
                losses.push(loss);
                progress.step(1);
                stopped = !loss.is_finite() || should_stop(loss) || losses.len() as u64 == steps;
                Ok(if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            self.state.epochs_done += 1;
            self.state.batches_done = 0;
        }
        progress.end();
        Ok(losses)
    }

    /// Whether all epochs are done or early stopping applies.
    fn is_finished(&self) -> bool {
        let TuneOptions { epochs, patience, .. } = self.config.options;
        let epochs_done = self.state.epochs_done;
        let epochs_since_best = self.state.best.map_or(0, |best| epochs_done - best.epoch);
        epochs_done >= *epochs || patience.is_some_and(|limit| epochs_since_best >= limit)
    }

    /// Trains for the rest of the current epoch, adds a row to the history, validates, and saves a
    /// checkpoint.
    fn train_epoch(&mut self, progress: &dyn Progress) -> Result<(), TrainError> {
        let epoch = self.state.epochs_done;
        self.model.set_trainable_from(self.config.options.first_stage_in(epoch));
        let batches = self.epoch_batches(epoch);
        let remaining = &batches[self.state.batches_done..];
        let n_batches = batches.len();
        let activations = self.config.activations;
        activations.for_each_batch(remaining, &mut |index, values| {
            let batch = &remaining[index];
            let loss = self.train_batch(batch, values, n_batches)?;
            if !loss.is_finite() {
                return Err(divergence_error(epoch, &format!("the loss is {loss}")));
            }
            progress.step(batch.len() as u64);
            let after_step = self.state.batches_done.is_multiple_of(self.config.options.grad_accum_steps);
            let is_due = self.last_saved.elapsed() >= self.save_interval;
            if after_step && self.state.batches_done < n_batches && is_due {
                self.save_checkpoint()?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let n_samples = self.config.split.train.len() as f64;
        let lr = self.config.options.learning_rates().0
            * (self.lr_factor)(self.state.steps_done.saturating_sub(1));
        self.state.history.push(vec![(epoch + 1) as f64, lr, self.state.loss_sum / n_samples]);
        self.state.epochs_done = epoch + 1;
        self.state.batches_done = 0;
        self.state.loss_sum = 0.0;
        self.validate()?;
        progress.milestone(&self.epoch_summary());
        self.save_checkpoint()
    }

    /// The last row of the history in words.
    fn epoch_summary(&self) -> String {
        let epochs = self.config.options.epochs;
        match self.state.history.last().map(Vec::as_slice) {
            Some([epoch, _, loss, validation_loss, accuracy]) => format!(
                "epoch {epoch} of {epochs}, loss {loss:.4}, validation loss {validation_loss:.4}, validation \
                 accuracy {accuracy:.4}"
            ),
            Some([epoch, _, loss, ..]) => format!("epoch {epoch} of {epochs}, loss {loss:.4}"),
            _ => String::new(),
        }
    }

    /// The batches of an epoch: every image that is trained on once, in an order and in a view that depend
    /// only on the seed, the epoch and the image, so that a resumed training has the same batches.
    pub(super) fn epoch_batches(&self, epoch: u64) -> Vec<Vec<BatchItem>> {
        let TrainerConfig { options, split, n_augmented, .. } = &self.config;
        let seed = options.seed;
        let mut images = split.train.clone();
        KeyedRng::new(&[seed, ORDER_STREAM, epoch]).shuffle(&mut images);
        let n_views = u64::from(*n_augmented) + 1;
        let item = |&image: &usize| {
            let view = match options.augment {
                AugmentMode::PerEpoch => ViewId::PerEpoch { epoch },
                // Every view comes once before one repeats.
                AugmentMode::Cached => {
                    let mut random = KeyedRng::new(&[seed, VIEW_STREAM, image as u64]);
                    let first = random.below(n_views as usize) as u64;
                    ViewId::Numbered(((first + epoch) % n_views) as ViewIndex)
                }
            };
            BatchItem { image, view }
        };
        images.chunks(options.batch_size).map(|images| images.iter().map(item).collect()).collect()
    }

    /// Trains on one of the `n_batches` batches of the epoch, whose activations are `values` `[n, H, W, C]`,
    /// and makes an optimizer step if enough gradients have accumulated. Returns the mean loss before the
    /// step.
    fn train_batch(
        &mut self,
        batch: &[BatchItem],
        values: &[f32],
        n_batches: usize,
    ) -> Result<f64, TrainError> {
        let Self { config, model, loss, mixing, state, .. } = self;
        let options = config.options;
        let batch_number = state.epochs_done * n_batches as u64 + state.batches_done as u64;
        let labels: Vec<u32> = batch.iter().map(|item| config.labels[item.image]).collect();
        let [height, width, channels] = config.activations.shape();
        let (mut values, mut mixed) = (Cow::Borrowed(values), None);
        if *mixing != BatchMixing::default() {
            let mut random = KeyedRng::new(&[options.seed, MIXING_STREAM, batch_number]);
            mixed = mixing.apply(values.to_mut(), [batch.len(), height, width, channels], &mut random);
        }
        // The share of this batch in the images of its optimizer step.
        let first_batch = state.batches_done / options.grad_accum_steps * options.grad_accum_steps;
        let n_remaining = config.split.train.len() - first_batch * options.batch_size;
        let step_size = (options.grad_accum_steps * options.batch_size).min(n_remaining);
        let grad_scale = batch.len() as f64 / step_size as f64;
        let input = StageActivations { values: &values, images: batch.len(), height, width, channels };
        let batch_loss = model.forward_backward(input, batch_number, &mut |logits| {
            loss.loss_and_gradient(logits, &labels, mixed.as_ref(), grad_scale)
        })?;
        state.loss_sum += batch_loss * batch.len() as f64;
        state.batches_done += 1;
        if state.batches_done.is_multiple_of(options.grad_accum_steps) || state.batches_done == n_batches {
            self.optimizer_step()?;
        }
        Ok(batch_loss)
    }

    /// Clips the accumulated gradients, updates every parameter and the EMA, and sets the gradients to 0.
    fn optimizer_step(&mut self) -> Result<(), TrainError> {
        let Self { config, model, optimizer, optimizer_states, lr_factor, state, .. } = self;
        let options = config.options;
        let factor = lr_factor(state.steps_done);
        let mut parameters = model.parameters_mut();
        if let Some(max_norm) = options.clip_grad_norm {
            let mut gradients: Vec<&mut [f32]> =
                parameters.iter_mut().map(|parameter| &mut *parameter.gradient).collect();
            let norm = clip_grad_norm(&mut gradients, max_norm);
            if !norm.is_finite() {
                return Err(divergence_error(state.epochs_done, &format!("the gradient norm is {norm}")));
            }
        }
        let lr = |group| group_lr(options, group) * factor;
        step_parameters(parameters, *optimizer, optimizer_states, options.weight_decay, lr);
        model.zero_gradients();
        state.steps_done += 1;
        if let Some(ema) = &mut self.ema {
            ema.update(model.named_values_mut().iter().map(|(_, values)| &**values));
        }
        Ok(())
    }

    /// Swaps the model's values with the EMA, if there is one: to validate and save the EMA, and back.
    fn swap_ema(&mut self) {
        if let Some(ema) = &mut self.ema {
            for ((_, values), average) in self.model.named_values_mut().into_iter().zip(&mut ema.values) {
                values.swap_with_slice(average);
            }
        }
    }

    /// Validates on the held-out samples (with the EMA if there is one), and saves the model if it is the
    /// best so far.
    fn validate(&mut self) -> Result<(), TrainError> {
        if self.config.split.test.is_empty() {
            return Ok(());
        }
        self.swap_ema();
        let outcome = self.evaluate_held_out();
        self.swap_ema();
        outcome
    }

    /// Computes log-loss and accuracy of the model's current values on the held-out samples, adds them to the
    /// history (before the first epoch they are logged), and saves the model if its loss is the lowest so
    /// far.
    fn evaluate_held_out(&mut self) -> Result<(), TrainError> {
        let held_out = &self.config.split.test;
        let (mut loss_sum, mut n_correct) = (0.0, 0);
        let labels = self.config.labels;
        for_each_logits(&mut self.model, self.config.activations, held_out, |images, logits| {
            let labels: Vec<u32> = images.iter().map(|&image| labels[image]).collect();
            let (batch_loss_sum, n_hits) = log_loss_and_hits(&logits, &labels);
            loss_sum += batch_loss_sum;
            n_correct += n_hits;
        })?;
        let loss = loss_sum / held_out.len() as f64;
        let accuracy = n_correct as f64 / held_out.len() as f64;
        let epoch = self.state.epochs_done;
        if !loss.is_finite() {
            let symptom = format!("the loss on held-out photos is {loss}");
            return Err(divergence_error(epoch.saturating_sub(1), &symptom));
        }
        match self.state.history.last_mut() {
            Some(row) => row.extend([loss, accuracy]),
            None => {
                tracing::info!(
                    "before fine-tuning: log-loss {loss:.4}, accuracy {accuracy:.4} on held-out photos"
                );
            }
        }
        if self.state.best.is_none_or(|best| loss < best.loss) {
            let best = BestEpoch { epoch, loss };
            self.save_best(best)?;
        }
        Ok(())
    }
}

/// Peak learning rate of a parameter group: `tune.lr` for the head, and for a stage of the backbone
/// `tune.backbone_lr` times `tune.layer_decay` to the power of its distance from the last stage.
pub(super) fn group_lr(options: &TuneOptions, group: ParameterGroup) -> f64 {
    let (lr, backbone_lr) = options.learning_rates();
    match group {
        ParameterGroup::Head => lr,
        ParameterGroup::Stage(stage) => {
            let is_before_last = |layer: &FeatureLayer| (stage..FeatureLayer::Layer4).contains(layer);
            let distance = FeatureLayer::ALL.iter().filter(|layer| is_before_last(layer)).count();
            backbone_lr * options.layer_decay.powi(distance as i32)
        }
    }
}

/// Applies an optimizer step to every parameter, with the learning rate `lr` of its group. `optimizer_states`
/// holds the state of each parameter by name; missing ones are created.
pub(super) fn step_parameters(
    parameters: Vec<OptimizedParameter<'_>>,
    optimizer: Optimizer,
    optimizer_states: &mut BTreeMap<String, OptimizerState>,
    weight_decay: f64,
    lr: impl Fn(ParameterGroup) -> f64,
) {
    for OptimizedParameter { name, group, has_weight_decay, values, gradient } in parameters {
        let weight_decay = if has_weight_decay { weight_decay } else { 0.0 };
        let step = StepParams { lr: lr(group), weight_decay };
        let state =
            optimizer_states.entry(name).or_insert_with(|| OptimizerState::new(optimizer, values.len()));
        state.step(values, gradient, step);
    }
}

/// Calls `on_logits` with batches of `images` and the logits `[n, C]` of their evaluation view, in order.
pub(super) fn for_each_logits(
    model: &mut FinetuneModel<'_>,
    activations: &dyn ActivationBatches,
    images: &[usize],
    mut on_logits: impl FnMut(&[usize], Vec<f32>),
) -> Result<(), TrainError> {
    /// Images per batch without gradients.
    const BATCH_SIZE: usize = 32;
    let [height, width, channels] = activations.shape();
    let item = |&image: &usize| BatchItem { image, view: ViewId::Numbered(0) };
    let batches: Vec<Vec<BatchItem>> =
        images.chunks(BATCH_SIZE).map(|images| images.iter().map(item).collect()).collect();
    activations.for_each_batch(&batches, &mut |index, values| {
        let images = &images[index * BATCH_SIZE..][..batches[index].len()];
        let batch = StageActivations { values, images: images.len(), height, width, channels };
        on_logits(images, model.logits(batch)?);
        Ok(ControlFlow::Continue(()))
    })
}

/// The error for a training that diverged in an epoch, counted from 0. `symptom` is a sentence such as "the
/// loss is NaN".
fn divergence_error(epoch: u64, symptom: &str) -> TrainError {
    let error = HeadError::Diverged(format!("{symptom} in epoch {}", epoch + 1));
    TrainError::from(error).with_remedy(Remedy::LowerLearningRate)
}
