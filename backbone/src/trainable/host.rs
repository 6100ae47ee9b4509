//! The network on the CPU: convolutions and their derivatives by the engine, in `f32`.

use headstock_engine::training::ConvOps;
use headstock_engine::{Isa, Precision};

use super::block::Way;
use super::buffers::{Buffer, Buffers};
use super::norm::Statistics;
use super::pool::{self, Size};
use super::unit::{Kept, Unit, Workplace};
use super::{Network, Training, check_derivative};
use crate::error::BackboneError;
use crate::layer::Layer;

/// What a network is run with, and what was written down of the last step.
#[derive(Debug)]
pub(super) struct Host {
    products: ConvOps,
    buffers: Buffers,
    tape: Option<Tape>,
}

/// What the way back needs of the way forward.
#[derive(Debug)]
struct Tape {
    /// What came into the first stage that is tuned.
    input: Buffer,
    stem: Option<StemWay>,
    /// Of the blocks that are tuned, which are the last ones.
    blocks: Vec<Way>,
    /// Of what was averaged.
    size: Size,
}

#[derive(Debug)]
struct StemWay {
    kept: Kept,
    /// Of what the pool took, and which value it took in each window.
    size: Size,
    which: Vec<u8>,
    pooled: Buffer,
}

impl Host {
    pub(super) fn new() -> Result<Self, BackboneError> {
        Self::on(Isa::choose(Precision::F32)?)
    }

    /// With an instruction set of the caller's choice.
    pub(super) fn on(isa: Isa) -> Result<Self, BackboneError> {
        Ok(Self { products: ConvOps::new(isa)?, buffers: Buffers::default(), tape: None })
    }

    /// Features `[N, F]` of values `[N, H, W, C]`, by the running statistics.
    pub(super) fn forward(
        &mut self,
        network: &mut Network,
        (size, input): (Size, &[f32]),
    ) -> Result<Vec<f32>, BackboneError> {
        let (size, out) = self.frozen(network, |_| true, size, input)?;
        let features = pool::average(size, out.as_deref().unwrap_or(input));
        out.into_iter().for_each(|out| self.buffers.give(out));
        Ok(features)
    }

    /// Features for a step of training, and the batch's statistics for each unit that goes by them, in the order of the parameters.
    pub(super) fn forward_training(
        &mut self,
        network: &mut Network,
        (size, input): (Size, &[f32]),
        Training { from, by_batch }: Training,
    ) -> Result<(Vec<f32>, Vec<Statistics>), BackboneError> {
        self.forget();
        let (mut size, before) = self.frozen(network, |stage| stage < from, size, input)?;
        let Network { store, stem, blocks } = network;
        let at = &mut Workplace { store, products: &mut self.products, buffers: &mut self.buffers };
        let input = before.unwrap_or_else(|| at.buffers.copy(input));
        let stem = stem.as_ref().filter(|_| from == Layer::Stem);
        let stem = stem.map(|unit| StemWay::forward(unit, at, by_batch, (size, &input))).transpose()?;
        if let Some(stem) = &stem {
            size = stem.size.pooled();
        }
        let mut ways: Vec<Way> = Vec::new();
        for block in blocks.iter().filter(|block| block.stage >= from) {
            let xs = ways.last().map(Way::output).or(stem.as_ref().map(|stem| &*stem.pooled));
            let way = block.forward(at, by_batch, (size, xs.unwrap_or(&input)))?;
            size = way.size;
            ways.push(way);
        }
        let tape = Tape { input, stem, blocks: ways, size };
        let features = pool::average(size, tape.output());
        let kept = tape.stem.iter().map(|stem| &stem.kept).chain(tape.blocks.iter().flat_map(Way::kept));
        let statistics = kept.filter_map(|kept| match kept {
            Kept::Batch(_, _, statistics) => Some(statistics.clone()),
            Kept::Frozen(_) => None,
        });
        let statistics = statistics.collect();
        self.tape = Some(tape);
        Ok((features, statistics))
    }

