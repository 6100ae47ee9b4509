//! A ResNet that is trained, from a stage on.
//!
//! What comes out of each unit is written down on the way forward, and the way back goes through the same units: no graph. All values are
//! channels last. On the CPU (`host`) convolutions and their derivatives are products of the engine's; on a GPU (`gpu`) candle
//! has the operations, and what moves the parameters finds them and their gradients on the host as well.

mod batch_norm;
mod block;
mod buffer_pool;
mod conv_bn;
mod cpu;
mod gpu;
mod parameters;
mod pooling;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use self::block::ResidualBlock;
use self::conv_bn::ConvBnUnit;
use self::cpu::CpuBackend;
use self::gpu::GpuBackend;
use self::parameters::ParameterStore;
pub use self::parameters::{ParameterRole, ParameterSlot, TrainableParameter};
use self::pooling::NhwcShape;
use crate::architecture::Architecture;
use crate::checkpoint::Checkpoint;
use crate::device::{DeviceChoice, Precision};
use crate::error::BackboneError;
use crate::layer::FeatureLayer;
use crate::resnet_spec::{self, ConvBn};

/// What BatchNorm normalises by while the network is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchNormMode {
    /// The statistics that the checkpoint came with.
    #[default]
    Frozen,
    /// Those of the batch at hand, which the running ones follow.
    Train,
}

/// What the network gives at a layer for some photos, channels last, `[N, H, W, C]`; before the stem, normalised photos
/// `[N, H, W, 3]`.
#[derive(Clone, Copy, Debug)]
pub struct StageActivations<'a> {
    /// The values, channel by channel of each position.
    pub values: &'a [f32],
    /// `N`
    pub images: usize,
    /// `H`
    pub height: usize,
    /// `W`
    pub width: usize,
    /// `C`
    pub channels: usize,
}

/// The stages of a ResNet from one on, and the average over positions at the end.
///
/// A step is [`forward_training`](Self::forward_training), then [`backward`](Self::backward), then whatever moves the
/// [`slots`](Self::slots), then [`zero_gradients`](Self::zero_gradients). Several forwards and backwards before one move add up.
#[derive(Debug)]
pub struct TrainableBackbone {
    architecture: Architecture,
    batch_norm_mode: BatchNormMode,
    first_loaded: FeatureLayer,
    first_trained: FeatureLayer,
    network: TrainableNetwork,
    backend: TrainingBackend,
}

/// What is run.
#[derive(Debug)]
struct TrainableNetwork {
    store: ParameterStore,
    stem: Option<ConvBnUnit>,
    blocks: Vec<ResidualBlock>,
}

/// What runs it.
#[derive(Debug)]
enum TrainingBackend {
    Cpu(Box<CpuBackend>),
    Gpu(GpuBackend),
}

/// A step of training.
#[derive(Clone, Copy, Debug)]
struct TrainStep {
    /// The first stage that is trained.
    first_stage: FeatureLayer,
    /// Whether BatchNorm goes by the statistics of the batch there.
    use_batch_stats: bool,
}

impl TrainableBackbone {
    /// The stages of a checkpoint from `from` on, all of them trained, in `f32` on the CPU; from [`Layer::Avgpool`] on that is nothing
    /// but the average.
    ///
    /// # Errors
    /// [`BackboneError::Checkpoint`] for a weight that is NaN or infinite; [`BackboneError::Engine`] when the instruction set that is
    /// asked for is not to be had.
    pub fn load(
        checkpoint: &Checkpoint,
        first_stage: FeatureLayer,
        mode: BatchNormMode,
    ) -> Result<Self, BackboneError> {
        Self::load_on_device(checkpoint, first_stage, mode, DeviceChoice::Cpu, Precision::F32)
    }

