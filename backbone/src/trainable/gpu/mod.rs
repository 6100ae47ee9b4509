//! Training on a GPU with candle's operations, in NHWC layout.
//!
//! The backward pass is hand-written: candle's autograd would save `K · K` times the input of each
//! convolution, does not support the stem's max pool, and has a gradient of 1 where the output of a ReLU is
//! 0. Here a convolution saves only its input, and frozen stages save nothing. Parameters, gradients and
//! running statistics stay in CPU memory, in `f32`.

mod batch_norm;
mod convolution;
mod pooling;
#[cfg(test)]
mod tests;

use candle_core::{DType, Device, Tensor};

use self::batch_norm::GpuBatchNorm;
use super::batch_norm::BatchStatistics;
use super::block::ResidualBlock;
use super::conv_bn::ConvBnUnit;
use super::parameters::{ParameterRole, ParameterStore};
use super::pooling::NhwcView;
use super::{BatchNormMode, TrainStep, TrainableNetwork, check_gradient_length};
use crate::error::BackboneError;
use crate::layer::FeatureLayer;
use crate::resnet_spec::Activation;

/// The device, copies of the parameters on it, and what the last training forward pass saved.
#[derive(Debug)]
pub(super) struct GpuBackend {
    device: Device,
    /// The type of activations and convolutions.
    conv_dtype: DType,
    /// The type of BatchNorm and global average pooling.
    norm_dtype: DType,
    /// Copies of the parameters, by ID, in the type of their operation.
    parameters: Vec<Tensor>,
    /// The first stage whose parameters have changed since the last upload.
    stale_from: Option<FeatureLayer>,
    cache: Option<GpuStepCache>,
}

/// What the backward pass of the trained stages needs from the forward pass.
#[derive(Debug)]
struct GpuStepCache {
    stem: Option<GpuUnitCache>,
    /// The trained blocks, which are the last blocks of the network.
    blocks: Vec<GpuBlockCache>,
    /// The shape before global average pooling, `[N, H, W, F]`.
    output_shape: [usize; 4],
}

/// What the backward pass of a block needs from its forward pass.
#[derive(Debug)]
struct GpuBlockCache {
    units: Vec<GpuUnitCache>,
    shortcut: Option<GpuUnitCache>,
    /// The output of the last ReLU.
    output: Tensor,
}

/// What the backward pass of a unit needs from its forward pass.
#[derive(Debug)]
struct GpuUnitCache {
    input: Tensor,
    conv_output: Tensor,
    norm: GpuBatchNorm,
    /// The output of the ReLU, if the unit has one.
    output: Option<Tensor>,
}

/// A forward pass in progress.
struct GpuForward<'a> {
    gpu: &'a GpuBackend,
    /// `None` for inference.
    step: Option<TrainStep>,
    /// Count per channel, mean and variance of the batch, for each unit that uses batch statistics.
    batch_statistics: Vec<(usize, [Tensor; 2])>,
}

impl GpuBackend {
    /// Computes convolutions in `conv_dtype`.
    pub(super) fn new(device: Device, conv_dtype: DType) -> Self {
        Self {
            device,
            conv_dtype,
            norm_dtype: DType::F32,
            parameters: Vec::new(),
            stale_from: Some(FeatureLayer::Stem),
            cache: None,
        }
    }

    /// Drops what the last training forward pass saved.
    pub(super) fn clear_cache(&mut self) {
        self.cache = None;
    }

    /// Marks the parameters of `first_stage` and later stages for upload.
    pub(super) fn mark_stale(&mut self, first_stage: FeatureLayer) {
        self.stale_from = Some(self.stale_from.map_or(first_stage, |stale| stale.min(first_stage)));
    }

    /// Copies changed parameters to the device.
    fn upload(&mut self, store: &ParameterStore) -> candle_core::Result<()> {
        let Some(stale_from) = self.stale_from else { return Ok(()) };
        for (id, (parameter, values)) in store.parameters.iter().zip(&store.values).enumerate() {
            if parameter.stage < stale_from {
                continue;
            }
            let dtype = match parameter.role {
                ParameterRole::ConvWeight => self.conv_dtype,
                ParameterRole::BatchNorm => self.norm_dtype,
            };
            let tensor =
                Tensor::from_slice(values, parameter.shape.as_slice(), &self.device)?.to_dtype(dtype)?;
            match self.parameters.get_mut(id) {
                Some(old) => *old = tensor,
                None => self.parameters.push(tensor),
            }
        }
        self.stale_from = None;
        Ok(())
    }

    /// Features `[N, F]` of activations `[N, H, W, C]`, with running statistics.
    pub(super) fn forward(
        &mut self,
        network: &TrainableNetwork,
        input: NhwcView<'_>,
    ) -> Result<Vec<f32>, BackboneError> {
        Ok(self.run_forward(network, input, None)?.0)
    }