    /// Adds the derivatives by what is trained, for that by the features of the last step.
    pub(super) fn backward(
        &mut self,
        network: &mut Network,
        by_features: &[f32],
    ) -> Result<(), BackboneError> {
        let expected = self.tape.as_ref().map_or(0, |tape| tape.size.photos * tape.size.channels);
        check_derivative(expected, by_features.len())?;
        let Some(Tape { input, stem, mut blocks, size }) = self.tape.take() else { return Ok(()) };
        let Network { store, stem: first, blocks: all } = network;
        let at = &mut Workplace { store, products: &mut self.products, buffers: &mut self.buffers };
        let mut gradient = blocks.last().map(|last| {
            let mut gradient = at.buffers.take(size.values());
            pool::average_backward(size, by_features, last.output(), &mut gradient);
            gradient
        });
        for block in all.iter().rev() {
            let (Some(way), Some(by_output)) = (blocks.pop(), gradient.take()) else { break };
            let before = blocks.last().map(Way::output).or(stem.as_ref().map(|stem| &*stem.pooled));
            gradient = block.backward(at, way, before.unwrap_or(&input), by_output, before.is_some())?;
        }
        if let (Some(unit), Some(stem), Some(gradient)) = (first, stem, gradient) {
            stem.backward(unit, at, &input, gradient)?;
        }
        at.buffers.give(input);
        Ok(())
    }

    /// Drops what was written down for a way back.
    pub(super) fn forget(&mut self) {
        let Some(Tape { input, stem, blocks, .. }) = self.tape.take() else { return };
        self.buffers.give(input);
        if let Some(StemWay { kept, pooled, .. }) = stem {
            kept.give(&mut self.buffers);
            self.buffers.give(pooled);
        }
        for way in blocks {
            way.into_output(&mut self.buffers).into_iter().for_each(|output| self.buffers.give(output));
        }
    }

    /// Runs the stages that are asked for, which are the first ones, by the running statistics: what comes out of them, if there are any.
    fn frozen(
        &mut self,
        network: &mut Network,
        is_asked_for: impl Fn(Layer) -> bool,
        mut size: Size,
        input: &[f32],
    ) -> Result<(Size, Option<Buffer>), BackboneError> {
        let Network { store, stem, blocks } = network;
        let at = &mut Workplace { store, products: &mut self.products, buffers: &mut self.buffers };
        let mut current = None;
        if let Some(unit) = stem.as_ref().filter(|_| is_asked_for(Layer::Stem)) {
            let way = StemWay::forward(unit, at, false, (size, input))?;
            size = way.size.pooled();
            current = Some(way.pooled);
        }
        for block in blocks.iter().filter(|block| is_asked_for(block.stage)) {
            let way = block.forward(at, false, (size, current.as_deref().unwrap_or(input)))?;
            size = way.size;
            current.into_iter().for_each(|before| at.buffers.give(before));
            current = way.into_output(at.buffers);
        }
        Ok((size, current))
    }
}

impl Tape {
    /// What was averaged.
    fn output(&self) -> &[f32] {
        let stem = self.stem.as_ref().map(|stem| &*stem.pooled);
        self.blocks.last().map(Way::output).or(stem).unwrap_or(&self.input)
    }
}

impl StemWay {
    fn forward(
        unit: &Unit,
        at: &mut Workplace<'_>,
        by_batch: bool,
        (size, photos): (Size, &[f32]),
    ) -> Result<Self, BackboneError> {
        let (kept, out) = unit.forward(at, by_batch, (size, photos), None, true)?;
        let size = unit.size(size);
        let count = size.pooled().values();
        let (mut pooled, mut which) = (at.buffers.take(count), vec![0; count]);
        pool::max_pool(size, &out, &mut pooled, &mut which);
        at.buffers.give(out);
        Ok(Self { kept, size, which, pooled })
    }

    /// For the derivative by what the pool took where it is above 0, and 0 elsewhere.
    fn backward(
        self,
        unit: &Unit,
        at: &mut Workplace<'_>,
        photos: &[f32],
        gradient: Buffer,
    ) -> Result<(), BackboneError> {
        let mut by_output = at.buffers.take(self.size.values());
        pool::max_pool_backward(self.size, &gradient, &self.which, &mut by_output);
        let back = unit.backward(at, self.kept, photos, &by_output)?;
        let used = [Some(by_output), Some(gradient), Some(self.pooled), back.by_sums];
        used.into_iter().flatten().for_each(|buffer| at.buffers.give(buffer));
        Ok(())
    }
}
