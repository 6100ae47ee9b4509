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
use headstock_engine::{DType, Isa};

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

/// The statistics (mean and variance per channel) with which BatchNorm normalizes while the backbone is
/// fine-tuned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchNormMode {
    /// The running statistics of the pretrained weights, which do not change.
    #[default]
    Frozen,
    /// The statistics of each batch, which also update the running statistics. A batch must have more than
    /// one value per channel.
    Train,
}

/// The input of a stage for a batch of `N` images: the output of the stage before it, `[N, H, W, C]`, or, for
/// the stem, normalized pixels, `[N, H, W, 3]`.
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

/// The last stages of a ResNet, from a chosen stage to global average pooling, for fine-tuning.
///
/// A training step is [`forward_training`](Self::forward_training), [`backward`](Self::backward), an update
/// of [`parameters_mut`](Self::parameters_mut), and [`zero_gradients`](Self::zero_gradients). Without the
/// last, the gradients of the next step are added to those of this one.
#[derive(Debug)]
pub struct TrainableBackbone {
    architecture: Architecture,
    /// The first stage in memory; earlier stages are computed elsewhere, with frozen weights.
    first_loaded: FeatureLayer,
    step: TrainStep,
    network: TrainableNetwork,
    /// What computes forward and backward passes of `network`.
    backend: TrainingBackend,
}

/// The layers of the loaded stages, and their parameters. A unit is a convolution with its BatchNorm.
#[derive(Debug)]
struct TrainableNetwork {
    /// Values and gradients of the parameters, which the layers refer to by ID.
    store: ParameterStore,
    /// The unit before the max pool; `None` if the stem is not loaded.
    stem: Option<ConvBnUnit>,
    /// The residual blocks of all loaded stages, in the order of the forward pass.
    blocks: Vec<ResidualBlock>,
}

/// The implementation that computes forward and backward passes.
#[derive(Debug)]
enum TrainingBackend {
    /// headstock's engine.
    Cpu(Box<CpuBackend>),
    /// candle's operations. Tests also run it on the CPU.
    Gpu(GpuBackend),
}

/// The settings of a forward pass in training.
#[derive(Clone, Copy, Debug)]
struct TrainStep {
    /// The first stage that is trained; loaded stages before it are frozen.
    first_stage: FeatureLayer,
    /// The BatchNorm mode of the trained stages; frozen stages always use running statistics.
    batch_norm_mode: BatchNormMode,
}

impl TrainableBackbone {
    /// Loads the stages of a pretrained ResNet from `first_stage` on, for training on `device`. `mode`
    /// selects the statistics that BatchNorm uses in training. All loaded stages are trained, until
    /// [`set_trainable_from`](Self::set_trainable_from) freezes some. With [`FeatureLayer::Avgpool`] only
    /// global average pooling remains, which has no parameters.
    ///
    /// With [`Precision::Bf16`] a GPU computes convolutions in `bf16`; parameters, gradients and BatchNorm
    /// stay in `f32`. The CPU ignores `precision` and computes everything in `f32`.
    ///
    /// # Errors
    /// [`BackboneError::Checkpoint`] for a NaN or infinite weight; [`BackboneError::Engine`] if a forced
    /// instruction set is not available; [`BackboneError::Device`] if the device is not available.
    pub fn load(
        checkpoint: &Checkpoint,
        first_stage: FeatureLayer,
        mode: BatchNormMode,
        device: DeviceChoice,
        precision: Precision,
    ) -> Result<Self, BackboneError> {
        let backend = match device.open()? {
            Device::Cpu => TrainingBackend::Cpu(Box::new(CpuBackend::new(Isa::choose(DType::F32)?)?)),
            device => TrainingBackend::Gpu(GpuBackend::new(device, precision.dtype())),
        };
        Self::load_with_backend(checkpoint, first_stage, mode, backend)
    }