    /// Features of a training step, and the statistics of the batch for each unit that uses them, in the
    /// order of the parameters.
    pub(super) fn forward_training(
        &mut self,
        network: &TrainableNetwork,
        input: NhwcView<'_>,
        step: TrainStep,
    ) -> Result<(Vec<f32>, Vec<BatchStatistics>), BackboneError> {
        self.clear_cache();
        let (features, cache, statistics) = self.run_forward(network, input, Some(step))?;
        self.cache = Some(cache);
        Ok((features, statistics))
    }

    /// Features, what a backward pass needs, and the statistics of the batch.
    fn run_forward(
        &mut self,
        network: &TrainableNetwork,
        input: NhwcView<'_>,
        step: Option<TrainStep>,
    ) -> Result<(Vec<f32>, GpuStepCache, Vec<BatchStatistics>), BackboneError> {
        self.upload(&network.store)?;
        let mut forward = GpuForward { gpu: self, step, batch_statistics: Vec::new() };
        let NhwcView { shape, values } = input;
        let dims = (shape.images, shape.height, shape.width, shape.channels);
        let mut xs = Tensor::from_slice(values, dims, &self.device)?.to_dtype(self.conv_dtype)?;
        let (mut stem, mut blocks) = (None, Vec::new());
        if let Some(unit) = &network.stem {
            let (ys, cache) = forward.forward_unit(unit, FeatureLayer::Stem, &xs, Activation::Relu)?;
            (xs, stem) = (pooling::forward(&ys)?, cache);
        }
        for block in &network.blocks {
            let (ys, cache) = forward.forward_block(block, &xs)?;
            blocks.extend(cache);
            xs = ys;
        }
        let (images, height, width, channels) = xs.dims4()?;
        let features = xs.to_dtype(self.norm_dtype)?.reshape((images, height * width, channels))?.mean(1)?;
        let cache = GpuStepCache { stem, blocks, output_shape: [images, height, width, channels] };
        let to_host = |(count, [mean, variance]): (usize, [Tensor; 2])| -> candle_core::Result<_> {
            Ok(BatchStatistics { count, mean: to_host_values(&mean)?, variance: to_host_values(&variance)? })
        };
        let statistics = forward.batch_statistics.into_iter().map(to_host).collect::<Result<_, _>>()?;
        Ok((to_host_values(&features)?, cache, statistics))
    }

    /// Accumulates the gradients of the trained parameters, given the gradient of the features of the last
    /// training forward pass, `[N, F]`.
    pub(super) fn backward(
        &mut self,
        network: &mut TrainableNetwork,
        grad_features: &[f32],
    ) -> Result<(), BackboneError> {
        let expected = self.cache.as_ref().map_or(0, |cache| cache.output_shape[0] * cache.output_shape[3]);
        check_gradient_length(expected, grad_features.len())?;
        let Some(cache) = self.cache.take() else { return Ok(()) };
        let GpuStepCache { stem: stem_cache, blocks: mut caches, output_shape } = cache;
        let TrainableNetwork { store, stem, blocks } = network;
        let [images, height, width, channels] = output_shape;
        let gradient = Tensor::from_slice(grad_features, (images, 1, 1, channels), &self.device)?;
        let gradient = (gradient / (height * width) as f64)?.to_dtype(self.conv_dtype)?;
        let mut gradient = gradient.broadcast_as(output_shape.as_slice())?.contiguous()?;
        for block in blocks.iter().rev() {
            let Some(cache) = caches.pop() else { break };
            let needs_input_grad = !caches.is_empty() || stem_cache.is_some();
            let Some(grad_input) = self.backward_block(store, block, cache, &gradient, needs_input_grad)?
            else {
                break;
            };
            gradient = grad_input;
        }
        if let (Some(unit), Some(cache)) = (stem, stem_cache) {
            if let Some(output) = &cache.output {
                gradient = pooling::backward(output, &gradient)?;
            }
            self.backward_unit(store, unit, cache, &gradient, false)?;
        }
        Ok(())
    }

    /// Accumulates the gradients of the parameters of a block, given the gradient of its output. Returns the
    /// gradient of its input, if `needs_input_grad`.
    fn backward_block(
        &self,
        store: &mut ParameterStore,
        block: &ResidualBlock,
        cache: GpuBlockCache,
        gradient: &Tensor,
        needs_input_grad: bool,
    ) -> candle_core::Result<Option<Tensor>> {
        let GpuBlockCache { units, shortcut, output } = cache;
        let gradient = relu_backward(&output, gradient)?;
        let mut residual_grad = Some(gradient.clone());
        for (index, (unit, cache)) in block.units.iter().zip(units).enumerate().rev() {
            let Some(gradient) = residual_grad else { break };
            residual_grad =
                self.backward_unit(store, unit, cache, &gradient, needs_input_grad || index > 0)?;
        }
        let shortcut_grad = match block.shortcut.as_ref().zip(shortcut) {
            Some((unit, cache)) => self.backward_unit(store, unit, cache, &gradient, needs_input_grad)?,
            None => Some(gradient),
        };
        residual_grad.zip(shortcut_grad).map(|(residual, shortcut)| residual + shortcut).transpose()
    }

