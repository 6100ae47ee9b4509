//! The course of a tuning: epochs, steps, what is judged after each epoch, and checkpoints to go on from.

mod saving;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use headstock_backbone::{Activations as Batch, Layer};
use headstock_heads::{History, KeyedRng};

pub(super) use self::saving::has_begun;
use self::saving::{Best, Position, beginning};
use super::average::Average;
use super::clip::clip_norm;
use super::loss::{CrossEntropy, judge};
use super::mix::Mixing;
use super::network::{Group, Network, Slot};
use super::optimiser::{Optimiser, State, Step};
use super::schedule::{Rates, Schedule};
use crate::activations::{Act, Activations, Item};
use crate::config::{OptimizerKind, ScheduleKind, TuneOptions, Views};
use crate::error::TrainError;
use crate::features::{Rendering, View};
use crate::progress::Progress;
use crate::run::Unfinished;

/// How long training goes on between checkpoints within an epoch.
const INTERVAL: Duration = Duration::from_secs(60);

/// Keys of what is random, beside the seed.
const ORDER: u64 = 1;
const VIEW: u64 = 2;
const MIXING: u64 = 3;

/// The photos that are learned from and those that are held out, by their numbers among the samples.
pub(super) struct Parts {
    pub(super) fit: Vec<usize>,
    pub(super) held_out: Vec<usize>,
}

/// Where a course has its batches from: [`Activations`], or a formula.
pub(super) trait Inputs {
    /// As [`Activations::shape`].
    fn shape(&self) -> [usize; 3];

    /// As [`Activations::batches`].
    fn batches(&self, batches: &[Vec<Item>], act: &mut Act<'_>) -> Result<(), TrainError>;
}

impl Inputs for Activations<'_> {
    fn shape(&self) -> [usize; 3] {
        self.shape()
    }

    fn batches(&self, batches: &[Vec<Item>], act: &mut Act<'_>) -> Result<(), TrainError> {
        self.batches(batches, act)
    }
}

/// What a tuning is made of.
pub(super) struct Setup<'a> {
    pub(super) options: &'a TuneOptions,
    pub(super) parts: &'a Parts,
    /// The class of each sample.
    pub(super) labels: &'a [u32],
    /// How much a photo of each class counts, `[C]`.
    pub(super) class_weights: Vec<f64>,
    /// Augmented views of a photo that are kept.
    pub(super) views: View,
    pub(super) activations: &'a dyn Inputs,
    /// Where checkpoints are kept; without it there are none.
    pub(super) unfinished: Option<&'a Unfinished>,
    /// What the course depends on: one that goes on must be of the same.
    pub(super) origin: String,
    /// Parameters of the head that its fit chose.
    pub(super) chosen: Vec<(String, f64)>,
}

impl Setup<'_> {
    pub(super) fn steps_per_epoch(&self) -> u64 {
        let batches = self.parts.fit.len().div_ceil(self.options.batch_size);
        batches.div_ceil(self.options.accumulate) as u64
    }
}

type Factor = dyn Fn(u64) -> f64;

/// A tuning under way.
pub(super) struct Course<'a> {
    setup: Setup<'a>,
    network: Network<'a>,
    optimiser: Optimiser,
    states: BTreeMap<String, State>,
    average: Option<Average>,
    /// What the rates are multiplied by in the step after so many.
    factor: Box<Factor>,
    loss: CrossEntropy,
    mixing: Mixing,
    position: Position,
    saved: Instant,
    interval: Duration,
}

/// What a tuning ends with.
pub(super) struct Tuned<'a> {
    pub(super) network: Network<'a>,
    /// A row per epoch.
    pub(super) history: History,
    /// Parameters of the head that its first fit chose.
    pub(super) chosen: Vec<(String, f64)>,
}

