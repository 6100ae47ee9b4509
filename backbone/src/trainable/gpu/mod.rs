//! The network on a GPU, in candle's operations, channels last: forward, and back from the derivative of the features.
//!
//! The way back is written out. candle's own goes through each copy that a convolution is made of, keeps `K K` times its input, cannot
//! go through the stem's pool, and takes a derivative of 1 where a ReLU gave 0. Here a convolution keeps its input alone, and what is not
//! trained keeps nothing. Values, gradients and running statistics stay on the host, in `f32`.

mod batch_norm;
mod convolution;
mod pooling;
#[cfg(test)]
mod tests;

use candle_core::{DType, Device, Result, Tensor};

use self::batch_norm::GpuBatchNorm;
use super::batch_norm::BatchStatistics;
use super::block::ResidualBlock;
use super::conv_bn::ConvBnUnit;
use super::parameters::{ParameterRole, ParameterStore};
use super::pooling::NhwcShape;
use super::{TrainStep, TrainableNetwork, check_gradient_length};
use crate::error::BackboneError;
use crate::layer::FeatureLayer;

type Ran<T> = std::result::Result<T, BackboneError>;

/// The parameters on a device, and what runs there.
#[derive(Debug)]
pub(super) struct GpuBackend {
    device: Device,
    /// What convolutions are computed in.
    conv_dtype: DType,
    /// What BatchNorm and averages are computed in.
    norm_dtype: DType,
    /// By number: each in the type that it is used in.
    parameters: Vec<Tensor>,
    /// The first stage whose values on the host are newer.
    stale_from: Option<FeatureLayer>,
    cache: Option<GpuStepCache>,
}

/// What is kept of the way forward for the way back: of the stages that are trained.
#[derive(Debug)]
struct GpuStepCache {
    stem: Option<GpuUnitCache>,
    /// The last ones of the network's.
    blocks: Vec<GpuBlockCache>,
    /// The size of what was averaged, `[N, H, W, F]`.
    size: [usize; 4],
}

#[derive(Debug)]
struct GpuBlockCache {
    units: Vec<GpuUnitCache>,
    shortcut: Option<GpuUnitCache>,
    /// What its last ReLU gave.
    output: Tensor,
}

#[derive(Debug)]
struct GpuUnitCache {
    input: Tensor,
    /// What the convolution gave.
    conv_output: Tensor,
    norm: GpuBatchNorm,
    /// What the ReLU gave, where one follows.
    output: Option<Tensor>,
}

/// A pass through the network.
struct GpuForward<'a> {
    gpu: &'a GpuBackend,
    training: Option<TrainStep>,
    /// Of the batch, for each unit that goes by them: how many positions they are of, mean and variance.
    batch_statistics: Vec<(usize, [Tensor; 2])>,
}

impl GpuBackend {
    /// Computes convolutions in `dtype`.
    pub(super) fn new(device: Device, dtype: DType) -> Self {
        let (wide, stale) = (DType::F32, Some(FeatureLayer::Stem));
        Self {
            device,
            conv_dtype: dtype,
            norm_dtype: wide,
            parameters: Vec::new(),
            stale_from: stale,
            cache: None,
        }
    }

    /// Drops what was written down for a way back.
    pub(super) fn clear_cache(&mut self) {
        self.cache = None;
    }

    /// The values on the host have changed from this stage on.
    pub(super) fn mark_stale(&mut self, from: FeatureLayer) {
        self.stale_from = Some(self.stale_from.map_or(from, |stale| stale.min(from)));
    }

    fn upload(&mut self, store: &ParameterStore) -> Result<()> {
        let Some(stale) = self.stale_from else { return Ok(()) };
        for (number, (parameter, values)) in store.parameters.iter().zip(&store.values).enumerate() {
            if parameter.stage < stale {
                continue;
            }
            let dtype = match parameter.role {
                ParameterRole::ConvWeight => self.conv_dtype,
                ParameterRole::BatchNorm => self.norm_dtype,
            };
            let tensor =
                Tensor::from_slice(values, parameter.shape.as_slice(), &self.device)?.to_dtype(dtype)?;
            match self.parameters.get_mut(number) {
                Some(old) => *old = tensor,
                None => self.parameters.push(tensor),
            }
        }
        self.stale_from = None;
        Ok(())
    }

    /// Features `[N, F]` of values `[N, H, W, C]`, by the running statistics.
    pub(super) fn forward(&mut self, network: &TrainableNetwork, from: (NhwcShape, &[f32])) -> Ran<Vec<f32>> {
        Ok(self.run_forward(network, from, None)?.0)
    }

