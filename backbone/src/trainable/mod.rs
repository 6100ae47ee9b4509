//! A ResNet that is trained, from a stage on.
//!
//! What comes out of each unit is written down on the way forward, and the way back goes through the same units: no graph. All values are
//! channels last. On the CPU (`host`) convolutions and their derivatives are products of the engine's; on a GPU (`gpu`) candle
//! has the operations, and what moves the parameters finds them and their gradients on the host as well.

mod block;
mod buffers;
mod gpu;
mod host;
mod norm;
mod parameters;
mod pool;
#[cfg(test)]
mod tests;
mod unit;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use self::block::Block;
use self::gpu::Gpu;
use self::host::Host;
use self::parameters::Store;
pub use self::parameters::{Parameter, Role, Slot};
use self::pool::Size;
use self::unit::Unit;
use crate::architecture::Architecture;
use crate::blueprint::{self, Part};
use crate::checkpoint::Checkpoint;
use crate::device::{DeviceChoice, Precision};
use crate::error::BackboneError;
use crate::layer::Layer;

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
pub struct Activations<'a> {
    /// The values, channel by channel of each position.
    pub values: &'a [f32],
    /// `N`
    pub photos: usize,
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
pub struct Trainable {
    architecture: Architecture,
    mode: BatchNormMode,
    from: Layer,
    tuned: Layer,
    network: Network,
    runner: Runner,
}

/// What is run.
#[derive(Debug)]
struct Network {
    store: Store,
    stem: Option<Unit>,
    blocks: Vec<Block>,
}

/// What runs it.
#[derive(Debug)]
enum Runner {
    Host(Box<Host>),
    Gpu(Gpu),
}

/// A step of training.
#[derive(Clone, Copy, Debug)]
struct Training {
    /// The first stage that is trained.
    from: Layer,
    /// Whether BatchNorm goes by the statistics of the batch there.
    by_batch: bool,
}

impl Trainable {
    /// The stages of a checkpoint from `from` on, all of them trained, in `f32` on the CPU; from [`Layer::Avgpool`] on that is nothing
    /// but the average.
    ///
    /// # Errors
    /// [`BackboneError::Checkpoint`] for a weight that is NaN or infinite; [`BackboneError::Engine`] when the instruction set that is
    /// asked for is not to be had.
    pub fn load(checkpoint: &Checkpoint, from: Layer, mode: BatchNormMode) -> Result<Self, BackboneError> {
        Self::load_on(checkpoint, from, mode, DeviceChoice::Cpu, Precision::F32)
    }

    /// The same on a device. [`Precision::Bf16`] is what a GPU computes convolutions in; parameters, gradients, running statistics and
    /// BatchNorm stay in `f32`, and the CPU has nothing but that.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`BackboneError::Device`] when the device is not there.
    pub fn load_on(
        checkpoint: &Checkpoint,
        from: Layer,
        mode: BatchNormMode,
        device: DeviceChoice,
        precision: Precision,
    ) -> Result<Self, BackboneError> {
        let runner = match device.open()? {
            Device::Cpu => Runner::Host(Box::new(Host::new()?)),
            device => Runner::Gpu(Gpu::new(device, precision.dtype())),
        };
        Self::load_for(checkpoint, from, mode, runner)
    }

    fn load_for(
        checkpoint: &Checkpoint,
        from: Layer,
        mode: BatchNormMode,
        runner: Runner,
    ) -> Result<Self, BackboneError> {
        const STAGES: [Layer; 4] = [Layer::Layer1, Layer::Layer2, Layer::Layer3, Layer::Layer4];
        let mut loading = Loading { checkpoint, stage: Layer::Stem, store: Store::default() };
        let stem = (from == Layer::Stem).then(|| loading.unit(&blueprint::stem())).transpose()?;
        let mut blocks = Vec::new();
        for (index, stage) in STAGES.into_iter().enumerate().filter(|(_, stage)| *stage >= from) {
            loading.stage = stage;
            for block in blueprint::stage(checkpoint.architecture(), index) {
                let units = block.convolutions.iter().map(|part| loading.unit(part));
                let units = units.collect::<Result<_, _>>()?;
                let shortcut = block.shortcut.as_ref().map(|part| loading.unit(part)).transpose()?;
                blocks.push(Block { stage, units, shortcut });
            }
        }
        let network = Network { store: loading.store, stem, blocks };
        Ok(Self { architecture: checkpoint.architecture(), mode, from, tuned: from, network, runner })
    }

