//! Fitting a differentiable head by gradients.

#[cfg(test)]
mod tests;

use candle_core::{Device, Tensor, Var};
use candle_nn::ops::log_softmax;

use crate::data::{Features, TrainingSet};
use crate::differentiable::{Differentiable, Mode};
use crate::error::HeadError;
use crate::folds::Fold;
use crate::head::{FitContext, History, Tensors};
use crate::random::Keyed;
use crate::solver::adamw::AdamW;
use crate::solver::hold_out::hold_out;

/// How to fit with [`AdamW`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    /// Learning rate.
    pub(crate) lr: f64,
    /// Decoupled weight decay of every parameter.
    pub(crate) weight_decay: f64,
    /// `λ` of the penalty `½ λ |W|²` on the matrices among the parameters, a part of the loss.
    pub(crate) penalty: f64,
    /// Passes over the samples, at most.
    pub(crate) epochs: u64,
    /// Samples in a step; the last one of an epoch may have fewer.
    pub(crate) batch_size: usize,
    /// Key of the order of the samples, and of what is held out.
    pub(crate) seed: u64,
    /// Whether to stop early.
    pub(crate) early_stopping: Option<EarlyStopping>,
}

/// When to stop before all epochs are done. The parameters of the best epoch are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EarlyStopping {
    /// Fraction of the photos that is held out.
    pub(crate) validation: f64,
    /// Epochs without a lower loss on what is held out.
    pub(crate) patience: u64,
}

/// Samples as the fit sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Samples<'a> {
    /// Labels and photos.
    pub(crate) data: &'a TrainingSet<'a>,
    /// What to fit on in place of the set's own features, `[N, F]`.
    pub(crate) features: Features<'a>,
    /// How much a sample of each class counts, `[C]`.
    pub(crate) class_weights: &'a [f64],
}

/// Fits from `initial`: the parameters and a row of history per epoch.
///
/// # Errors
/// [`HeadError::Diverged`] when the loss is no longer finite.
pub(crate) fn fit(
    head: &dyn Differentiable,
    initial: &Tensors,
    samples: Samples<'_>,
    recipe: &Recipe,
    context: &FitContext<'_>,
) -> Result<(Tensors, History), HeadError> {
    let Fold { mut fit, held_out } = match recipe.early_stopping {
        Some(stopping) => hold_out(samples.data, stopping.validation, recipe.seed),
        None => Fold { fit: (0..samples.features.len()).collect(), held_out: Vec::new() },
    };
    let judge = match recipe.early_stopping {
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
    let (vars, parameters) = variables(initial)?;
    let mut optimizer = AdamW::new(vars, recipe.lr, recipe.weight_decay)?;
    let mut best: Option<Best> = None;
    let mut rows = Vec::new();
    let mut step = 0;
    for epoch in 0..recipe.epochs {
        fit.sort_unstable();
        Keyed::new(&[recipe.seed, epoch]).shuffle(&mut fit);
        let mut sum = 0.0;
        for batch in fit.chunks(recipe.batch_size) {
            let logits = head.forward(&parameters, &samples.batch(batch)?, Mode::Train { step })?;
            let loss = samples.loss(&logits, batch)?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            if !value.is_finite() {
                return Err(HeadError::Diverged(format!(
                    "the loss is {value} in epoch {}: lower `lr`, or set `standardize = true`",
                    epoch + 1
                )));
            }
            sum += value * batch.len() as f64;
            optimizer.step(&(loss + penalty(&parameters, recipe.penalty)?)?.backward()?)?;
            step += 1;
        }
        let mut row = vec![(epoch + 1) as f64, sum / fit.len() as f64];
        (context.on_step)(epoch + 1, recipe.epochs);
        if let Some(stopping) = judge {
            let (loss, accuracy) = samples.judge(head, &parameters, &held_out)?;
            row.extend([loss, accuracy]);
            if best.as_ref().is_none_or(|best| loss < best.loss) {
                best = Some(Best { epoch, loss, parameters: copies(&parameters)? });
            }
            if best.as_ref().is_some_and(|best| epoch - best.epoch >= stopping.patience) {
                rows.push(row);
                break;
            }
        }
        rows.push(row);
    }
    let parameters = match best {
        Some(best) => best.parameters,
        None => copies(&parameters)?,
    };
    let columns = ["epoch", "loss", "validation_loss", "validation_accuracy"];
    let columns = columns[..if judge.is_some() { 4 } else { 2 }].to_vec();
    Ok((parameters, History { columns, rows }))
}

struct Best {
    epoch: u64,
    loss: f64,
    parameters: Tensors,
}

/// The parameters as variables, in the order of their names, and by name.
fn variables(initial: &Tensors) -> Result<(Vec<Var>, Tensors), HeadError> {
    let mut vars = Vec::new();
    let mut parameters = Tensors::new();
    for (name, tensor) in initial {
        let var = Var::from_tensor(tensor)?;
        parameters.insert(name.clone(), var.as_tensor().clone());
        vars.push(var);
    }
    Ok((vars, parameters))
}

fn copies(parameters: &Tensors) -> Result<Tensors, HeadError> {
    parameters.iter().map(|(name, tensor)| Ok((name.clone(), tensor.detach().copy()?))).collect()
}

/// `½ λ |W|²` over the matrices.
fn penalty(parameters: &Tensors, lambda: f64) -> Result<Tensor, HeadError> {
    let mut sum = Tensor::new(0f32, &Device::Cpu)?;
    if lambda > 0.0 {
        for matrix in parameters.values().filter(|tensor| tensor.rank() == 2) {
            sum = (sum + (matrix.sqr()?.sum_all()? * (0.5 * lambda))?)?;
        }
    }
    Ok(sum)
}

impl Samples<'_> {
    /// The features of `rows`, `[n, F]`.
    fn batch(&self, rows: &[usize]) -> Result<Tensor, HeadError> {
        let values: Vec<f32> = rows.iter().flat_map(|&row| self.features.row(row)).copied().collect();
        Ok(Tensor::from_vec(values, (rows.len(), self.features.width()), &Device::Cpu)?)
    }

    /// `1/n Σ weight · log-loss` over `rows`, from their logits.
    fn loss(&self, logits: &Tensor, rows: &[usize]) -> Result<Tensor, HeadError> {
        let labels: Vec<u32> = rows.iter().map(|&row| self.data.labels()[row]).collect();
        let weights: Vec<f32> =
            labels.iter().map(|&label| self.class_weights[label as usize] as f32).collect();
        let labels = Tensor::from_vec(labels, (rows.len(), 1), &Device::Cpu)?;
        let weights = Tensor::from_vec(weights, (rows.len(), 1), &Device::Cpu)?;
        Ok((log_softmax(logits, 1)?.gather(&labels, 1)? * weights)?.mean_all()?.neg()?)
    }

    /// Mean loss and accuracy on `rows`.
    fn judge(
        &self,
        head: &dyn Differentiable,
        parameters: &Tensors,
        rows: &[usize],
    ) -> Result<(f64, f64), HeadError> {
        let logits = head.forward(parameters, &self.batch(rows)?, Mode::Evaluate)?.detach();
        let loss = self.loss(&logits, rows)?.to_scalar::<f32>()?;
        let predicted = logits.argmax(1)?.to_vec1::<u32>()?;
        let right =
            predicted.iter().zip(rows).filter(|&(&class, &row)| class == self.data.labels()[row]).count();
        Ok((f64::from(loss), right as f64 / rows.len() as f64))
    }
}
