//! A ResNet that is trained, from a stage on.
//!
//! Every parameter is a candle variable, and candle's graph leads from the features back to them. What the graph is made of
//! is not candle's, which cannot go back through the stem's pool and is slow through a convolution on the CPU: each step is
//! an operation of our own with its derivatives.

mod convolution;
mod elementwise;
mod normalisation;
mod storage;

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var};

use self::convolution::Convolution;
use self::elementwise::{AddRelu, MaxPool};
use self::normalisation::{BatchNorm, Statistics};
use crate::architecture::Architecture;
use crate::blueprint::{self, EPSILON, Part};
use crate::checkpoint::Checkpoint;
use crate::error::BackboneError;
use crate::layer::Layer;

/// How much of the batch's statistics goes into the running ones at a step, as in PyTorch.
const MOMENTUM: f32 = 0.1;

/// What BatchNorm normalises by while the network is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchNormMode {
    /// The statistics that the checkpoint came with.
    #[default]
    Frozen,
    /// Those of the batch at hand, which the running ones follow.
    Train,
}

/// What a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A convolution's weights.
    Weight,
    /// A BatchNorm's scale or shift: weight decay would only change the size of what follows.
    BatchNorm,
}

/// A parameter that is trained.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// torchvision's name, `layer4.0.conv1.weight` for example.
    pub name: String,
    /// The stage that it belongs to, [`Layer::Stem`] to [`Layer::Layer4`].
    pub stage: Layer,
    /// What it is.
    pub role: Role,
    /// Its values: of a BatchNorm `[C]`, of a convolution `[K, K, C, O]`, which is how they are multiplied.
    pub values: Var,
}

/// The stages of a ResNet from one on, and the average over positions at the end, in `f32` on the CPU.
#[derive(Debug)]
pub struct Trainable {
    architecture: Architecture,
    mode: BatchNormMode,
    parameters: Vec<Parameter>,
    stem: Option<Unit>,
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    units: Vec<Unit>,
    shortcut: Option<Unit>,
}

/// A convolution and the BatchNorm after it.
#[derive(Debug)]
struct Unit {
    bn: String,
    convolution: Convolution,
    /// The numbers of its parameters: the convolution's weights, and the BatchNorm's `γ` and `β`.
    weight: usize,
    gamma: usize,
    beta: usize,
    /// The running mean and variance, `[C]`.
    mean: Vec<f32>,
    variance: Vec<f32>,
}

impl Trainable {
    /// The stages of a checkpoint that come from `from` on, which is trained too.
    ///
    /// # Errors
    /// [`BackboneError::Checkpoint`] for a weight that is NaN or infinite.
    ///
    /// # Panics
    /// For [`Layer::Avgpool`], from which on there is nothing to train.
    pub fn load(
        checkpoint: &Checkpoint,
        from: Layer,
        mode: BatchNormMode,
    ) -> std::result::Result<Self, BackboneError> {
        const STAGES: [Layer; 4] = [Layer::Layer1, Layer::Layer2, Layer::Layer3, Layer::Layer4];
        assert!(from < Layer::Avgpool, "nothing is trained from `avgpool` on");
        let mut loading = Loading { checkpoint, stage: Layer::Stem, parameters: Vec::new() };
        let stem = (from == Layer::Stem).then(|| loading.unit(&blueprint::stem())).transpose()?;
        let mut blocks = Vec::new();
        for (index, stage) in STAGES.into_iter().enumerate().filter(|(_, stage)| *stage >= from) {
            loading.stage = stage;
            for block in blueprint::stage(checkpoint.architecture(), index) {
                let units = block.convolutions.iter().map(|part| loading.unit(part));
                let units = units.collect::<std::result::Result<_, _>>()?;
                let shortcut = block.shortcut.as_ref().map(|part| loading.unit(part)).transpose()?;
                blocks.push(Block { units, shortcut });
            }
        }
        let architecture = checkpoint.architecture();
        Ok(Self { architecture, mode, parameters: loading.parameters, stem, blocks })
    }

