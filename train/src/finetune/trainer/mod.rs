//! The course of a tuning: epochs, steps, what is judged after each epoch, and checkpoints to go on from.

mod checkpointing;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use headstock_backbone::{FeatureLayer, StageActivations as Batch};
use headstock_heads::{History, KeyedRng};

pub(super) use self::checkpointing::has_checkpoint;
use self::checkpointing::{BestEpoch, TrainState, initial_state};
use super::clip::clip_grad_norm;
use super::ema::Ema;
use super::loss::{CrossEntropy, log_loss_and_hits};
use super::mix::BatchMixing;
use super::model::{FinetuneModel, OptimizedParameter, ParameterGroup};
use super::optimizer::{Optimizer, OptimizerState, StepParams};
use super::schedule::{Schedule, WarmupSchedule};
use crate::activations::{ActivationCache, BatchItem, OnBatch};
use crate::config::{AugmentMode, OptimizerKind, ScheduleKind, TuneOptions};
use crate::error::TrainError;
use crate::features::{ViewId, ViewIndex};
use crate::progress::Progress;
use crate::run::RunInProgress;

/// How long training goes on between checkpoints within an epoch.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// Keys of what is random, beside the seed.
const ORDER_STREAM: u64 = 1;
const VIEW_STREAM: u64 = 2;
const MIXING_STREAM: u64 = 3;

/// The photos that are learned from and those that are held out, by their numbers among the samples.
pub(super) struct HoldoutSplit {
    pub(super) fit: Vec<usize>,
    pub(super) held_out: Vec<usize>,
}

/// Where a course has its batches from: [`Activations`], or a formula.
pub(super) trait ActivationBatches {
    /// As [`Activations::shape`].
    fn shape(&self) -> [usize; 3];

    /// As [`Activations::batches`].
    fn for_each_batch(&self, batches: &[Vec<BatchItem>], act: &mut OnBatch<'_>) -> Result<(), TrainError>;
}

impl ActivationBatches for ActivationCache<'_> {
    fn shape(&self) -> [usize; 3] {
        self.shape()
    }

    fn for_each_batch(&self, batches: &[Vec<BatchItem>], act: &mut OnBatch<'_>) -> Result<(), TrainError> {
        self.for_each_batch(batches, act)
    }
}

/// What a tuning is made of.
pub(super) struct TrainerConfig<'a> {
    pub(super) options: &'a TuneOptions,
    pub(super) split: &'a HoldoutSplit,
    /// The class of each sample.
    pub(super) labels: &'a [u32],
    /// How much a photo of each class counts, `[C]`.
    pub(super) class_weights: Vec<f64>,
    /// Augmented views of a photo that are kept.
    pub(super) n_views: ViewIndex,
    pub(super) activations: &'a dyn ActivationBatches,
    /// Where checkpoints are kept; without it there are none.
    pub(super) run: Option<&'a RunInProgress>,
    /// What the course depends on: one that goes on must be of the same.
    pub(super) fingerprint: String,
    /// Parameters of the head that its fit chose.
    pub(super) chosen_params: Vec<(String, f64)>,
}

impl TrainerConfig<'_> {
    pub(super) fn steps_per_epoch(&self) -> u64 {
        let batches = self.split.fit.len().div_ceil(self.options.batch_size);
        batches.div_ceil(self.options.accumulate) as u64
    }
}

type LrFactor = dyn Fn(u64) -> f64;

/// A tuning under way.
pub(super) struct Trainer<'a> {
    config: TrainerConfig<'a>,
    model: FinetuneModel<'a>,
    optimizer: Optimizer,
    optimizer_states: BTreeMap<String, OptimizerState>,
    ema: Option<Ema>,
    /// What the rates are multiplied by in the step after so many.
    lr_factor: Box<LrFactor>,
    loss: CrossEntropy,
    mixing: BatchMixing,
    state: TrainState,
    last_saved: Instant,
    save_interval: Duration,
}

