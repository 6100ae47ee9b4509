//! Training on a GPU with candle's operations, in NHWC layout.
//!
//! The backward pass is hand-written: candle's autograd would save `K · K` times the input of each
//! convolution, does not support the stem's max pool, and has a gradient of 1 where the output of a ReLU is
//! 0. Here a convolution saves only its input, and frozen stages save nothing. Parameters, gradients and
//! running statistics stay in CPU memory, in `f32`.
//!
//! In shapes `C` and `O` are the input and output channels of a unit or block, `H'` and `W'` height and width
//! of its output, and `F` is the number of features.

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
use super::{BatchNormMode, TrainStep, TrainableNetwork, take_matching_cache};
use crate::error::BackboneError;
use crate::layer::FeatureLayer;
use crate::resnet_spec::Activation;

/// Runs forward and backward passes of the network on a GPU.
#[derive(Debug)]
pub(super) struct GpuBackend {
    device: Device,
    /// The type of activations and convolutions, `f32` or `bf16`.
    conv_dtype: DType,
    /// The type of BatchNorm and global average pooling, `f32` except in tests.
    norm_dtype: DType,
    /// Copies on the device of the parameters in the [`ParameterStore`], by ID. Weights of convolutions are
    /// in `conv_dtype`, scales and shifts of BatchNorm in `norm_dtype`.
    parameters: Vec<Tensor>,
    /// The first stage whose parameters may have changed since they were copied to the device.
    stale_from: Option<FeatureLayer>,
    /// What the last training forward pass saved; `None` after the backward pass.
    pub(super) cache: Option<GpuStepCache>,
}

/// What the backward pass of the trained stages needs from the forward pass of a training step.
#[derive(Debug)]
pub(super) struct GpuStepCache {
    /// What the stem saved; `None` if the stem is not trained.
    stem: Option<GpuUnitCache>,
    /// The trained blocks, which are the last blocks of the network.
    blocks: Vec<GpuBlockCache>,
    /// The shape before global average pooling, `[N, H, W, F]`.
    output_shape: [usize; 4],
}

/// What the backward pass of a block needs from its forward pass.
#[derive(Debug)]
struct GpuBlockCache {
    /// What each unit saved, in sequence.
    units: Vec<GpuUnitCache>,
    /// What the projection of the shortcut saved; `None` for an identity shortcut.
    shortcut: Option<GpuUnitCache>,
    /// The output of the block, after its last ReLU, `[N, H', W', O]`.
    output: Tensor,
}

/// What the backward pass of a unit (convolution, BatchNorm and perhaps a ReLU) needs from its forward pass.
#[derive(Debug)]
struct GpuUnitCache {
    /// The input of the convolution, `[N, H, W, C]`.
    input: Tensor,
    /// The output of the convolution and input of BatchNorm, `[N, H', W', O]`.
    conv_output: Tensor,
    /// The statistics with which BatchNorm normalized `conv_output`.
    norm: GpuBatchNorm,
    /// The output of the ReLU, `[N, H', W', O]`, if the unit has one.
    relu_output: Option<Tensor>,
}

/// A forward pass in progress, which collects the statistics of the batch.
struct GpuForward<'a> {
    /// Has the parameters on the device.
    gpu: &'a GpuBackend,
    /// The first trained stage and the mode of BatchNorm; `None` for evaluation.
    step: Option<TrainStep>,
    /// For each unit run so far that normalizes with statistics of the batch: the number of values per
    /// channel, and their mean and variance, `[O]` each, on the device.
    batch_statistics: Vec<(usize, [Tensor; 2])>,
}

impl GpuBackend {
    /// A backend that computes convolutions on `device` in `conv_dtype`, and BatchNorm in `f32`. The
    /// parameters are copied to the device in the first forward pass.
    pub(super) fn new(device: Device, conv_dtype: DType) -> Self {
        Self {
            device,
            conv_dtype,
            norm_dtype: DType::F32,
            parameters: Vec::new(),
            stale_from: Some(FeatureLayer::Stem), // no parameter is on the device yet
            cache: None,
        }
    }

