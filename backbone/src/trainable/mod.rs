//! Training of a ResNet from a chosen stage on.
//!
//! There is no autograd graph: the forward pass saves the outputs of the units, and a hand-written backward
//! pass visits the units in reverse order. All activations are NHWC. The CPU backend (`cpu`) uses the engine,
//! the GPU backend (`gpu`) candle's operations. Both keep parameters and gradients in CPU memory, where the
//! optimizer updates them.

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
use self::pooling::{NhwcShape, NhwcView};
use crate::architecture::Architecture;
use crate::checkpoint::Checkpoint;
use crate::device::{DeviceChoice, Precision};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::BackboneError;
use crate::layer::FeatureLayer;
use crate::resnet_spec::{self, ConvBn};

/// The statistics that BatchNorm uses while the backbone is fine-tuned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchNormMode {
    /// The running statistics of the pretrained weights, which do not change.
    #[default]
    Frozen,
    /// The statistics of each batch, which also update the running statistics. Needs several values per channel.
    Train,
}

/// The input of a stage: activations `[N, H, W, C]` or, for the stem, normalized pixels `[N, H, W, 3]`.
#[derive(Clone, Copy, Debug)]
pub struct StageActivations<'a> {
    /// The values, row-major.
    pub values: &'a [f32],
    /// The number of images, `N`.
    pub images: usize,
    /// The height, `H`.
    pub height: usize,
    /// The width, `W`.
    pub width: usize,
    /// The number of channels, `C`.
    pub channels: usize,
}

/// The last stages of a ResNet, from a chosen stage to global average pooling.
///
/// A training step is [`forward_training`](Self::forward_training), [`backward`](Self::backward), an update
/// of [`parameters_mut`](Self::parameters_mut), and [`zero_gradients`](Self::zero_gradients). Gradients of
/// several forward and backward passes accumulate.
#[derive(Debug)]
pub struct TrainableBackbone {
    architecture: Architecture,
    batch_norm_mode: BatchNormMode,
    first_loaded: FeatureLayer,
    first_trained: FeatureLayer,
    network: TrainableNetwork,
    backend: TrainingBackend,
}

/// The parameters and layers of the loaded stages.
#[derive(Debug)]
struct TrainableNetwork {
    store: ParameterStore,
    stem: Option<ConvBnUnit>,
    blocks: Vec<ResidualBlock>,
}

/// The implementation that runs the network.
#[derive(Debug)]
enum TrainingBackend {
    Cpu(Box<CpuBackend>),
    Gpu(GpuBackend),
}

/// The settings of a training step.
#[derive(Clone, Copy, Debug)]
struct TrainStep {
    /// The first trained stage.
    first_stage: FeatureLayer,
    /// The BatchNorm mode of the trained stages; frozen stages always use running statistics.
    batch_norm_mode: BatchNormMode,
}

impl TrainableBackbone {
    /// Loads the stages from `first_stage` on, all of them trainable, in `f32` on the CPU. With
    /// [`FeatureLayer::Avgpool`] only global average pooling remains.
    ///
    /// # Errors
    /// [`BackboneError::Checkpoint`] for a NaN or infinite weight; [`BackboneError::Engine`] if a forced
    /// instruction set is not available.
    pub fn load(
        checkpoint: &Checkpoint,
        first_stage: FeatureLayer,
        mode: BatchNormMode,
    ) -> Result<Self, BackboneError> {
        Self::load_on_device(checkpoint, first_stage, mode, DeviceChoice::Cpu, Precision::F32)
    }