    /// Features for a step of training, and the batch's statistics for each unit that goes by them, in the order of the parameters.
    pub(super) fn forward_training(
        &mut self,
        network: &TrainableNetwork,
        from: (NhwcShape, &[f32]),
        training: TrainStep,
    ) -> Ran<(Vec<f32>, Vec<BatchStatistics>)> {
        self.clear_cache();
        let (features, tape, statistics) = self.run_forward(network, from, Some(training))?;
        self.cache = Some(tape);
        Ok((features, statistics))
    }

    fn run_forward(
        &mut self,
        network: &TrainableNetwork,
        (size, input): (NhwcShape, &[f32]),
        training: Option<TrainStep>,
    ) -> Ran<(Vec<f32>, GpuStepCache, Vec<BatchStatistics>)> {
        self.upload(&network.store)?;
        let mut run = GpuForward { gpu: self, training, batch_statistics: Vec::new() };
        let dims = (size.images, size.height, size.width, size.channels);
        let mut xs = Tensor::from_slice(input, dims, &self.device)?.to_dtype(self.conv_dtype)?;
        let (mut stem, mut blocks) = (None, Vec::new());
        if let Some(unit) = &network.stem {
            let (ys, pass) = run.forward_unit(unit, FeatureLayer::Stem, &xs, true)?;
            (xs, stem) = (pooling::forward(&ys)?, pass);
        }
        for block in &network.blocks {
            let (ys, pass) = run.forward_block(block, &xs)?;
            blocks.extend(pass);
            xs = ys;
        }
        let (photos, height, width, channels) = xs.dims4()?;
        let features = xs.to_dtype(self.norm_dtype)?.reshape((photos, height * width, channels))?.mean(1)?;
        let tape = GpuStepCache { stem, blocks, size: [photos, height, width, channels] };
        let statistics = |(count, [mean, variance]): (usize, [Tensor; 2])| -> Ran<BatchStatistics> {
            Ok(BatchStatistics { count, mean: to_host_values(&mean)?, variance: to_host_values(&variance)? })
        };
        let seen = run.batch_statistics.into_iter().map(statistics).collect::<Ran<_>>()?;
        Ok((to_host_values(&features)?, tape, seen))
    }

    /// Adds the derivatives by what is trained, for that by the features of the last step.
    pub(super) fn backward(&mut self, network: &mut TrainableNetwork, grad_features: &[f32]) -> Ran<()> {
        let expected = self.cache.as_ref().map_or(0, |GpuStepCache { size, .. }| size[0] * size[3]);
        check_gradient_length(expected, grad_features.len())?;
        let Some(GpuStepCache { stem, mut blocks, size }) = self.cache.take() else { return Ok(()) };
        let TrainableNetwork { store, stem: first, blocks: all } = network;
        let [photos, height, width, channels] = size;
        let gradient = Tensor::from_slice(grad_features, (photos, 1, 1, channels), &self.device)?;
        let gradient = (gradient / (height * width) as f64)?.to_dtype(self.conv_dtype)?;
        let mut gradient = gradient.broadcast_as(size.as_slice())?.contiguous()?;
        for block in all.iter().rev() {
            let Some(pass) = blocks.pop() else { break };
            let needs_input_grad = !blocks.is_empty() || stem.is_some();
            let Some(grad_input) = self.backward_block(store, block, pass, &gradient, needs_input_grad)?
            else {
                break;
            };
            gradient = grad_input;
        }
        if let (Some(unit), Some(pass)) = (first, stem) {
            if let Some(output) = &pass.output {
                gradient = pooling::backward(output, &gradient)?;
            }
            self.backward_unit(store, unit, pass, &gradient, false)?;
        }
        Ok(())
    }

    /// The derivative by the block's input, where it is asked for.
    fn backward_block(
        &self,
        store: &mut ParameterStore,
        block: &ResidualBlock,
        pass: GpuBlockCache,
        gradient: &Tensor,
        needs_input_grad: bool,
    ) -> Result<Option<Tensor>> {
        let GpuBlockCache { units, shortcut, output } = pass;
        let gradient = relu_backward(&output, gradient)?;
        let mut inside = Some(gradient.clone());
        for (number, (unit, pass)) in block.units.iter().zip(units).enumerate().rev() {
            let Some(gradient) = inside else { break };
            inside = self.backward_unit(store, unit, pass, &gradient, needs_input_grad || number > 0)?;
        }
        let shortcut_grad = match block.shortcut.as_ref().zip(shortcut) {
            Some((unit, pass)) => self.backward_unit(store, unit, pass, &gradient, needs_input_grad)?,
            None => Some(gradient),
        };
        inside.zip(shortcut_grad).map(|(inside, around)| inside + around).transpose()
    }