    /// Notes that the parameters of `first_stage` and later stages may change in CPU memory, by an optimizer
    /// or by a restored state: the next forward pass copies them to the device again.
    pub(super) fn mark_stale(&mut self, first_stage: FeatureLayer) {
        self.stale_from = Some(self.stale_from.map_or(first_stage, |stale| stale.min(first_stage)));
    }

    /// Copies parameters from CPU memory (`store`), where the optimizer changes them, to the device, where
    /// forward and backward passes read them: those of the stages that [`mark_stale`](Self::mark_stale) named
    /// since the last call.
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

    /// Runs all stages of `network` on `input`, `[N, H, W, C]`, which is what the first one takes: normalized
    /// images or the activations of the stage before it. With a `step` it is the forward pass of a training
    /// step, which saves what [`backward`](Self::backward) needs; without, all BatchNorms use running
    /// statistics, and nothing is saved. Returns the features, `[N, F]`, and the statistics of the batch for
    /// each BatchNorm that uses them, in the order of the parameters: the caller updates the running
    /// statistics with them.
    pub(super) fn forward(
        &mut self,
        network: &TrainableNetwork,
        input: NhwcView<'_>,
        step: Option<TrainStep>,
    ) -> Result<(Vec<f32>, Vec<BatchStatistics>), BackboneError> {
        if step.is_some() {
            // Before the memory for the new activations is taken.
            self.cache = None;
        }
        self.upload(&network.store)?;
        let mut forward = GpuForward { gpu: self, step, batch_statistics: Vec::new() };
        let NhwcView { shape, values } = input;
        let dims = (shape.images, shape.height, shape.width, shape.channels);
        // The output of the last stage so far.
        let mut xs = Tensor::from_slice(values, dims, &self.device)?.to_dtype(self.conv_dtype)?;
        // What the trained stages save.
        let (mut stem, mut blocks) = (None, Vec::new());
        if let Some(unit) = &network.stem {
            let (ys, cache) = forward.forward_unit(unit, FeatureLayer::Stem, &xs, Activation::Relu)?;
            (xs, stem) = (pooling::forward(&ys)?, cache);
        }
        for block in &network.blocks {
            let (ys, cache) = forward.forward_block(block, &xs)?;
            blocks.extend(cache); // `None` for a block that is not trained
            xs = ys;
        }
        let (images, height, width, channels) = xs.dims4()?;
        // Global average pooling.
        let features = xs.to_dtype(self.norm_dtype)?.reshape((images, height * width, channels))?.mean(1)?;
        let to_host = |(count, [mean, variance]): (usize, [Tensor; 2])| -> candle_core::Result<_> {
            Ok(BatchStatistics { count, mean: to_host_values(&mean)?, variance: to_host_values(&variance)? })
        };
        let statistics = forward.batch_statistics.into_iter().map(to_host).collect::<Result<_, _>>()?;
        let features = to_host_values(&features)?;
        if step.is_some() {
            self.cache = Some(GpuStepCache { stem, blocks, output_shape: [images, height, width, channels] });
        }
        Ok((features, statistics))
    }

