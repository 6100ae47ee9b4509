//! The network on a GPU, in candle's operations, channels last: forward, and back from the derivative of the features.
//!
//! The way back is written out. candle's own goes through each copy that a convolution is made of, keeps `K K` times its input, cannot
//! go through the stem's pool, and takes a derivative of 1 where a ReLU gave 0. Here a convolution keeps its input alone, and what is not
//! trained keeps nothing. Values, gradients and running statistics stay on the host, in `f32`.

mod convolution;
mod norm;
mod pool;
#[cfg(test)]
mod tests;

use candle_core::{DType, Device, Result, Tensor};

use self::norm::Norm;
use super::block::Block;
use super::norm::Statistics;
use super::parameters::{Role, Store};
use super::pool::Size;
use super::unit::Unit;
use super::{Network, Training, check_derivative};
use crate::error::BackboneError;
use crate::layer::Layer;

type Ran<T> = std::result::Result<T, BackboneError>;

/// The parameters on a device, and what runs there.
#[derive(Debug)]
pub(super) struct Gpu {
    device: Device,
    /// What convolutions are computed in.
    dtype: DType,
    /// What BatchNorm and averages are computed in.
    wide: DType,
    /// By number: each in the type that it is used in.
    parameters: Vec<Tensor>,
    /// The first stage whose values on the host are newer.
    stale: Option<Layer>,
    tape: Option<Tape>,
}

/// What is kept of the way forward for the way back: of the stages that are trained.
#[derive(Debug)]
struct Tape {
    stem: Option<Pass>,
    /// The last ones of the network's.
    blocks: Vec<BlockPass>,
    /// The size of what was averaged, `[N, H, W, F]`.
    size: [usize; 4],
}

#[derive(Debug)]
struct BlockPass {
    units: Vec<Pass>,
    shortcut: Option<Pass>,
    /// What its last ReLU gave.
    output: Tensor,
}

#[derive(Debug)]
struct Pass {
    input: Tensor,
    /// What the convolution gave.
    sums: Tensor,
    norm: Norm,
    /// What the ReLU gave, where one follows.
    output: Option<Tensor>,
}

/// A pass through the network.
struct Run<'a> {
    gpu: &'a Gpu,
    training: Option<Training>,
    /// Of the batch, for each unit that goes by them: how many positions they are of, mean and variance.
    seen: Vec<(usize, [Tensor; 2])>,
}

impl Gpu {
    /// Computes convolutions in `dtype`.
    pub(super) fn new(device: Device, dtype: DType) -> Self {
        let (wide, stale) = (DType::F32, Some(Layer::Stem));
        Self { device, dtype, wide, parameters: Vec::new(), stale, tape: None }
    }

    /// Drops what was written down for a way back.
    pub(super) fn forget(&mut self) {
        self.tape = None;
    }

    /// The values on the host have changed from this stage on.
    pub(super) fn changed(&mut self, from: Layer) {
        self.stale = Some(self.stale.map_or(from, |stale| stale.min(from)));
    }

    fn upload(&mut self, store: &Store) -> Result<()> {
        let Some(stale) = self.stale else { return Ok(()) };
        for (number, (parameter, values)) in store.parameters.iter().zip(&store.values).enumerate() {
            if parameter.stage < stale {
                continue;
            }
            let dtype = match parameter.role {
                Role::Weight => self.dtype,
                Role::BatchNorm => self.wide,
            };
            let tensor =
                Tensor::from_slice(values, parameter.shape.as_slice(), &self.device)?.to_dtype(dtype)?;
            match self.parameters.get_mut(number) {
                Some(old) => *old = tensor,
                None => self.parameters.push(tensor),
            }
        }
        self.stale = None;
        Ok(())
    }

    /// Features `[N, F]` of values `[N, H, W, C]`, by the running statistics.
    pub(super) fn forward(&mut self, network: &Network, from: (Size, &[f32])) -> Ran<Vec<f32>> {
        Ok(self.run(network, from, None)?.0)
    }