    /// Like [`load`](Self::load), on a device. With [`Precision::Bf16`] a GPU computes convolutions in
    /// `bf16`; parameters, gradients and BatchNorm stay in `f32`. The CPU ignores the precision and computes
    /// everything in `f32`.
    ///
    /// # Errors
    /// The errors of [`load`](Self::load); [`BackboneError::Device`] if the device is not available.
    pub fn load_on_device(
        checkpoint: &Checkpoint,
        first_stage: FeatureLayer,
        mode: BatchNormMode,
        device: DeviceChoice,
        precision: Precision,
    ) -> Result<Self, BackboneError> {
        let backend = match device.open()? {
            Device::Cpu => TrainingBackend::Cpu(Box::new(CpuBackend::new()?)),
            device => TrainingBackend::Gpu(GpuBackend::new(device, precision.dtype())),
        };
        Self::load_with_backend(checkpoint, first_stage, mode, backend)
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
                let units = block.convolutions.iter().map(|conv_bn| loader.load_unit(conv_bn));
                let units = units.collect::<Result<_, _>>()?;
                let shortcut =
                    block.shortcut.as_ref().map(|conv_bn| loader.load_unit(conv_bn)).transpose()?;
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

    /// The parameters of all loaded stages, in the order of the forward pass.
    #[must_use]
    pub fn parameters(&self) -> &[TrainableParameter] {
        &self.network.store.parameters
    }

    /// The number of features, `F`.
    #[must_use]
    pub fn n_features(&self) -> usize {
        FeatureLayer::Avgpool.channels(self.architecture)
    }

    /// Makes only `stage` and later stages trainable. Earlier loaded stages run frozen: with running
    /// statistics and without gradients. Drops what the last training forward pass saved.
    pub fn set_trainable_from(&mut self, stage: FeatureLayer) {
        self.first_trained = stage.max(self.first_loaded);
        match &mut self.backend {
            TrainingBackend::Cpu(cpu) => cpu.clear_cache(),
            TrainingBackend::Gpu(gpu) => gpu.clear_cache(),
        }
    }

    /// Features `[N, F]`, with running statistics.
    ///
    /// # Errors
    /// [`BackboneError::Activations`] for an input with a wrong shape.
    pub fn forward(&mut self, input: StageActivations<'_>) -> Result<Vec<f32>, BackboneError> {
        let input = self.checked_input(input)?;
        match &mut self.backend {
            TrainingBackend::Cpu(cpu) => cpu.forward(&mut self.network, input),
            TrainingBackend::Gpu(gpu) => gpu.forward(&self.network, input),
        }
    }

    /// Features `[N, F]` of a training step; saves what [`backward`](Self::backward) needs. With
    /// [`BatchNormMode::Train`] the trained stages use the statistics of the batch and update their running
    /// statistics.
    ///
    /// # Errors
    /// [`BackboneError::Activations`] for an input with a wrong shape;
    /// [`BackboneError::SingleValuePerChannel`] if the batch of a BatchNorm has a single value per channel.
    /// On an error no running statistics are updated.
    pub fn forward_training(&mut self, input: StageActivations<'_>) -> Result<Vec<f32>, BackboneError> {
        let input = self.checked_input(input)?;
        let step = TrainStep { first_stage: self.first_trained, batch_norm_mode: self.batch_norm_mode };
        let (features, statistics) = match &mut self.backend {
            TrainingBackend::Cpu(cpu) => cpu.forward_training(&mut self.network, input, step)?,
            TrainingBackend::Gpu(gpu) => gpu.forward_training(&self.network, input, step)?,
        };
        for (unit, batch) in self.network.units_mut(self.first_trained).zip(&statistics) {
            unit.update_running_stats(batch);
        }
        Ok(features)
    }

    /// Accumulates the gradients of the trained stages, given the gradient of the loss with respect to the
    /// features of the last [`forward_training`](Self::forward_training), `[N, F]`. The parameters must not
    /// change in between.
    ///
    /// # Errors
    /// [`BackboneError::GradientLength`] if there was no training forward pass since the last backward pass,
    /// or the number of values differs.
    pub fn backward(&mut self, grad_features: &[f32]) -> Result<(), BackboneError> {
        match &mut self.backend {
            TrainingBackend::Cpu(cpu) => cpu.backward(&mut self.network, grad_features),
            TrainingBackend::Gpu(gpu) => gpu.backward(&mut self.network, grad_features),
        }
    }

    /// Sets all gradients to zero.
    pub fn zero_gradients(&mut self) {
        self.network.store.zero_gradients();
    }

    /// The parameters of the trained stages, with their gradients.
    pub fn parameters_mut(&mut self) -> impl Iterator<Item = ParameterSlot<'_>> {
        if let TrainingBackend::Gpu(gpu) = &mut self.backend {
            gpu.mark_stale(self.first_trained);
        }
        self.network.store.iter_mut_from(self.first_trained)
    }

