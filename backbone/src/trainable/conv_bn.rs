//! Forward and backward of a convolution followed by BatchNorm.
//!
//! With running statistics, BatchNorm is a scale and a shift per channel that are applied by the convolution,
//! and nothing but the output is saved. The gradient of the scale needs `Σ g · Σ w x` (the output gradient
//! times the convolution's output), which equals `Σ w · Σ g x` (the weights times their gradients). With
//! batch statistics, the convolution's output is saved, and the unit's output is recomputed from it.
//!
//! In formulas `g` is the gradient of the output, `x` an input and `w` a weight of the convolution.

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

/// A trainable convolution and the BatchNorm that follows it (a unit).
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
pub(super) struct SavedForBackward {
    /// The shape of the convolution.
    shape: ConvShape,
    /// The output of the convolution and its statistics, after a forward pass with statistics of the batch.
    pub(super) batch: Option<(Buffer, BatchStatistics)>,
}

impl ConvBnUnit {
    /// The shape of the convolution for an input of shape `input`, `[N, H, W, C]`, in the type that the
    /// engine's training functions take.
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

    /// The shape of the output, `[N, H', W', O]`, for an input of shape `input`.
    pub(super) fn output_shape(&self, input: NhwcShape) -> NhwcShape {
        let [height, width] = self.conv_shape(input).output_size();
        NhwcShape { images: input.images, height, width, channels: self.outputs }
    }

    /// BatchNorm with running statistics, as a scale and a shift of each output channel.
    fn running_scale_shift(&self, store: &ParameterStore) -> ScaleShift {
        let (gamma, beta) = self.affine_parameters(store);
        ScaleShift::new(&self.running_mean, &self.running_var, gamma, beta)
    }