impl<'a> Course<'a> {
    /// Begins where the last checkpoint ended, or from the start.
    ///
    /// # Errors
    /// [`TrainError::Usage`] when the checkpoint is of other settings, photos or weights; [`TrainError::UnknownFormat`] when it is
    /// damaged.
    pub(super) fn new(setup: Setup<'a>, mut network: Network<'a>) -> Result<Self, TrainError> {
        let options = setup.options;
        let optimiser = match options.optimizer {
            OptimizerKind::Sgd => Optimiser::Sgd { momentum: options.momentum, nesterov: options.nesterov },
            OptimizerKind::AdamW => Optimiser::AdamW,
        };
        let schedule = match options.schedule {
            ScheduleKind::Constant => Schedule::Constant,
            ScheduleKind::Step => Schedule::Step { every: options.step_epochs, gamma: options.step_gamma },
            ScheduleKind::Cosine => Schedule::Cosine,
            ScheduleKind::OneCycle => Schedule::OneCycle,
        };
        let steps_per_epoch = setup.steps_per_epoch();
        let rates = Rates {
            schedule,
            warmup: (options.warmup > 0.0).then_some(options.warmup / options.epochs as f64),
            steps: steps_per_epoch * options.epochs,
            steps_per_epoch,
        };
        let average = options
            .ema
            .map(|decay| Average::new(decay, network.values().iter().map(|(_, values)| &**values)));
        let position = beginning(&setup);
        let loss = CrossEntropy {
            label_smoothing: options.label_smoothing,
            class_weights: Some(setup.class_weights.clone()),
        };
        let above_0 = |alpha: f64| (alpha > 0.0).then_some(alpha);
        let mixing = Mixing { mixup: above_0(options.mixup), cutmix: above_0(options.cutmix) };
        let mut course = Self {
            setup,
            network,
            optimiser,
            states: BTreeMap::new(),
            average,
            factor: Box::new(move |done| rates.factor(done)),
            loss,
            mixing,
            position,
            saved: Instant::now(),
            interval: INTERVAL,
        };
        course.load()?;
        Ok(course)
    }

    /// Saves a checkpoint at every step, for tests.
    #[cfg(test)]
    pub(super) fn saving_always(self) -> Self {
        Self { interval: Duration::ZERO, ..self }
    }

