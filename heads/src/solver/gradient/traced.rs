//! Gradients of any differentiable head, by candle's trace of its operations.

use candle_core::{Device, Tensor, Var};
use candle_nn::ops::log_softmax;
use rayon::prelude::*;

use super::{Learner, Samples, Step};
use crate::differentiable::{Differentiable, Mode};
use crate::error::HeadError;
use crate::head::Tensors;
use crate::solver::adamw::Slot;

/// Values that a thread takes at a time.
const BLOCK: usize = 1 << 14;

/// Gradients by each parameter, in the order of their names; none by one that the loss does not depend on.
type Gradients = Vec<Option<Vec<f32>>>;

/// A [`Differentiable`] head that learns.
pub(super) struct Traced<'a> {
    head: &'a dyn Differentiable,
    parameters: Tensors,
    /// In the order of the parameters' names.
    learned: Vec<Learned>,
}

struct Learned {
    var: Var,
    value: Vec<f32>,
    /// Mean of the gradient.
    first: Vec<f32>,
    /// Mean of its square.
    second: Vec<f32>,
}

impl<'a> Traced<'a> {
    /// Learns from `initial` on, `f32` tensors.
    ///
    /// # Errors
    /// When a tensor is not `f32`.
    pub(super) fn new(head: &'a dyn Differentiable, initial: &Tensors) -> Result<Self, HeadError> {
        let (mut parameters, mut learned) = (Tensors::new(), Vec::new());
        for (name, tensor) in initial {
            let var = Var::from_tensor(tensor)?;
            let value: Vec<f32> = var.flatten_all()?.to_vec1()?;
            parameters.insert(name.clone(), var.as_tensor().clone());
            learned.push(Learned {
                first: vec![0.0; value.len()],
                second: vec![0.0; value.len()],
                var,
                value,
            });
        }
        Ok(Self { head, parameters, learned })
    }

    /// The loss on some rows, and its gradient by each parameter that it depends on, in the order of their names.
    pub(super) fn gradients(
        &self,
        samples: Samples<'_>,
        rows: &[usize],
        step: u64,
    ) -> Result<(f64, Gradients), HeadError> {
        let logits = self.logits(samples, rows, Mode::Train { step })?;
        let loss = Self::loss(samples, rows, &logits)?;
        let gradients = loss.backward()?;
        let of = |learned: &Learned| {
            let gradient = gradients.get(&learned.var);
            gradient.map(|gradient| Ok(gradient.flatten_all()?.to_vec1()?)).transpose()
        };
        let gradients = self.learned.iter().map(of).collect::<Result<_, HeadError>>()?;
        Ok((f64::from(loss.to_scalar::<f32>()?), gradients))
    }

    /// Logits `[n, C]` of some rows.
    fn logits(&self, samples: Samples<'_>, rows: &[usize], mode: Mode) -> Result<Tensor, HeadError> {
        let width = samples.features.width();
        let mut values = Vec::new();
        samples.gather(rows, &mut values);
        let batch = Tensor::from_vec(values, (rows.len(), width), &Device::Cpu)?;
        self.head.forward(&self.parameters, &batch, mode)
    }

    /// `1/n Σ weight · log-loss` of some rows, from their logits.
    fn loss(samples: Samples<'_>, rows: &[usize], logits: &Tensor) -> Result<Tensor, HeadError> {
        let labels: Vec<u32> = rows.iter().map(|&row| samples.data.labels()[row]).collect();
        let weights: Vec<f32> = rows.iter().map(|&row| samples.weight(row)).collect();
        let labels = Tensor::from_vec(labels, (rows.len(), 1), &Device::Cpu)?;
        let weights = Tensor::from_vec(weights, (rows.len(), 1), &Device::Cpu)?;
        Ok((log_softmax(logits, 1)?.gather(&labels, 1)? * weights)?.mean_all()?.neg()?)
    }
}

impl Learner for Traced<'_> {
    type Parameters = Tensors;

    /// A parameter without a gradient stays as it is. AdamW passes over the memory once; candle's own makes a tensor
    /// of every intermediate result.
    fn step(&mut self, samples: Samples<'_>, rows: &[usize], step: Step) -> Result<f64, HeadError> {
        let (loss, gradients) = self.gradients(samples, rows, step.done)?;
        for (Learned { var, value, first, second }, gradient) in self.learned.iter_mut().zip(gradients) {
            let Some(mut gradient) = gradient else { continue };
            let adamw = step.of_rank(var.rank());
            let values = value.par_chunks_mut(BLOCK).zip(gradient.par_chunks_mut(BLOCK));
            let means = first.par_chunks_mut(BLOCK).zip(second.par_chunks_mut(BLOCK));
            values.zip(means).for_each(|((value, gradient), (first, second))| {
                adamw.apply(Slot { value, gradient, first, second });
            });
            var.set(&Tensor::from_slice(value, var.dims(), var.device())?)?;
        }
        Ok(loss)
    }

    fn judge(&mut self, samples: Samples<'_>, rows: &[usize]) -> Result<(f64, usize), HeadError> {
        let logits = self.logits(samples, rows, Mode::Evaluate)?.detach();
        let loss = Self::loss(samples, rows, &logits)?.to_scalar::<f32>()?;
        let predicted = logits.argmax(1)?.to_vec1::<u32>()?;
        let right = predicted.iter().zip(rows).filter(|&(&class, &row)| class as usize == samples.label(row));
        Ok((f64::from(loss) * rows.len() as f64, right.count()))
    }

    fn parameters(&self) -> Result<Tensors, HeadError> {
        self.parameters.iter().map(|(name, tensor)| Ok((name.clone(), tensor.detach().copy()?))).collect()
    }
}