    /// Scale `γ` and shift `β` of the BatchNorm, `[O]` each.
    fn affine_parameters<'a>(&self, store: &'a ParameterStore) -> (&'a [f32], &'a [f32]) {
        (&store.values[self.gamma_id], &store.values[self.beta_id])
    }

    /// Applies `activation` to `BatchNorm(convolution(input)) + residual`. Returns what
    /// [`backward`](Self::backward) needs, and the output, `[N, H', W', O]`. `residual` is the shortcut, in
    /// the shape of the output; `mode` selects the statistics of BatchNorm. In mode `Train` an output with a
    /// single position is an error, because its variance is undefined.
    pub(super) fn forward(
        &self,
        ctx: &mut TrainContext<'_>,
        mode: BatchNormMode,
        input: NhwcView<'_>,
        residual: Option<&[f32]>,
        activation: Activation,
    ) -> Result<(SavedForBackward, Buffer), BackboneError> {
        let (shape, output_shape) = (self.conv_shape(input.shape), self.output_shape(input.shape));
        let values = &ctx.store.values[self.weight_id];
        if mode == BatchNormMode::Frozen {
            // The statistics are fixed, so BatchNorm is a scale of the weights and a bias, and the
            // convolution computes everything in one pass.
            let ScaleShift { scale, shift } = self.running_scale_shift(ctx.store);
            let mut out = ctx.buffers.acquire(output_shape.n_values());
            let weights = ScaledWeights { values, scale: Some(&scale) };
            let epilogue = TrainEpilogue {
                bias: Some(&shift),
                addend: residual,
                relu: activation == Activation::Relu,
                ..TrainEpilogue::default()
            };
            ctx.conv_ops.forward(&shape, input.values, weights, epilogue, &mut out)?;
            return Ok((SavedForBackward { shape, batch: None }, out));
        }
        if output_shape.n_positions() < 2 {
            return Err(BackboneError::SingleValuePerChannel { layer: self.bn_name.clone() });
        }
        let mut conv_output = ctx.buffers.acquire(output_shape.n_values());
        let weights = ScaledWeights { values, scale: None };
        ctx.conv_ops.forward(&shape, input.values, weights, TrainEpilogue::default(), &mut conv_output)?;
        let statistics = BatchStatistics::from_activations(self.outputs, &conv_output);
        let mut out = ctx.buffers.acquire(conv_output.len());
        let (gamma, beta) = self.affine_parameters(ctx.store);
        statistics.normalize(gamma, beta, &conv_output, residual, activation, &mut out);
        Ok((SavedForBackward { shape, batch: Some((conv_output, statistics)) }, out))
    }

    /// Recomputes the output of a unit with a ReLU and without a residual from `saved`, what its forward pass
    /// saved, so that a block need not keep that output in memory until the backward pass. With running
    /// statistics, `saved` does not suffice, and the result is `None`.
    pub(super) fn recompute_output(
        &self,
        ctx: &mut TrainContext<'_>,
        saved: &SavedForBackward,
    ) -> Option<Buffer> {
        // `None` with running statistics.
        let (conv_output, statistics) = saved.batch.as_ref()?;
        let mut out = ctx.buffers.acquire(conv_output.len());
        let (gamma, beta) = self.affine_parameters(ctx.store);
        statistics.normalize(gamma, beta, conv_output, None, Activation::Relu, &mut out);
        Some(out)
    }

    /// The first half of the backward pass: adds the gradients of the loss by the parameters (the weights,
    /// `γ` and `β`) to those in `ctx.store`, given `grad_output`, the gradient of the output before the
    /// activation, and `saved` and `input` of the forward pass. Returns what
    /// [`backward_input`](Self::backward_input), the second half, needs.
    pub(super) fn backward(
        &self,
        ctx: &mut TrainContext<'_>,
        saved: SavedForBackward,
        input: &[f32],
        grad_output: &[f32],
    ) -> Result<InputGradContext, BackboneError> {
        let SavedForBackward { shape, batch } = saved;
        let scale = batch.is_none().then(|| self.running_scale_shift(ctx.store).scale);
        // With statistics of the batch, first backward through BatchNorm, then through the convolution.
        let through_batch_norm = batch.map(|(conv_output, statistics)| {
            let mut grad_conv_output = ctx.buffers.acquire(conv_output.len());
            let gamma = &ctx.store.values[self.gamma_id];
            let grads = statistics.backward(gamma, &conv_output, grad_output, &mut grad_conv_output);
            ctx.buffers.release([conv_output]);
            (grad_conv_output, grads)
        });
        let (grad_conv_output, batch_norm_grads) = through_batch_norm.unzip();
        let (values, grad_weight, accumulate) = ctx.store.gradient_mut(self.weight_id);
        let weights = ScaledWeights { values, scale: scale.as_deref() };
        let out = WeightGrad { values: grad_weight, accumulate };
        let gradient = grad_conv_output.as_deref().unwrap_or(grad_output);
        let grads = ctx.conv_ops.backward_weights(&shape, input, gradient, weights, out)?;
        let [grad_gamma, grad_beta] = batch_norm_grads.unwrap_or_else(|| {
            // The forward pass was `scale · y + shift`, with `y`, the output of the convolution before
            // BatchNorm. `grads.scale` is `Σ g · y` and `grads.bias` is `Σ g`; from both follows
            // `∂γ = Σ g · (y - mean) / std`, and `∂β` is `Σ g`.
            let grad_gamma = |channel: usize| {
                let centered = f64::from(grads.scale[channel])
                    - f64::from(self.running_mean[channel]) * f64::from(grads.bias[channel]);
                (centered * inverse_std(self.running_var[channel])) as f32
            };
            [(0..self.outputs).map(grad_gamma).collect(), grads.bias]
        });
        ctx.store.accumulate_gradient(self.gamma_id, &grad_gamma);
        ctx.store.accumulate_gradient(self.beta_id, &grad_beta);
        Ok(InputGradContext { shape, scale, grad_conv_output })
    }

    /// The second half of the backward pass, which the first trained unit does not need: writes the gradient
    /// of the input to `grad_input`, given `grad_output`, the gradient of the output before the activation,
    /// and `grad_context`, the result of [`backward`](Self::backward). `epilogue` is applied to the result,
    /// for a sum with another gradient or for the ReLU before this unit.
    pub(super) fn backward_input(
        &self,
        ctx: &mut TrainContext<'_>,
        grad_context: &InputGradContext,
        grad_output: &[f32],
        epilogue: TrainEpilogue<'_>,
        grad_input: &mut [f32],
    ) -> Result<(), BackboneError> {
        let InputGradContext { shape, scale, grad_conv_output } = grad_context;
        let weights = ScaledWeights { values: &ctx.store.values[self.weight_id], scale: scale.as_deref() };
        let grad_conv_output = grad_conv_output.as_deref().unwrap_or(grad_output);
        Ok(ctx.conv_ops.backward_input(shape, grad_conv_output, weights, epilogue, grad_input)?)
    }

    /// Moves the running statistics, with which BatchNorm normalizes outside of training, towards those of a
    /// batch, as PyTorch does after each training step: `running += MOMENTUM · (batch - running)`. The
    /// variance of the batch is unbiased here: divided by `count - 1` instead of `count`.
    pub(super) fn update_running_stats(&mut self, batch: &BatchStatistics) {
        let unbiased = batch.count as f32 / (batch.count - 1) as f32;
        let move_towards = |running: &mut [f32], batch_values: &[f32], factor: f32| {
            for (running, value) in running.iter_mut().zip(batch_values) {
                *running += MOMENTUM * (factor * value - *running);
            }
        };
        move_towards(&mut self.running_mean, &batch.mean, 1.0);
        move_towards(&mut self.running_var, &batch.variance, unbiased);
    }
}

/// What the gradient of a unit's input is computed from, besides the gradient of its output.
#[derive(Debug)]
pub(super) struct InputGradContext {
    shape: ConvShape,
    /// The factor of the weights of each output channel; `None` for 1.
    scale: Option<Vec<f32>>,
    /// The gradient of the convolution's output, unless it is the gradient of the unit's output.
    pub(super) grad_conv_output: Option<Buffer>,
}

impl SavedForBackward {
    /// Returns the buffer with the saved output of the convolution, if any, to the pool.
    pub(super) fn release(self, buffers: &mut BufferPool) {
        buffers.release(self.batch.map(|(conv_output, _)| conv_output));
    }
}