    /// Trains to the end: the network that is best on what is held out, or the last one where nothing is.
    ///
    /// # Errors
    /// [`TrainError::Head`] when the loss is no longer finite; [`TrainError`] of activations and checkpoints. What the last
    /// checkpoint holds is not lost.
    pub(super) fn run(mut self, progress: &dyn Progress) -> Result<Tuned<'a>, TrainError> {
        let Setup { options, parts, .. } = &self.setup;
        let (options, photos) = (*options, parts.fit.len() as u64);
        if self.position == beginning(&self.setup) {
            if options.starts_fitted() {
                self.judge()?;
            }
            self.save()?;
        }
        let done = self.position.epoch * photos
            + (self.position.batches as u64 * options.batch_size as u64).min(photos);
        progress.begin("tuning", options.epochs * photos - done, "photos");
        let outcome = loop {
            if self.is_over() {
                break Ok(());
            }
            if let Err(error) = self.epoch(progress) {
                break Err(error);
            }
        };
        progress.end();
        outcome?;
        if self.position.best.is_some() {
            self.load_best()?;
        } else {
            self.exchange_average();
        }
        let judged = !self.setup.parts.held_out.is_empty();
        let columns = ["epoch", "lr", "loss", "validation_loss", "validation_accuracy"];
        let columns = columns[..if judged { 5 } else { 3 }].to_vec();
        let Position { history, chosen, .. } = self.position;
        Ok(Tuned { network: self.network, history: History { columns, rows: history }, chosen })
    }

    /// Trains with rates that rise from step to step, `factor(done)` times their own, for `steps` steps or until `is_over` says so
    /// of the loss: the loss before each step.
    ///
    /// # Errors
    /// As [`run`](Self::run); a loss that is not finite is the last one, and no error.
    pub(super) fn try_rates(
        mut self,
        factor: Box<Factor>,
        steps: u64,
        mut is_over: impl FnMut(f64) -> bool,
        progress: &dyn Progress,
    ) -> Result<Vec<f64>, TrainError> {
        self.factor = factor;
        self.network.tune_from(self.setup.options.stage_in(0));
        let (activations, together) = (self.setup.activations, self.setup.options.accumulate);
        let (mut losses, mut sum) = (Vec::new(), 0.0);
        progress.begin("trying rates", steps, "steps");
        while (losses.len() as u64) < steps {
            let batches = self.batches(self.position.epoch);
            let mut ended = false;
            activations.batches(&batches, &mut |number, values| {
                sum += self.learn(&batches[number], values, batches.len())?;
                let count = self.position.batches % together;
                if count > 0 && self.position.batches < batches.len() {
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
            (self.position.epoch, self.position.batches) = (self.position.epoch + 1, 0);
        }
        progress.end();
        Ok(losses)
    }

    /// Whether all epochs are done, or none has been better for too long.
    fn is_over(&self) -> bool {
        let Position { epoch, best, .. } = &self.position;
        let waited = best.as_ref().map_or(0, |best| epoch - best.epoch);
        *epoch >= self.setup.options.epochs || self.setup.options.patience.is_some_and(|most| waited >= most)
    }

    /// Trains for what is left of an epoch, and judges it.
    fn epoch(&mut self, progress: &dyn Progress) -> Result<(), TrainError> {
        let epoch = self.position.epoch;
        self.network.tune_from(self.setup.options.stage_in(epoch));
        let batches = self.batches(epoch);
        let rest = &batches[self.position.batches..];
        let last = batches.len();
        let activations = self.setup.activations;
        activations.batches(rest, &mut |number, values| {
            let batch = &rest[number];
            let loss = self.learn(batch, values, last)?;
            if !loss.is_finite() {
                return Err(diverged(epoch, &format!("the loss is {loss}")));
            }
            progress.step(batch.len() as u64);
            let steps = self.position.batches.is_multiple_of(self.setup.options.accumulate);
            if steps && self.position.batches < last && self.saved.elapsed() >= self.interval {
                self.save()?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let photos = self.setup.parts.fit.len() as f64;
        let lr = self.setup.options.rates().0 * (self.factor)(self.position.steps.saturating_sub(1));
        self.position.history.push(vec![(epoch + 1) as f64, lr, self.position.loss / photos]);
        (self.position.epoch, self.position.batches, self.position.loss) = (epoch + 1, 0, 0.0);
        self.judge()?;
        self.save()
    }

    /// The batches of an epoch: every photo once, in an order and in renderings of the epoch's own.
    pub(super) fn batches(&self, epoch: u64) -> Vec<Vec<Item>> {
        let Setup { options, parts, views, .. } = &self.setup;
        let seed = options.seed;
        let mut photos = parts.fit.clone();
        KeyedRng::new(&[seed, ORDER, epoch]).shuffle(&mut photos);
        let renderings = u64::from(*views) + 1;
        let item = |&photo: &usize| {
            let view = match options.views {
                Views::Fresh => Rendering::Fresh { epoch },
                // Each of them once, before one comes again.
                Views::Kept => {
                    let first = KeyedRng::new(&[seed, VIEW, photo as u64]).below(renderings as usize) as u64;
                    Rendering::View(((first + epoch) % renderings) as View)
                }
            };
            Item { photo, view }
        };
        photos.chunks(options.batch_size).map(|photos| photos.iter().map(item).collect()).collect()
    }

    /// Learns from a batch, the last of `last` in the epoch or one before, and makes a step where enough have come together.
    /// The loss before.
    fn learn(&mut self, batch: &[Item], values: &[f32], last: usize) -> Result<f64, TrainError> {
        let Self { setup, network, loss, mixing, position, .. } = self;
        let options = setup.options;
        let number = position.epoch * last as u64 + position.batches as u64;
        let labels: Vec<u32> = batch.iter().map(|item| setup.labels[item.photo]).collect();
        let [height, width, channels] = setup.activations.shape();
        let (mut values, mut mixed) = (Cow::Borrowed(values), None);
        if *mixing != Mixing::default() {
            let mut random = KeyedRng::new(&[options.seed, MIXING, number]);
            mixed = mixing.apply(values.to_mut(), [batch.len(), height, width, channels], &mut random);
        }
        // Photos of the step that this batch is a part of.
        let first = position.batches / options.accumulate * options.accumulate;
        let from = first * options.batch_size;
        let together = (options.accumulate * options.batch_size).min(setup.parts.fit.len() - from);
        let share = batch.len() as f64 / together as f64;
        let input = Batch { values: &values, photos: batch.len(), height, width, channels };
        let of_batch =
            network.learn(input, number, &mut |logits| loss.of(logits, &labels, mixed.as_ref(), share))?;
        position.loss += of_batch * batch.len() as f64;
        position.batches += 1;
        if position.batches.is_multiple_of(options.accumulate) || position.batches == last {
            self.step()?;
        }
        Ok(of_batch)
    }

    /// Moves every parameter against its gradient.
    fn step(&mut self) -> Result<(), TrainError> {
        let Self { setup, network, optimiser, states, factor, position, .. } = self;
        let options = setup.options;
        let factor = factor(position.steps);
        let mut slots = network.slots();
        if let Some(most) = options.clip_norm {
            let mut gradients: Vec<&mut [f32]> = slots.iter_mut().map(|slot| &mut *slot.gradient).collect();
            let norm = clip_norm(&mut gradients, most);
            if !norm.is_finite() {
                return Err(diverged(position.epoch, &format!("the norm of the gradients is {norm}")));
            }
        }
        let rate = |group| rate(options, group) * factor;
        descend(slots, *optimiser, states, options.weight_decay, rate);
        network.zero_gradients();
        position.steps += 1;
        if let Some(average) = &mut self.average {
            average.follow(network.values().iter().map(|(_, values)| &**values));
        }
        Ok(())
    }

    /// Puts the average in the place of what is trained, and that in its own.
    fn exchange_average(&mut self) {
        if let Some(average) = &mut self.average {
            for ((_, values), average) in self.network.values().into_iter().zip(average.values_mut()) {
                values.swap_with_slice(average);
            }
        }
    }

    /// Judges what has been learned by the photos that are held out, and keeps it where it is the best so far.
    fn judge(&mut self) -> Result<(), TrainError> {
        if self.setup.parts.held_out.is_empty() {
            return Ok(());
        }
        self.exchange_average();
        let outcome = self.judge_as_it_is();
        self.exchange_average();
        outcome
    }

    fn judge_as_it_is(&mut self) -> Result<(), TrainError> {
        let held_out = &self.setup.parts.held_out;
        let (mut loss, mut right) = (0.0, 0);
        let labels = self.setup.labels;
        logits(&mut self.network, self.setup.activations, held_out, |photos, logits| {
            let labels: Vec<u32> = photos.iter().map(|&photo| labels[photo]).collect();
            let (losses, hits) = judge(&logits, &labels);
            loss += losses;
            right += hits;
        })?;
        let (loss, accuracy) = (loss / held_out.len() as f64, right as f64 / held_out.len() as f64);
        let epoch = self.position.epoch;
        if !loss.is_finite() {
            return Err(diverged(epoch.saturating_sub(1), &format!("the loss on photos held out is {loss}")));
        }
        match self.position.history.last_mut() {
            Some(row) => row.extend([loss, accuracy]),
            None => {
                tracing::info!(
                    "before tuning: log loss {loss:.4}, accuracy {accuracy:.4} on photos held out"
                );
            }
        }
        if self.position.best.is_none_or(|best| loss < best.loss) {
            let best = Best { epoch, loss };
            self.save_best(best)?;
        }
        Ok(())
    }
}

/// The highest learning rate of a group.
pub(super) fn rate(options: &TuneOptions, group: Group) -> f64 {
    let (lr, backbone_lr) = options.rates();
    match group {
        Group::Head => lr,
        Group::Stage(stage) => {
            let before = [Layer::Stem, Layer::Layer1, Layer::Layer2, Layer::Layer3];
            let earlier = before.iter().filter(|&&other| other >= stage).count();
            backbone_lr * options.layer_decay.powi(earlier as i32)
        }
    }
}

/// Moves every parameter against its gradient, by the rate of its group.
pub(super) fn descend(
    slots: Vec<Slot<'_>>,
    optimiser: Optimiser,
    states: &mut BTreeMap<String, State>,
    weight_decay: f64,
    rate: impl Fn(Group) -> f64,
) {
    for Slot { name, group, decays, values, gradient } in slots {
        let step = Step { lr: rate(group), weight_decay: if decays { weight_decay } else { 0.0 } };
        let state = states.entry(name).or_insert_with(|| State::new(optimiser, values.len()));
        state.step(values, gradient, step);
    }
}

/// Calls `act` with some of `photos` and their logits, `[n, C]`, in order.
pub(super) fn logits(
    network: &mut Network<'_>,
    activations: &dyn Inputs,
    photos: &[usize],
    mut act: impl FnMut(&[usize], Vec<f32>),
) -> Result<(), TrainError> {
    /// A batch without gradients.
    const PHOTOS: usize = 32;
    let [height, width, channels] = activations.shape();
    let item = |&photo: &usize| Item { photo, view: Rendering::View(0) };
    let batches: Vec<Vec<Item>> =
        photos.chunks(PHOTOS).map(|photos| photos.iter().map(item).collect()).collect();
    activations.batches(&batches, &mut |number, values| {
        let photos = &photos[number * PHOTOS..][..batches[number].len()];
        let batch = Batch { values, photos: photos.len(), height, width, channels };
        act(photos, network.logits(batch)?);
        Ok(ControlFlow::Continue(()))
    })
}

fn diverged(epoch: u64, what: &str) -> TrainError {
    headstock_heads::HeadError::Diverged(format!(
        "{what} in epoch {}: lower `tune.lr`, or set `tune.clip_norm`",
        epoch + 1
    ))
    .into()
}
