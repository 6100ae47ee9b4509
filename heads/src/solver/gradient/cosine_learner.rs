//! Hand-written gradients of the `cosine` head.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::ops::{AdamWParameter, UNITS_PER_TASK, cross_entropy_backward, is_top_class, parallel_gemm};
use super::{Learner, StepParams, WeightedSamples};
use crate::error::HeadError;
use crate::vector::VectorOps;

/// Smallest norm to divide by, as `eps` of PyTorch's `normalize`.
pub(crate) const MIN_NORM: f64 = 1e-12;

/// The norm of a row, but at least [`MIN_NORM`].
pub(crate) fn clamped_norm(row: &[f32]) -> f64 {
    VectorOps::new().dot(row, row).sqrt().max(MIN_NORM)
}

/// The trainable model `logit_c = exp(log_scale) · cos(features, w_c)`.
#[derive(Debug)]
pub(crate) struct CosineLearner {
    /// `[C, F]`
    weight: AdamWParameter,
    /// A single value.
    log_scale: AdamWParameter,
    width: usize,
    /// Rows of the weights divided by their norms, `[C, F]`, and those norms, `[C]`.
    directions: Vec<f32>,
    norms: Vec<f64>,
    /// Normalized rows of the current batch, `[n, F]`.
    features: Vec<f32>,
    /// `[n, C]`
    cosines: Vec<f32>,
    /// Gradients of the loss with respect to the cosines, `[n, C]`.
    logit_gradients: Vec<f32>,
}

/// Loss and gradient of a row.
struct RowLoss {
    /// `weight · log-loss`
    loss: f64,
    is_correct: bool,
    /// Gradient with respect to the logarithm of the scale.
    scale_gradient: f64,
}

impl CosineLearner {
    /// Starts from these weights `[C, width]`.
    pub(crate) fn new(weight: Vec<f32>, log_scale: f32, width: usize) -> Self {
        Self {
            directions: vec![0.0; weight.len()],
            norms: vec![0.0; weight.len() / width],
            weight: AdamWParameter::new(weight),
            log_scale: AdamWParameter::new(vec![log_scale]),
            width,
            features: Vec::new(),
            cosines: Vec::new(),
            logit_gradients: Vec::new(),
        }
    }

    /// Estimated memory of a fit in bytes, besides its features, for batches of `rows`.
    pub(crate) fn memory_bytes(classes: usize, width: usize, rows: usize) -> u64 {
        // Value, gradient, two moments and directions; initial values, those of the best epoch, and the
        // result.
        const COPIES: usize = 8;
        let floats = classes.saturating_mul(width).saturating_mul(COPIES);
        let floats = floats.saturating_add(rows.saturating_mul(width + 2 * classes));
        (floats as u64).saturating_mul(size_of::<f32>() as u64)
    }

    /// The gradients of the last step.
    #[cfg(test)]
    pub(super) fn gradients(&self) -> (Vec<f32>, f32) {
        (self.weight.gradient.clone(), self.log_scale.gradient[0])
    }

