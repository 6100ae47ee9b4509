//! Gradient-based fitting of differentiable heads.

mod autograd;
pub(crate) mod cosine_learner;
pub(crate) mod mlp_learner;
mod ops;
#[cfg(test)]
mod tests;

use std::f64::consts::PI;

use headstock_split::{KeyedRng, SplitIndices, hold_out};
use rayon::prelude::*;

use crate::data::{ClassWeight, FeatureMatrix, TrainingSet};
use crate::differentiable::Differentiable;
use crate::error::HeadError;
use crate::head::{FitContext, Head, History};
use crate::solver::adamw::AdamW;
use crate::tensors::Tensors;

/// Hyperparameters of a fit with AdamW (Loshchilov and Hutter, ICLR 2019).
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Peak learning rate.
    pub lr: f64,
    /// Learning rate schedule over the steps.
    pub schedule: LrSchedule,
    /// Decoupled weight decay of all parameters except scalars.
    pub weight_decay: f64,
    /// `λ` of the L2 penalty `½ λ |W|²` on the matrices among the parameters, part of the loss.
    pub penalty: f64,
    /// Maximum number of passes over the samples.
    pub epochs: u64,
    /// Samples per step, at least 1; the last step of an epoch may have fewer.
    pub batch_size: usize,
    /// Seed of the sample order and of the held-out samples.
    pub seed: u64,
    /// Early stopping, if any.
    pub early_stopping: Option<EarlyStopping>,
}

/// Learning rate schedule over the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LrSchedule {
    /// Constant learning rate.
    Constant,
    /// Linear warmup from near 0 over a tenth of all steps, then cosine decay to near 0 (Loshchilov and
    /// Hutter, ICLR 2017; warmup of Goyal et al. 2017). No step has the rate 0: these are the inner points of
    /// transformers' `get_cosine_schedule_with_warmup`.
    WarmupCosine,
}

impl LrSchedule {
    /// Factor from 0 to 1 of the peak learning rate in the step that follows `steps_done` of `total_steps`
    /// steps.
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

/// Early stopping. The parameters of the best epoch are returned.
#[derive(Clone, Copy, Debug)]
pub struct EarlyStopping {
    /// Fraction of the photos to hold out.
    pub validation: f64,
    /// Epochs without a lower held-out loss before stopping.
    pub patience: u64,
}

/// Minimum number of steps per epoch, so that small data sets get enough updates.
const MIN_STEPS_PER_EPOCH: usize = 16;

/// Samples per step: `max_batch_size`, or fewer for few samples, so that an epoch has at least
/// [`MIN_STEPS_PER_EPOCH`] steps.
pub(crate) fn effective_batch_size(max_batch_size: u64, samples: usize) -> usize {
    usize::try_from(max_batch_size).unwrap_or(usize::MAX).min(samples.div_ceil(MIN_STEPS_PER_EPOCH)).max(1)
}

/// Checks that the `earlier` head can be the warm start of a fit on data with `width` features and `classes`
/// classes.
///
/// # Errors
/// [`HeadError::Width`] for a different number of features, [`HeadError::Data`] if the head has more classes.
pub(crate) fn check_warm_start(earlier: &impl Head, width: usize, classes: usize) -> Result<(), HeadError> {
    if earlier.width() != width {
        return Err(HeadError::Width { expected: earlier.width(), found: width });
    }
    if earlier.classes() > classes {
        return Err(HeadError::Data(format!(
            "the earlier head has more classes ({}) than the data ({classes}): a warm start needs data with all classes \
             of the earlier head, in the same order, before any new ones",
            earlier.classes()
        )));
    }
    Ok(())
}

/// Training samples with the prepared features and class weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WeightedSamples<'a> {
    /// Labels and groups.
    pub(crate) data: &'a TrainingSet<'a>,
    /// The features to fit on, in place of the set's own, `[N, F]`.
    pub(crate) features: FeatureMatrix<'a>,
    /// The sample weight of each class, `[C]`.
    pub(crate) class_weights: &'a [f64],
}

impl WeightedSamples<'_> {
    /// The class of a row.
    fn label(&self, row: usize) -> usize {
        self.data.labels()[row] as usize
    }

    /// The weight of a row in the loss.
    fn weight(&self, row: usize) -> f32 {
        self.class_weights[self.label(row)] as f32
    }
}

/// Some of the training samples: those of a step or an evaluation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    samples: WeightedSamples<'a>,
    /// Indices of the samples, `[n]`.
    rows: &'a [usize],
}

impl Batch<'_> {
    /// Copies the features of the batch to `out`, which becomes `[n, F]`.
    fn gather(&self, out: &mut Vec<f32>) {
        let width = self.samples.features.width();
        out.resize(self.rows.len() * width, 0.0);
        let copies = out.par_chunks_exact_mut(width).zip(self.rows);
        copies.for_each(|(out, &row)| out.copy_from_slice(self.samples.features.row(row)));
    }
}

/// The hyperparameters of one step: those of [`Recipe`], with the learning rate of the schedule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepParams {
    /// Number of steps taken before.
    steps_done: u64,
    lr: f64,
    weight_decay: f64,
    penalty: f64,
}

impl StepParams {
    /// The AdamW step of a parameter with this rank: only matrices are penalized, scalars do not decay.
    fn adamw_for_rank(&self, rank: usize) -> AdamW {
        let weight_decay = if rank > 0 { self.weight_decay } else { 0.0 };
        let penalty = if rank == 2 { self.penalty } else { 0.0 };
        AdamW::for_step(self.steps_done, self.lr, weight_decay, penalty)
    }
}

