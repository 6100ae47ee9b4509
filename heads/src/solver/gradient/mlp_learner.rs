//! Hand-written gradients of a multi-layer perceptron: two matrix products per layer, with the optimizer step
//! in the same pass over the memory as the second.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::ops::{AdamWParameter, UNITS_PER_TASK, cross_entropy_backward, is_top_class, parallel_gemm};
use super::{Learner, StepParams, WeightedSamples};
use crate::affine::Affine;
use crate::error::HeadError;
use crate::random::KeyedRng;

/// Affine layers with ReLU and dropout after each but the last. With one layer this is logistic regression.
#[derive(Debug)]
pub(crate) struct MlpLearner {
    layers: Vec<Layer>,
    dropout: Option<Dropout>,
    /// Features of the current batch, then the output of each layer, `[n, units]`.
    values: Vec<Vec<f32>>,
    /// Gradients of the loss with respect to the output and the input of a layer.
    gradient_buffers: [Vec<f32>; 2],
}

/// A trainable affine layer.
#[derive(Debug)]
struct Layer {
    /// `[units, width]`
    weight: AdamWParameter,
    /// `[units]`
    bias: AdamWParameter,
    width: usize,
}

/// Inverted dropout: zeroes units with a fixed probability and keeps the mean (Srivastava et al., JMLR 2014).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    /// Probability of dropping a unit.
    pub(crate) rate: f64,
    /// Random seed.
    pub(crate) seed: u64,
}

impl Dropout {
    /// Drops units of one row of a layer in a step.
    pub(crate) fn apply_to_row(self, step: u64, layer: usize, row: usize, units: &mut [f32]) {
        let mut random = KeyedRng::new(&[self.seed, step, layer as u64, row as u64]);
        let (threshold, keep_scale) = ((self.rate * 2f64.powi(32)) as u32, self.keep_scale());
        for pair in units.chunks_mut(2) {
            let bits = random.next_u64();
            for (unit, bits) in pair.iter_mut().zip([bits as u32, (bits >> 32) as u32]) {
                *unit *= if bits < threshold { 0.0 } else { keep_scale };
            }
        }
    }

    /// Factor of the kept units.
    fn keep_scale(self) -> f32 {
        (1.0 / (1.0 - self.rate)) as f32
    }
}

impl MlpLearner {
    /// Starts from these maps; each one's width is the number of outputs of the one before.
    pub(crate) fn new(maps: Vec<Affine>, dropout: Option<Dropout>) -> Self {
        let layers: Vec<Layer> = maps.into_iter().map(Layer::new).collect();
        let values = vec![Vec::new(); layers.len() + 1];
        Self { layers, dropout, values, gradient_buffers: [Vec::new(), Vec::new()] }
    }

    /// Estimated memory of a fit in bytes, besides its features, for layers `[units, width]` and batches of
    /// `rows`.
    pub(crate) fn memory_bytes(maps: &[[usize; 2]], rows: usize) -> u64 {
        // Value, gradient and two moments; initial values, those of the best epoch, and the result.
        const COPIES: usize = 7;
        let parameters: usize = maps.iter().map(|[units, width]| units.saturating_mul(width + 1)).sum();
        let values: usize = maps.iter().map(|[units, width]| units + width).sum();
        let floats = parameters.saturating_mul(COPIES).saturating_add(rows.saturating_mul(2 * values));
        (floats as u64).saturating_mul(size_of::<f32>() as u64)
    }

    /// The gradients of the last step, each as a map.
    #[cfg(test)]
    pub(super) fn gradients(&self) -> Vec<Affine> {
        let gradient = |parameter: &AdamWParameter| parameter.gradient.clone();
        let map = |layer: &Layer| Affine::new(gradient(&layer.weight), gradient(&layer.bias), layer.width);
        self.layers.iter().map(|layer| map(layer).expect("finite gradients")).collect()
    }

    /// Fills `values` for a batch, up to the logits; with dropout if `step` is given.
    fn forward(&mut self, samples: WeightedSamples<'_>, rows: &[usize], step: Option<u64>) {
        samples.gather(rows, &mut self.values[0]);
        let last = self.layers.len() - 1;
        for (number, layer) in self.layers.iter().enumerate() {
            let (x, y) = self.values.split_at_mut(number + 1);
            let (x, y) = (&x[number], &mut y[0]);
            layer.forward(x, rows.len(), y);
            if number < last {
                let dropout = self.dropout.zip(step);
                y.par_chunks_exact_mut(layer.units()).enumerate().for_each(|(row, units)| {
                    for unit in &mut *units {
                        // Not `max`, which would turn NaN into 0.
                        *unit = if *unit < 0.0 { 0.0 } else { *unit };
                    }
                    if let Some((dropout, step)) = dropout {
                        dropout.apply_to_row(step, number, row, units);
                    }
                });
            }
        }
    }

    /// `weight · log-loss` of each row of the batch, and whether it is predicted correctly; replaces the
    /// logits by their gradients times `scale`.
    fn row_losses(&mut self, samples: WeightedSamples<'_>, rows: &[usize], scale: f32) -> Vec<(f64, bool)> {
        let last = self.layers.len();
        let classes = self.layers[last - 1].units();
        let logits = self.values[last].par_chunks_exact_mut(classes).zip(rows);
        let losses = logits.map(|(logits, &row)| {
            let (label, weight) = (samples.label(row), samples.weight(row));
            let is_correct = is_top_class(logits, label);
            (f64::from(weight) * cross_entropy_backward(logits, label, weight * scale), is_correct)
        });
        losses.collect()
    }
}

impl Learner for MlpLearner {
    type Parameters = Vec<Affine>;