    /// Features for a step of training, and the batch's statistics for each unit that goes by them, in the order of the parameters.
    pub(super) fn forward_training(
        &mut self,
        network: &Network,
        from: (Size, &[f32]),
        training: Training,
    ) -> Ran<(Vec<f32>, Vec<Statistics>)> {
        self.forget();
        let (features, tape, statistics) = self.run(network, from, Some(training))?;
        self.tape = Some(tape);
        Ok((features, statistics))
    }

    fn run(
        &mut self,
        network: &Network,
        (size, input): (Size, &[f32]),
        training: Option<Training>,
    ) -> Ran<(Vec<f32>, Tape, Vec<Statistics>)> {
        self.upload(&network.store)?;
        let mut run = Run { gpu: self, training, seen: Vec::new() };
        let dims = (size.photos, size.height, size.width, size.channels);
        let mut xs = Tensor::from_slice(input, dims, &self.device)?.to_dtype(self.dtype)?;
        let (mut stem, mut blocks) = (None, Vec::new());
        if let Some(unit) = &network.stem {
            let (ys, pass) = run.unit(unit, Layer::Stem, &xs, true)?;
            (xs, stem) = (pool::forward(&ys)?, pass);
        }
        for block in &network.blocks {
            let (ys, pass) = run.block(block, &xs)?;
            blocks.extend(pass);
            xs = ys;
        }
        let (photos, height, width, channels) = xs.dims4()?;
        let features = xs.to_dtype(self.wide)?.reshape((photos, height * width, channels))?.mean(1)?;
        let tape = Tape { stem, blocks, size: [photos, height, width, channels] };
        let statistics = |(count, [mean, variance]): (usize, [Tensor; 2])| -> Ran<Statistics> {
            Ok(Statistics { count, mean: values(&mean)?, variance: values(&variance)? })
        };
        let seen = run.seen.into_iter().map(statistics).collect::<Ran<_>>()?;
        Ok((values(&features)?, tape, seen))
    }

    /// Adds the derivatives by what is trained, for that by the features of the last step.
    pub(super) fn backward(&mut self, network: &mut Network, by_features: &[f32]) -> Ran<()> {
        let expected = self.tape.as_ref().map_or(0, |Tape { size, .. }| size[0] * size[3]);
        check_derivative(expected, by_features.len())?;
        let Some(Tape { stem, mut blocks, size }) = self.tape.take() else { return Ok(()) };
        let Network { store, stem: first, blocks: all } = network;
        let [photos, height, width, channels] = size;
        let gradient = Tensor::from_slice(by_features, (photos, 1, 1, channels), &self.device)?;
        let gradient = (gradient / (height * width) as f64)?.to_dtype(self.dtype)?;
        let mut gradient = gradient.broadcast_as(size.as_slice())?.contiguous()?;
        for block in all.iter().rev() {
            let Some(pass) = blocks.pop() else { break };
            let goes_on = !blocks.is_empty() || stem.is_some();
            let Some(by_input) = self.back_through_block(store, block, pass, &gradient, goes_on)? else {
                break;
            };
            gradient = by_input;
        }
        if let (Some(unit), Some(pass)) = (first, stem) {
            if let Some(output) = &pass.output {
                gradient = pool::backward(output, &gradient)?;
            }
            self.back_through_unit(store, unit, pass, &gradient, false)?;
        }
        Ok(())
    }

    /// The derivative by the block's input, where it is asked for.
    fn back_through_block(
        &self,
        store: &mut Store,
        block: &Block,
        pass: BlockPass,
        gradient: &Tensor,
        by_input: bool,
    ) -> Result<Option<Tensor>> {
        let BlockPass { units, shortcut, output } = pass;
        let gradient = through_relu(&output, gradient)?;
        let mut inside = Some(gradient.clone());
        for (number, (unit, pass)) in block.units.iter().zip(units).enumerate().rev() {
            let Some(gradient) = inside else { break };
            inside = self.back_through_unit(store, unit, pass, &gradient, by_input || number > 0)?;
        }
        let around = match block.shortcut.as_ref().zip(shortcut) {
            Some((unit, pass)) => self.back_through_unit(store, unit, pass, &gradient, by_input)?,
            None => Some(gradient),
        };
        inside.zip(around).map(|(inside, around)| inside + around).transpose()
    }