/// A model that [`fit`] trains step by step: hand-written gradients for the built-in heads, autograd for
/// others.
pub(crate) trait Learner {
    /// The trained parameters.
    type Parameters;

    /// Takes a step against the gradient of `1/n Σ weight · log-loss` over `batch`; returns the loss before
    /// the step. If that is not finite, the parameters are unspecified.
    fn step(&mut self, batch: Batch<'_>, step: StepParams) -> Result<f64, HeadError>;

    /// `Σ weight · log-loss` over a held-out `batch`, and the number of correct predictions.
    fn evaluate(&mut self, batch: Batch<'_>) -> Result<(f64, usize), HeadError>;

    /// The current parameters.
    fn parameters(&self) -> Result<Self::Parameters, HeadError>;
}

/// Fits any differentiable head from `initial` parameters. Returns the fitted parameters, which
/// [`HeadConfig::load`](crate::HeadConfig::load) accepts, and one history row per epoch. The loss is the mean
/// of `weight · log-loss`, with the class weight of each sample.
///
/// ```
/// use headstock_heads::mlp::MlpConfig;
/// use headstock_heads::{ClassWeight, Differentiable, FeatureMatrix, FitContext, HeadConfig, TrainingSet};
/// use headstock_heads::{LrSchedule, Recipe, fit_by_gradients};
///
/// let values = [0.1, 2.0, 0.2, 1.5, 3.0, 0.3, 2.5, 0.1];
/// let data = TrainingSet::new(FeatureMatrix::new(&values, 2)?, &[0, 0, 1, 1], 2)?;
/// let config = MlpConfig::default();
/// let recipe = Recipe {
///     lr: 0.01,
///     schedule: LrSchedule::WarmupCosine,
///     weight_decay: 0.01,
///     penalty: 0.0,
///     epochs: 20,
///     batch_size: 4,
///     seed: 0,
///     early_stopping: None,
/// };
/// let initial = config.initial_parameters(2, 2)?;
/// let context = FitContext::silent();
/// let fitted = fit_by_gradients(&config, &initial, &data, ClassWeight::None, &recipe, &context)?;
/// let head = config.load(&fitted.0)?;
/// # let losses: Vec<f64> = fitted.1.rows.iter().map(|row| row[1]).collect();
/// # assert!(losses[19] < losses[0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`HeadError::Diverged`] when the loss is not finite, and candle's errors.
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

/// Trains a model with AdamW on shuffled batches, with early stopping if the recipe has it; returns the final
/// (or best) parameters and one history row per epoch.
///
/// # Errors
/// [`HeadError::Diverged`] when the loss is not finite.
pub(crate) fn fit<L: Learner>(
    mut learner: L,
    samples: WeightedSamples<'_>,
    recipe: &Recipe,
    context: &FitContext<'_>,
) -> Result<(L::Parameters, History), HeadError> {
    let SplitIndices { train: mut train_rows, test: held_out } = match recipe.early_stopping {
        Some(stopping) => {
            hold_out(samples.data.labels(), samples.data.groups(), stopping.validation, recipe.seed)
        }
        None => SplitIndices { train: (0..samples.features.len()).collect(), test: Vec::new() },
    };
    let early_stopping = match recipe.early_stopping {
        Some(stopping) if held_out.is_empty() => {
            tracing::warn!(
                "no class has enough photos to hold out a fraction of {} for early stopping: the fit runs for all epochs ({}); add \
                 photos, or set `validation = 0`",
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
    let mut history_rows = Vec::new();
    let mut steps_done = 0;
    for epoch in 0..recipe.epochs {
        train_rows.sort_unstable();
        KeyedRng::new(&[recipe.seed, epoch]).shuffle(&mut train_rows);
        let mut loss_sum = 0.0;
        for rows in train_rows.chunks(batch_size) {
            let step = StepParams {
                steps_done,
                lr: recipe.lr * recipe.schedule.multiplier(steps_done, steps),
                weight_decay: recipe.weight_decay,
                penalty: recipe.penalty,
            };
            let loss = learner.step(Batch { samples, rows }, step)?;
            if !loss.is_finite() {
                return Err(HeadError::Diverged(format!(
                    "the loss is {loss} in epoch {}, so the fit has failed: lower `lr`, or set `standardize = true` if the \
                     head has this key",
                    epoch + 1
                )));
            }
            loss_sum += loss * rows.len() as f64;
            steps_done += 1;
        }
        let mut row = vec![(epoch + 1) as f64, loss_sum / train_rows.len() as f64];
        (context.on_step)(epoch + 1, recipe.epochs);
        let mut stop = false;
        if let Some(stopping) = early_stopping {
            let (mut loss, mut n_correct) = (0.0, 0);
            for rows in held_out.chunks(batch_size) {
                let (batch_loss, batch_correct) = learner.evaluate(Batch { samples, rows })?;
                loss += batch_loss;
                n_correct += batch_correct;
            }
            let count = held_out.len() as f64;
            loss /= count;
            row.extend([loss, n_correct as f64 / count]);
            if best.as_ref().is_none_or(|best| loss < best.loss) {
                best = Some(BestEpoch { epoch, loss, parameters: learner.parameters()? });
            }
            stop = best.as_ref().is_some_and(|best| epoch - best.epoch >= stopping.patience);
        }
        history_rows.push(row);
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
    Ok((parameters, History { columns, rows: history_rows }))
}

/// The epoch with the lowest held-out loss so far and its parameters, for early stopping.
struct BestEpoch<P> {
    epoch: u64,
    loss: f64,
    parameters: P,
}