    /// The same on a device. [`Precision::Bf16`] is what a GPU computes convolutions in; parameters, gradients, running statistics and
    /// BatchNorm stay in `f32`, and the CPU has nothing but that.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`BackboneError::Device`] when the device is not there.
    pub fn load_on_device(
        checkpoint: &Checkpoint,
        first_stage: FeatureLayer,
        mode: BatchNormMode,
        device: DeviceChoice,
        precision: Precision,
    ) -> Result<Self, BackboneError> {
        let runner = match device.open()? {
            Device::Cpu => TrainingBackend::Cpu(Box::new(CpuBackend::new()?)),
            device => TrainingBackend::Gpu(GpuBackend::new(device, precision.dtype())),
        };
        Self::load_with_backend(checkpoint, first_stage, mode, runner)
    }

    fn load_with_backend(
        checkpoint: &Checkpoint,
        first_stage: FeatureLayer,
        mode: BatchNormMode,
        backend: TrainingBackend,
    ) -> Result<Self, BackboneError> {
        const STAGES: [FeatureLayer; 4] =
            [FeatureLayer::Layer1, FeatureLayer::Layer2, FeatureLayer::Layer3, FeatureLayer::Layer4];
        let mut loader =
            ParameterLoader { checkpoint, stage: FeatureLayer::Stem, store: ParameterStore::default() };
        let stem = (first_stage == FeatureLayer::Stem)
            .then(|| loader.load_unit(&resnet_spec::stem_conv()))
            .transpose()?;
        let mut blocks = Vec::new();
        for (index, stage) in STAGES.into_iter().enumerate().filter(|(_, stage)| *stage >= first_stage) {
            loader.stage = stage;
            for block in resnet_spec::stage_blocks(checkpoint.architecture(), index) {
                let units = block.convolutions.iter().map(|part| loader.load_unit(part));
                let units = units.collect::<Result<_, _>>()?;
                let shortcut = block.shortcut.as_ref().map(|part| loader.load_unit(part)).transpose()?;
                blocks.push(ResidualBlock { stage, units, shortcut });
            }
        }
        let network = TrainableNetwork { store: loader.store, stem, blocks };
        Ok(Self {
            architecture: checkpoint.architecture(),
            batch_norm_mode: mode,
            first_loaded: first_stage,
            first_trained: first_stage,
            network,
            backend,
        })
    }

    /// What can be trained, in the order in which it runs: of all stages that are loaded.
    #[must_use]
    pub fn parameters(&self) -> &[TrainableParameter] {
        &self.network.store.parameters
    }

    /// The number of features, `F`.
    #[must_use]
    pub fn n_features(&self) -> usize {
        FeatureLayer::Avgpool.channels(self.architecture)
    }

    /// Trains from this stage on only. Those below it that are loaded run frozen: by their running statistics, and without
    /// gradients. What was written down for a way back is dropped.
    pub fn set_trainable_from(&mut self, stage: FeatureLayer) {
        self.first_trained = stage.max(self.first_loaded);
        match &mut self.backend {
            TrainingBackend::Cpu(host) => host.clear_cache(),
            TrainingBackend::Gpu(gpu) => gpu.clear_cache(),
        }
    }

    /// Features `[N, F]`, by the running statistics.
    ///
    /// # Errors
    /// [`BackboneError::Activations`] for sizes that do not fit.
    pub fn forward(&mut self, input: StageActivations<'_>) -> Result<Vec<f32>, BackboneError> {
        let from = (self.input_shape(input)?, input.values);
        match &mut self.backend {
            TrainingBackend::Cpu(host) => host.forward(&mut self.network, from),
            TrainingBackend::Gpu(gpu) => gpu.forward(&self.network, from),
        }
    }

