//! Hand-written gradients of the `cosine` head.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::ops::{AdamWParameter, UNITS_PER_TASK, cross_entropy_backward, is_top_class, parallel_gemm};
use super::{Batch, Learner, StepParams};
use crate::error::HeadError;
use crate::vector::VectorOps;

/// Smallest norm to divide by, as `eps` of PyTorch's `normalize`.
pub(crate) const MIN_NORM: f64 = 1e-12;

/// The norm of a row, but at least [`MIN_NORM`], so that it can be divided by.
pub(crate) fn clamped_norm(row: &[f32]) -> f64 {
    VectorOps::new().dot(row, row).sqrt().max(MIN_NORM)
}

/// The trainable model of the `cosine` head: `logit_c = exp(log_scale) · cos(features, w_c)`, where `w_c` are
/// the weights of class `c`. Training adjusts the weights and the scale.
#[derive(Debug)]
pub(crate) struct CosineLearner {
    /// `[C, F]`
    weight: AdamWParameter,
    /// Logarithm of the scale of the logits, a single value.
    log_scale: AdamWParameter,
    width: usize,
    /// Rows of the weights divided by their norms, `[C, F]`.
    directions: Vec<f32>,
    /// These norms, `[C]`.
    norms: Vec<f64>,
    /// Normalized rows of the current batch, `[n, F]`.
    features: Vec<f32>,
    /// Cosine of each row of the batch and each class's weights, `[n, C]`.
    cosines: Vec<f32>,
    /// Gradients of the loss with respect to the cosines, `[n, C]`.
    grad_cosines: Vec<f32>,
}

/// What [`CosineLearner::row_losses`] finds for a row of a batch.
struct RowLoss {
    /// `weight · log-loss`, where `weight` is the sample weight.
    loss: f64,
    /// Whether the true class has the highest logit.
    is_correct: bool,
    /// Gradient of the loss with respect to the logarithm of the scale.
    grad_log_scale: f64,
}

impl CosineLearner {
    /// A learner that starts training from the weights `weight` `[C, width]` and the logarithm of the scale
    /// `log_scale`.
    pub(crate) fn new(weight: Vec<f32>, log_scale: f32, width: usize) -> Self {
        Self {
            directions: vec![0.0; weight.len()],
            norms: vec![0.0; weight.len() / width],
            weight: AdamWParameter::new(weight),
            log_scale: AdamWParameter::new(vec![log_scale]),
            width,
            features: Vec::new(),
            cosines: Vec::new(),
            grad_cosines: Vec::new(),
        }
    }

    /// Estimated memory in bytes of a fit with batches of `rows` samples, besides the features, to warn the
    /// user before the fit starts.
    pub(crate) fn memory_bytes(classes: usize, width: usize, rows: usize) -> u64 {
        // Value, gradient, two moments and directions; initial values, those of the best epoch, and the
        // result.
        const COPIES: usize = 8;
        let floats = classes.saturating_mul(width).saturating_mul(COPIES);
        // The normalized features, the cosines and their gradients.
        let floats = floats.saturating_add(rows.saturating_mul(width + 2 * classes));
        (floats as u64).saturating_mul(size_of::<f32>() as u64)
    }

    /// The gradients of the last step.
    #[cfg(test)]
    pub(super) fn gradients(&self) -> (Vec<f32>, f32) {
        (self.weight.gradient.clone(), self.log_scale.gradient[0])
    }