    /// What is trained, from the input on.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The number of features, `F`.
    #[must_use]
    pub fn width(&self) -> usize {
        Layer::Avgpool.channels(self.architecture)
    }

    /// What is trained and what follows it, by torchvision's names and in its shapes: of each convolution the weights
    /// `[O, C, K, K]`, of each BatchNorm `weight`, `bias`, `running_mean` and `running_var` `[C]`.
    ///
    /// # Errors
    /// When candle fails.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        for Parameter { name, role, values, .. } in &self.parameters {
            let values = values.as_detached_tensor();
            let values = if *role == Role::Weight { values.permute((3, 2, 0, 1))? } else { values };
            // A copy: training goes on.
            tensors.insert(name.clone(), values.force_contiguous()?);
        }
        for unit in self.units() {
            for (leaf, values) in [("running_mean", &unit.mean), ("running_var", &unit.variance)] {
                let values = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
                tensors.insert(format!("{}.{leaf}", unit.bn), values);
            }
        }
        Ok(tensors)
    }

    /// In the order in which they run.
    fn units(&self) -> impl Iterator<Item = &Unit> {
        let of_blocks = self.blocks.iter().flat_map(|block| block.shortcut.iter().chain(&block.units));
        self.stem.iter().chain(of_blocks)
    }

    /// Features `[N, F]` of what the stage before gives, `[N, C, H, W]`, or of normalised photos `[N, 3, H, W]` when the stem is
    /// trained. BatchNorm goes by the running statistics.
    ///
    /// # Errors
    /// When candle fails, or sizes do not fit.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        self.run(input, |unit, xs, relu| unit.by_running_statistics(&self.parameters, xs, relu))
    }

    /// The same for a step of training: with [`BatchNormMode::Train`], BatchNorm goes by the statistics of the batch, and the
    /// running ones follow them.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); when a BatchNorm sees one value of a channel only, which has no variance.
    pub fn forward_training(&mut self, input: &Tensor) -> Result<Tensor> {
        if self.mode == BatchNormMode::Frozen {
            return self.forward(input);
        }
        let mut seen = Vec::new();
        let features = self.run(input, |unit, xs, relu| {
            let (ys, statistics) = unit.by_its_own_statistics(&self.parameters, xs, relu)?;
            seen.push(statistics);
            Ok(ys)
        })?;
        let of_blocks =
            self.blocks.iter_mut().flat_map(|block| block.shortcut.iter_mut().chain(&mut block.units));
        for (unit, statistics) in self.stem.iter_mut().chain(of_blocks).zip(&seen) {
            unit.follow(statistics);
        }
        Ok(features)
    }

    /// With `apply` for each unit, in order, which ends in a ReLU where it is told so.
    fn run(
        &self,
        input: &Tensor,
        mut apply: impl FnMut(&Unit, &Tensor, bool) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut xs = input.permute((0, 2, 3, 1))?.contiguous()?;
        if let Some(stem) = &self.stem {
            xs = apply(stem, &xs, true)?.apply_op1(MaxPool)?;
        }
        for block in &self.blocks {
            let around = match &block.shortcut {
                Some(unit) => apply(unit, &xs, false)?,
                None => xs.clone(),
            };
            for (index, unit) in block.units.iter().enumerate() {
                xs = apply(unit, &xs, index + 1 < block.units.len())?;
            }
            xs = xs.apply_op2(&around, AddRelu)?;
        }
        xs.flatten(1, 2)?.mean(1)
    }
}

impl Unit {
    fn by_running_statistics(&self, parameters: &[Parameter], xs: &Tensor, relu: bool) -> Result<Tensor> {
        let [weight, gamma, beta] = self.parameters(parameters);
        let (mean, inverse) = (self.mean.clone(), inverse(&self.variance));
        let by_running = BatchNorm { mean, inverse, count: None, relu };
        xs.apply_op2(weight, self.convolution)?.apply_op3(gamma, beta, by_running)
    }

