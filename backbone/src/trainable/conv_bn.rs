//! A convolution and the BatchNorm after it: forward, and back from the derivative of what comes out.
//!
//! By running statistics BatchNorm is a factor and a shift for each channel, and both go into the convolution: nothing but
//! what comes out is kept. The derivative by the factor needs the convolution's sums, `Σ g · Σ w x`, which are those of the weights
//! and their derivatives, `Σ w · Σ g x`. By the batch's own statistics the sums are kept, and what came out is made of them again.

use headstock_engine::training::{ConvOps, ConvShape, ScaledWeights, TrainEpilogue, WeightGrad};

use super::batch_norm::{BatchStatistics, ScaleShift, inverse_std};
use super::buffer_pool::{Buffer, BufferPool};
use super::parameters::ParameterStore;
use super::pooling::NhwcShape;
use crate::error::BackboneError;
use crate::resnet_spec::ConvGeometry;

/// How much of the batch's statistics goes into the running ones at a step, as in PyTorch.
const MOMENTUM: f32 = 0.1;

/// A convolution and the BatchNorm after it.
#[derive(Debug)]
pub(super) struct ConvBnUnit {
    /// The BatchNorm's name.
    pub(super) bn_name: String,
    pub(super) geometry: ConvGeometry,
    /// `C`, `O` and `K`.
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) kernel: usize,
    /// The numbers of its parameters: the convolution's weights, and the BatchNorm's `γ` and `β`.
    pub(super) weight_id: usize,
    pub(super) gamma_id: usize,
    pub(super) beta_id: usize,
    /// The running mean and variance, `[C]`.
    pub(super) running_mean: Vec<f32>,
    pub(super) running_var: Vec<f32>,
}

/// What a unit works with.
pub(super) struct TrainContext<'a> {
    pub(super) store: &'a mut ParameterStore,
    pub(super) conv_ops: &'a mut ConvOps,
    pub(super) buffers: &'a mut BufferPool,
}

/// What a unit keeps of the way forward for the way back.
#[derive(Debug)]
pub(super) enum SavedForBackward {
    /// With running statistics: nothing but its sizes.
    RunningStats(ConvShape),
    /// With the batch's: the convolution's sums, and the statistics.
    BatchStats(ConvShape, Buffer, BatchStatistics),
}

impl ConvBnUnit {
    fn conv_shape(&self, size: NhwcShape) -> ConvShape {
        let ConvGeometry { stride, padding } = self.geometry;
        ConvShape {
            batch: size.images,
            height: size.height,
            width: size.width,
            inputs: self.inputs,
            outputs: self.outputs,
            kernel: self.kernel,
            stride,
            padding,
        }
    }

    /// The size of what comes out.
    pub(super) fn output_shape(&self, size: NhwcShape) -> NhwcShape {
        let [height, width] = self.conv_shape(size).output_size();
        NhwcShape { images: size.images, height, width, channels: self.outputs }
    }

    fn running_scale_shift(&self, store: &ParameterStore) -> ScaleShift {
        let (gamma, beta) = self.affine_parameters(store);
        ScaleShift::new(&self.running_mean, &self.running_var, gamma, beta)
    }