    /// The backward pass of a training step: adds the gradients of the loss by the trained parameters to
    /// those in `network.store`, given `grad_features`, the gradient of the loss by the features that the
    /// last [`forward_training`](Self::forward_training) returned, `[N, F]`.
    pub(super) fn backward(
        &mut self,
        network: &mut TrainableNetwork,
        grad_features: &[f32],
    ) -> Result<(), BackboneError> {
        let n_features = |cache: &GpuStepCache| cache.output_shape[0] * cache.output_shape[3];
        let cache = take_matching_cache(&mut self.cache, n_features, grad_features)?;
        let GpuStepCache { stem: stem_cache, blocks: mut caches, output_shape } = cache;
        let TrainableNetwork { store, stem, blocks } = network;
        let [images, height, width, channels] = output_shape;
        // Global average pooling: each position gets an equal share of the gradient of the mean.
        let gradient = Tensor::from_slice(grad_features, (images, 1, 1, channels), &self.device)?;
        let gradient = (gradient / (height * width) as f64)?.to_dtype(self.conv_dtype)?;
        // The gradient of the output of the current block.
        let mut gradient = gradient.broadcast_as(output_shape.as_slice())?.contiguous()?;
        for block in blocks.iter().rev() {
            let Some(cache) = caches.pop() else { break };
            // The first trained layer needs no gradient of its input.
            let needs_input_grad = !caches.is_empty() || stem_cache.is_some();
            let Some(grad_input) = self.backward_block(store, block, cache, &gradient, needs_input_grad)?
            else {
                break;
            };
            gradient = grad_input;
        }
        if let (Some(unit), Some(cache)) = (stem, stem_cache) {
            // The input of the max pool.
            if let Some(pool_input) = &cache.relu_output {
                gradient = pooling::backward(pool_input, &gradient)?;
            }
            self.backward_unit(store, unit, cache, &gradient, /* needs_input_grad */ false)?;
        }
        Ok(())
    }

    /// The backward pass of a residual block: adds the gradients of the loss by its parameters to those in
    /// `store`, given `grad_output`, the gradient of its output after the last ReLU, `[N, H', W', O]`, and
    /// `cache`, what its forward pass saved. If `needs_input_grad`, returns the gradient of the loss by its
    /// input, `[N, H, W, C]`: the sum of those through the units and through the shortcut.
    fn backward_block(
        &self,
        store: &mut ParameterStore,
        block: &ResidualBlock,
        cache: GpuBlockCache,
        grad_output: &Tensor,
        needs_input_grad: bool,
    ) -> candle_core::Result<Option<Tensor>> {
        let GpuBlockCache { units, shortcut, output } = cache;
        // The gradient of the sum of the last unit's output and the shortcut, which the last ReLU takes.
        let grad_sum = relu_backward(&output, grad_output)?;
        // The gradient of the output of the current unit; after the loop, of the input through the units.
        let mut residual_grad = Some(grad_sum.clone());
        for (index, (unit, cache)) in block.units.iter().zip(units).enumerate().rev() {
            let Some(grad_unit_output) = residual_grad else { break };
            residual_grad =
                self.backward_unit(store, unit, cache, &grad_unit_output, needs_input_grad || index > 0)?;
        }
        let shortcut_grad = match block.shortcut.as_ref().zip(shortcut) {
            Some((unit, cache)) => self.backward_unit(store, unit, cache, &grad_sum, needs_input_grad)?,
            None => Some(grad_sum), // identity
        };
        residual_grad.zip(shortcut_grad).map(|(residual, shortcut)| residual + shortcut).transpose()
    }

    /// The backward pass of a unit (convolution, BatchNorm and perhaps a ReLU): adds the gradients of the
    /// loss by its parameters (weights, `γ` and `β`) to those in `store`, given `grad_output`, the gradient
    /// of its output, `[N, H', W', O]`, and `cache`, what its forward pass saved. If `needs_input_grad`,
    /// returns the gradient of the loss by its input, `[N, H, W, C]`.
    fn backward_unit(
        &self,
        store: &mut ParameterStore,
        unit: &ConvBnUnit,
        cache: GpuUnitCache,
        grad_output: &Tensor,
        needs_input_grad: bool,
    ) -> candle_core::Result<Option<Tensor>> {
        let GpuUnitCache { input, conv_output, norm, relu_output } = cache;
        let grad_norm_output = match &relu_output {
            Some(relu_output) => relu_backward(relu_output, grad_output)?,
            None => grad_output.clone(),
        };
        let [grad_gamma, grad_beta, grad_conv_output] =
            norm.backward(&conv_output, &self.parameters[unit.gamma_id], &grad_norm_output)?;
        let grad_weight =
            convolution::backward_weight(&input, unit.kernel, unit.geometry, &grad_conv_output)?;
        for (id, gradient) in
            [(unit.weight_id, grad_weight), (unit.gamma_id, grad_gamma), (unit.beta_id, grad_beta)]
        {
            store.accumulate_gradient(id, &to_host_values(&gradient)?);
        }
        let (_, height, width, _) = input.dims4()?;
        let weight = &self.parameters[unit.weight_id];
        let grad_input = needs_input_grad
            .then(|| convolution::backward_input([height, width], weight, unit.geometry, &grad_conv_output));
        grad_input.transpose()
    }
}

