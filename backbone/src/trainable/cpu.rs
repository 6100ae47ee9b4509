//! The network on the CPU: convolutions and their derivatives by the engine, in `f32`.

use headstock_engine::training::ConvOps;
use headstock_engine::{DType, Isa};

use super::batch_norm::BatchStatistics;
use super::block::BlockCache;
use super::buffer_pool::{Buffer, BufferPool};
use super::conv_bn::{ConvBnUnit, SavedForBackward, TrainContext};
use super::pooling::{self, NhwcShape};
use super::{TrainStep, TrainableNetwork, check_gradient_length};
use crate::error::BackboneError;
use crate::layer::FeatureLayer;

/// What a network is run with, and what was written down of the last step.
#[derive(Debug)]
pub(super) struct CpuBackend {
    conv_ops: ConvOps,
    buffers: BufferPool,
    cache: Option<CpuStepCache>,
}

/// What the way back needs of the way forward.
#[derive(Debug)]
struct CpuStepCache {
    /// What came into the first stage that is tuned.
    input: Buffer,
    stem: Option<StemCache>,
    /// Of the blocks that are tuned, which are the last ones.
    blocks: Vec<BlockCache>,
    /// Of what was averaged.
    output_shape: NhwcShape,
}

#[derive(Debug)]
struct StemCache {
    saved: SavedForBackward,
    /// Of what the pool took, and which value it took in each window.
    pool_input_shape: NhwcShape,
    argmax: Vec<u8>,
    pooled: Buffer,
}

impl CpuBackend {
    pub(super) fn new() -> Result<Self, BackboneError> {
        Self::with_isa(Isa::choose(DType::F32)?)
    }

    /// With an instruction set of the caller's choice.
    pub(super) fn with_isa(isa: Isa) -> Result<Self, BackboneError> {
        Ok(Self { conv_ops: ConvOps::new(isa)?, buffers: BufferPool::default(), cache: None })
    }

    /// Features `[N, F]` of values `[N, H, W, C]`, by the running statistics.
    pub(super) fn forward(
        &mut self,
        network: &mut TrainableNetwork,
        (size, input): (NhwcShape, &[f32]),
    ) -> Result<Vec<f32>, BackboneError> {
        let (size, out) = self.forward_frozen(network, |_| true, size, input)?;
        let features = pooling::global_avg_pool(size, out.as_deref().unwrap_or(input));
        out.into_iter().for_each(|out| self.buffers.release(out));
        Ok(features)
    }

    /// Features for a step of training, and the batch's statistics for each unit that goes by them, in the order of the parameters.
    pub(super) fn forward_training(
        &mut self,
        network: &mut TrainableNetwork,
        (size, input): (NhwcShape, &[f32]),
        TrainStep { first_stage: from, use_batch_stats: by_batch }: TrainStep,
    ) -> Result<(Vec<f32>, Vec<BatchStatistics>), BackboneError> {
        self.clear_cache();
        let (mut size, before) = self.forward_frozen(network, |stage| stage < from, size, input)?;
        let TrainableNetwork { store, stem, blocks } = network;
        let at = &mut TrainContext { store, conv_ops: &mut self.conv_ops, buffers: &mut self.buffers };
        let input = before.unwrap_or_else(|| at.buffers.acquire_copy(input));
        let stem = stem.as_ref().filter(|_| from == FeatureLayer::Stem);
        let stem = stem.map(|unit| StemCache::forward(unit, at, by_batch, (size, &input))).transpose()?;
        if let Some(stem) = &stem {
            size = stem.pool_input_shape.after_max_pool();
        }
        let mut ways: Vec<BlockCache> = Vec::new();
        for block in blocks.iter().filter(|block| block.stage >= from) {
            let xs = ways.last().map(BlockCache::output).or(stem.as_ref().map(|stem| &*stem.pooled));
            let way = block.forward(at, by_batch, (size, xs.unwrap_or(&input)))?;
            size = way.output_shape;
            ways.push(way);
        }
        let tape = CpuStepCache { input, stem, blocks: ways, output_shape: size };
        let features = pooling::global_avg_pool(size, tape.output());
        let kept =
            tape.stem.iter().map(|stem| &stem.saved).chain(tape.blocks.iter().flat_map(BlockCache::saved));
        let statistics = kept.filter_map(|kept| match kept {
            SavedForBackward::BatchStats(_, _, statistics) => Some(statistics.clone()),
            SavedForBackward::RunningStats(_) => None,
        });
        let statistics = statistics.collect();
        self.cache = Some(tape);
        Ok((features, statistics))
    }

