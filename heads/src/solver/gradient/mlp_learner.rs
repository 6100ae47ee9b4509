//! Hand-written gradients of a multi-layer perceptron: two matrix products per layer, with the optimizer step
//! in the same pass over the memory as the second.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use headstock_split::KeyedRng;
use rayon::prelude::*;

use super::ops::{AdamWParameter, UNITS_PER_TASK, cross_entropy_backward, is_top_class, parallel_gemm};
use super::{Batch, Learner, StepParams};
use crate::affine::Affine;
use crate::error::HeadError;

/// The trainable model of the `mlp` head: affine layers, with ReLU and dropout after each but the last. With
/// one layer it is logistic regression, which the `linear` head can train this way.
#[derive(Debug)]
pub(crate) struct MlpLearner {
    layers: Vec<Layer>,
    dropout: Option<Dropout>,
    /// Features of the current batch, then the output of each layer, `[n, units]`, for the backward pass.
    activations: Vec<Vec<f32>>,
    /// Gradients of the loss with respect to the output and to the input of a layer.
    grad_buffers: [Vec<f32>; 2],
}

/// A trainable affine layer.
#[derive(Debug)]
struct Layer {
    /// `[units, width]`
    weight: AdamWParameter,
    /// `[units]`
    bias: AdamWParameter,
    /// Number of inputs.
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
    /// Applies dropout to the outputs `units` of one layer for one row of the batch, in place: some become 0,
    /// the others are scaled up. Which ones depends on the seed, `step` (the number of steps taken before),
    /// the number of the `layer` and the `row` only, so it is the same for any number of threads.
    pub(crate) fn apply_to_row(self, step: u64, layer: usize, row: usize, units: &mut [f32]) {
        let mut random = KeyedRng::new(&[self.seed, step, layer as u64, row as u64]);
        let (threshold, keep_scale) = ((self.rate * 2f64.powi(32)) as u32, self.keep_scale());
        for pair in units.chunks_mut(2) {
            // One random number of 64 bits decides for two units: a half of 32 bits each.
            let bits = random.next_u64();
            for (unit, bits) in pair.iter_mut().zip([bits as u32, (bits >> 32) as u32]) {
                *unit *= if bits < threshold { 0.0 } else { keep_scale };
            }
        }
    }

    /// Factor of the units that are not dropped, which keeps the mean.
    fn keep_scale(self) -> f32 {
        (1.0 / (1.0 - self.rate)) as f32
    }
}

impl MlpLearner {
    /// A learner that starts training from `maps`, the initial weights and biases of each layer, first to
    /// last: each has as many inputs as the one before has outputs. `None` as `dropout` trains without
    /// dropout.
    pub(crate) fn new(maps: Vec<Affine>, dropout: Option<Dropout>) -> Self {
        let layers: Vec<Layer> = maps.into_iter().map(Layer::new).collect();
        let activations = vec![Vec::new(); layers.len() + 1];
        Self { layers, dropout, activations, grad_buffers: [Vec::new(), Vec::new()] }
    }

    /// Estimated memory in bytes of a fit with batches of `rows` samples, besides the features, to warn the
    /// user before the fit starts. `layer_shapes` holds the numbers of outputs and inputs of each layer.
    pub(crate) fn memory_bytes(layer_shapes: &[[usize; 2]], rows: usize) -> u64 {
        // Value, gradient and two moments; initial values, those of the best epoch, and the result.
        const COPIES: usize = 7;
        let parameters: usize =
            layer_shapes.iter().map(|[units, width]| units.saturating_mul(width + 1)).sum();
        let row_values: usize = layer_shapes.iter().map(|[units, width]| units + width).sum();
        // Each row of a batch has activations and their gradients.
        let floats = parameters.saturating_mul(COPIES).saturating_add(rows.saturating_mul(2 * row_values));
        (floats as u64).saturating_mul(size_of::<f32>() as u64)
    }

    /// The gradients of the last step: those of weights and biases of each layer in one [`Affine`].
    #[cfg(test)]
    pub(super) fn gradients(&self) -> Vec<Affine> {
        let gradient = |parameter: &AdamWParameter| parameter.gradient.clone();
        let map = |layer: &Layer| Affine::new(gradient(&layer.weight), gradient(&layer.bias), layer.width);
        self.layers.iter().map(|layer| map(layer).expect("finite gradients")).collect()
    }