    /// Everything that training changes in the loaded stages, by torchvision's names: the parameters, and
    /// `running_mean` and `running_var` of each BatchNorm, `[C]`.
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

    /// The tensors of all loaded stages in the layout of a checkpoint, by torchvision's names: convolution
    /// weights `[O, C, K, K]`, and `weight`, `bias`, `running_mean` and `running_var` of each BatchNorm,
    /// `[C]`.
    ///
    /// # Errors
    /// If candle fails, for example out of memory.
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

    /// Checks that the input has the channels of the first stage and as many values as its shape says.
    fn checked_input<'a>(&self, input: StageActivations<'a>) -> Result<NhwcView<'a>, BackboneError> {
        let StageActivations { values, images, height, width, channels } = input;
        let previous_layer = FeatureLayer::ALL.into_iter().rev().find(|layer| *layer < self.first_loaded);
        let expected_channels = previous_layer.map_or(3, |layer| layer.channels(self.architecture));
        let count = [height, width, channels].into_iter().try_fold(images, usize::checked_mul);
        if channels != expected_channels || count != Some(values.len()) || values.is_empty() {
            return Err(BackboneError::Activations {
                first_stage: self.first_loaded,
                expected_channels,
                shape: [images, height, width, channels],
                n_values: values.len(),
            });
        }
        Ok(NhwcView { shape: NhwcShape { images, height, width, channels }, values })
    }
}

impl TrainableNetwork {
    /// All units, in the order of their parameters.
    fn units(&self) -> impl Iterator<Item = &ConvBnUnit> {
        self.stem.iter().chain(self.blocks.iter().flat_map(ResidualBlock::units))
    }

    /// The units of `first_stage` and all later stages, in the order of their parameters.
    fn units_mut(&mut self, first_stage: FeatureLayer) -> impl Iterator<Item = &mut ConvBnUnit> {
        let stem = self.stem.iter_mut().filter(move |_| first_stage == FeatureLayer::Stem);
        let blocks = self.blocks.iter_mut().filter(move |block| block.stage >= first_stage);
        stem.chain(blocks.flat_map(ResidualBlock::units_mut))
    }
}

/// Checks the length of a gradient of the features; `expected` is 0 without a training forward pass.
fn check_gradient_length(expected: usize, found: usize) -> Result<(), BackboneError> {
    if expected == 0 || found != expected {
        return Err(BackboneError::GradientLength { expected, found });
    }
    Ok(())
}

/// Loads units from a checkpoint and assigns IDs to their parameters.
struct ParameterLoader<'a> {
    checkpoint: &'a Checkpoint,
    /// The stage of the next units.
    stage: FeatureLayer,
    store: ParameterStore,
}

impl ParameterLoader<'_> {
    /// Loads a convolution and its BatchNorm.
    fn load_unit(&mut self, conv_bn: &ConvBn) -> Result<ConvBnUnit, BackboneError> {
        let ConvBn { conv, bn, geometry } = conv_bn;
        let weight_name = format!("{conv}.weight");
        let weight = self.checkpoint.tensor(&weight_name)?.permute((2, 3, 1, 0))?;
        let (kernel, _, inputs, outputs) = weight.dims4()?;
        let weight_id = self.add_parameter(weight_name, ParameterRole::ConvWeight, &weight)?;
        let [gamma_name, beta_name] = ["weight", "bias"].map(|leaf| format!("{bn}.{leaf}"));
        let gamma = self.checkpoint.tensor(&gamma_name)?;
        let beta = self.checkpoint.tensor(&beta_name)?;
        let gamma_id = self.add_parameter(gamma_name, ParameterRole::BatchNorm, &gamma)?;
        let beta_id = self.add_parameter(beta_name, ParameterRole::BatchNorm, &beta)?;
        let bn_vector = |leaf: &str| -> Result<Vec<f32>, BackboneError> {
            Ok(self.checkpoint.tensor(&format!("{bn}.{leaf}"))?.to_vec1()?)
        };
        Ok(ConvBnUnit {
            bn_name: bn.clone(),
            geometry: *geometry,
            inputs,
            outputs,
            kernel,
            weight_id,
            gamma_id,
            beta_id,
            running_mean: bn_vector("running_mean")?,
            running_var: bn_vector("running_var")?,
        })
    }

    /// Adds a parameter of the current stage and returns its ID.
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
