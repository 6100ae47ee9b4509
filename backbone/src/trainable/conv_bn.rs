//! Forward and backward of a convolution followed by BatchNorm.
//!
//! With running statistics, BatchNorm is a scale and a shift per channel that are applied by the convolution,
//! and nothing but the output is saved. The gradient of the scale needs `Σ g · Σ w x` (the output gradient
//! times the convolution's output), which equals `Σ w · Σ g x` (the weights times their gradients). With
//! batch statistics, the convolution's output is saved, and the unit's output is recomputed from it.

use headstock_engine::training::{ConvOps, ConvShape, ScaledWeights, TrainEpilogue, WeightGrad};

use super::BatchNormMode;
use super::batch_norm::{BatchStatistics, ScaleShift, inverse_std};
use super::buffer_pool::{Buffer, BufferPool};
use super::parameters::ParameterStore;
use super::pooling::{NhwcShape, NhwcView};
use crate::error::BackboneError;
use crate::resnet_spec::{Activation, ConvGeometry};

/// The weight of the batch in the running statistics, as in PyTorch.
const MOMENTUM: f32 = 0.1;

/// A convolution and its BatchNorm.
#[derive(Debug)]
pub(super) struct ConvBnUnit {
    /// The name of the BatchNorm.
    pub(super) bn_name: String,
    pub(super) geometry: ConvGeometry,
    /// Input channels `C`.
    pub(super) inputs: usize,
    /// Output channels `O`.
    pub(super) outputs: usize,
    /// Kernel size `K`.
    pub(super) kernel: usize,
    /// Parameter IDs of the convolution's weights, and of the BatchNorm's scale `γ` and shift `β`.
    pub(super) weight_id: usize,
    pub(super) gamma_id: usize,
    pub(super) beta_id: usize,
    /// Running mean and variance, `[O]`.
    pub(super) running_mean: Vec<f32>,
    pub(super) running_var: Vec<f32>,
}

/// Parameters and workspace of a training step.
pub(super) struct TrainContext<'a> {
    pub(super) store: &'a mut ParameterStore,
    pub(super) conv_ops: &'a mut ConvOps,
    pub(super) buffers: &'a mut BufferPool,
}

/// What the backward pass of a unit needs from its forward pass, besides input and output.
#[derive(Debug)]
pub(super) enum SavedForBackward {
    RunningStats(ConvShape),
    /// The second field is the output of the convolution.
    BatchStats(ConvShape, Buffer, BatchStatistics),
}

impl ConvBnUnit {
    fn conv_shape(&self, input: NhwcShape) -> ConvShape {
        let ConvGeometry { stride, padding } = self.geometry;
        ConvShape {
            batch: input.images,
            height: input.height,
            width: input.width,
            inputs: self.inputs,
            outputs: self.outputs,
            kernel: self.kernel,
            stride,
            padding,
        }
    }

    pub(super) fn output_shape(&self, input: NhwcShape) -> NhwcShape {
        let [height, width] = self.conv_shape(input).output_size();
        NhwcShape { images: input.images, height, width, channels: self.outputs }
    }

    /// BatchNorm with running statistics as a scale and a shift per channel.
    fn running_scale_shift(&self, store: &ParameterStore) -> ScaleShift {
        let (gamma, beta) = self.affine_parameters(store);
        ScaleShift::new(&self.running_mean, &self.running_var, gamma, beta)
    }

