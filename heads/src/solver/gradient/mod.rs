//! Fitting a differentiable head by gradients.

mod autograd;
pub(crate) mod cosine_learner;
pub(crate) mod mlp_learner;
mod ops;
#[cfg(test)]
mod tests;

use std::f64::consts::PI;

use rayon::prelude::*;

use crate::data::{ClassWeight, FeatureMatrix, TrainingSet};
use crate::differentiable::Differentiable;
use crate::error::HeadError;
use crate::folds::{Fold, hold_out};
use crate::head::{FitContext, History, Tensors};
use crate::random::KeyedRng;
use crate::solver::adamw::AdamW;

/// How to fit by gradients, with AdamW (Loshchilov and Hutter, ICLR 2019).
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Learning rate, the highest of the schedule.
    pub lr: f64,
    /// How the rate changes from step to step.
    pub schedule: LrSchedule,
    /// Decoupled weight decay of every parameter that is no scalar.
    pub weight_decay: f64,
    /// `λ` of the penalty `½ λ |W|²` on the matrices among the parameters, a part of the loss.
    pub penalty: f64,
    /// Passes over the samples, at most.
    pub epochs: u64,
    /// Samples in a step, at least 1; the last one of an epoch may have fewer.
    pub batch_size: usize,
    /// Key of the order of the samples, and of what is held out.
    pub seed: u64,
    /// Whether to stop early.
    pub early_stopping: Option<EarlyStopping>,
}

/// How the learning rate changes from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LrSchedule {
    /// It does not.
    Constant,
    /// Up from near 0 along a line over a tenth of all steps, then down to near 0 along half a cosine (Loshchilov and
    /// Hutter, ICLR 2017; the warm-up of Goyal et al. 2017). No step has the rate 0: it is
    /// `get_cosine_schedule_with_warmup` of transformers between its ends.
    WarmupCosine,
}

impl LrSchedule {
    /// What the rate is multiplied by in the step after `done` others of `all`.
    fn multiplier(self, steps_done: u64, total_steps: u64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::WarmupCosine => {
                let (position, end, warmup) =
                    ((steps_done + 1) as f64, (total_steps + 1) as f64, (total_steps / 10) as f64);
                if position < warmup {
                    position / warmup
                } else {
                    0.5 * (1.0 + (PI * (position - warmup) / (end - warmup)).cos())
                }
            }
        }
    }
}

/// When to stop before all epochs are done. The parameters of the best epoch are kept.
#[derive(Clone, Copy, Debug)]
pub struct EarlyStopping {
    /// Fraction of the photos that is held out.
    pub validation: f64,
    /// Epochs without a lower loss on what is held out.
    pub patience: u64,
}

/// Steps that an epoch has at the least, so that few samples are learned from often enough.
const MIN_STEPS_PER_EPOCH: usize = 16;

/// Samples in a step: `most`, or fewer where `samples` are few.
pub(crate) fn effective_batch_size(max_batch_size: u64, samples: usize) -> usize {
    usize::try_from(max_batch_size).unwrap_or(usize::MAX).min(samples.div_ceil(MIN_STEPS_PER_EPOCH)).max(1)
}

/// Whether a head that takes `[F, C]` can be the start of one that takes `[F, C]`.
///
/// # Errors
/// [`HeadError::Width`] for another `F`, [`HeadError::Data`] for more classes than there are to fit.
pub(crate) fn check_warm_start(start: [usize; 2], fit: [usize; 2]) -> Result<(), HeadError> {
    if start[0] != fit[0] {
        return Err(HeadError::Width { expected: start[0], found: fit[0] });
    }
    if start[1] > fit[1] {
        return Err(HeadError::Data(format!(
            "the head to start from tells {} classes apart, the data has {}: its classes must be the first of them",
            start[1], fit[1]
        )));
    }
    Ok(())
}

