//! Collects the activation statistics of a network on sample images.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use crate::activation_stats::ActivationStats;
use crate::cache_line::CacheLine;
use crate::dispatch::AnyKernel;
use crate::error::EngineError;
use crate::executor::{LayerObserver, OutputLayout};
use crate::gptq::Gram;
use crate::isa::DType;
use crate::layer::{Method, PackedConv};
use crate::network::{Network, Node, Op, Tap};
use crate::pad::TensorView;
use crate::session::{ImageBatch, Session};
use crate::winograd::{COMPONENTS, InputTiles, Tiling, TransformSource, TransformTiles, TransformedTiles};

/// Maximum number of input pixels sampled per image and layer.
const MAX_SAMPLES_PER_IMAGE: usize = 256;

impl ActivationStats {
    /// Runs an `f32` network on images up to `tap`, on one thread, and collects the Gram matrices of the
    /// inputs of its layers, with which the same network in `bf16` rounds its weights (by GPTQ). Layers that
    /// read `bf16`, the first layer and direct convolutions are skipped. The features themselves are dropped.
    ///
    /// # Errors
    /// [`EngineError::Input`] if the number of pixels does not match the sizes, or the images are too small.
    pub fn collect(network: &Arc<Network>, images: ImageBatch<'_>, tap: Tap) -> Result<Self, EngineError> {
        let grams = network.nodes.iter().map(|_| Mutex::default()).collect();
        let collector = StatsCollector { network, grams };
        let mut features = vec![0.0; images.count * network.channels(tap)];
        let mut session = Session::new(network.clone(), 1)?;
        session.run_observed(images, tap, OutputLayout::Pooled, &mut features, Some(&collector))?;
        let grams = collector.grams.into_iter();
        let grams = grams.map(|grams| grams.into_inner().unwrap_or_else(PoisonError::into_inner));
        let names = network.nodes.iter().map(|node| node.name.clone());
        Ok(Self { layers: names.zip(grams).filter(|(_, grams)| !grams.is_empty()).collect() })
    }
}

/// Accumulates Gram matrices while a network runs.
struct StatsCollector<'a> {
    network: &'a Network,
    /// The Gram matrices of each node; none if the node is not a convolution or is skipped.
    grams: Vec<Mutex<Vec<Gram>>>,
}

impl LayerObserver for StatsCollector<'_> {
    /// Adds `input`, the values that the node with index `node` is about to read, to the node's Gram
    /// matrices, if the node is a convolution that reads `f32`. With them GPTQ later rounds the weights of
    /// the layer to `bf16`.
    fn before_layer(&self, node: usize, input: TensorView) {
        let Node { op: Op::Convolution { packed, .. }, input: value, .. } = &self.network.nodes[node] else {
            return;
        };
        if self.network.values[*value].precision != DType::F32 {
            return;
        }
        let grams = &mut *self.grams[node].lock().unwrap_or_else(PoisonError::into_inner);
        let kernel = self.network.kernels.f32;
        match packed.method {
            Method::Pointwise => add_pointwise_inputs(grams, kernel, packed, input),
            Method::Winograd => add_winograd_inputs(grams, kernel, packed, input),
            // The first layer stays in `f32`. Direct convolutions have Gram matrices of nine times the size,
            // which would cost more than all others together, without a measurable gain.
            Method::FirstLayer | Method::Direct => {}
        }
    }
}

/// Adds inputs of a 1 x 1 convolution to its Gram matrix, `grams[0]` (created if `grams` is empty), with
/// which GPTQ rounds the layer's weights. A sample is the channels of a pixel that the convolution reads;
/// evenly spaced pixels are taken, at most [`MAX_SAMPLES_PER_IMAGE`] from each image.
fn add_pointwise_inputs(grams: &mut Vec<Gram>, kernel: AnyKernel, packed: &PackedConv, input: TensorView) {
    let PackedConv { inputs, stride, .. } = *packed;
    if grams.is_empty() {
        grams.push(Gram::new(inputs));
    }
    let (rows, columns) = (input.height.div_ceil(stride), input.width.div_ceil(stride));
    let step = (rows * columns).div_ceil(MAX_SAMPLES_PER_IMAGE);
    let mut samples = Vec::new();
    for image in 0..input.images {
        for position in (0..rows * columns).step_by(step) {
            let (y, x) = (position / columns * stride, position % columns * stride);
            let pixel = (image * input.height + y) * input.width + x;
            samples.extend((0..inputs).map(|channel| {
                let line = channel / 16 * input.block_stride + pixel;
                // SAFETY: the pixel is inside the view; `before_layer` checked that a cache line holds 16
                // `f32`.
                unsafe { *input.lines.add(line).cast::<f32>().add(channel % 16) }
            }));
        }
    }
    grams[0].add_samples(kernel, &samples);
}

/// Adds inputs of a Winograd convolution to its Gram matrices (created if `grams` is empty), with which GPTQ
/// rounds the layer's weights. The convolution has a GEMM, and so a Gram matrix, for each of the 36
/// components of a transformed tile. So the tiles of all images are transformed first; then a sample of a
/// component is its channels in one tile.
fn add_winograd_inputs(grams: &mut Vec<Gram>, kernel: AnyKernel, packed: &PackedConv, input: TensorView) {
    if grams.is_empty() {
        grams.extend((0..COMPONENTS).map(|_| Gram::new(packed.inputs)));
    }
    let tiling = Tiling { height: input.height, width: input.width };
    let (n_tiles, blocks) = (input.images * tiling.tiles_per_image(), packed.panels.k_blocks);
    // The transformed tiles, `[component][channel block][tile]`, with a line of 16 channels each.
    let mut lines = CacheLine::zeros(COMPONENTS * blocks * n_tiles);
    let dst = TransformedTiles {
        lines: lines.as_mut_ptr(),
        component_stride: blocks * n_tiles,
        panel_stride: n_tiles,
        panel_blocks: 1,
    };
    let source = TransformSource { lines: input.lines, pixel_stride: 1, block_stride: input.block_stride };
    // All units of work of the transform on this thread: each channel block of each tile.
    let (units, kind) = (0..blocks * n_tiles, PhantomData::<InputTiles>);
    kernel.run(TransformTiles { tiling, source, tiles: 0..n_tiles, units, dst, kind });
    let values = bytemuck::cast_slice::<CacheLine, f32>(&lines);
    for (gram, component) in grams.iter_mut().zip(values.chunks_exact(blocks * n_tiles * 16)) {
        let sample = |tile: usize| {
            let value = move |channel| component[(channel / 16 * n_tiles + tile) * 16 + channel % 16];
            (0..packed.inputs).map(value)
        };
        gram.add_samples(kernel, &(0..n_tiles).flat_map(sample).collect::<Vec<f32>>());
    }
}