    /// `γ` and `β`, `[O]`.
    fn affine_parameters<'a>(&self, store: &'a ParameterStore) -> (&'a [f32], &'a [f32]) {
        (&store.values[self.gamma_id], &store.values[self.beta_id])
    }

    /// Convolution and BatchNorm, plus `residual`, then the activation.
    pub(super) fn forward(
        &self,
        ctx: &mut TrainContext<'_>,
        mode: BatchNormMode,
        input: NhwcView<'_>,
        residual: Option<&[f32]>,
        activation: Activation,
    ) -> Result<(SavedForBackward, Buffer), BackboneError> {
        match mode {
            BatchNormMode::Frozen => self.forward_with_running_stats(ctx, input, residual, activation),
            BatchNormMode::Train => self.forward_with_batch_stats(ctx, input, residual, activation),
        }
    }

    fn forward_with_running_stats(
        &self,
        ctx: &mut TrainContext<'_>,
        input: NhwcView<'_>,
        residual: Option<&[f32]>,
        activation: Activation,
    ) -> Result<(SavedForBackward, Buffer), BackboneError> {
        let shape = self.conv_shape(input.shape);
        let ScaleShift { scale, shift } = self.running_scale_shift(ctx.store);
        let mut out = ctx.buffers.acquire(self.output_shape(input.shape).n_values());
        let weights = ScaledWeights { values: &ctx.store.values[self.weight_id], scale: Some(&scale) };
        let epilogue = TrainEpilogue {
            bias: Some(&shift),
            addend: residual,
            relu: activation == Activation::Relu,
            ..TrainEpilogue::default()
        };
        ctx.conv_ops.forward(&shape, input.values, weights, epilogue, &mut out)?;
        Ok((SavedForBackward::RunningStats(shape), out))
    }

    fn forward_with_batch_stats(
        &self,
        ctx: &mut TrainContext<'_>,
        input: NhwcView<'_>,
        residual: Option<&[f32]>,
        activation: Activation,
    ) -> Result<(SavedForBackward, Buffer), BackboneError> {
        let shape = self.conv_shape(input.shape);
        let output_shape = self.output_shape(input.shape);
        if output_shape.n_positions() < 2 {
            return Err(BackboneError::SingleValuePerChannel { layer: self.bn_name.clone() });
        }
        let mut conv_output = ctx.buffers.acquire(output_shape.n_values());
        let weights = ScaledWeights { values: &ctx.store.values[self.weight_id], scale: None };
        ctx.conv_ops.forward(&shape, input.values, weights, TrainEpilogue::default(), &mut conv_output)?;
        let statistics = BatchStatistics::from_activations(self.outputs, &conv_output);
        let mut out = ctx.buffers.acquire(conv_output.len());
        let (gamma, beta) = self.affine_parameters(ctx.store);
        statistics.normalize(gamma, beta, &conv_output, residual, activation, &mut out);
        Ok((SavedForBackward::BatchStats(shape, conv_output, statistics), out))
    }

    /// Recomputes the output, after a ReLU and without a residual; `None` with running statistics.
    pub(super) fn recompute_output(
        &self,
        ctx: &mut TrainContext<'_>,
        saved: &SavedForBackward,
    ) -> Option<Buffer> {
        let SavedForBackward::BatchStats(_, conv_output, statistics) = saved else { return None };
        let mut out = ctx.buffers.acquire(conv_output.len());
        let (gamma, beta) = self.affine_parameters(ctx.store);
        statistics.normalize(gamma, beta, conv_output, None, Activation::Relu, &mut out);
        Some(out)
    }

    /// Accumulates the gradients of the parameters, given the gradient of the output before the activation.
    /// Returns what [`backward_input`](Self::backward_input) needs.
    pub(super) fn backward(
        &self,
        ctx: &mut TrainContext<'_>,
        saved: SavedForBackward,
        input: &[f32],
        grad_output: &[f32],
    ) -> Result<InputGradContext, BackboneError> {
        match saved {
            SavedForBackward::RunningStats(shape) => {
                let ScaleShift { scale, .. } = self.running_scale_shift(ctx.store);
                let (values, grad_weight, accumulate) = ctx.store.gradient_mut(self.weight_id);
                let weights = ScaledWeights { values, scale: Some(&scale) };
                let out = WeightGrad { values: grad_weight, accumulate };
                let sums = ctx.conv_ops.backward_weights(&shape, input, grad_output, weights, out)?;
                let grad_gamma: Vec<f32> = (0..self.outputs)
                    .map(|channel| {
                        let centered = f64::from(sums.scale[channel])
                            - f64::from(self.running_mean[channel]) * f64::from(sums.bias[channel]);
                        (centered * inverse_std(self.running_var[channel])) as f32
                    })
                    .collect();
                ctx.store.accumulate_gradient(self.gamma_id, &grad_gamma);
                ctx.store.accumulate_gradient(self.beta_id, &sums.bias);
                Ok(InputGradContext { shape, scale: Some(scale), grad_conv_output: None })
            }
            SavedForBackward::BatchStats(shape, conv_output, statistics) => {
                let mut grad_conv_output = ctx.buffers.acquire(conv_output.len());
                let gamma = &ctx.store.values[self.gamma_id];
                let [grad_gamma, grad_beta] =
                    statistics.backward(gamma, &conv_output, grad_output, &mut grad_conv_output);
                ctx.buffers.release(conv_output);
                ctx.store.accumulate_gradient(self.gamma_id, &grad_gamma);
                ctx.store.accumulate_gradient(self.beta_id, &grad_beta);
                let (values, grad_weight, accumulate) = ctx.store.gradient_mut(self.weight_id);
                let weights = ScaledWeights { values, scale: None };
                let out = WeightGrad { values: grad_weight, accumulate };
                ctx.conv_ops.backward_weights(&shape, input, &grad_conv_output, weights, out)?;
                Ok(InputGradContext { shape, scale: None, grad_conv_output: Some(grad_conv_output) })
            }
        }
    }

    /// Writes the gradient of the input to `out`, given the gradient of the output before the activation.
    pub(super) fn backward_input(
        &self,
        ctx: &mut TrainContext<'_>,
        grad_context: &InputGradContext,
        grad_output: &[f32],
        epilogue: TrainEpilogue<'_>,
        out: &mut [f32],
    ) -> Result<(), BackboneError> {
        let InputGradContext { shape, scale, grad_conv_output } = grad_context;
        let weights = ScaledWeights { values: &ctx.store.values[self.weight_id], scale: scale.as_deref() };
        let gradient = grad_conv_output.as_deref().unwrap_or(grad_output);
        Ok(ctx.conv_ops.backward_input(shape, gradient, weights, epilogue, out)?)
    }

    /// Moves the running statistics towards those of a batch, with the unbiased variance.
    pub(super) fn update_running_stats(&mut self, batch: &BatchStatistics) {
        let unbiased = batch.count as f32 / (batch.count - 1) as f32;
        let move_towards = |running: &mut [f32], batch: &[f32], factor: f32| {
            for (running, value) in running.iter_mut().zip(batch) {
                *running += MOMENTUM * (factor * value - *running);
            }
        };
        move_towards(&mut self.running_mean, &batch.mean, 1.0);
        move_towards(&mut self.running_var, &batch.variance, unbiased);
    }
}

/// What the gradient of a unit's input is computed from.
#[derive(Debug)]
pub(super) struct InputGradContext {
    shape: ConvShape,
    /// The factor of the weights of each output channel.
    scale: Option<Vec<f32>>,
    /// The gradient of the convolution's output, unless it is the gradient of the unit's output.
    pub(super) grad_conv_output: Option<Buffer>,
}

impl SavedForBackward {
    pub(super) fn release(self, buffers: &mut BufferPool) {
        if let Self::BatchStats(_, conv_output, _) = self {
            buffers.release(conv_output);
        }
    }
}
