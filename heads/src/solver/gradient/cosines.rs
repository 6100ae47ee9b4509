//! Gradients of scaled cosines, by hand.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::parts::{Parameter, UNITS, product, softmax_slope, wins};
use super::{Learner, Samples, Step};
use crate::error::HeadError;
use crate::vector::Vectors;

/// The least norm that a row is divided by, as in PyTorch's `normalize`.
pub(crate) const FLOOR: f64 = 1e-12;

/// The norm of a row, or the floor.
pub(crate) fn norm(row: &[f32]) -> f64 {
    Vectors::new().dot(row, row).sqrt().max(FLOOR)
}

/// `logit_c = exp(log_scale) · cos(features, w_c)` that learns.
#[derive(Debug)]
pub(crate) struct Cosines {
    /// `[C, F]`
    weight: Parameter,
    /// One value.
    log_scale: Parameter,
    width: usize,
    /// Rows of the weights over their norms, `[C, F]`, and those norms.
    directions: Vec<f32>,
    norms: Vec<f64>,
    /// Rows at hand over their norms, `[n, F]`.
    features: Vec<f32>,
    /// `[n, C]`
    cosines: Vec<f32>,
    /// Derivatives of the loss by the cosines, `[n, C]`.
    slopes: Vec<f32>,
}

/// What a row adds.
struct Loss {
    /// `weight · log-loss`
    loss: f64,
    right: bool,
    /// Derivative by the logarithm of the scale.
    by_scale: f64,
}

impl Cosines {
    /// Learns from these weights `[C, width]` on.
    pub(crate) fn new(weight: Vec<f32>, log_scale: f32, width: usize) -> Self {
        Self {
            directions: vec![0.0; weight.len()],
            norms: vec![0.0; weight.len() / width],
            weight: Parameter::new(weight),
            log_scale: Parameter::new(vec![log_scale]),
            width,
            features: Vec::new(),
            cosines: Vec::new(),
            slopes: Vec::new(),
        }
    }

    /// About how many bytes a fit takes beside its features, on so many rows at a time.
    pub(crate) fn memory(classes: usize, width: usize, rows: usize) -> u64 {
        // Value, gradient and two means, directions; the values to start from, those of the best epoch, and those to
        // return.
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

    /// The loss of each row; `slopes` with each row's derivatives times `part`.
    fn losses(&mut self, samples: Samples<'_>, rows: &[usize], part: f32) -> Vec<Loss> {
        let (n, width, classes) = (rows.len(), self.width, self.norms.len());
        samples.gather(rows, &mut self.features);
        self.features.par_chunks_exact_mut(width).for_each(|row| {
            let part = 1.0 / norm(row);
            row.iter_mut().for_each(|x| *x = (f64::from(*x) * part) as f32);
        });
        let directions = self.directions.par_chunks_exact_mut(width).zip(&mut self.norms);
        directions.zip(self.weight.value.par_chunks_exact(width)).for_each(
            |((direction, length), weight)| {
                *length = norm(weight);
                for (direction, &w) in direction.iter_mut().zip(weight) {
                    *direction = (f64::from(w) / *length) as f32;
                }
            },
        );
        self.cosines.resize(n * classes, 0.0);
        product(
            MatMut::from_row_major_slice_mut(&mut self.cosines, n, classes),
            Accum::Replace,
            MatRef::from_row_major_slice(&self.features, n, width),
            MatRef::from_row_major_slice(&self.directions, classes, width).transpose(),
        );
        let scale = self.log_scale.value[0].exp();
        self.slopes.resize(n * classes, 0.0);
        let slopes = self.slopes.par_chunks_exact_mut(classes).zip(self.cosines.par_chunks_exact(classes));
        let losses = slopes.zip(rows).map(|((slopes, cosines), &row)| {
            let (label, weight) = (samples.label(row), samples.weight(row));
            for (slope, cosine) in slopes.iter_mut().zip(cosines) {
                *slope = scale * cosine;
            }
            let loss = f64::from(weight) * softmax_slope(slopes, label, weight * part);
            let mut by_scale = 0.0;
            for (slope, &cosine) in slopes.iter_mut().zip(cosines) {
                *slope *= scale;
                by_scale += f64::from(*slope) * f64::from(cosine);
            }
            Loss { loss, right: wins(cosines, label), by_scale }
        });
        losses.collect()
    }
}

impl Learner for Cosines {
    /// Weights `[C, F]` and the logarithm of the scale.
    type Parameters = (Vec<f32>, f32);

    fn step(&mut self, samples: Samples<'_>, rows: &[usize], step: Step) -> Result<f64, HeadError> {
        let (n, width, classes) = (rows.len(), self.width, self.norms.len());
        let losses = self.losses(samples, rows, 1.0 / n as f32);
        let features = MatRef::from_row_major_slice(&self.features, n, width);
        let slopes = MatRef::from_row_major_slice(&self.slopes, n, classes);
        let adamw = step.of_rank(2);
        let directions = self.directions.par_chunks(UNITS * width).zip(self.norms.par_chunks(UNITS));
        let pieces = self.weight.pieces(UNITS * width).zip(directions).enumerate();
        pieces.for_each(|(piece, (slot, (directions, norms)))| {
            let slopes = slopes.subcols(piece * UNITS, norms.len());
            let out = MatMut::from_row_major_slice_mut(slot.gradient, norms.len(), width);
            matmul(out, Accum::Replace, slopes.transpose(), features, 1.0, Par::Seq);
            let rows = slot.gradient.chunks_exact_mut(width).zip(directions.chunks_exact(width));
            for ((gradient, direction), &norm) in rows.zip(norms) {
                through_norm(gradient, direction, norm);
            }
            adamw.apply(slot);
        });
        self.log_scale.gradient[0] = losses.iter().map(|row| row.by_scale).sum::<f64>() as f32;
        step.of_rank(0).apply(self.log_scale.slot());
        Ok(losses.iter().map(|row| row.loss).sum::<f64>() / n as f64)
    }

    fn judge(&mut self, samples: Samples<'_>, rows: &[usize]) -> Result<(f64, usize), HeadError> {
        let losses = self.losses(samples, rows, 1.0);
        let right = losses.iter().filter(|row| row.right).count();
        Ok((losses.iter().map(|row| row.loss).sum(), right))
    }

    fn parameters(&self) -> Result<(Vec<f32>, f32), HeadError> {
        Ok((self.weight.value.clone(), self.log_scale.value[0]))
    }
}

/// The gradient by a row's direction becomes the one by the row: what lies along it changes nothing, and the longer the
/// row, the less it turns. A row below the floor is only divided by it.
fn through_norm(gradient: &mut [f32], direction: &[f32], norm: f64) {
    let along = if norm > FLOOR { Vectors::new().dot(gradient, direction) } else { 0.0 };
    for (g, &d) in gradient.iter_mut().zip(direction) {
        *g = ((f64::from(*g) - along * f64::from(d)) / norm) as f32;
    }
}