/// What a tuning ends with.
pub(super) struct FinetuneResult<'a> {
    pub(super) model: FinetuneModel<'a>,
    /// A row per epoch.
    pub(super) history: History,
    /// Parameters of the head that its first fit chose.
    pub(super) chosen_params: Vec<(String, f64)>,
}

impl<'a> Trainer<'a> {
    /// Begins where the last checkpoint ended, or from the start.
    ///
    /// # Errors
    /// [`TrainError::Usage`] when the checkpoint is of other settings, photos or weights; [`TrainError::UnknownFormat`] when it is
    /// damaged.
    pub(super) fn new(setup: TrainerConfig<'a>, mut network: FinetuneModel<'a>) -> Result<Self, TrainError> {
        let options = setup.options;
        let optimiser = match options.optimizer {
            OptimizerKind::Sgd => Optimizer::Sgd { momentum: options.momentum, nesterov: options.nesterov },
            OptimizerKind::AdamW => Optimizer::AdamW,
        };
        let schedule = match options.schedule {
            ScheduleKind::Constant => Schedule::Constant,
            ScheduleKind::Step => {
                Schedule::Step { every_epochs: options.step_epochs, gamma: options.step_gamma }
            }
            ScheduleKind::Cosine => Schedule::Cosine,
            ScheduleKind::OneCycle => Schedule::OneCycle,
        };
        let steps_per_epoch = setup.steps_per_epoch();
        let rates = WarmupSchedule {
            schedule,
            warmup_fraction: (options.warmup > 0.0).then_some(options.warmup / options.epochs as f64),
            total_steps: steps_per_epoch * options.epochs,
            steps_per_epoch,
        };
        let average = options
            .ema
            .map(|decay| Ema::new(decay, network.named_values_mut().iter().map(|(_, values)| &**values)));
        let position = initial_state(&setup);
        let loss = CrossEntropy {
            label_smoothing: options.label_smoothing,
            class_weights: Some(setup.class_weights.clone()),
        };
        let above_0 = |alpha: f64| (alpha > 0.0).then_some(alpha);
        let mixing = BatchMixing { mixup: above_0(options.mixup), cutmix: above_0(options.cutmix) };
        let mut course = Self {
            config: setup,
            model: network,
            optimizer: optimiser,
            optimizer_states: BTreeMap::new(),
            ema: average,
            lr_factor: Box::new(move |done| rates.lr_factor(done)),
            loss,
            mixing,
            state: position,
            last_saved: Instant::now(),
            save_interval: CHECKPOINT_INTERVAL,
        };
        course.load_checkpoint()?;
        Ok(course)
    }

    /// Saves a checkpoint at every step, for tests.
    #[cfg(test)]
    pub(super) fn with_checkpoint_every_step(self) -> Self {
        Self { save_interval: Duration::ZERO, ..self }
    }