    /// Reads the stages from `first_stage` on from `checkpoint`, to be trained with `backend`. Each stage is
    /// a list of residual blocks; the stem, a single convolution with BatchNorm, is only loaded if it is
    /// `first_stage`. `mode` selects the statistics that BatchNorm uses in training. The backend is an
    /// argument so that tests can choose the instruction set of the CPU, or run the GPU backend on the CPU.
    fn load_with_backend(
        checkpoint: &Checkpoint,
        first_stage: FeatureLayer,
        mode: BatchNormMode,
        backend: TrainingBackend,
    ) -> Result<Self, BackboneError> {
        let mut loader =
            ParameterLoader { checkpoint, stage: FeatureLayer::Stem, store: ParameterStore::default() };
        let stem = (first_stage == FeatureLayer::Stem)
            .then(|| loader.load_unit(&resnet_spec::stem_conv()))
            .transpose()?;
        let mut blocks = Vec::new();
        for (index, stage) in FeatureLayer::STAGES.into_iter().enumerate() {
            if stage < first_stage {
                continue;
            }
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
            first_loaded: first_stage,
            step: TrainStep { first_stage, batch_norm_mode: mode },
            network,
            backend,
        })
    }

    /// The name, stage, role and shape of each parameter (a tensor that training changes) of the loaded
    /// stages, in the order in which they were loaded. Their values are in
    /// [`parameters_mut`](Self::parameters_mut).
    #[must_use]
    pub fn parameters(&self) -> &[TrainableParameter] {
        &self.network.store.parameters
    }

    /// The number of features per image, `F`: the channels of the last stage, which a head takes as input.
    #[must_use]
    pub fn n_features(&self) -> usize {
        FeatureLayer::Avgpool.channels(self.architecture)
    }

    /// Freezes the loaded stages before `stage`, and trains `stage` and those after it, so that fine-tuning
    /// can unfreeze one stage after the other. Frozen stages run with BatchNorm's running statistics and get
    /// no gradients. Activations saved by the last [`forward_training`](Self::forward_training) are dropped,
    /// because they are those of other stages.
    pub fn set_trainable_from(&mut self, stage: FeatureLayer) {
        self.step.first_stage = stage.max(self.first_loaded);
        match &mut self.backend {
            TrainingBackend::Cpu(cpu) => cpu.clear_cache(),
            TrainingBackend::Gpu(gpu) => gpu.cache = None,
        }
    }

    /// The forward pass for evaluation. `input` is that of the first loaded stage: the output of the frozen
    /// stage before it or, for the stem, normalized pixels. Returns the features, `[N, F]`, row-major. All
    /// BatchNorms use running statistics, and nothing is saved for a backward pass.
    ///
    /// # Errors
    /// [`BackboneError::Activations`] for an input with a wrong shape.
    pub fn forward(&mut self, input: StageActivations<'_>) -> Result<Vec<f32>, BackboneError> {
        let input = self.checked_input(input)?;
        match &mut self.backend {
            TrainingBackend::Cpu(cpu) => cpu.forward(&mut self.network, input),
            TrainingBackend::Gpu(gpu) => Ok(gpu.forward(&self.network, input, None)?.0),
        }
    }

    /// The forward pass of a training step. `input` is that of the first loaded stage, as for
    /// [`forward`](Self::forward). Returns the features, `[N, F]`, row-major, and saves the activations that
    /// [`backward`](Self::backward) needs. With [`BatchNormMode::Train`] the BatchNorms of trained stages use
    /// the statistics of the batch and update their running statistics.
    ///
    /// # Errors
    /// [`BackboneError::Activations`] for an input with a wrong shape;
    /// [`BackboneError::SingleValuePerChannel`] if the batch of a BatchNorm has a single value per channel.
    /// On an error no running statistics are updated.
    pub fn forward_training(&mut self, input: StageActivations<'_>) -> Result<Vec<f32>, BackboneError> {
        let input = self.checked_input(input)?;
        let (features, statistics) = match &mut self.backend {
            TrainingBackend::Cpu(cpu) => cpu.forward_training(&mut self.network, input, self.step)?,
            TrainingBackend::Gpu(gpu) => gpu.forward(&self.network, input, Some(self.step))?,
        };
        // The statistics of the batch for each trained unit; empty in mode `Frozen`.
        for (unit, batch) in self.network.units_mut(self.step.first_stage).zip(&statistics) {
            unit.update_running_stats(batch);
        }
        Ok(features)
    }

    /// The backward pass of a training step: computes the gradients of the loss by the parameters of the
    /// trained stages, and adds them to those in [`parameters_mut`](Self::parameters_mut). `grad_features` is
    /// the gradient of the loss by the features that the last [`forward_training`](Self::forward_training)
    /// returned, `[N, F]`. The parameters must not change between the two passes.
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

    /// Sets the gradients of all parameters to zero, for the next training step, because
    /// [`backward`](Self::backward) adds to them.
    pub fn zero_gradients(&mut self) {
        self.network.store.zero_gradients();
    }

    /// The parameters of the trained stages, with their values and gradients, for an optimizer, which updates
    /// the values.
    pub fn parameters_mut(&mut self) -> impl Iterator<Item = ParameterSlot<'_>> {
        // The caller may change the values, so the copies on the GPU are stale.
        if let TrainingBackend::Gpu(gpu) = &mut self.backend {
            gpu.mark_stale(self.step.first_stage);
        }
        self.network.store.iter_mut_from(self.step.first_stage)
    }

    /// Every tensor that training changes in the loaded stages, by torchvision's name: the parameters, and
    /// `running_mean` and `running_var` of each BatchNorm, `[C]`. Training reads them to save its state, and
    /// writes them to restore it. The values are in the layout of [`parameters`](Self::parameters).
    pub fn state_dict_mut(&mut self) -> impl Iterator<Item = (String, &mut [f32])> {
        // The caller may change the values, so the copies on the GPU are stale.
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

    /// The fine-tuned tensors of all loaded stages, by torchvision's names, to be stored and put in the place
    /// of the pretrained ones by [`Checkpoint::with_tensors`]. They have the layout of a checkpoint: weights
    /// of a convolution are `[O, C, K, K]` (output and input channels, kernel size); `weight`, `bias`,
    /// `running_mean` and `running_var` of a BatchNorm are `[C]`.
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
                // From `[K, K, C, O]`, the layout in training.
                values.permute((3, 2, 0, 1))?.contiguous()?
            } else {
                values
            };
            tensors.insert(name.clone(), values);
        }
        let TrainableNetwork { stem, blocks, .. } = &self.network;
        for unit in stem.iter().chain(blocks.iter().flat_map(ResidualBlock::units)) {
            for (leaf, values) in [("running_mean", &unit.running_mean), ("running_var", &unit.running_var)] {
                let values = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
                tensors.insert(format!("{}.{leaf}", unit.bn_name), values);
            }
        }
        Ok(tensors)
    }

    /// Checks the input of a forward pass, and returns it in the type that the backends take. It is an error
    /// if the input is empty, does not have the channels that the first loaded stage takes (3 for the stem),
    /// or has another number of values than its shape says.
    fn checked_input<'a>(&self, input: StageActivations<'a>) -> Result<NhwcView<'a>, BackboneError> {
        let StageActivations { values, images, height, width, channels } = input;
        let previous_layer = FeatureLayer::ALL.into_iter().rev().find(|layer| *layer < self.first_loaded);
        let expected_channels = previous_layer.map_or(3, |layer| layer.channels(self.architecture));
        // `None` if the product overflows.
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
    /// The units (convolutions with their BatchNorm) of `first_stage` and all later stages, in the order of
    /// their parameters, to update the running statistics of the trained ones.
    fn units_mut(&mut self, first_stage: FeatureLayer) -> impl Iterator<Item = &mut ConvBnUnit> {
        let stem = self.stem.iter_mut().filter(move |_| first_stage == FeatureLayer::Stem);
        let blocks = self.blocks.iter_mut().filter(move |block| block.stage >= first_stage);
        stem.chain(blocks.flat_map(ResidualBlock::units_mut))
    }
}