    /// Adds the derivatives by what is trained, for that by the features of the last step.
    pub(super) fn backward(
        &mut self,
        network: &mut TrainableNetwork,
        grad_features: &[f32],
    ) -> Result<(), BackboneError> {
        let expected =
            self.cache.as_ref().map_or(0, |tape| tape.output_shape.images * tape.output_shape.channels);
        check_gradient_length(expected, grad_features.len())?;
        let Some(CpuStepCache { input, stem, mut blocks, output_shape: size }) = self.cache.take() else {
            return Ok(());
        };
        let TrainableNetwork { store, stem: first, blocks: all } = network;
        let at = &mut TrainContext { store, conv_ops: &mut self.conv_ops, buffers: &mut self.buffers };
        let mut gradient = blocks.last().map(|last| {
            let mut gradient = at.buffers.acquire(size.n_values());
            pooling::global_avg_pool_backward(size, grad_features, last.output(), &mut gradient);
            gradient
        });
        for block in all.iter().rev() {
            let (Some(way), Some(grad_output)) = (blocks.pop(), gradient.take()) else { break };
            let previous_output =
                blocks.last().map(BlockCache::output).or(stem.as_ref().map(|stem| &*stem.pooled));
            gradient = block.backward(
                at,
                way,
                previous_output.unwrap_or(&input),
                grad_output,
                previous_output.is_some(),
            )?;
        }
        if let (Some(unit), Some(stem), Some(gradient)) = (first, stem, gradient) {
            stem.backward(unit, at, &input, gradient)?;
        }
        at.buffers.release(input);
        Ok(())
    }

    /// Drops what was written down for a way back.
    pub(super) fn clear_cache(&mut self) {
        let Some(CpuStepCache { input, stem, blocks, .. }) = self.cache.take() else { return };
        self.buffers.release(input);
        if let Some(StemCache { saved: kept, pooled, .. }) = stem {
            kept.release(&mut self.buffers);
            self.buffers.release(pooled);
        }
        for way in blocks {
            way.into_output(&mut self.buffers).into_iter().for_each(|output| self.buffers.release(output));
        }
    }

    /// Runs the stages that are asked for, which are the first ones, by the running statistics: what comes out of them, if there are any.
    fn forward_frozen(
        &mut self,
        network: &mut TrainableNetwork,
        is_included: impl Fn(FeatureLayer) -> bool,
        mut size: NhwcShape,
        input: &[f32],
    ) -> Result<(NhwcShape, Option<Buffer>), BackboneError> {
        let TrainableNetwork { store, stem, blocks } = network;
        let at = &mut TrainContext { store, conv_ops: &mut self.conv_ops, buffers: &mut self.buffers };
        let mut current = None;
        if let Some(unit) = stem.as_ref().filter(|_| is_included(FeatureLayer::Stem)) {
            let way = StemCache::forward(unit, at, false, (size, input))?;
            size = way.pool_input_shape.after_max_pool();
            current = Some(way.pooled);
        }
        for block in blocks.iter().filter(|block| is_included(block.stage)) {
            let way = block.forward(at, false, (size, current.as_deref().unwrap_or(input)))?;
            size = way.output_shape;
            current.into_iter().for_each(|before| at.buffers.release(before));
            current = way.into_output(at.buffers);
        }
        Ok((size, current))
    }
}

impl CpuStepCache {
    /// What was averaged.
    fn output(&self) -> &[f32] {
        let stem = self.stem.as_ref().map(|stem| &*stem.pooled);
        self.blocks.last().map(BlockCache::output).or(stem).unwrap_or(&self.input)
    }
}

impl StemCache {
    fn forward(
        unit: &ConvBnUnit,
        ctx: &mut TrainContext<'_>,
        use_batch_stats: bool,
        (size, photos): (NhwcShape, &[f32]),
    ) -> Result<Self, BackboneError> {
        let (kept, out) = unit.forward(ctx, use_batch_stats, (size, photos), None, true)?;
        let size = unit.output_shape(size);
        let count = size.after_max_pool().n_values();
        let (mut pooled, mut which) = (ctx.buffers.acquire(count), vec![0; count]);
        pooling::max_pool(size, &out, &mut pooled, &mut which);
        ctx.buffers.release(out);
        Ok(Self { saved: kept, pool_input_shape: size, argmax: which, pooled })
    }

    /// For the derivative by what the pool took where it is above 0, and 0 elsewhere.
    fn backward(
        self,
        unit: &ConvBnUnit,
        ctx: &mut TrainContext<'_>,
        photos: &[f32],
        gradient: Buffer,
    ) -> Result<(), BackboneError> {
        let mut grad_output = ctx.buffers.acquire(self.pool_input_shape.n_values());
        pooling::max_pool_backward(self.pool_input_shape, &gradient, &self.argmax, &mut grad_output);
        let back = unit.backward(ctx, self.saved, photos, &grad_output)?;
        let released = [Some(grad_output), Some(gradient), Some(self.pooled), back.grad_conv_output];
        released.into_iter().flatten().for_each(|buffer| ctx.buffers.release(buffer));
        Ok(())
    }
}