    fn by_its_own_statistics(
        &self,
        parameters: &[Parameter],
        xs: &Tensor,
        relu: bool,
    ) -> Result<(Tensor, Statistics)> {
        let [weight, gamma, beta] = self.parameters(parameters);
        let ys = xs.apply_op2(weight, self.convolution)?;
        let statistics = Statistics::of(&ys)?;
        if statistics.count < 2 {
            candle_core::bail!(
                "{}: one value of each channel has no variance; train with more photos at a time, or with \
                 `batch_norm = \"frozen\"`",
                self.bn
            );
        }
        let (mean, inverse) = (statistics.mean.clone(), inverse(&statistics.variance));
        let by_batch = BatchNorm { mean, inverse, count: Some(statistics.count), relu };
        Ok((ys.apply_op3(gamma, beta, by_batch)?, statistics))
    }

    fn parameters<'a>(&self, parameters: &'a [Parameter]) -> [&'a Tensor; 3] {
        [self.weight, self.gamma, self.beta].map(|number| parameters[number].values.as_tensor())
    }

    /// Moves the running statistics towards a batch's, whose variance is taken for that of all there is (with `n - 1`).
    fn follow(&mut self, batch: &Statistics) {
        let unbiased = batch.count as f32 / (batch.count - 1) as f32;
        let towards = |running: &mut [f32], batch: &[f32], factor: f32| {
            for (running, value) in running.iter_mut().zip(batch) {
                *running += MOMENTUM * (factor * value - *running);
            }
        };
        towards(&mut self.mean, &batch.mean, 1.0);
        towards(&mut self.variance, &batch.variance, unbiased);
    }
}

/// `1 / sqrt(variance + ε)`
fn inverse(variance: &[f32]) -> Vec<f32> {
    variance.iter().map(|&variance| (1.0 / (f64::from(variance) + EPSILON).sqrt()) as f32).collect()
}

/// Reads units and numbers their parameters.
struct Loading<'a> {
    checkpoint: &'a Checkpoint,
    stage: Layer,
    parameters: Vec<Parameter>,
}

impl Loading<'_> {
    fn unit(&mut self, part: &Part) -> std::result::Result<Unit, BackboneError> {
        let Part { conv, bn, geometry } = part;
        let weight =
            self.checkpoint.tensor(&format!("{conv}.weight"))?.permute((2, 3, 1, 0))?.contiguous()?;
        let weight = self.parameter(format!("{conv}.weight"), Role::Weight, &weight)?;
        let [gamma, beta] = ["weight", "bias"].map(|leaf| format!("{bn}.{leaf}"));
        let (of_gamma, of_beta) = (self.checkpoint.tensor(&gamma)?, self.checkpoint.tensor(&beta)?);
        let gamma = self.parameter(gamma, Role::BatchNorm, &of_gamma)?;
        let beta = self.parameter(beta, Role::BatchNorm, &of_beta)?;
        let vector = |leaf: &str| -> std::result::Result<Vec<f32>, BackboneError> {
            Ok(self.checkpoint.tensor(&format!("{bn}.{leaf}"))?.to_vec1()?)
        };
        let (mean, variance) = (vector("running_mean")?, vector("running_var")?);
        Ok(Unit {
            bn: bn.clone(),
            convolution: Convolution { geometry: *geometry },
            weight,
            gamma,
            beta,
            mean,
            variance,
        })
    }

    fn parameter(
        &mut self,
        name: String,
        role: Role,
        values: &Tensor,
    ) -> std::result::Result<usize, BackboneError> {
        let values = Var::from_tensor(values)?;
        self.parameters.push(Parameter { name, stage: self.stage, role, values });
        Ok(self.parameters.len() - 1)
    }
}
