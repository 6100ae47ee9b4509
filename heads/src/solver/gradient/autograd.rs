//! Gradients of any differentiable head by candle's autograd.

use candle_core::{Device, Tensor, Var};
use candle_nn::ops::log_softmax;
use rayon::prelude::*;

use super::ops::AdamWParameter;
use super::{Batch, Learner, StepParams};
use crate::differentiable::{Differentiable, ForwardMode};
use crate::error::HeadError;
use crate::tensors::Tensors;

/// Values per parallel task.
const VALUES_PER_TASK: usize = 1 << 14;

/// Gradients of the parameters in the order of their names; `None` for a parameter that the loss does not
/// depend on.
type Gradients = Vec<Option<Vec<f32>>>;

/// The [`Learner`] of any [`Differentiable`] head, also one of another crate: candle computes the gradients.
pub(super) struct AutogradLearner<'a> {
    head: &'a dyn Differentiable,
    /// The parameters by name, as the head's forward pass takes them. They share memory with the `var` of
    /// each state.
    parameters: Tensors,
    /// In the order of the parameters' names.
    parameter_states: Vec<ParameterState>,
}

/// A parameter with its AdamW state.
struct ParameterState {
    /// What candle computes gradients for.
    var: Var,
    /// The same values, which AdamW updates; they are then copied to `var`.
    parameter: AdamWParameter,
}

impl<'a> AutogradLearner<'a> {
    /// Prepares the training of `head` from copies of the `initial` parameters (by name, `f32`), as variables
    /// for which candle computes gradients.
    ///
    /// # Errors
    /// When a tensor is not `f32`.
    pub(super) fn new(head: &'a dyn Differentiable, initial: &Tensors) -> Result<Self, HeadError> {
        let (mut parameters, mut parameter_states) = (Tensors::new(), Vec::new());
        for (name, tensor) in initial {
            let var = Var::from_tensor(tensor)?;
            let value: Vec<f32> = var.flatten_all()?.to_vec1()?;
            parameters.insert(name.clone(), var.as_tensor().clone());
            parameter_states.push(ParameterState { var, parameter: AdamWParameter::new(value) });
        }
        Ok(Self { head, parameters, parameter_states })
    }

    /// The loss `1/n Σ weight · log-loss` of a batch of `n` samples and its gradients, in the order of the
    /// parameters' names. `step` is the number of steps taken before, which seeds dropout.
    pub(super) fn gradients(&self, batch: Batch<'_>, step: u64) -> Result<(f64, Gradients), HeadError> {
        let logits = self.logits(batch, ForwardMode::Train { step })?;
        let loss = Self::loss(batch, &logits)?;
        let gradients = loss.backward()?;
        let gradient_values = |state: &ParameterState| {
            let gradient = gradients.get(&state.var);
            gradient.map(|gradient| Ok(gradient.flatten_all()?.to_vec1()?)).transpose()
        };
        let gradients =
            self.parameter_states.iter().map(gradient_values).collect::<Result<_, HeadError>>()?;
        Ok((f64::from(loss.to_scalar::<f32>()?), gradients))
    }

    /// The head's logits `[n, C]` for a batch. `mode` says whether dropout applies.
    fn logits(&self, batch: Batch<'_>, mode: ForwardMode) -> Result<Tensor, HeadError> {
        let mut values = Vec::new();
        batch.gather(&mut values);
        let shape = (batch.rows.len(), batch.samples.features.width());
        self.head.forward(&self.parameters, &Tensor::from_vec(values, shape, &Device::Cpu)?, mode)
    }

    /// The loss of a batch that training minimizes, `1/n Σ weight · log-loss`, from its `logits` `[n, C]`. A
    /// tensor, so that candle can differentiate it.
    fn loss(Batch { samples, rows }: Batch<'_>, logits: &Tensor) -> Result<Tensor, HeadError> {
        let labels: Vec<u32> = rows.iter().map(|&row| samples.data.labels()[row]).collect();
        let weights: Vec<f32> = rows.iter().map(|&row| samples.weight(row)).collect();
        let labels = Tensor::from_vec(labels, (rows.len(), 1), &Device::Cpu)?;
        let weights = Tensor::from_vec(weights, (rows.len(), 1), &Device::Cpu)?;
        Ok((log_softmax(logits, 1)?.gather(&labels, 1)? * weights)?.mean_all()?.neg()?)
    }
}

impl Learner for AutogradLearner<'_> {
    type Parameters = Tensors;

    /// Takes a training step on a batch: computes the gradients and updates each parameter by AdamW, unless
    /// the loss does not depend on it. Returns the loss before the step. candle's own AdamW would be slower,
    /// as it allocates a tensor for every intermediate result; this one makes a single pass over the memory.
    fn step(&mut self, batch: Batch<'_>, step: StepParams) -> Result<f64, HeadError> {
        let (loss, gradients) = self.gradients(batch, step.steps_done)?;
        for (ParameterState { var, parameter }, gradient) in self.parameter_states.iter_mut().zip(gradients) {
            let Some(gradient) = gradient else { continue };
            parameter.gradient = gradient;
            let adamw = step.adamw_for_rank(var.rank());
            parameter.chunks(VALUES_PER_TASK).for_each(|slot| adamw.update(slot));
            var.set(&Tensor::from_slice(&parameter.value, var.dims(), var.device())?)?;
        }
        Ok(loss)
    }

    /// The sum of the losses of held-out samples, and how many are predicted correctly.
    fn evaluate(&mut self, batch: Batch<'_>) -> Result<(f64, usize), HeadError> {
        let Batch { samples, rows } = batch;
        let logits = self.logits(batch, ForwardMode::Evaluate)?.detach();
        let loss = Self::loss(batch, &logits)?.to_scalar::<f32>()?;
        let predicted = logits.argmax(1)?.to_vec1::<u32>()?;
        let correct =
            predicted.iter().zip(rows).filter(|&(&class, &row)| class as usize == samples.label(row));
        Ok((f64::from(loss) * rows.len() as f64, correct.count()))
    }

    /// Copies of the current parameters by name.
    fn parameters(&self) -> Result<Tensors, HeadError> {
        self.parameters.iter().map(|(name, tensor)| Ok((name.clone(), tensor.detach().copy()?))).collect()
    }
}