/// Samples as the fit sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WeightedSamples<'a> {
    /// Labels and photos.
    pub(crate) data: &'a TrainingSet<'a>,
    /// What to fit on in place of the set's own features, `[N, F]`.
    pub(crate) features: FeatureMatrix<'a>,
    /// How much a sample of each class counts, `[C]`.
    pub(crate) class_weights: &'a [f64],
}

impl WeightedSamples<'_> {
    fn label(&self, row: usize) -> usize {
        self.data.labels()[row] as usize
    }

    fn weight(&self, row: usize) -> f32 {
        self.class_weights[self.label(row)] as f32
    }

    /// The features of some rows, `[n, F]`.
    fn gather(&self, rows: &[usize], out: &mut Vec<f32>) {
        let width = self.features.width();
        out.resize(rows.len() * width, 0.0);
        let copies = out.par_chunks_exact_mut(width).zip(rows);
        copies.for_each(|(out, &row)| out.copy_from_slice(self.features.row(row)));
    }
}

/// What is known of a step before its gradients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepParams {
    /// Steps done before.
    steps_done: u64,
    lr: f64,
    weight_decay: f64,
    penalty: f64,
}

impl StepParams {
    /// The step of a parameter with so many axes: matrices are penalised, scalars do not decay.
    fn adamw_for_rank(&self, rank: usize) -> AdamW {
        let weight_decay = if rank > 0 { self.weight_decay } else { 0.0 };
        let penalty = if rank == 2 { self.penalty } else { 0.0 };
        AdamW::for_step(self.steps_done, self.lr, weight_decay, penalty)
    }
}

/// A model that [`fit`] improves step by step.
pub(crate) trait Learner {
    /// All that it learns.
    type Parameters;

    /// The gradient of `1/n Σ weight · log-loss` over `rows`, and a step against it: the loss before. Where that is not
    /// finite the parameters may be anything.
    fn step(
        &mut self,
        samples: WeightedSamples<'_>,
        rows: &[usize],
        step: StepParams,
    ) -> Result<f64, HeadError>;