    /// `γ` and `β`
    fn affine_parameters<'a>(&self, store: &'a ParameterStore) -> (&'a [f32], &'a [f32]) {
        (&store.values[self.gamma_id], &store.values[self.beta_id])
    }

    /// What comes out; `other` is added before the ReLU. By the batch's own statistics, or the running ones.
    pub(super) fn forward(
        &self,
        ctx: &mut TrainContext<'_>,
        use_batch_stats: bool,
        input: (NhwcShape, &[f32]),
        other: Option<&[f32]>,
        relu: bool,
    ) -> Result<(SavedForBackward, Buffer), BackboneError> {
        if use_batch_stats {
            self.forward_with_batch_stats(ctx, input, other, relu)
        } else {
            self.forward_with_running_stats(ctx, input, other, relu)
        }
    }

    fn forward_with_running_stats(
        &self,
        ctx: &mut TrainContext<'_>,
        (size, input): (NhwcShape, &[f32]),
        other: Option<&[f32]>,
        relu: bool,
    ) -> Result<(SavedForBackward, Buffer), BackboneError> {
        let shape = self.conv_shape(size);
        let affine = self.running_scale_shift(ctx.store);
        let mut out = ctx.buffers.acquire(self.output_shape(size).n_values());
        let weights = ScaledWeights { values: &ctx.store.values[self.weight_id], scale: Some(&affine.scale) };
        let finish =
            TrainEpilogue { bias: Some(&affine.shift), addend: other, relu, ..TrainEpilogue::default() };
        ctx.conv_ops.forward(&shape, input, weights, finish, &mut out)?;
        Ok((SavedForBackward::RunningStats(shape), out))
    }

    fn forward_with_batch_stats(
        &self,
        ctx: &mut TrainContext<'_>,
        (size, input): (NhwcShape, &[f32]),
        other: Option<&[f32]>,
        relu: bool,
    ) -> Result<(SavedForBackward, Buffer), BackboneError> {
        let shape = self.conv_shape(size);
        let size = self.output_shape(size);
        if size.n_positions() < 2 {
            return Err(BackboneError::SingleValuePerChannel { name: self.bn_name.clone() });
        }
        let mut sums = ctx.buffers.acquire(size.n_values());
        let weights = ScaledWeights { values: &ctx.store.values[self.weight_id], scale: None };
        ctx.conv_ops.forward(&shape, input, weights, TrainEpilogue::default(), &mut sums)?;
        let statistics = BatchStatistics::from_activations(self.outputs, &sums);
        let mut out = ctx.buffers.acquire(sums.len());
        statistics.normalize(self.affine_parameters(ctx.store), &sums, other, relu, &mut out);
        Ok((SavedForBackward::BatchStats(shape, sums, statistics), out))
    }

    /// What came out, with its ReLU, made again where it can be.
    pub(super) fn recompute_output(
        &self,
        ctx: &mut TrainContext<'_>,
        saved: &SavedForBackward,
    ) -> Option<Buffer> {
        let SavedForBackward::BatchStats(_, sums, statistics) = saved else { return None };
        let mut out = ctx.buffers.acquire(sums.len());
        statistics.normalize(self.affine_parameters(ctx.store), sums, None, true, &mut out);
        Some(out)
    }

    /// Adds the derivatives by its parameters, for the derivative by what comes out (before a ReLU). Gives the derivative by the
    /// convolution's sums, and what these are multiplied by where that is not the same.
    pub(super) fn backward(
        &self,
        ctx: &mut TrainContext<'_>,
        saved: SavedForBackward,
        input: &[f32],
        gradient: &[f32],
    ) -> Result<InputGradContext, BackboneError> {
        match saved {
            SavedForBackward::RunningStats(shape) => {
                let affine = self.running_scale_shift(ctx.store);
                let (values, by_weights, add) = ctx.store.gradient_mut(self.weight_id);
                let weights = ScaledWeights { values, scale: Some(&affine.scale) };
                let sums = ctx.conv_ops.backward_weights(
                    &shape,
                    input,
                    gradient,
                    weights,
                    WeightGrad { values: by_weights, accumulate: add },
                )?;
                let by_gamma: Vec<f32> = (0..self.outputs)
                    .map(|channel| {
                        let off = f64::from(sums.scale[channel])
                            - f64::from(self.running_mean[channel]) * f64::from(sums.bias[channel]);
                        (off * inverse_std(self.running_var[channel])) as f32
                    })
                    .collect();
                ctx.store.accumulate_gradient(self.gamma_id, &by_gamma);
                ctx.store.accumulate_gradient(self.beta_id, &sums.bias);
                Ok(InputGradContext { shape, scale: Some(affine.scale), grad_conv_output: None })
            }
            SavedForBackward::BatchStats(shape, convolved, statistics) => {
                let mut by_sums = ctx.buffers.acquire(convolved.len());
                let gamma = &ctx.store.values[self.gamma_id];
                let [by_gamma, by_beta] = statistics.backward(gamma, &convolved, gradient, &mut by_sums);
                ctx.buffers.release(convolved);
                ctx.store.accumulate_gradient(self.gamma_id, &by_gamma);
                ctx.store.accumulate_gradient(self.beta_id, &by_beta);
                let (values, by_weights, add) = ctx.store.gradient_mut(self.weight_id);
                let weights = ScaledWeights { values, scale: None };
                ctx.conv_ops.backward_weights(
                    &shape,
                    input,
                    &by_sums,
                    weights,
                    WeightGrad { values: by_weights, accumulate: add },
                )?;
                Ok(InputGradContext { shape, scale: None, grad_conv_output: Some(by_sums) })
            }
        }
    }

    /// The derivative by the input, into `out`.
    pub(super) fn backward_input(
        &self,
        ctx: &mut TrainContext<'_>,
        back: &InputGradContext,
        gradient: &[f32],
        finish: TrainEpilogue<'_>,
        out: &mut [f32],
    ) -> Result<(), BackboneError> {
        let weights =
            ScaledWeights { values: &ctx.store.values[self.weight_id], scale: back.scale.as_deref() };
        let gradient = back.grad_conv_output.as_deref().unwrap_or(gradient);
        Ok(ctx.conv_ops.backward_input(&back.shape, gradient, weights, finish, out)?)
    }

    /// Moves the running statistics towards a batch's, whose variance is taken for that of all there is (with `n - 1`).
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

/// What the derivative by a unit's input is made of.
#[derive(Debug)]
pub(super) struct InputGradContext {
    pub(super) shape: ConvShape,
    /// What each channel's weights are multiplied by.
    scale: Option<Vec<f32>>,
    /// The derivative by the convolution's sums, where it is not that by what comes out.
    pub(super) grad_conv_output: Option<Buffer>,
}

impl SavedForBackward {
    pub(super) fn release(self, buffers: &mut BufferPool) {
        if let Self::BatchStats(_, sums, _) = self {
            buffers.release(sums);
        }
    }
}