    /// Features `[N, F]` for a step of training, and all that [`backward`](Self::backward) needs is written down. With
    /// [`BatchNormMode::Train`], BatchNorm goes by the statistics of the batch in the stages that are trained, and the running ones
    /// follow them.
    ///
    /// # Errors
    /// [`BackboneError::Activations`] for sizes that do not fit; [`BackboneError::OneValue`] when a BatchNorm sees one value of a
    /// channel only, which has no variance. Running statistics are as before then.
    pub fn forward_training(&mut self, input: StageActivations<'_>) -> Result<Vec<f32>, BackboneError> {
        let from = (self.input_shape(input)?, input.values);
        let training = TrainStep {
            first_stage: self.first_trained,
            use_batch_stats: self.batch_norm_mode == BatchNormMode::Train,
        };
        let (features, statistics) = match &mut self.backend {
            TrainingBackend::Cpu(host) => host.forward_training(&mut self.network, from, training)?,
            TrainingBackend::Gpu(gpu) => gpu.forward_training(&self.network, from, training)?,
        };
        for (unit, batch) in self.network.units_mut(self.first_trained).zip(&statistics) {
            unit.update_running_stats(batch);
        }
        Ok(features)
    }

    /// Adds to the gradients of the stages that are trained, for the derivative of the loss by the features of the last
    /// [`forward_training`](Self::forward_training), `[N, F]`. Between the two, parameters stay as they are.
    ///
    /// # Errors
    /// [`BackboneError::Derivative`] when there was none since the last time, or the number of values is another.
    pub fn backward(&mut self, grad_features: &[f32]) -> Result<(), BackboneError> {
        match &mut self.backend {
            TrainingBackend::Cpu(host) => host.backward(&mut self.network, grad_features),
            TrainingBackend::Gpu(gpu) => gpu.backward(&mut self.network, grad_features),
        }
    }

    /// Sets all gradients to zero.
    pub fn zero_gradients(&mut self) {
        self.network.store.zero_gradients();
    }

    /// The parameters of the stages that are trained, with their gradients.
    pub fn parameters_mut(&mut self) -> impl Iterator<Item = ParameterSlot<'_>> {
        if let TrainingBackend::Gpu(gpu) = &mut self.backend {
            gpu.mark_stale(self.first_trained);
        }
        self.network.store.iter_mut_from(self.first_trained)
    }

    /// All that training changes, of all stages that are loaded, by torchvision's names: the parameters, and of each BatchNorm
    /// `running_mean` and `running_var`, `[C]`.
    pub fn state_dict_mut(&mut self) -> impl Iterator<Item = (String, &mut [f32])> {
        if let TrainingBackend::Gpu(gpu) = &mut self.backend {
            gpu.mark_stale(self.first_loaded);
        }
        let TrainableNetwork { store: ParameterStore { parameters, values, .. }, stem, blocks } =
            &mut self.network;
        let names = parameters.iter().map(|parameter| parameter.name.clone());
        let units = stem.iter_mut().chain(blocks.iter_mut().flat_map(ResidualBlock::units_mut));
        let statistics = units.flat_map(|unit| {
            let named = |leaf: &str| format!("{}.{leaf}", unit.bn_name);
            let names = [named("running_mean"), named("running_var")];
            names.into_iter().zip([unit.running_mean.as_mut_slice(), unit.running_var.as_mut_slice()])
        });
        names.zip(values.iter_mut().map(Vec::as_mut_slice)).chain(statistics)
    }

    /// The tensors of all stages that are loaded, as a checkpoint has them, by torchvision's names: a convolution's weights
    /// `[O, C, K, K]`, of each BatchNorm `weight`, `bias`, `running_mean` and `running_var` `[C]`.
    ///
    /// # Errors
    /// When candle fails.
    pub fn tensors(&self) -> candle_core::Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        for (TrainableParameter { name, role, shape, .. }, values) in
            self.network.store.parameters.iter().zip(&self.network.store.values)
        {
            let values = Tensor::from_slice(values, shape.as_slice(), &Device::Cpu)?;
            let values = if *role == ParameterRole::ConvWeight {
                values.permute((3, 2, 0, 1))?.contiguous()?
            } else {
                values
            };
            tensors.insert(name.clone(), values);
        }
        for unit in self.network.units() {
            for (leaf, values) in [("running_mean", &unit.running_mean), ("running_var", &unit.running_var)] {
                let values = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
                tensors.insert(format!("{}.{leaf}", unit.bn_name), values);
            }
        }
        Ok(tensors)
    }

    /// The size of what comes in, where it fits.
    fn input_shape(&self, input: StageActivations<'_>) -> Result<NhwcShape, BackboneError> {
        let StageActivations { values, images: photos, height, width, channels } = input;
        let previous_layer = FeatureLayer::ALL.into_iter().rev().find(|layer| *layer < self.first_loaded);
        let expected = previous_layer.map_or(3, |layer| layer.channels(self.architecture));
        let count = [height, width, channels].into_iter().try_fold(photos, usize::checked_mul);
        if channels != expected || count != Some(values.len()) || values.is_empty() {
            return Err(BackboneError::Activations {
                from: self.first_loaded,
                expected,
                shape: [photos, height, width, channels],
                values: values.len(),
            });
        }
        Ok(NhwcShape { images: photos, height, width, channels })
    }
}