    fn step(
        &mut self,
        samples: WeightedSamples<'_>,
        rows: &[usize],
        step: StepParams,
    ) -> Result<f64, HeadError> {
        self.forward(samples, rows, Some(step.steps_done));
        let n = rows.len();
        let losses = self.row_losses(samples, rows, 1.0 / n as f32);
        let keep_scale = self.dropout.map_or(1.0, Dropout::keep_scale);
        let [output_gradient, input_gradient] = &mut self.gradient_buffers;
        std::mem::swap(output_gradient, &mut self.values[self.layers.len()]);
        for (number, layer) in self.layers.iter_mut().enumerate().rev() {
            let x = &self.values[number];
            if number > 0 {
                layer.backward_input(output_gradient, n, input_gradient);
                // A unit that is 0 was negative or dropped: it passes no gradient.
                input_gradient.par_chunks_mut(layer.width).zip(x.par_chunks(layer.width)).for_each(
                    |(row_gradients, units)| {
                        for (gradient, &unit) in row_gradients.iter_mut().zip(units) {
                            *gradient *= if unit == 0.0 { 0.0 } else { keep_scale };
                        }
                    },
                );
            }
            layer.backward_weights_and_step(x, output_gradient, n, step);
            std::mem::swap(output_gradient, input_gradient);
        }
        Ok(losses.iter().map(|(loss, _)| loss).sum::<f64>() / n as f64)
    }

    fn evaluate(&mut self, samples: WeightedSamples<'_>, rows: &[usize]) -> Result<(f64, usize), HeadError> {
        self.forward(samples, rows, None);
        let losses = self.row_losses(samples, rows, 1.0);
        let n_correct = losses.iter().filter(|(_, right)| *right).count();
        Ok((losses.iter().map(|(loss, _)| loss).sum(), n_correct))
    }

    fn parameters(&self) -> Result<Vec<Affine>, HeadError> {
        let map =
            |layer: &Layer| Affine::new(layer.weight.value.clone(), layer.bias.value.clone(), layer.width);
        self.layers.iter().map(map).collect()
    }
}

impl Layer {
    fn new(map: Affine) -> Self {
        let (weight, bias, width) = map.into_parts();
        Self { weight: AdamWParameter::new(weight), bias: AdamWParameter::new(bias), width }
    }

    fn units(&self) -> usize {
        self.bias.value.len()
    }

    fn weights(&self) -> MatRef<'_, f32> {
        MatRef::from_row_major_slice(&self.weight.value, self.units(), self.width)
    }

    /// `x` `[n, width]` to `y` `[n, units]`.
    fn forward(&self, x: &[f32], n: usize, y: &mut Vec<f32>) {
        y.resize(n * self.units(), 0.0);
        y.par_chunks_exact_mut(self.units()).for_each(|row| row.copy_from_slice(&self.bias.value));
        let out = MatMut::from_row_major_slice_mut(y, n, self.units());
        parallel_gemm(
            out,
            Accum::Add,
            MatRef::from_row_major_slice(x, n, self.width),
            self.weights().transpose(),
        );
    }

    /// Gradients of the outputs, `[n, units]`, to gradients of the inputs, `[n, width]`.
    fn backward_input(&self, output_gradient: &[f32], n: usize, input_gradient: &mut Vec<f32>) {
        input_gradient.resize(n * self.width, 0.0);
        let out = MatMut::from_row_major_slice_mut(input_gradient, n, self.width);
        parallel_gemm(
            out,
            Accum::Replace,
            MatRef::from_row_major_slice(output_gradient, n, self.units()),
            self.weights(),
        );
    }

    /// A step against the gradient for inputs `x` `[n, width]` and `output_gradient` `[n, units]`. Each task
    /// computes the gradient of some units and updates them while it is in the cache.
    fn backward_weights_and_step(&mut self, x: &[f32], output_gradient: &[f32], n: usize, step: StepParams) {
        let (units, width) = (self.units(), self.width);
        let x = MatRef::from_row_major_slice(x, n, width);
        let output_gradient = MatRef::from_row_major_slice(output_gradient, n, units);
        let (weight_adamw, bias_adamw) = (step.adamw_for_rank(2), step.adamw_for_rank(1));
        let chunks =
            self.weight.chunks(UNITS_PER_TASK * width).zip(self.bias.chunks(UNITS_PER_TASK)).enumerate();
        chunks.for_each(|(chunk, (weight, bias))| {
            let chunk_gradient = output_gradient.subcols(chunk * UNITS_PER_TASK, bias.value.len());
            for (column, sum) in bias.gradient.iter_mut().enumerate() {
                *sum = (0..n).map(|row| chunk_gradient[(row, column)]).sum();
            }
            bias_adamw.update(bias);

            let out = MatMut::from_row_major_slice_mut(weight.gradient, chunk_gradient.ncols(), width);
            matmul(out, Accum::Replace, chunk_gradient.transpose(), x, 1.0, Par::Seq);
            weight_adamw.update(weight);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_leaves_out_its_share_and_keeps_the_mean() {
        let dropout = Dropout { rate: 0.3, seed: 0 };
        let mask = |step: u64, layer: usize, row: usize| {
            let mut units = vec![1.0; 10_001];
            dropout.apply_to_row(step, layer, row, &mut units);
            units
        };
        let units = mask(0, 0, 0);
        let dropped = units.iter().filter(|&&value| value == 0.0).count();
        assert!((2800..3200).contains(&dropped), "{dropped} of 10001");
        assert!(units.iter().all(|&value| value == 0.0 || value == 1.0 / 0.7));
        for other in [mask(1, 0, 0), mask(0, 1, 0), mask(0, 0, 1)] {
            assert_ne!(units, other);
        }
    }
}