impl GpuForward<'_> {
    /// The forward pass of a residual block on `input`, `[N, H, W, C]`: its units (convolution and BatchNorm)
    /// in sequence with ReLUs between them, plus the shortcut, then a ReLU. Returns the output, `[N, H', W',
    /// O]` with `O` output channels, and what [`backward_block`](GpuBackend::backward_block) needs, which is
    /// `None` unless the block is trained.
    fn forward_block(
        &mut self,
        block: &ResidualBlock,
        input: &Tensor,
    ) -> Result<(Tensor, Option<GpuBlockCache>), BackboneError> {
        // The output of the last unit so far.
        let mut xs = input.clone();
        // What the units save: nothing, unless the block is trained.
        let mut units = Vec::new();
        for (index, unit) in block.units.iter().enumerate() {
            let is_last = index + 1 == block.units.len();
            // After the last unit, the ReLU follows the sum with the shortcut.
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

    /// The forward pass of a unit on `input`, `[N, H, W, C]`: convolution, BatchNorm and `activation`.
    /// `stage` is the stage of the unit: only a trained stage may normalize with statistics of the batch,
    /// which are added to `self.batch_statistics`. Returns the output, `[N, H', W', O]` with `O` output
    /// channels, and what [`backward_unit`](GpuBackend::backward_unit) needs, which is `None` unless the
    /// stage is trained.
    fn forward_unit(
        &mut self,
        unit: &ConvBnUnit,
        stage: FeatureLayer,
        input: &Tensor,
        activation: Activation,
    ) -> Result<(Tensor, Option<GpuUnitCache>), BackboneError> {
        let [weight, gamma, beta] =
            [unit.weight_id, unit.gamma_id, unit.beta_id].map(|id| &self.gpu.parameters[id]);
        // `None` unless the stage is trained.
        let step = self.step.filter(|step| stage >= step.first_stage);
        let conv_output = convolution::forward(input, weight, unit.geometry)?;
        let mode = step.map_or(BatchNormMode::Frozen, |step| step.batch_norm_mode);
        let (device, dtype) = (&self.gpu.device, self.gpu.norm_dtype);
        let [mean, variance] = match mode {
            BatchNormMode::Train => {
                // Values per channel, of all images and positions. The variance of one value is undefined.
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
        let mut output = norm.forward(&conv_output, gamma, beta)?;
        let has_relu = activation == Activation::Relu;
        if has_relu {
            output = output.relu()?;
        }
        let relu_output = has_relu.then(|| output.clone());
        let cache = step.map(|_| GpuUnitCache { input: input.clone(), conv_output, norm, relu_output });
        Ok((output, cache))
    }
}

/// Copies the values of a tensor from the device to CPU memory, as `f32`, row-major.
fn to_host_values(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// The backward pass of a ReLU: the gradient of the loss by its input, given its `output` in the forward pass
/// and `grad_output`, the gradient by that output, in the same shape. It is 0 where the output is 0, as in
/// PyTorch, and `grad_output` elsewhere.
fn relu_backward(output: &Tensor, grad_output: &Tensor) -> candle_core::Result<Tensor> {
    grad_output * output.gt(0f32)?.to_dtype(grad_output.dtype())?
}