    /// `Σ weight · log-loss` over `rows`, and how many of them are predicted right.
    fn evaluate(&mut self, samples: WeightedSamples<'_>, rows: &[usize]) -> Result<(f64, usize), HeadError>;

    /// The parameters as they are.
    fn parameters(&self) -> Result<Self::Parameters, HeadError>;
}

/// Fits any differentiable head from `initial` on: its parameters, which
/// [`HeadConfig::load`](crate::HeadConfig::load) takes, and a row of history per epoch. The loss is the mean of
/// `weight · log-loss`, the weight that of the sample's class.
///
/// ```
/// use headstock_heads::mlp::MlpConfig;
/// use headstock_heads::{ClassWeight, Differentiable, Features, FitContext, HeadConfig, TrainingSet};
/// use headstock_heads::{Recipe, Schedule, fit_by_gradients};
///
/// let values = [0.1, 2.0, 0.2, 1.5, 3.0, 0.3, 2.5, 0.1];
/// let data = TrainingSet::new(Features::new(&values, 2)?, &[0, 0, 1, 1], 2)?;
/// let config = MlpConfig::default();
/// let recipe = Recipe {
///     lr: 0.01,
///     schedule: Schedule::WarmCosine,
///     weight_decay: 0.01,
///     penalty: 0.0,
///     epochs: 20,
///     batch_size: 4,
///     seed: 0,
///     early_stopping: None,
/// };
/// let initial = config.initial(2, 2)?;
/// let fitted = fit_by_gradients(&config, &initial, &data, ClassWeight::None, &recipe, &FitContext::quiet())?;
/// let head = config.load(&fitted.0)?;
/// # let losses: Vec<f64> = fitted.1.rows.iter().map(|row| row[1]).collect();
/// # assert!(losses[19] < losses[0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`HeadError::Diverged`] when the loss is no longer finite, and candle's.
pub fn fit_by_gradients(
    head: &dyn Differentiable,
    initial: &Tensors,
    data: &TrainingSet<'_>,
    class_weight: ClassWeight,
    recipe: &Recipe,
    context: &FitContext<'_>,
) -> Result<(Tensors, History), HeadError> {
    let class_weights = data.class_weights(class_weight);
    let samples = WeightedSamples { data, features: data.features(), class_weights: &class_weights };
    fit(autograd::AutogradLearner::new(head, initial)?, samples, recipe, context)
}

/// Fits: the parameters and a row of history per epoch.
///
/// # Errors
/// [`HeadError::Diverged`] when the loss is no longer finite.
pub(crate) fn fit<L: Learner>(
    mut learner: L,
    samples: WeightedSamples<'_>,
    recipe: &Recipe,
    context: &FitContext<'_>,
) -> Result<(L::Parameters, History), HeadError> {
    let Fold { fit: mut train_rows, held_out } = match recipe.early_stopping {
        Some(stopping) => {
            hold_out(samples.data.labels(), samples.data.groups(), stopping.validation, recipe.seed)
        }
        None => Fold { fit: (0..samples.features.len()).collect(), held_out: Vec::new() },
    };
    let early_stopping = match recipe.early_stopping {
        Some(stopping) if held_out.is_empty() => {
            tracing::warn!(
                "no class has enough photos to hold out {} of them: all {} epochs run",
                stopping.validation,
                recipe.epochs
            );
            None
        }
        stopping => stopping,
    };
    let batch_size = recipe.batch_size.clamp(1, train_rows.len());
    let steps = recipe.epochs.saturating_mul(train_rows.len().div_ceil(batch_size) as u64);
    let mut best: Option<BestEpoch<L::Parameters>> = None;
    let mut rows = Vec::new();
    let mut steps_done = 0;
    for epoch in 0..recipe.epochs {
        train_rows.sort_unstable();
        KeyedRng::new(&[recipe.seed, epoch]).shuffle(&mut train_rows);
        let mut sum = 0.0;
        for batch in train_rows.chunks(batch_size) {
            let step = StepParams {
                steps_done,
                lr: recipe.lr * recipe.schedule.multiplier(steps_done, steps),
                weight_decay: recipe.weight_decay,
                penalty: recipe.penalty,
            };
            let loss = learner.step(samples, batch, step)?;
            if !loss.is_finite() {
                return Err(HeadError::Diverged(format!(
                    "the loss is {loss} in epoch {}: lower `lr`, or set `standardize = true`",
                    epoch + 1
                )));
            }
            sum += loss * batch.len() as f64;
            steps_done += 1;
        }
        let mut row = vec![(epoch + 1) as f64, sum / train_rows.len() as f64];
        (context.on_step)(epoch + 1, recipe.epochs);
        let mut stop = false;
        if let Some(stopping) = early_stopping {
            let (mut loss, mut n_correct) = (0.0, 0);
            for batch in held_out.chunks(batch_size) {
                let (losses, correct) = learner.evaluate(samples, batch)?;
                loss += losses;
                n_correct += correct;
            }
            let count = held_out.len() as f64;
            loss /= count;
            row.extend([loss, n_correct as f64 / count]);
            if best.as_ref().is_none_or(|best| loss < best.loss) {
                best = Some(BestEpoch { epoch, loss, parameters: learner.parameters()? });
            }
            stop = best.as_ref().is_some_and(|best| epoch - best.epoch >= stopping.patience);
        }
        rows.push(row);
        if stop {
            break;
        }
    }
    let parameters = match best {
        Some(best) => best.parameters,
        None => learner.parameters()?,
    };
    let columns = ["epoch", "loss", "validation_loss", "validation_accuracy"];
    let columns = columns[..if early_stopping.is_some() { 4 } else { 2 }].to_vec();
    Ok((parameters, History { columns, rows }))
}

struct BestEpoch<P> {
    epoch: u64,
    loss: f64,
    parameters: P,
}