/// Takes what the last training forward pass saved, for the backward pass that gets `grad_features`: it must
/// have one value for each of the `n_features` of that pass, `N · F`.
fn take_matching_cache<C>(
    cache: &mut Option<C>,
    n_features: impl Fn(&C) -> usize,
    grad_features: &[f32],
) -> Result<C, BackboneError> {
    let expected = cache.as_ref().map(n_features).ok_or(BackboneError::NoForwardPass)?;
    let found = grad_features.len();
    cache.take_if(|_| found == expected).ok_or(BackboneError::GradientLength { expected, found })
}

/// Loads units (convolutions with their BatchNorm) from a checkpoint, one after the other.
struct ParameterLoader<'a> {
    /// The pretrained weights.
    checkpoint: &'a Checkpoint,
    /// The stage of the units that are loaded next; the caller sets it.
    stage: FeatureLayer,
    /// The parameters of all units loaded so far.
    store: ParameterStore,
}

impl ParameterLoader<'_> {
    /// Loads the convolution and BatchNorm that `conv_bn` names. Their parameters go to the store, and the
    /// returned unit has the IDs of these and the running statistics. The weights of the convolution are
    /// permuted from `[O, C, K, K]` (output and input channels, kernel size) to `[K, K, C, O]`, the layout of
    /// the matrix product that computes the convolution.
    fn load_unit(&mut self, conv_bn: &ConvBn) -> Result<ConvBnUnit, BackboneError> {
        let ConvBn { conv, bn, geometry, .. } = conv_bn;
        // Adds a parameter of the current stage to the store, and returns its ID.
        let mut add = |name: String, role, values: &Tensor| -> Result<usize, BackboneError> {
            let (stage, shape) = (self.stage, values.dims().to_vec());
            let values = values.contiguous()?.flatten_all()?.to_vec1()?;
            Ok(self.store.add(TrainableParameter { name, stage, role, shape }, values))
        };
        let weight_name = format!("{conv}.weight");
        let weight = self.checkpoint.tensor(&weight_name)?.permute((2, 3, 1, 0))?;
        let (kernel, _, inputs, outputs) = weight.dims4()?;
        let weight_id = add(weight_name, ParameterRole::ConvWeight, &weight)?;
        let mut add_vector = |leaf: &str| {
            let name = format!("{bn}.{leaf}");
            let values = self.checkpoint.tensor(&name)?;
            add(name, ParameterRole::BatchNorm, &values)
        };
        let (gamma_id, beta_id) = (add_vector("weight")?, add_vector("bias")?);
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
}