    /// The loss of each row; fills `logit_gradients` with each row's gradients times `loss_scale`.
    fn row_losses(&mut self, samples: WeightedSamples<'_>, rows: &[usize], loss_scale: f32) -> Vec<RowLoss> {
        let (n, width, classes) = (rows.len(), self.width, self.norms.len());
        samples.gather(rows, &mut self.features);
        self.features.par_chunks_exact_mut(width).for_each(|row| {
            let inverse_norm = 1.0 / clamped_norm(row);
            row.iter_mut().for_each(|x| *x = (f64::from(*x) * inverse_norm) as f32);
        });
        let directions = self.directions.par_chunks_exact_mut(width).zip(&mut self.norms);
        directions.zip(self.weight.value.par_chunks_exact(width)).for_each(
            |((direction, length), weight)| {
                *length = clamped_norm(weight);
                for (direction, &w) in direction.iter_mut().zip(weight) {
                    *direction = (f64::from(w) / *length) as f32;
                }
            },
        );
        self.cosines.resize(n * classes, 0.0);
        parallel_gemm(
            MatMut::from_row_major_slice_mut(&mut self.cosines, n, classes),
            Accum::Replace,
            MatRef::from_row_major_slice(&self.features, n, width),
            MatRef::from_row_major_slice(&self.directions, classes, width).transpose(),
        );
        let scale = self.log_scale.value[0].exp();
        self.logit_gradients.resize(n * classes, 0.0);
        let logit_gradients =
            self.logit_gradients.par_chunks_exact_mut(classes).zip(self.cosines.par_chunks_exact(classes));
        let losses = logit_gradients.zip(rows).map(|((logit_gradients, cosines), &row)| {
            let (label, weight) = (samples.label(row), samples.weight(row));
            for (gradient, cosine) in logit_gradients.iter_mut().zip(cosines) {
                *gradient = scale * cosine;
            }
            let loss =
                f64::from(weight) * cross_entropy_backward(logit_gradients, label, weight * loss_scale);
            let mut scale_gradient = 0.0;
            for (gradient, &cosine) in logit_gradients.iter_mut().zip(cosines) {
                *gradient *= scale;
                scale_gradient += f64::from(*gradient) * f64::from(cosine);
            }
            RowLoss { loss, is_correct: is_top_class(cosines, label), scale_gradient }
        });
        losses.collect()
    }
}

impl Learner for CosineLearner {
    /// Weights `[C, F]` and the logarithm of the scale.
    type Parameters = (Vec<f32>, f32);

    fn step(
        &mut self,
        samples: WeightedSamples<'_>,
        rows: &[usize],
        step: StepParams,
    ) -> Result<f64, HeadError> {
        let (n, width, classes) = (rows.len(), self.width, self.norms.len());
        let losses = self.row_losses(samples, rows, 1.0 / n as f32);
        let features = MatRef::from_row_major_slice(&self.features, n, width);
        let logit_gradients = MatRef::from_row_major_slice(&self.logit_gradients, n, classes);
        let adamw = step.adamw_for_rank(2);
        let directions =
            self.directions.par_chunks(UNITS_PER_TASK * width).zip(self.norms.par_chunks(UNITS_PER_TASK));
        let chunks = self.weight.chunks(UNITS_PER_TASK * width).zip(directions).enumerate();
        chunks.for_each(|(chunk, (slot, (directions, norms)))| {
            let chunk_gradients = logit_gradients.subcols(chunk * UNITS_PER_TASK, norms.len());
            let out = MatMut::from_row_major_slice_mut(slot.gradient, norms.len(), width);
            matmul(out, Accum::Replace, chunk_gradients.transpose(), features, 1.0, Par::Seq);
            let rows = slot.gradient.chunks_exact_mut(width).zip(directions.chunks_exact(width));
            for ((gradient, direction), &norm) in rows.zip(norms) {
                backward_norm(gradient, direction, norm);
            }
            adamw.update(slot);
        });
        self.log_scale.gradient[0] = losses.iter().map(|row| row.scale_gradient).sum::<f64>() as f32;
        step.adamw_for_rank(0).update(self.log_scale.as_slot());
        Ok(losses.iter().map(|row| row.loss).sum::<f64>() / n as f64)
    }

    fn evaluate(&mut self, samples: WeightedSamples<'_>, rows: &[usize]) -> Result<(f64, usize), HeadError> {
        let losses = self.row_losses(samples, rows, 1.0);
        let n_correct = losses.iter().filter(|row| row.is_correct).count();
        Ok((losses.iter().map(|row| row.loss).sum(), n_correct))
    }

    fn parameters(&self) -> Result<(Vec<f32>, f32), HeadError> {
        Ok((self.weight.value.clone(), self.log_scale.value[0]))
    }
}

/// Turns the gradient with respect to a row's direction into that with respect to the row: removes the radial
/// component and divides by the norm. A row below the floor is only divided by it.
fn backward_norm(gradient: &mut [f32], direction: &[f32], norm: f64) {
    let radial = if norm > MIN_NORM { VectorOps::new().dot(gradient, direction) } else { 0.0 };
    for (g, &d) in gradient.iter_mut().zip(direction) {
        *g = ((f64::from(*g) - radial * f64::from(d)) / norm) as f32;
    }
}