    /// The forward pass for a batch, whose logits are a scale times the
    /// cosines of features and class weights, and the backward pass up to the gradients of the cosines and of
    /// the scale. Gradients are those of `loss_scale` times the loss: a training step passes `1/n` for the
    /// mean. Fills the buffers `features`, `directions`, `norms`, `cosines` and `grad_cosines`; returns one
    /// entry per row.
    fn row_losses(&mut self, batch: Batch<'_>, loss_scale: f32) -> Vec<RowLoss> {
        let Batch { samples, rows } = batch;
        let (n, width, classes) = (rows.len(), self.width, self.norms.len());
        batch.gather(&mut self.features);
        self.features.par_chunks_exact_mut(width).for_each(|row| {
            let inverse_norm = 1.0 / clamped_norm(row);
            row.iter_mut().for_each(|x| *x = (f64::from(*x) * inverse_norm) as f32);
        });
        let directions = self.directions.par_chunks_exact_mut(width).zip(&mut self.norms);
        directions.zip(self.weight.value.par_chunks_exact(width)).for_each(|((direction, norm), weight)| {
            *norm = clamped_norm(weight);
            for (direction, &w) in direction.iter_mut().zip(weight) {
                *direction = (f64::from(w) / *norm) as f32;
            }
        });
        self.cosines.resize(n * classes, 0.0);
        parallel_gemm(
            MatMut::from_row_major_slice_mut(&mut self.cosines, n, classes),
            Accum::Replace,
            MatRef::from_row_major_slice(&self.features, n, width),
            MatRef::from_row_major_slice(&self.directions, classes, width).transpose(),
        );
        let scale = self.log_scale.value[0].exp();
        self.grad_cosines.resize(n * classes, 0.0);
        let logits =
            self.grad_cosines.par_chunks_exact_mut(classes).zip(self.cosines.par_chunks_exact(classes));
        // `values` are the logits, then their gradients, then those of the cosines.
        let losses = logits.zip(rows).map(|((values, cosines), &row)| {
            let (label, weight) = (samples.label(row), samples.weight(row));
            for (logit, cosine) in values.iter_mut().zip(cosines) {
                *logit = scale * cosine;
            }
            let loss = f64::from(weight) * cross_entropy_backward(values, label, weight * loss_scale);
            let mut grad_log_scale = 0.0;
            for (grad, &cosine) in values.iter_mut().zip(cosines) {
                *grad *= scale;
                grad_log_scale += f64::from(*grad) * f64::from(cosine);
            }
            RowLoss { loss, is_correct: is_top_class(cosines, label), grad_log_scale }
        });
        losses.collect()
    }
}

impl Learner for CosineLearner {
    /// Weights `[C, F]` and the logarithm of the scale.
    type Parameters = (Vec<f32>, f32);

    /// Takes a training step on a batch; returns the mean loss before it. Each parallel task computes the
    /// gradient of the weights of some classes and updates these weights by AdamW; then the scale is updated.
    fn step(&mut self, batch: Batch<'_>, step: StepParams) -> Result<f64, HeadError> {
        let (n, width, classes) = (batch.rows.len(), self.width, self.norms.len());
        let losses = self.row_losses(batch, 1.0 / n as f32);
        let features = MatRef::from_row_major_slice(&self.features, n, width);
        let grad_cosines = MatRef::from_row_major_slice(&self.grad_cosines, n, classes);
        let adamw = step.adamw_for_rank(2);
        let directions =
            self.directions.par_chunks(UNITS_PER_TASK * width).zip(self.norms.par_chunks(UNITS_PER_TASK));
        let chunks = self.weight.chunks(UNITS_PER_TASK * width).zip(directions).enumerate();
        chunks.for_each(|(chunk, (slot, (directions, norms)))| {
            let grad_chunk = grad_cosines.subcols(chunk * UNITS_PER_TASK, norms.len());
            let out = MatMut::from_row_major_slice_mut(slot.gradient, norms.len(), width);
            matmul(out, Accum::Replace, grad_chunk.transpose(), features, 1.0, Par::Seq);
            let rows = slot.gradient.chunks_exact_mut(width).zip(directions.chunks_exact(width));
            for ((gradient, direction), &norm) in rows.zip(norms) {
                backward_norm(gradient, direction, norm);
            }
            adamw.update(slot);
        });
        self.log_scale.gradient[0] = losses.iter().map(|row| row.grad_log_scale).sum::<f64>() as f32;
        step.adamw_for_rank(0).update(self.log_scale.as_slot());
        Ok(losses.iter().map(|row| row.loss).sum::<f64>() / n as f64)
    }

    /// The sum of the losses of held-out samples, and how many are predicted correctly.
    fn evaluate(&mut self, batch: Batch<'_>) -> Result<(f64, usize), HeadError> {
        let losses = self.row_losses(batch, 1.0);
        let n_correct = losses.iter().filter(|row| row.is_correct).count();
        Ok((losses.iter().map(|row| row.loss).sum(), n_correct))
    }

    /// The current weights `[C, F]`, and the logarithm of the scale.
    fn parameters(&self) -> Result<(Vec<f32>, f32), HeadError> {
        Ok((self.weight.value.clone(), self.log_scale.value[0]))
    }
}

/// The backward pass of dividing the weights `w` of a class by their `norm`, which gave `direction`. `grad`
/// holds the gradient `g` with respect to the direction `d`, and becomes that with respect to `w`, which is
/// `(g - (g·d) d) / |w|`. Where the norm was raised to [`MIN_NORM`] it does not depend on `w`, and `g` is
/// only divided by it.
fn backward_norm(grad: &mut [f32], direction: &[f32], norm: f64) {
    let radial = if norm > MIN_NORM { VectorOps::new().dot(grad, direction) } else { 0.0 };
    for (g, &d) in grad.iter_mut().zip(direction) {
        *g = ((f64::from(*g) - radial * f64::from(d)) / norm) as f32;
    }
}