    /// What can be trained, in the order in which it runs: of all stages that are loaded.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.network.store.parameters
    }

    /// The number of features, `F`.
    #[must_use]
    pub fn width(&self) -> usize {
        Layer::Avgpool.channels(self.architecture)
    }

    /// Trains from this stage on only. Those below it that are loaded run frozen: by their running statistics, and without
    /// gradients. What was written down for a way back is dropped.
    pub fn tune_from(&mut self, stage: Layer) {
        self.tuned = stage.max(self.from);
        match &mut self.runner {
            Runner::Host(host) => host.forget(),
            Runner::Gpu(gpu) => gpu.forget(),
        }
    }

    /// Features `[N, F]`, by the running statistics.
    ///
    /// # Errors
    /// [`BackboneError::Activations`] for sizes that do not fit.
    pub fn forward(&mut self, input: Activations<'_>) -> Result<Vec<f32>, BackboneError> {
        let from = (self.size(input)?, input.values);
        match &mut self.runner {
            Runner::Host(host) => host.forward(&mut self.network, from),
            Runner::Gpu(gpu) => gpu.forward(&self.network, from),
        }
    }

    /// Features `[N, F]` for a step of training, and all that [`backward`](Self::backward) needs is written down. With
    /// [`BatchNormMode::Train`], BatchNorm goes by the statistics of the batch in the stages that are trained, and the running ones
    /// follow them.
    ///
    /// # Errors
    /// [`BackboneError::Activations`] for sizes that do not fit; [`BackboneError::OneValue`] when a BatchNorm sees one value of a
    /// channel only, which has no variance. Running statistics are as before then.
    pub fn forward_training(&mut self, input: Activations<'_>) -> Result<Vec<f32>, BackboneError> {
        let from = (self.size(input)?, input.values);
        let training = Training { from: self.tuned, by_batch: self.mode == BatchNormMode::Train };
        let (features, statistics) = match &mut self.runner {
            Runner::Host(host) => host.forward_training(&mut self.network, from, training)?,
            Runner::Gpu(gpu) => gpu.forward_training(&self.network, from, training)?,
        };
        for (unit, batch) in self.network.units_mut(self.tuned).zip(&statistics) {
            unit.follow(batch);
        }
        Ok(features)
    }

    /// Adds to the gradients of the stages that are trained, for the derivative of the loss by the features of the last
    /// [`forward_training`](Self::forward_training), `[N, F]`. Between the two, parameters stay as they are.
    ///
    /// # Errors
    /// [`BackboneError::Derivative`] when there was none since the last time, or the number of values is another.
    pub fn backward(&mut self, by_features: &[f32]) -> Result<(), BackboneError> {
        match &mut self.runner {
            Runner::Host(host) => host.backward(&mut self.network, by_features),
            Runner::Gpu(gpu) => gpu.backward(&mut self.network, by_features),
        }
    }

    /// Sets all gradients to zero.
    pub fn zero_gradients(&mut self) {
        self.network.store.zero_gradients();
    }

    /// The parameters of the stages that are trained, with their gradients.
    pub fn slots(&mut self) -> impl Iterator<Item = Slot<'_>> {
        if let Runner::Gpu(gpu) = &mut self.runner {
            gpu.changed(self.tuned);
        }
        self.network.store.slots(self.tuned)
    }

    /// All that training changes, of all stages that are loaded, by torchvision's names: the parameters, and of each BatchNorm
    /// `running_mean` and `running_var`, `[C]`.
    pub fn values(&mut self) -> impl Iterator<Item = (String, &mut [f32])> {
        if let Runner::Gpu(gpu) = &mut self.runner {
            gpu.changed(self.from);
        }
        let Network { store: Store { parameters, values, .. }, stem, blocks } = &mut self.network;
        let names = parameters.iter().map(|parameter| parameter.name.clone());
        let units = stem.iter_mut().chain(blocks.iter_mut().flat_map(Block::units_mut));
        let statistics = units.flat_map(|unit| {
            let named = |leaf: &str| format!("{}.{leaf}", unit.bn);
            let names = [named("running_mean"), named("running_var")];
            names.into_iter().zip([unit.mean.as_mut_slice(), unit.variance.as_mut_slice()])
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
        for (Parameter { name, role, shape, .. }, values) in
            self.network.store.parameters.iter().zip(&self.network.store.values)
        {
            let values = Tensor::from_slice(values, shape.as_slice(), &Device::Cpu)?;
            let values =
                if *role == Role::Weight { values.permute((3, 2, 0, 1))?.contiguous()? } else { values };
            tensors.insert(name.clone(), values);
        }
        for unit in self.network.units() {
            for (leaf, values) in [("running_mean", &unit.mean), ("running_var", &unit.variance)] {
                let values = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
                tensors.insert(format!("{}.{leaf}", unit.bn), values);
            }
        }
        Ok(tensors)
    }

    /// The size of what comes in, where it fits.
    fn size(&self, input: Activations<'_>) -> Result<Size, BackboneError> {
        let Activations { values, photos, height, width, channels } = input;
        let before = Layer::ALL.into_iter().rev().find(|layer| *layer < self.from);
        let expected = before.map_or(3, |layer| layer.channels(self.architecture));
        let count = [height, width, channels].into_iter().try_fold(photos, usize::checked_mul);
        if channels != expected || count != Some(values.len()) || values.is_empty() {
            return Err(BackboneError::Activations {
                from: self.from,
                expected,
                shape: [photos, height, width, channels],
                values: values.len(),
            });
        }
        Ok(Size { photos, height, width, channels })
    }
}

impl Network {
    /// All units, in the order of their parameters.
    fn units(&self) -> impl Iterator<Item = &Unit> {
        self.stem.iter().chain(self.blocks.iter().flat_map(Block::units))
    }

    /// Those of the stages from one on.
    fn units_mut(&mut self, from: Layer) -> impl Iterator<Item = &mut Unit> {
        let stem = self.stem.iter_mut().filter(move |_| from == Layer::Stem);
        let blocks = self.blocks.iter_mut().filter(move |block| block.stage >= from);
        stem.chain(blocks.flat_map(Block::units_mut))
    }
}

/// What the last step of training gave is gone, or has other features than `found`.
fn check_derivative(expected: usize, found: usize) -> Result<(), BackboneError> {
    if expected == 0 || found != expected {
        return Err(BackboneError::Derivative { expected, found });
    }
    Ok(())
}

/// Reads units and numbers their parameters.
struct Loading<'a> {
    checkpoint: &'a Checkpoint,
    stage: Layer,
    store: Store,
}