    /// Accumulates the gradients of the parameters of a unit, given the gradient of its output. Returns the
    /// gradient of its input, if `needs_input_grad`.
    fn backward_unit(
        &self,
        store: &mut ParameterStore,
        unit: &ConvBnUnit,
        cache: GpuUnitCache,
        gradient: &Tensor,
        needs_input_grad: bool,
    ) -> candle_core::Result<Option<Tensor>> {
        let GpuUnitCache { input, conv_output, norm, output } = cache;
        let gradient = match &output {
            Some(output) => relu_backward(output, gradient)?,
            None => gradient.clone(),
        };
        let grad = norm.backward(&conv_output, &self.parameters[unit.gamma_id], &gradient)?;
        let grad_weight = convolution::backward_weight(&input, unit.kernel, unit.geometry, &grad.input)?;
        for (id, gradient) in
            [(unit.weight_id, grad_weight), (unit.gamma_id, grad.gamma), (unit.beta_id, grad.beta)]
        {
            store.accumulate_gradient(id, &to_host_values(&gradient)?);
        }
        let (_, height, width, _) = input.dims4()?;
        let weight = &self.parameters[unit.weight_id];
        let grad_input = needs_input_grad
            .then(|| convolution::backward_input([height, width], weight, unit.geometry, &grad.input));
        grad_input.transpose()
    }
}

impl GpuForward<'_> {
    /// The output of a block, and its cache if the block is trained.
    fn forward_block(
        &mut self,
        block: &ResidualBlock,
        input: &Tensor,
    ) -> Result<(Tensor, Option<GpuBlockCache>), BackboneError> {
        let mut xs = input.clone();
        let mut units = Vec::new();
        for (index, unit) in block.units.iter().enumerate() {
            let is_last = index + 1 == block.units.len();
            let activation = if is_last { Activation::Identity } else { Activation::Relu };
            let (ys, cache) = self.forward_unit(unit, block.stage, &xs, activation)?;
            units.extend(cache);
            xs = ys;
        }
        let (shortcut_output, shortcut) = match &block.shortcut {
            Some(unit) => self.forward_unit(unit, block.stage, input, Activation::Identity)?,
            None => (input.clone(), None),
        };
        let output = (xs + shortcut_output)?.relu()?;
        let cache = (!units.is_empty()).then(|| GpuBlockCache { units, shortcut, output: output.clone() });
        Ok((output, cache))
    }

    /// The output of a unit of a stage, and its cache if the stage is trained.
    fn forward_unit(
        &mut self,
        unit: &ConvBnUnit,
        stage: FeatureLayer,
        xs: &Tensor,
        activation: Activation,
    ) -> Result<(Tensor, Option<GpuUnitCache>), BackboneError> {
        let [weight, gamma, beta] =
            [unit.weight_id, unit.gamma_id, unit.beta_id].map(|id| &self.gpu.parameters[id]);
        let step = self.step.filter(|step| stage >= step.first_stage);
        let conv_output = convolution::forward(xs, weight, unit.geometry)?;
        let mode = step.map_or(BatchNormMode::Frozen, |step| step.batch_norm_mode);
        let (device, dtype) = (&self.gpu.device, self.gpu.norm_dtype);
        let [mean, variance] = match mode {
            BatchNormMode::Train => {
                let count = conv_output.elem_count() / conv_output.dim(3)?;
                if count < 2 {
                    return Err(BackboneError::SingleValuePerChannel { layer: unit.bn_name.clone() });
                }
                let statistics = batch_norm::batch_statistics(&conv_output, dtype)?;
                self.batch_statistics.push((count, statistics.clone()));
                statistics
            }
            BatchNormMode::Frozen => {
                let vector =
                    |values: &[f32]| Tensor::from_slice(values, values.len(), device)?.to_dtype(dtype);
                [vector(&unit.running_mean)?, vector(&unit.running_var)?]
            }
        };
        let norm = GpuBatchNorm::new(mean, &variance, mode)?;
        let mut ys = norm.forward(&conv_output, gamma, beta)?;
        let has_relu = activation == Activation::Relu;
        if has_relu {
            ys = ys.relu()?;
        }
        let output = has_relu.then(|| ys.clone());
        let cache = step.map(|_| GpuUnitCache { input: xs.clone(), conv_output, norm, output });
        Ok((ys, cache))
    }
}

/// The values as `f32` in CPU memory.
fn to_host_values(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// The gradient of the input of a ReLU; it is 0 where the output is 0, as in PyTorch.
fn relu_backward(output: &Tensor, gradient: &Tensor) -> candle_core::Result<Tensor> {
    gradient * output.gt(0f32)?.to_dtype(gradient.dtype())?
}