impl TrainableNetwork {
    /// All units, in the order of their parameters.
    fn units(&self) -> impl Iterator<Item = &ConvBnUnit> {
        self.stem.iter().chain(self.blocks.iter().flat_map(ResidualBlock::units))
    }

    /// Those of the stages from one on.
    fn units_mut(&mut self, from: FeatureLayer) -> impl Iterator<Item = &mut ConvBnUnit> {
        let stem = self.stem.iter_mut().filter(move |_| from == FeatureLayer::Stem);
        let blocks = self.blocks.iter_mut().filter(move |block| block.stage >= from);
        stem.chain(blocks.flat_map(ResidualBlock::units_mut))
    }
}

/// What the last step of training gave is gone, or has other features than `found`.
fn check_gradient_length(expected: usize, found: usize) -> Result<(), BackboneError> {
    if expected == 0 || found != expected {
        return Err(BackboneError::GradientLength { expected, found });
    }
    Ok(())
}

/// Reads units and numbers their parameters.
struct ParameterLoader<'a> {
    checkpoint: &'a Checkpoint,
    stage: FeatureLayer,
    store: ParameterStore,
}

impl ParameterLoader<'_> {
    fn load_unit(&mut self, part: &ConvBn) -> Result<ConvBnUnit, BackboneError> {
        let ConvBn { conv, bn, geometry } = part;
        let name = format!("{conv}.weight");
        let weight = self.checkpoint.tensor(&name)?.permute((2, 3, 1, 0))?;
        let (kernel, _, inputs, outputs) = weight.dims4()?;
        let weight = self.add_parameter(name, ParameterRole::ConvWeight, &weight)?;
        let [gamma, beta] = ["weight", "bias"].map(|leaf| format!("{bn}.{leaf}"));
        let (gamma_values, beta_values) = (self.checkpoint.tensor(&gamma)?, self.checkpoint.tensor(&beta)?);
        let gamma = self.add_parameter(gamma, ParameterRole::BatchNorm, &gamma_values)?;
        let beta = self.add_parameter(beta, ParameterRole::BatchNorm, &beta_values)?;
        let bn_vector = |leaf: &str| -> Result<Vec<f32>, BackboneError> {
            Ok(self.checkpoint.tensor(&format!("{bn}.{leaf}"))?.to_vec1()?)
        };
        let (mean, variance) = (bn_vector("running_mean")?, bn_vector("running_var")?);
        let (bn, geometry) = (bn.clone(), *geometry);
        Ok(ConvBnUnit {
            bn_name: bn,
            geometry,
            inputs,
            outputs,
            kernel,
            weight_id: weight,
            gamma_id: gamma,
            beta_id: beta,
            running_mean: mean,
            running_var: variance,
        })
    }

    fn add_parameter(
        &mut self,
        name: String,
        role: ParameterRole,
        values: &Tensor,
    ) -> Result<usize, BackboneError> {
        let (stage, shape) = (self.stage, values.dims().to_vec());
        let values = values.contiguous()?.flatten_all()?.to_vec1()?;
        Ok(self.store.add(TrainableParameter { name, stage, role, shape }, values))
    }
}