    /// Trains to the end: the network that is best on what is held out, or the last one where nothing is.
    ///
    /// # Errors
    /// [`TrainError::Head`] when the loss is no longer finite; [`TrainError`] of activations and checkpoints. What the last
    /// checkpoint holds is not lost.
    pub(super) fn run(mut self, progress: &dyn Progress) -> Result<FinetuneResult<'a>, TrainError> {
        let TrainerConfig { options, split: parts, .. } = &self.config;
        let (options, photos) = (*options, parts.fit.len() as u64);
        if self.state == initial_state(&self.config) {
            if options.head_starts_fitted() {
                self.validate()?;
            }
            self.save_checkpoint()?;
        }
        let done = self.state.epochs_done * photos
            + (self.state.batches_done as u64 * options.batch_size as u64).min(photos);
        progress.begin_run("tuning", options.epochs * photos - done, "photos");
        let outcome = loop {
            if self.is_finished() {
                break Ok(());
            }
            if let Err(error) = self.train_epoch(progress) {
                break Err(error);
            }
        };
        progress.train_to_end();
        outcome?;
        if self.state.best.is_some() {
            self.load_best()?;
        } else {
            self.swap_ema();
        }
        let judged = !self.config.split.held_out.is_empty();
        let columns = ["epoch", "lr", "loss", "validation_loss", "validation_accuracy"];
        let columns = columns[..if judged { 5 } else { 3 }].to_vec();
        let TrainState { history, chosen_params: chosen, .. } = self.state;
        Ok(FinetuneResult {
            model: self.model,
            history: History { columns, rows: history },
            chosen_params: chosen,
        })
    }

    /// Trains with rates that rise from step to step, `factor(done)` times their own, for `steps` steps or until `is_over` says so
    /// of the loss: the loss before each step.
    ///
    /// # Errors
    /// As [`run`](Self::run); a loss that is not finite is the last one, and no error.
    pub(super) fn lr_range_test(
        mut self,
        factor: Box<LrFactor>,
        steps: u64,
        mut is_over: impl FnMut(f64) -> bool,
        progress: &dyn Progress,
    ) -> Result<Vec<f64>, TrainError> {
        self.lr_factor = factor;
        self.model.set_trainable_from(self.config.options.first_stage_in(0));
        let (activations, together) = (self.config.activations, self.config.options.accumulate);
        let (mut losses, mut sum) = (Vec::new(), 0.0);
        progress.begin_run("trying rates", steps, "steps");
        while (losses.len() as u64) < steps {
            let batches = self.epoch_batches(self.state.epochs_done);
            let mut ended = false;
            activations.for_each_batch(&batches, &mut |number, values| {
                sum += self.train_batch(&batches[number], values, batches.len())?;
                let count = self.state.batches_done % together;
                if count > 0 && self.state.batches_done < batches.len() {
                    return Ok(ControlFlow::Continue(()));
                }
                let loss = sum / if count > 0 { count } else { together } as f64;
                sum = 0.0;
                losses.push(loss);
                progress.step(1);
                ended = !loss.is_finite() || is_over(loss) || losses.len() as u64 == steps;
                Ok(if ended { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            if ended {
                break;
            }
            (self.state.epochs_done, self.state.batches_done) = (self.state.epochs_done + 1, 0);
        }
        progress.train_to_end();
        Ok(losses)
    }

    /// Whether all epochs are done, or none has been better for too long.
    fn is_finished(&self) -> bool {
        let TrainState { epochs_done: epoch, best, .. } = &self.state;
        let waited = best.as_ref().map_or(0, |best| epoch - best.epoch);
        *epoch >= self.config.options.epochs
            || self.config.options.patience.is_some_and(|most| waited >= most)
    }

    /// Trains for what is left of an epoch, and judges it.
    fn train_epoch(&mut self, progress: &dyn Progress) -> Result<(), TrainError> {
        let epoch = self.state.epochs_done;
        self.model.set_trainable_from(self.config.options.first_stage_in(epoch));
        let batches = self.epoch_batches(epoch);
        let rest = &batches[self.state.batches_done..];
        let last = batches.len();
        let activations = self.config.activations;
        activations.for_each_batch(rest, &mut |number, values| {
            let batch = &rest[number];
            let loss = self.train_batch(batch, values, last)?;
            if !loss.is_finite() {
                return Err(divergence_error(epoch, &format!("the loss is {loss}")));
            }
            progress.step(batch.len() as u64);
            let steps = self.state.batches_done.is_multiple_of(self.config.options.accumulate);
            if steps && self.state.batches_done < last && self.last_saved.elapsed() >= self.save_interval {
                self.save_checkpoint()?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let photos = self.config.split.fit.len() as f64;
        let lr = self.config.options.learning_rates().0
            * (self.lr_factor)(self.state.steps_done.saturating_sub(1));
        self.state.history.push(vec![(epoch + 1) as f64, lr, self.state.loss_sum / photos]);
        (self.state.epochs_done, self.state.batches_done, self.state.loss_sum) = (epoch + 1, 0, 0.0);
        self.validate()?;
        self.save_checkpoint()
    }

    /// The batches of an epoch: every photo once, in an order and in renderings of the epoch's own.
    pub(super) fn epoch_batches(&self, epoch: u64) -> Vec<Vec<BatchItem>> {
        let TrainerConfig { options, split: parts, n_views: views, .. } = &self.config;
        let seed = options.seed;
        let mut photos = parts.fit.clone();
        KeyedRng::new(&[seed, ORDER_STREAM, epoch]).shuffle(&mut photos);
        let renderings = u64::from(*views) + 1;
        let item = |&photo: &usize| {
            let view = match options.views {
                AugmentMode::Fresh => ViewId::PerEpoch { epoch },
                // Each of them once, before one comes again.
                AugmentMode::Kept => {
                    let first =
                        KeyedRng::new(&[seed, VIEW_STREAM, photo as u64]).below(renderings as usize) as u64;
                    ViewId::Numbered(((first + epoch) % renderings) as ViewIndex)
                }
            };
            BatchItem { image: photo, view }
        };
        photos.chunks(options.batch_size).map(|photos| photos.iter().map(item).collect()).collect()
    }

    /// Learns from a batch, the last of `last` in the epoch or one before, and makes a step where enough have come together.
    /// The loss before.
    fn train_batch(&mut self, batch: &[BatchItem], values: &[f32], last: usize) -> Result<f64, TrainError> {
        let Self { config: setup, model: network, loss, mixing, state: position, .. } = self;
        let options = setup.options;
        let number = position.epochs_done * last as u64 + position.batches_done as u64;
        let labels: Vec<u32> = batch.iter().map(|item| setup.labels[item.image]).collect();
        let [height, width, channels] = setup.activations.shape();
        let (mut values, mut mixed) = (Cow::Borrowed(values), None);
        if *mixing != BatchMixing::default() {
            let mut random = KeyedRng::new(&[options.seed, MIXING_STREAM, number]);
            mixed = mixing.apply(values.to_mut(), [batch.len(), height, width, channels], &mut random);
        }
        // Photos of the step that this batch is a part of.
        let first = position.batches_done / options.accumulate * options.accumulate;
        let from = first * options.batch_size;
        let together = (options.accumulate * options.batch_size).min(setup.split.fit.len() - from);
        let share = batch.len() as f64 / together as f64;
        let input = Batch { values: &values, images: batch.len(), height, width, channels };
        let of_batch = network.forward_backward(input, number, &mut |logits| {
            loss.loss_and_gradient(logits, &labels, mixed.as_ref(), share)
        })?;
        position.loss_sum += of_batch * batch.len() as f64;
        position.batches_done += 1;
        if position.batches_done.is_multiple_of(options.accumulate) || position.batches_done == last {
            self.optimizer_step()?;
        }
        Ok(of_batch)
    }

    /// Moves every parameter against its gradient.
    fn optimizer_step(&mut self) -> Result<(), TrainError> {
        let Self {
            config: setup,
            model: network,
            optimizer: optimiser,
            optimizer_states: states,
            lr_factor: factor,
            state: position,
            ..
        } = self;
        let options = setup.options;
        let factor = factor(position.steps_done);
        let mut slots = network.parameters_mut();
        if let Some(most) = options.clip_norm {
            let mut gradients: Vec<&mut [f32]> = slots.iter_mut().map(|slot| &mut *slot.gradient).collect();
            let norm = clip_grad_norm(&mut gradients, most);
            if !norm.is_finite() {
                return Err(divergence_error(
                    position.epochs_done,
                    &format!("the norm of the gradients is {norm}"),
                ));
            }
        }
        let rate = |group| group_lr(options, group) * factor;
        step_parameters(slots, *optimiser, states, options.weight_decay, rate);
        network.zero_gradients();
        position.steps_done += 1;
        if let Some(average) = &mut self.ema {
            average.update(network.named_values_mut().iter().map(|(_, values)| &**values));
        }
        Ok(())
    }

    /// Puts the average in the place of what is trained, and that in its own.
    fn swap_ema(&mut self) {
        if let Some(average) = &mut self.ema {
            for ((_, values), average) in self.model.named_values_mut().into_iter().zip(average.values_mut())
            {
                values.swap_with_slice(average);
            }
        }
    }

    /// Judges what has been learned by the photos that are held out, and keeps it where it is the best so far.
    fn validate(&mut self) -> Result<(), TrainError> {
        if self.config.split.held_out.is_empty() {
            return Ok(());
        }
        self.swap_ema();
        let outcome = self.evaluate_held_out();
        self.swap_ema();
        outcome
    }

    fn evaluate_held_out(&mut self) -> Result<(), TrainError> {
        let held_out = &self.config.split.held_out;
        let (mut loss, mut right) = (0.0, 0);
        let labels = self.config.labels;
        for_each_logits(&mut self.model, self.config.activations, held_out, |photos, logits| {
            let labels: Vec<u32> = photos.iter().map(|&photo| labels[photo]).collect();
            let (losses, hits) = log_loss_and_hits(&logits, &labels);
            loss += losses;
            right += hits;
        })?;
        let (loss, accuracy) = (loss / held_out.len() as f64, right as f64 / held_out.len() as f64);
        let epoch = self.state.epochs_done;
        if !loss.is_finite() {
            return Err(divergence_error(
                epoch.saturating_sub(1),
                &format!("the loss on photos held out is {loss}"),
            ));
        }
        match self.state.history.last_mut() {
            Some(row) => row.extend([loss, accuracy]),
            None => {
                tracing::info!(
                    "before tuning: log loss {loss:.4}, accuracy {accuracy:.4} on photos held out"
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

/// The highest learning rate of a group.
pub(super) fn group_lr(options: &TuneOptions, group: ParameterGroup) -> f64 {
    let (lr, backbone_lr) = options.learning_rates();
    match group {
        ParameterGroup::Head => lr,
        ParameterGroup::Stage(stage) => {
            let before =
                [FeatureLayer::Stem, FeatureLayer::Layer1, FeatureLayer::Layer2, FeatureLayer::Layer3];
            let earlier = before.iter().filter(|&&other| other >= stage).count();
            backbone_lr * options.layer_decay.powi(earlier as i32)
        }
    }
}

/// Moves every parameter against its gradient, by the rate of its group.
pub(super) fn step_parameters(
    slots: Vec<OptimizedParameter<'_>>,
    optimiser: Optimizer,
    states: &mut BTreeMap<String, OptimizerState>,
    weight_decay: f64,
    rate: impl Fn(ParameterGroup) -> f64,
) {
    for OptimizedParameter { name, group, has_weight_decay: decays, values, gradient } in slots {
        let step = StepParams { lr: rate(group), weight_decay: if decays { weight_decay } else { 0.0 } };
        let state = states.entry(name).or_insert_with(|| OptimizerState::new(optimiser, values.len()));
        state.step(values, gradient, step);
    }
}

/// Calls `act` with some of `photos` and their logits, `[n, C]`, in order.
pub(super) fn for_each_logits(
    network: &mut FinetuneModel<'_>,
    activations: &dyn ActivationBatches,
    photos: &[usize],
    mut act: impl FnMut(&[usize], Vec<f32>),
) -> Result<(), TrainError> {
    /// A batch without gradients.
    const PHOTOS: usize = 32;
    let [height, width, channels] = activations.shape();
    let item = |&photo: &usize| BatchItem { image: photo, view: ViewId::Numbered(0) };
    let batches: Vec<Vec<BatchItem>> =
        photos.chunks(PHOTOS).map(|photos| photos.iter().map(item).collect()).collect();
    activations.for_each_batch(&batches, &mut |number, values| {
        let photos = &photos[number * PHOTOS..][..batches[number].len()];
        let batch = Batch { values, images: photos.len(), height, width, channels };
        act(photos, network.logits(batch)?);
        Ok(ControlFlow::Continue(()))
    })
}

fn divergence_error(epoch: u64, what: &str) -> TrainError {
    headstock_heads::HeadError::Diverged(format!(
        "{what} in epoch {}: lower `tune.lr`, or set `tune.clip_norm`",
        epoch + 1
    ))
    .into()
}