impl Loading<'_> {
    fn unit(&mut self, part: &Part) -> Result<Unit, BackboneError> {
        let Part { conv, bn, geometry } = part;
        let name = format!("{conv}.weight");
        let weight = self.checkpoint.tensor(&name)?.permute((2, 3, 1, 0))?;
        let (kernel, _, inputs, outputs) = weight.dims4()?;
        let weight = self.parameter(name, Role::Weight, &weight)?;
        let [gamma, beta] = ["weight", "bias"].map(|leaf| format!("{bn}.{leaf}"));
        let (of_gamma, of_beta) = (self.checkpoint.tensor(&gamma)?, self.checkpoint.tensor(&beta)?);
        let gamma = self.parameter(gamma, Role::BatchNorm, &of_gamma)?;
        let beta = self.parameter(beta, Role::BatchNorm, &of_beta)?;
        let vector = |leaf: &str| -> Result<Vec<f32>, BackboneError> {
            Ok(self.checkpoint.tensor(&format!("{bn}.{leaf}"))?.to_vec1()?)
        };
        let (mean, variance) = (vector("running_mean")?, vector("running_var")?);
        let (bn, geometry) = (bn.clone(), *geometry);
        Ok(Unit { bn, geometry, inputs, outputs, kernel, weight, gamma, beta, mean, variance })
    }

    fn parameter(&mut self, name: String, role: Role, values: &Tensor) -> Result<usize, BackboneError> {
        let (stage, shape) = (self.stage, values.dims().to_vec());
        let values = values.contiguous()?.flatten_all()?.to_vec1()?;
        Ok(self.store.add(Parameter { name, stage, role, shape }, values))
    }
}