    fn back_through_unit(
        &self,
        store: &mut Store,
        unit: &Unit,
        pass: Pass,
        gradient: &Tensor,
        by_input: bool,
    ) -> Result<Option<Tensor>> {
        let Pass { input, sums, norm, output } = pass;
        let gradient = match &output {
            Some(output) => through_relu(output, gradient)?,
            None => gradient.clone(),
        };
        let back = norm.backward(&sums, &self.parameters[unit.gamma], &gradient)?;
        let by_weight = convolution::by_weight(&input, unit.kernel, unit.geometry, &back.input)?;
        for (number, derivative) in
            [(unit.weight, by_weight), (unit.gamma, back.gamma), (unit.beta, back.beta)]
        {
            store.add_gradient(number, &values(&derivative)?);
        }
        let (_, height, width, _) = input.dims4()?;
        let weight = &self.parameters[unit.weight];
        let derivative =
            by_input.then(|| convolution::by_input([height, width], weight, unit.geometry, &back.input));
        derivative.transpose()
    }
}

impl Run<'_> {
    /// What a block gives, and what it keeps where it is trained.
    fn block(&mut self, block: &Block, input: &Tensor) -> Ran<(Tensor, Option<BlockPass>)> {
        let mut xs = input.clone();
        let mut units = Vec::new();
        for (number, unit) in block.units.iter().enumerate() {
            let (ys, pass) = self.unit(unit, block.stage, &xs, number + 1 < block.units.len())?;
            units.extend(pass);
            xs = ys;
        }
        let (around, shortcut) = match &block.shortcut {
            Some(unit) => self.unit(unit, block.stage, input, false)?,
            None => (input.clone(), None),
        };
        let output = (xs + around)?.relu()?;
        let pass = (!units.is_empty()).then(|| BlockPass { units, shortcut, output: output.clone() });
        Ok((output, pass))
    }

    /// What a unit of a stage gives, and what it keeps where that is trained.
    fn unit(&mut self, unit: &Unit, stage: Layer, xs: &Tensor, relu: bool) -> Ran<(Tensor, Option<Pass>)> {
        let [weight, gamma, beta] =
            [unit.weight, unit.gamma, unit.beta].map(|number| &self.gpu.parameters[number]);
        let training = self.training.filter(|training| stage >= training.from);
        let sums = convolution::forward(xs, weight, unit.geometry)?;
        let of_batch = training.is_some_and(|training| training.by_batch);
        let (device, wide) = (&self.gpu.device, self.gpu.wide);
        let [mean, variance] = if of_batch {
            let count = sums.elem_count() / sums.dim(3)?;
            if count < 2 {
                return Err(BackboneError::OneValue { name: unit.bn.clone() });
            }
            let statistics = norm::statistics(&sums, wide)?;
            self.seen.push((count, statistics.clone()));
            statistics
        } else {
            let vector = |values: &[f32]| Tensor::from_slice(values, values.len(), device)?.to_dtype(wide);
            [vector(&unit.mean)?, vector(&unit.variance)?]
        };
        let norm = Norm::new(mean, &variance, of_batch)?;
        let mut ys = norm.forward(&sums, gamma, beta)?;
        if relu {
            ys = ys.relu()?;
        }
        let pass = training.map(|_| Pass { input: xs.clone(), sums, norm, output: relu.then(|| ys.clone()) });
        Ok((ys, pass))
    }
}

/// On the host.
fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// The derivative by what went into a ReLU; at 0 it is 0, as PyTorch's.
fn through_relu(output: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    gradient * output.gt(0f32)?.to_dtype(gradient.dtype())?
}