    fn backward_unit(
        &self,
        store: &mut ParameterStore,
        unit: &ConvBnUnit,
        pass: GpuUnitCache,
        gradient: &Tensor,
        needs_input_grad: bool,
    ) -> Result<Option<Tensor>> {
        let GpuUnitCache { input, conv_output: sums, norm, output } = pass;
        let gradient = match &output {
            Some(output) => relu_backward(output, gradient)?,
            None => gradient.clone(),
        };
        let back = norm.backward(&sums, &self.parameters[unit.gamma_id], &gradient)?;
        let grad_weight = convolution::backward_weight(&input, unit.kernel, unit.geometry, &back.input)?;
        for (number, derivative) in
            [(unit.weight_id, grad_weight), (unit.gamma_id, back.gamma), (unit.beta_id, back.beta)]
        {
            store.accumulate_gradient(number, &to_host_values(&derivative)?);
        }
        let (_, height, width, _) = input.dims4()?;
        let weight = &self.parameters[unit.weight_id];
        let derivative = needs_input_grad
            .then(|| convolution::backward_input([height, width], weight, unit.geometry, &back.input));
        derivative.transpose()
    }
}

impl GpuForward<'_> {
    /// What a block gives, and what it keeps where it is trained.
    fn forward_block(
        &mut self,
        block: &ResidualBlock,
        input: &Tensor,
    ) -> Ran<(Tensor, Option<GpuBlockCache>)> {
        let mut xs = input.clone();
        let mut units = Vec::new();
        for (number, unit) in block.units.iter().enumerate() {
            let (ys, pass) = self.forward_unit(unit, block.stage, &xs, number + 1 < block.units.len())?;
            units.extend(pass);
            xs = ys;
        }
        let (around, shortcut) = match &block.shortcut {
            Some(unit) => self.forward_unit(unit, block.stage, input, false)?,
            None => (input.clone(), None),
        };
        let output = (xs + around)?.relu()?;
        let pass = (!units.is_empty()).then(|| GpuBlockCache { units, shortcut, output: output.clone() });
        Ok((output, pass))
    }

    /// What a unit of a stage gives, and what it keeps where that is trained.
    fn forward_unit(
        &mut self,
        unit: &ConvBnUnit,
        stage: FeatureLayer,
        xs: &Tensor,
        relu: bool,
    ) -> Ran<(Tensor, Option<GpuUnitCache>)> {
        let [weight, gamma, beta] =
            [unit.weight_id, unit.gamma_id, unit.beta_id].map(|number| &self.gpu.parameters[number]);
        let training = self.training.filter(|training| stage >= training.first_stage);
        let sums = convolution::forward(xs, weight, unit.geometry)?;
        let uses_batch_stats = training.is_some_and(|training| training.use_batch_stats);
        let (device, wide) = (&self.gpu.device, self.gpu.norm_dtype);
        let [mean, variance] = if uses_batch_stats {
            let count = sums.elem_count() / sums.dim(3)?;
            if count < 2 {
                return Err(BackboneError::SingleValuePerChannel { name: unit.bn_name.clone() });
            }
            let statistics = batch_norm::batch_statistics(&sums, wide)?;
            self.batch_statistics.push((count, statistics.clone()));
            statistics
        } else {
            let vector = |values: &[f32]| Tensor::from_slice(values, values.len(), device)?.to_dtype(wide);
            [vector(&unit.running_mean)?, vector(&unit.running_var)?]
        };
        let norm = GpuBatchNorm::new(mean, &variance, uses_batch_stats)?;
        let mut ys = norm.forward(&sums, gamma, beta)?;
        if relu {
            ys = ys.relu()?;
        }
        let pass = training.map(|_| GpuUnitCache {
            input: xs.clone(),
            conv_output: sums,
            norm,
            output: relu.then(|| ys.clone()),
        });
        Ok((ys, pass))
    }
}

/// On the host.
fn to_host_values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// The derivative by what went into a ReLU; at 0 it is 0, as PyTorch's.
fn relu_backward(output: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    gradient * output.gt(0f32)?.to_dtype(gradient.dtype())?
}
