//! Training on the CPU: convolutions and their gradients are computed by the engine, in `f32`.

use headstock_engine::training::ConvOps;
use headstock_engine::{DType, Isa};

use super::batch_norm::BatchStatistics;
use super::block::BlockCache;
use super::buffer_pool::{Buffer, BufferPool};
use super::conv_bn::{ConvBnUnit, SavedForBackward, TrainContext};
use super::pooling::{self, NhwcShape, NhwcView};
use super::{BatchNormMode, TrainStep, TrainableNetwork, check_gradient_length};
use crate::error::BackboneError;
use crate::layer::FeatureLayer;
use crate::resnet_spec::Activation;

/// The engine, the workspace, and what the last training forward pass saved.
#[derive(Debug)]
pub(super) struct CpuBackend {
    conv_ops: ConvOps,
    buffers: BufferPool,
    cache: Option<CpuStepCache>,
}

/// What the backward pass needs from the forward pass.
#[derive(Debug)]
struct CpuStepCache {
    /// The input of the first trained stage.
    input: Buffer,
    stem: Option<StemCache>,
    /// The trained blocks, which are the last blocks of the network.
    blocks: Vec<BlockCache>,
    /// The shape before global average pooling.
    output_shape: NhwcShape,
}

/// What the backward pass of the stem needs from its forward pass.
#[derive(Debug)]
struct StemCache {
    saved: SavedForBackward,
    pool_input_shape: NhwcShape,
    /// For each output of the max pool, the position of the maximum in its window.
    argmax: Vec<u8>,
    pooled: Buffer,
}

impl CpuBackend {
    pub(super) fn new() -> Result<Self, BackboneError> {
        Self::with_isa(Isa::choose(DType::F32)?)
    }

    /// Uses an explicit instruction set.
    pub(super) fn with_isa(isa: Isa) -> Result<Self, BackboneError> {
        Ok(Self { conv_ops: ConvOps::new(isa)?, buffers: BufferPool::default(), cache: None })
    }

    /// Features `[N, F]` of activations `[N, H, W, C]`, with running statistics.
    pub(super) fn forward(
        &mut self,
        network: &mut TrainableNetwork,
        input: NhwcView<'_>,
    ) -> Result<Vec<f32>, BackboneError> {
        let (shape, out) = self.forward_frozen(network, |_| true, input)?;
        let features = pooling::global_avg_pool(shape, out.as_deref().unwrap_or(input.values));
        self.buffers.release_all(out);
        Ok(features)
    }

    /// Features of a training step, and the statistics of the batch for each unit that uses them, in the
    /// order of the parameters.
    pub(super) fn forward_training(
        &mut self,
        network: &mut TrainableNetwork,
        input: NhwcView<'_>,
        step: TrainStep,
    ) -> Result<(Vec<f32>, Vec<BatchStatistics>), BackboneError> {
        let TrainStep { first_stage, batch_norm_mode: mode } = step;
        self.clear_cache();
        let (mut shape, frozen_output) = self.forward_frozen(network, |stage| stage < first_stage, input)?;
        let TrainableNetwork { store, stem, blocks } = network;
        let ctx = &mut TrainContext { store, conv_ops: &mut self.conv_ops, buffers: &mut self.buffers };
        let input = frozen_output.unwrap_or_else(|| ctx.buffers.acquire_copy(input.values));
        let stem = stem.as_ref().filter(|_| first_stage == FeatureLayer::Stem);
        let stem_input = NhwcView { shape, values: &input };
        let stem = stem.map(|unit| StemCache::forward(unit, ctx, mode, stem_input)).transpose()?;
        if let Some(stem) = &stem {
            shape = stem.pool_input_shape.after_max_pool();
        }
        let mut caches: Vec<BlockCache> = Vec::new();
        for block in blocks.iter().filter(|block| block.stage >= first_stage) {
            let previous = caches.last().map(BlockCache::output).or(stem.as_ref().map(|stem| &*stem.pooled));
            let block_input = NhwcView { shape, values: previous.unwrap_or(&input) };
            let cache = block.forward(ctx, mode, block_input)?;
            shape = cache.output_shape;
            caches.push(cache);
        }
        let cache = CpuStepCache { input, stem, blocks: caches, output_shape: shape };
        let features = pooling::global_avg_pool(shape, cache.output());
        let stem_saved = cache.stem.iter().map(|stem| &stem.saved);
        let all_saved = stem_saved.chain(cache.blocks.iter().flat_map(BlockCache::saved));
        let statistics = all_saved.filter_map(|saved| match saved {
            SavedForBackward::BatchStats(_, _, statistics) => Some(statistics.clone()),
            SavedForBackward::RunningStats(_) => None,
        });
        let statistics = statistics.collect();
        self.cache = Some(cache);
        Ok((features, statistics))
    }