    /// The forward pass for a batch: fills `activations` with its features and the outputs of each layer; the
    /// last are the logits. Dropout applies in training, where `step` is the number of steps taken before; an
    /// evaluation passes `None`.
    fn forward(&mut self, batch: Batch<'_>, step: Option<u64>) {
        batch.gather(&mut self.activations[0]);
        let last = self.layers.len() - 1;
        for (number, layer) in self.layers.iter().enumerate() {
            let (x, y) = self.activations.split_at_mut(number + 1);
            let (x, y) = (&x[number], &mut y[0]);
            layer.forward(x, batch.rows.len(), y);
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

    /// For each row of the batch, `weight · log-loss` and whether the row is predicted correctly, from the
    /// logits that [`forward`](Self::forward) left in `activations`. Replaces these logits by the gradients
    /// of `loss_scale` times the loss: a training step passes `1/n` for the mean.
    fn row_losses(&mut self, Batch { samples, rows }: Batch<'_>, loss_scale: f32) -> Vec<(f64, bool)> {
        let last = self.layers.len();
        let classes = self.layers[last - 1].units();
        let logits = self.activations[last].par_chunks_exact_mut(classes).zip(rows);
        let losses = logits.map(|(logits, &row)| {
            let (label, weight) = (samples.label(row), samples.weight(row));
            let is_correct = is_top_class(logits, label);
            (f64::from(weight) * cross_entropy_backward(logits, label, weight * loss_scale), is_correct)
        });
        losses.collect()
    }
}

impl Learner for MlpLearner {
    type Parameters = Vec<Affine>;

    /// Takes a training step on a batch; returns the mean loss before it. After the forward pass it goes
    /// backward from the last layer, and updates each layer by AdamW as soon as its gradients are known.
    fn step(&mut self, batch: Batch<'_>, step: StepParams) -> Result<f64, HeadError> {
        self.forward(batch, Some(step.steps_done));
        let n = batch.rows.len();
        let losses = self.row_losses(batch, 1.0 / n as f32);
        let keep_scale = self.dropout.map_or(1.0, Dropout::keep_scale);
        let [grad_output, grad_input] = &mut self.grad_buffers;
        // `row_losses` has replaced the logits by their gradients.
        std::mem::swap(grad_output, &mut self.activations[self.layers.len()]);
        for (number, layer) in self.layers.iter_mut().enumerate().rev() {
            let x = &self.activations[number];
            if number > 0 {
                layer.backward_input(grad_output, n, grad_input);
                // A unit that is 0 was negative or dropped: it passes no gradient.
                grad_input.par_chunks_mut(layer.width).zip(x.par_chunks(layer.width)).for_each(
                    |(grad_units, units)| {
                        for (grad, &unit) in grad_units.iter_mut().zip(units) {
                            *grad *= if unit == 0.0 { 0.0 } else { keep_scale };
                        }
                    },
                );
            }
            layer.backward_weights_and_step(x, grad_output, n, step);
            std::mem::swap(grad_output, grad_input);
        }
        Ok(losses.iter().map(|(loss, _)| loss).sum::<f64>() / n as f64)
    }

    /// The sum of the losses of held-out samples, and how many are predicted correctly.
    fn evaluate(&mut self, batch: Batch<'_>) -> Result<(f64, usize), HeadError> {
        self.forward(batch, None);
        let losses = self.row_losses(batch, 1.0);
        let n_correct = losses.iter().filter(|(_, is_correct)| *is_correct).count();
        Ok((losses.iter().map(|(loss, _)| loss).sum(), n_correct))
    }

    /// The current weights and biases of each layer, first to last.
    fn parameters(&self) -> Result<Vec<Affine>, HeadError> {
        let map =
            |layer: &Layer| Affine::new(layer.weight.value.clone(), layer.bias.value.clone(), layer.width);
        self.layers.iter().map(map).collect()
    }
}

impl Layer {
    /// A layer that starts training from the weights and biases of `map`.
    fn new(map: Affine) -> Self {
        let (weight, bias, width) = map.into_parts();
        Self { weight: AdamWParameter::new(weight), bias: AdamWParameter::new(bias), width }
    }

    /// Number of outputs.
    fn units(&self) -> usize {
        self.bias.value.len()
    }

    /// The weights, `[units, width]`.
    fn weights(&self) -> MatRef<'_, f32> {
        MatRef::from_row_major_slice(&self.weight.value, self.units(), self.width)
    }

    /// The forward pass of the layer, without ReLU: writes its outputs for inputs `x` `[n, width]` to `y`,
    /// which becomes `[n, units]`.
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

    /// The part of the backward pass that the layer before needs: from `grad_output`, the gradients of the
    /// loss with respect to the outputs `[n, units]`, computes those with respect to the inputs. Writes them
    /// to `grad_input`, which becomes `[n, width]`.
    fn backward_input(&self, grad_output: &[f32], n: usize, grad_input: &mut Vec<f32>) {
        grad_input.resize(n * self.width, 0.0);
        let out = MatMut::from_row_major_slice_mut(grad_input, n, self.width);
        parallel_gemm(
            out,
            Accum::Replace,
            MatRef::from_row_major_slice(grad_output, n, self.units()),
            self.weights(),
        );
    }

    /// The other part of the backward pass: computes the gradients of weights and bias from the inputs `x`
    /// `[n, width]` and the gradients of the outputs `[n, units]`, and takes the AdamW step on both. Each
    /// parallel task computes the gradients of some units and updates these units while the gradients are in
    /// the processor's cache.
    fn backward_weights_and_step(&mut self, x: &[f32], grad_output: &[f32], n: usize, step: StepParams) {
        let (units, width) = (self.units(), self.width);
        let x = MatRef::from_row_major_slice(x, n, width);
        let grad_output = MatRef::from_row_major_slice(grad_output, n, units);
        let (weight_adamw, bias_adamw) = (step.adamw_for_rank(2), step.adamw_for_rank(1));
        let chunks =
            self.weight.chunks(UNITS_PER_TASK * width).zip(self.bias.chunks(UNITS_PER_TASK)).enumerate();
        chunks.for_each(|(chunk, (weight, bias))| {
            let grad_chunk = grad_output.subcols(chunk * UNITS_PER_TASK, bias.value.len());
            for (column, sum) in bias.gradient.iter_mut().enumerate() {
                *sum = (0..n).map(|row| grad_chunk[(row, column)]).sum();
            }
            bias_adamw.update(bias);

            let out = MatMut::from_row_major_slice_mut(weight.gradient, grad_chunk.ncols(), width);
            matmul(out, Accum::Replace, grad_chunk.transpose(), x, 1.0, Par::Seq);
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
