//! Training on the CPU: convolutions and their gradients are computed by the engine, in `f32`.

use headstock_engine::Isa;
use headstock_engine::training::ConvOps;

use super::batch_norm::BatchStatistics;
use super::block::BlockCache;
use super::buffer_pool::{Buffer, BufferPool};
use super::conv_bn::{ConvBnUnit, SavedForBackward, TrainContext};
use super::pooling::{self, NhwcShape, NhwcView};
use super::{BatchNormMode, TrainStep, TrainableNetwork, take_matching_cache};
use crate::error::BackboneError;
use crate::layer::FeatureLayer;
use crate::resnet_spec::Activation;

/// Runs forward and backward passes on the CPU.
#[derive(Debug)]
pub(super) struct CpuBackend {
    /// The engine's convolutions and their gradients.
    conv_ops: ConvOps,
    /// Memory for activations and gradients, reused by all steps.
    buffers: BufferPool,
    /// What the last training forward pass saved; `None` after the backward pass.
    cache: Option<CpuStepCache>,
}

/// What the backward pass of the network needs from the forward pass of a training step.
#[derive(Debug)]
struct CpuStepCache {
    /// The input of the first trained stage.
    input: Buffer,
    /// `None` if the stem is not trained.
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
    /// The shape of the input of the max pool.
    pool_input_shape: NhwcShape,
    /// For each output of the max pool, the index (0 to 8) of the maximum in its window.
    argmax: Vec<u8>,
    /// The output of the max pool, which is the output of the stem.
    pooled: Buffer,
}

impl CpuBackend {
    /// A backend that uses the instruction set `isa`.
    pub(super) fn new(isa: Isa) -> Result<Self, BackboneError> {
        Ok(Self { conv_ops: ConvOps::new(isa)?, buffers: BufferPool::default(), cache: None })
    }

    /// Features `[N, F]` for evaluation: all BatchNorms use running statistics, and nothing is saved. `input`
    /// is what the first stage of `network` takes: normalized images or the activations of the stage before
    /// it.
    pub(super) fn forward(
        &mut self,
        network: &mut TrainableNetwork,
        input: NhwcView<'_>,
    ) -> Result<Vec<f32>, BackboneError> {
        let (shape, out) = self.forward_frozen(network, |_every_stage| true, input)?;
        let features = pooling::global_avg_pool(shape, out.as_deref().unwrap_or(input.values));
        self.buffers.release(out);
        Ok(features)
    }

    /// The forward pass of a training step; `step` names the first trained stage and the mode of BatchNorm.
    /// Returns the features, `[N, F]`, and the statistics of the batch for each BatchNorm that uses them, in
    /// the order of the parameters: the caller updates the running statistics with them. Saves what
    /// [`backward`](Self::backward) needs, for the trained stages only.
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
        let statistics = all_saved.filter_map(|saved| Some(saved.batch.as_ref()?.1.clone())).collect();
        self.cache = Some(cache);
        Ok((features, statistics))
    }

    /// The backward pass of a training step: adds the gradients of the trained parameters to those in
    /// `network.store`, given `grad_features`, the gradient of the features that the last
    /// [`forward_training`](Self::forward_training) returned, `[N, F]`.
    pub(super) fn backward(
        &mut self,
        network: &mut TrainableNetwork,
        grad_features: &[f32],
    ) -> Result<(), BackboneError> {
        let n_features = |cache: &CpuStepCache| cache.output_shape.images * cache.output_shape.channels;
        let cache = take_matching_cache(&mut self.cache, n_features, grad_features)?;
        let CpuStepCache { input, stem: stem_cache, blocks: mut caches, output_shape } = cache;
        let TrainableNetwork { store, stem, blocks } = network;
        let ctx = &mut TrainContext { store, conv_ops: &mut self.conv_ops, buffers: &mut self.buffers };
        // The gradient of the output of the current block before its ReLU; `None` if no block is trained.
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
            // The first trained layer needs no gradient of its input.
            gradient = block.backward(ctx, cache, block_input, grad_output, previous.is_some())?;
        }
        if let (Some(unit), Some(cache), Some(gradient)) = (stem, stem_cache, gradient) {
            cache.backward(unit, ctx, &input, gradient)?;
        }
        ctx.buffers.release([input]);
        Ok(())
    }

    /// Drops what the last training forward pass saved, and returns its buffers to the pool; for a step that
    /// gets no backward pass.
    pub(super) fn clear_cache(&mut self) {
        let Some(CpuStepCache { input, stem, blocks, .. }) = self.cache.take() else { return };
        self.buffers.release([input]);
        if let Some(StemCache { saved, pooled, .. }) = stem {
            saved.release(&mut self.buffers);
            self.buffers.release([pooled]);
        }
        for block in blocks {
            let output = block.into_output(&mut self.buffers);
            self.buffers.release(output);
        }
    }

    /// Runs the stages that `is_included` selects, the first stages of `network`, with running statistics and
    /// without saving anything for a backward pass. Returns the shape of the output, and the output; the
    /// latter is `None` if no stage was run, so that the output is `input`.
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
            ctx.buffers.release(output);
            output = cache.into_output(ctx.buffers);
        }
        Ok((shape, output))
    }
}

impl CpuStepCache {
    /// The input of global average pooling: the output of the last trained layer.
    fn output(&self) -> &[f32] {
        let stem = self.stem.as_ref().map(|stem| &*stem.pooled);
        self.blocks.last().map(BlockCache::output).or(stem).unwrap_or(&self.input)
    }
}

impl StemCache {
    /// Runs the stem on normalized pixels `[N, H, W, 3]`: `unit` (convolution, BatchNorm and ReLU) and a max
    /// pool. Returns the output, `pooled`, and what [`backward`](Self::backward) needs.
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
        ctx.buffers.release([out]);
        Ok(Self { saved, pool_input_shape, argmax, pooled })
    }

    /// The backward pass of the stem: adds the gradients of the parameters of `unit`, its convolution and
    /// BatchNorm, to those in `ctx.store`, given `input`, the normalized pixels, and `grad_pooled`, the
    /// gradient of the output of the max pool. `grad_pooled` must be 0 where that output is 0, so that the
    /// ReLU before the pool needs no backward pass: it passes on the gradient of a positive maximum.
    fn backward(
        self,
        unit: &ConvBnUnit,
        ctx: &mut TrainContext<'_>,
        input: &[f32],
        grad_pooled: Buffer,
    ) -> Result<(), BackboneError> {
        // The gradient of the input of the max pool, which is the output of `unit`.
        let mut grad_conv_bn = ctx.buffers.acquire(self.pool_input_shape.n_values());
        pooling::max_pool_backward(self.pool_input_shape, &grad_pooled, &self.argmax, &mut grad_conv_bn);
        let grad_context = unit.backward(ctx, self.saved, input, &grad_conv_bn)?;
        ctx.buffers.release([grad_conv_bn, grad_pooled, self.pooled]);
        ctx.buffers.release(grad_context.grad_conv_output);
        Ok(())
    }
}