    /// Accumulates the gradients of the trained parameters, given the gradient of the features of the last
    /// training forward pass, `[N, F]`.
    pub(super) fn backward(
        &mut self,
        network: &mut TrainableNetwork,
        grad_features: &[f32],
    ) -> Result<(), BackboneError> {
        let n_features = |shape: NhwcShape| shape.images * shape.channels;
        let expected = self.cache.as_ref().map_or(0, |cache| n_features(cache.output_shape));
        check_gradient_length(expected, grad_features.len())?;
        let Some(cache) = self.cache.take() else { return Ok(()) };
        let CpuStepCache { input, stem: stem_cache, blocks: mut caches, output_shape } = cache;
        let TrainableNetwork { store, stem, blocks } = network;
        let ctx = &mut TrainContext { store, conv_ops: &mut self.conv_ops, buffers: &mut self.buffers };
        let mut gradient = caches.last().map(|last| {
            let mut gradient = ctx.buffers.acquire(output_shape.n_values());
            pooling::global_avg_pool_backward(output_shape, grad_features, last.output(), &mut gradient);
            gradient
        });
        for block in blocks.iter().rev() {
            let (Some(cache), Some(grad_output)) = (caches.pop(), gradient.take()) else { break };
            let stem_output = stem_cache.as_ref().map(|stem| &*stem.pooled);
            let previous = caches.last().map(BlockCache::output).or(stem_output);
            let block_input = previous.unwrap_or(&input);
            gradient = block.backward(ctx, cache, block_input, grad_output, previous.is_some())?;
        }
        if let (Some(unit), Some(cache), Some(gradient)) = (stem, stem_cache, gradient) {
            cache.backward(unit, ctx, &input, gradient)?;
        }
        ctx.buffers.release(input);
        Ok(())
    }

    /// Drops what the last training forward pass saved.
    pub(super) fn clear_cache(&mut self) {
        let Some(CpuStepCache { input, stem, blocks, .. }) = self.cache.take() else { return };
        self.buffers.release(input);
        if let Some(StemCache { saved, pooled, .. }) = stem {
            saved.release(&mut self.buffers);
            self.buffers.release(pooled);
        }
        for block in blocks {
            let output = block.into_output(&mut self.buffers);
            self.buffers.release_all(output);
        }
    }

    /// Runs the leading stages selected by `is_included` with running statistics. Returns the shape and the
    /// output, `None` if no stage was run.
    fn forward_frozen(
        &mut self,
        network: &mut TrainableNetwork,
        is_included: impl Fn(FeatureLayer) -> bool,
        input: NhwcView<'_>,
    ) -> Result<(NhwcShape, Option<Buffer>), BackboneError> {
        let TrainableNetwork { store, stem, blocks } = network;
        let ctx = &mut TrainContext { store, conv_ops: &mut self.conv_ops, buffers: &mut self.buffers };
        let mut shape = input.shape;
        let mut output = None;
        if let Some(unit) = stem.as_ref().filter(|_| is_included(FeatureLayer::Stem)) {
            let stem = StemCache::forward(unit, ctx, BatchNormMode::Frozen, input)?;
            shape = stem.pool_input_shape.after_max_pool();
            output = Some(stem.pooled);
        }
        for block in blocks.iter().filter(|block| is_included(block.stage)) {
            let block_input = NhwcView { shape, values: output.as_deref().unwrap_or(input.values) };
            let cache = block.forward(ctx, BatchNormMode::Frozen, block_input)?;
            shape = cache.output_shape;
            ctx.buffers.release_all(output);
            output = cache.into_output(ctx.buffers);
        }
        Ok((shape, output))
    }
}

impl CpuStepCache {
    /// The activations before global average pooling.
    fn output(&self) -> &[f32] {
        let stem = self.stem.as_ref().map(|stem| &*stem.pooled);
        self.blocks.last().map(BlockCache::output).or(stem).unwrap_or(&self.input)
    }
}

impl StemCache {
    /// Convolution, BatchNorm, ReLU and max pool.
    fn forward(
        unit: &ConvBnUnit,
        ctx: &mut TrainContext<'_>,
        mode: BatchNormMode,
        input: NhwcView<'_>,
    ) -> Result<Self, BackboneError> {
        let (saved, out) = unit.forward(ctx, mode, input, None, Activation::Relu)?;
        let pool_input_shape = unit.output_shape(input.shape);
        let count = pool_input_shape.after_max_pool().n_values();
        let (mut pooled, mut argmax) = (ctx.buffers.acquire(count), vec![0; count]);
        pooling::max_pool(pool_input_shape, &out, &mut pooled, &mut argmax);
        ctx.buffers.release(out);
        Ok(Self { saved, pool_input_shape, argmax, pooled })
    }

    /// Accumulates the gradients of the parameters, given the gradient of the pooled output, zero where that
    /// output is 0.
    fn backward(
        self,
        unit: &ConvBnUnit,
        ctx: &mut TrainContext<'_>,
        input: &[f32],
        gradient: Buffer,
    ) -> Result<(), BackboneError> {
        let mut grad_output = ctx.buffers.acquire(self.pool_input_shape.n_values());
        pooling::max_pool_backward(self.pool_input_shape, &gradient, &self.argmax, &mut grad_output);
        let grad_context = unit.backward(ctx, self.saved, input, &grad_output)?;
        ctx.buffers.release_all([grad_output, gradient, self.pooled]);
        ctx.buffers.release_all(grad_context.grad_conv_output);
        Ok(())
    }
}
