//! Memory plan: the offset of every value in the arena, for images of one size. A value is the input images
//! or the output of a layer. Offsets and sizes are in cache lines.
//!
//! A stage is the layers between two taps. It processes a group of images at a time, large enough to amortize
//! reading its weights; the previous stage runs in smaller groups until the input is complete. So one arena
//! holds the inputs of all stages, followed by memory that the values within a stage share.

use crate::cache_line::CacheLine;
use crate::error::EngineError;
use crate::image::{self, PaddedImages};
use crate::layer::{Method, PackedConv, channel_vectors};
use crate::network::{Network, Node, Op};
use crate::pad::Padded;
use crate::pool;
use crate::winograd::{self, Tiling};

/// Lines past the last value that a tile may read; their contents do not affect results.
pub(crate) const READ_SLACK: usize = 64;

/// Maximum number of images in a group; the values of more would not fit the cache.
const LARGEST_GROUP: usize = 8;

/// Location of a value in the arena, `[channel block][image][row][column]`, a cache line each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BufferSlot {
    /// The first line.
    pub(crate) offset: usize,
    /// Lines between two channel blocks.
    pub(crate) block_stride: usize,
}

/// A layer of the network (a node) with the locations of its buffers in the arena.
#[derive(Debug)]
pub(crate) struct PlannedNode {
    /// Index of the node in the network.
    pub(crate) node: usize,
    pub(crate) input: BufferSlot,
    pub(crate) output: BufferSlot,
    /// Unused without a residual.
    pub(crate) residual: BufferSlot,
    /// First line of the scratch memory: the input's copy, or transformed tiles.
    pub(crate) scratch: usize,
    /// Lines between two channel blocks of the input's copy in the scratch memory.
    pub(crate) copy_block_stride: usize,
    /// Offset in bytes from a pixel to the values that each k-block of its sum reads.
    pub(crate) offsets: Vec<usize>,
    /// Winograd tiles transformed at a time.
    pub(crate) tiles: usize,
}

/// Plan of a stage: the layers between two taps, outputs at which a run can stop.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Number of images at a time.
    pub(crate) group_size: usize,
    pub(crate) planned_nodes: Vec<PlannedNode>,
    /// Location of the value at the end of the stage.
    pub(crate) output: BufferSlot,
}

/// Where the output of each layer of a network is in the arena, and how many images are computed at a time,
/// for images of `height` x `width` pixels.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Height and width of each value.
    pub(crate) sizes: Vec<(usize, usize)>,
    pub(crate) stages: Vec<Stage>,
    /// Size of the arena in cache lines.
    pub(crate) arena_lines: usize,
}

/// A range of lines of the arena that is in use while the nodes `first_node..=last_node` of a stage run.
struct Allocation {
    offset: usize,
    lines: usize,
    first_node: usize,
    last_node: usize,
}

/// Allocator for the values within a stage, which share memory if they do not live at the same time.
#[derive(Default)]
struct ArenaAllocator {
    allocations: Vec<Allocation>,
}

impl ArenaAllocator {
    /// Reserves `lines` cache lines for a buffer that is in use while the nodes (layers)
    /// `first_node..=last_node` of the stage run, at the lowest offset where no other buffer is in use then.
    /// Returns the index of the new allocation in `allocations`.
    fn allocate(&mut self, lines: usize, first_node: usize, last_node: usize) -> usize {
        let mut taken: Vec<(usize, usize)> = self
            .allocations
            .iter()
            .filter(|used| used.first_node <= last_node && first_node <= used.last_node)
            .map(|used| (used.offset, used.offset + used.lines))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, end) in taken {
            if offset + lines <= start {
                break;
            }
            offset = offset.max(end);
        }
        self.allocations.push(Allocation { offset, lines, first_node, last_node });
        self.allocations.len() - 1
    }
}

/// Chooses the distance in cache lines between two channel blocks of `pixels` pixels each, a line per pixel:
/// `pixels` rounded up to 15 lines more than a multiple of 64. At a multiple of 64 lines (4 KiB) all blocks
/// would map to the same cache sets, and would evict each other; 15 lines keep them a tile's height apart.
fn block_stride(pixels: usize) -> usize {
    const SETS: usize = 64;
    const REMAINDER: usize = 15;
    (pixels + SETS - 1 - REMAINDER) / SETS * SETS + REMAINDER
}

impl Plan {
    /// Plans a run of `network` on images of `height` x `width` pixels: where the output of each layer is in
    /// the arena, and how many images each stage (the layers between two outputs at which a run can stop)
    /// runs at a time.
    ///
    /// # Errors
    /// [`EngineError::Input`] if the images are too small for a layer, or a residual has a different size
    /// than the output of its layer.
    pub(crate) fn new(network: &Network, height: usize, width: usize) -> Result<Self, EngineError> {
        let sizes = infer_sizes(network, height, width)?;
        let n_stages = network.taps.len();
        let group_sizes: Vec<usize> =
            (0..n_stages).map(|stage| stage_group_size(network, &sizes, stage)).collect();
        let mut planner = Planner { network, sizes: &sizes, tap_slots: Vec::new(), shared_start: 0 };
        // The values at the taps come first, each in memory of its own; the other values of all stages share
        // the memory after them.
        for (stage, &value) in network.taps.iter().enumerate() {
            // The value at the end of a stage holds all images of a group of the next stage.
            let images = group_sizes[stage].max(group_sizes.get(stage + 1).copied().unwrap_or(0));
            let block_stride = planner.value_block_stride(value, images);
            planner.tap_slots.push(BufferSlot { offset: planner.shared_start, block_stride });
            planner.shared_start += network.n_blocks(value) * block_stride;
        }
        let (mut stages, mut shared_lines) = (Vec::with_capacity(n_stages), 0);
        for (stage, &group_size) in group_sizes.iter().enumerate() {
            let (stage_plan, lines) = planner.plan_stage(stage, group_size);
            stages.push(stage_plan);
            shared_lines = shared_lines.max(lines);
        }
        let arena_lines = planner.shared_start + shared_lines + READ_SLACK;
        Ok(Self { height, width, sizes, stages, arena_lines })
    }
}

/// Plans the stages one by one; the fields are what all stages have in common.
struct Planner<'a> {
    network: &'a Network,
    /// Height and width of each value.
    sizes: &'a [(usize, usize)],
    /// Location of the value at each tap.
    tap_slots: Vec<BufferSlot>,
    /// First line of the memory that the values within a stage share.
    shared_start: usize,
}

/// Location of a value while its stage runs.
#[derive(Clone, Copy, Default)]
struct ValueLocation {
    slot: BufferSlot,
    /// Index in [`ArenaAllocator::allocations`]; `None` for a value at a tap, whose slot is not shared.
    allocation: Option<usize>,
}

impl Planner<'_> {
    /// Distance in cache lines between two channel blocks of the value (output of a layer) with index
    /// `value`, if its buffer holds `images` images.
    fn value_block_stride(&self, value: usize, images: usize) -> usize {
        let (height, width) = self.sizes[value];
        block_stride(images * height * width)
    }

    /// Plans the buffers of all nodes (layers) of stage `stage`, which runs on `group_size` images at a time:
    /// input, output, residual and scratch memory. Returns the planned stage, and the number of cache lines
    /// that it needs of the memory that all stages share.
    fn plan_stage(&self, stage: usize, group_size: usize) -> (Stage, usize) {
        let (network, sizes) = (self.network, self.sizes);
        let range = network.stage_nodes(stage);
        let nodes = &network.nodes[range.clone()];
        let (mut allocator, mut planned_nodes) = (ArenaAllocator::default(), Vec::with_capacity(nodes.len()));
        let mut locations = vec![ValueLocation::default(); network.values.len()];
        if let Some(previous) = stage.checked_sub(1) {
            locations[network.taps[previous]].slot = self.tap_slots[previous];
        }
        for (index, node) in nodes.iter().enumerate() {
            locations[node.output] = if node.output == network.taps[stage] {
                ValueLocation { slot: self.tap_slots[stage], allocation: None }
            } else {
                self.allocate_output(nodes, index, group_size, &locations, &mut allocator)
            };
            let input = locations[node.input].slot;
            let ConvScratch { lines, copy_block_stride, offsets, tiles } =
                conv_scratch(sizes, node, group_size, input.block_stride);
            // Scratch memory is in use only while its node runs.
            let scratch = allocator.allocate(lines, index, index);
            planned_nodes.push(PlannedNode {
                node: range.start + index,
                input,
                copy_block_stride,
                offsets,
                output: locations[node.output].slot,
                residual: residual_value(node).map(|value| locations[value].slot).unwrap_or_default(),
                scratch: self.shared_start + allocator.allocations[scratch].offset,
                tiles,
            });
        }
        // The stage needs the memory up to the end of the farthest allocation.
        let ends = allocator.allocations.iter().map(|allocation| allocation.offset + allocation.lines);
        (Stage { group_size, planned_nodes, output: self.tap_slots[stage] }, ends.max().unwrap_or(0))
    }

    /// Chooses the memory of the output of the layer `nodes[index]`, where `nodes` are those of a stage: that
    /// of the residual that the layer adds, if no later layer reads it, or else a new allocation. `locations`
    /// has the location of each value (layer output) that is computed before.
    fn allocate_output(
        &self,
        nodes: &[Node],
        index: usize,
        group_size: usize,
        locations: &[ValueLocation],
        allocator: &mut ArenaAllocator,
    ) -> ValueLocation {
        let (network, node) = (self.network, &nodes[index]);
        let last_use = |value: usize| {
            let reads = |node: &Node| node.input == value || residual_value(node) == Some(value);
            (index..nodes.len()).rev().find(|&later| reads(&nodes[later])).unwrap_or(index)
        };
        let last_node = last_use(node.output);
        // A sum overwrites its residual if no later node reads it: each pixel is read before it is written.
        // It cannot overwrite the input of the convolution, which later panels still read.
        let reused = residual_value(node).filter(|&value| {
            let same_type = network.values[value] == network.values[node.output];
            same_type && value != node.input && last_use(value) == index
        });
        let reused = reused.map(|value| locations[value]);
        if let Some(location @ ValueLocation { allocation: Some(allocation), .. }) = reused {
            allocator.allocations[allocation].last_node = last_node;
            return location;
        }
        let block_stride = self.value_block_stride(node.output, group_size);
        let lines = network.n_blocks(node.output) * block_stride;
        let allocation = allocator.allocate(lines, index, last_node);
        let offset = self.shared_start + allocator.allocations[allocation].offset;
        ValueLocation { slot: BufferSlot { offset, block_stride }, allocation: Some(allocation) }
    }
}

/// Index of the value, the output of an earlier layer, that a node adds to its result (a residual
/// connection); `None` if it adds none.
fn residual_value(node: &Node) -> Option<usize> {
    match node.op {
        Op::Convolution { residual, .. } => residual,
        Op::MaxPool { .. } => None,
    }
}

/// Computes the height and width of each value for images of `height` x `width` pixels: element 0 is the size
/// of the images, element `i + 1` that of the output of layer `i`. The planner sizes its buffers by them.
///
/// # Errors
/// [`EngineError::Input`] if the images are too small for a layer, or a residual has a different size than
/// the output of its layer.
fn infer_sizes(network: &Network, height: usize, width: usize) -> Result<Vec<(usize, usize)>, EngineError> {
    let mut sizes = vec![(height, width)];
    for node in &network.nodes {
        let ((input_height, input_width), residual) = (sizes[node.input], residual_value(node));
        let output_len = |size: usize| match &node.op {
            Op::Convolution { packed, .. } => packed.output_len(size),
            Op::MaxPool { kernel_size, stride, padding } => (size + 2 * padding >= *kernel_size)
                .then(|| pool::output_len(size, *kernel_size, *stride, *padding)),
        };
        let reject = |problem: String| EngineError::Input { images: 1, height, width, problem };
        let name = &node.name;
        let (Some(rows), Some(columns)) = (output_len(input_height), output_len(input_width)) else {
            return Err(reject(format!(
                "the photos are too small: the input of the layer {name} has only {input_height} x \
                 {input_width} pixels"
            )));
        };
        if let Some((height, width)) = residual.map(|value| sizes[value])
            && (height, width) != (rows, columns)
        {
            return Err(reject(format!(
                "the layer {name} cannot add a residual of {height} x {width} pixels to its output of \
                 {rows} x {columns} pixels"
            )));
        }
        sizes.push((rows, columns));
    }
    Ok(sizes)
}

/// Chooses how many images (a group) a stage, the layers between two outputs at which a run can stop,
/// processes at a time: at most [`LARGEST_GROUP`]. The weights of all its layers are read once per group, so
/// groups are larger if the weights are large compared to the largest output of a layer. `sizes` has the
/// height and width of each value.
fn stage_group_size(network: &Network, sizes: &[(usize, usize)], stage: usize) -> usize {
    let nodes = &network.nodes[network.stage_nodes(stage)];
    let weight_lines: usize = nodes
        .iter()
        .map(|node| match &node.op {
            Op::Convolution { packed, .. } => packed.weights.len(),
            Op::MaxPool { .. } => 0,
        })
        .sum();
    let value_lines = |value: usize| {
        let (height, width) = sizes[value];
        network.n_blocks(value) * height * width
    };
    let largest = nodes.iter().map(|node| value_lines(node.output)).max().unwrap_or(1).max(1);
    (weight_lines / largest / WEIGHTS_PER_VALUE).clamp(1, LARGEST_GROUP)
}

/// How large a stage's weights are compared to its largest layer output, for each image of a group, in cache
/// lines: for ResNet-50, layer2 takes 1 image at a time, layer3 4, layer4 8. On a Xeon with 2 MiB of L2 other
/// ratios were slower; on a Zen 5 with 32 MB of L3 the ratio hardly matters.
const WEIGHTS_PER_VALUE: usize = 16;

/// Bytes of transformed tiles and their products that stay in the L2 cache next to weights that fit it too.
const TRANSFORMED_IN_CACHE: usize = 512 << 10;

/// The scratch memory of a node (layer) while it runs, and where its GEMM reads activations.
#[derive(Default)]
struct ConvScratch {
    /// Number of cache lines.
    lines: usize,
    /// Lines between two channel blocks of the input's padded or subsampled copy; 0 without such a copy.
    copy_block_stride: usize,
    /// The sums of the GEMM have parts, k-blocks: each is a channel block at one cell of the kernel (in the
    /// first layer a row of the kernel). For each the offset in bytes from the first activations of an output
    /// pixel to those of the k-block, so that the GEMM needs to know nothing of kernels.
    offsets: Vec<usize>,
    /// Winograd tiles (4 x 4 outputs each) transformed and multiplied at a time; 0 for other methods.
    tiles: usize,
}

/// Plans the scratch memory of a node for `group_size` images: a padded or subsampled copy of its input, or
/// transformed Winograd tiles and their products; none for a pool. `sizes` has the height and width of each
/// value, `input_block_stride` is the distance in cache lines between two channel blocks of the input.
fn conv_scratch(
    sizes: &[(usize, usize)],
    node: &Node,
    group_size: usize,
    input_block_stride: usize,
) -> ConvScratch {
    let Op::Convolution { packed, .. } = &node.op else { return ConvScratch::default() };
    let ((height, width), (rows, columns)) = (sizes[node.input], sizes[node.output]);
    let k_blocks = packed.panels.k_blocks;
    // The offsets of k-blocks that are `distance` lines apart.
    let spaced = |distance: usize| (0..k_blocks).map(|block| block * distance * CacheLine::BYTES).collect();
    match packed.method {
        Method::FirstLayer => {
            let padded = padded_images(packed, height, width);
            let row_lines = padded.row_len * size_of::<f32>() / CacheLine::BYTES;
            let lines = group_size * padded.n_rows() * row_lines;
            ConvScratch { lines, offsets: spaced(row_lines), ..ConvScratch::default() }
        }
        Method::Pointwise if packed.stride == 1 => {
            ConvScratch { offsets: spaced(input_block_stride), ..ConvScratch::default() }
        }
        Method::Pointwise => {
            let copy_block_stride = block_stride(group_size * rows * columns);
            let offsets = spaced(copy_block_stride);
            ConvScratch { lines: k_blocks * copy_block_stride, copy_block_stride, offsets, tiles: 0 }
        }
        Method::Direct => {
            let padded = padded_input(packed, height, width);
            let copy_block_stride = block_stride(group_size * padded.image_len());
            let offset = |k_block: usize| {
                let kernel_area = packed.kernel_size * packed.kernel_size;
                let (block, position) = (k_block / kernel_area, k_block % kernel_area);
                let (y, x) = (position / packed.kernel_size, position % packed.kernel_size);
                let column = x % packed.stride * padded.phase_columns() + x / packed.stride;
                (block * copy_block_stride + y * padded.row_len() + column) * CacheLine::BYTES
            };
            let offsets = (0..k_blocks).map(offset).collect();
            ConvScratch {
                lines: packed.input_blocks() * copy_block_stride,
                copy_block_stride,
                offsets,
                tiles: 0,
            }
        }
        Method::Winograd => {
            let output_blocks = channel_vectors(packed.outputs);
            let n_tiles = group_size * Tiling { height, width }.tiles_per_image();
            let tile_bytes = winograd::COMPONENTS * (k_blocks + output_blocks) * CacheLine::BYTES;
            let max_rows = node.kernel.layout().max_rows;
            // As many tiles as stay in the L2 cache if the weights fit it too, rounded down to whole tiles of
            // the GEMM, which have `max_rows` rows: a row per Winograd tile. Else all tiles of the images, so
            // that the weights are read once.
            let tiles = if packed.weights.len() * CacheLine::BYTES <= 2 * TRANSFORMED_IN_CACHE {
                (TRANSFORMED_IN_CACHE / tile_bytes / max_rows * max_rows).max(max_rows).min(n_tiles)
            } else {
                n_tiles
            };
            let lines = transformed_lines(k_blocks, tiles) + transformed_lines(output_blocks, tiles);
            ConvScratch { lines, offsets: spaced(tiles), tiles, ..ConvScratch::default() }
        }
    }
}

/// Distance in cache lines between two of the 36 components of transformed Winograd tiles, each `blocks`
/// channel blocks of `tiles` tiles: odd, so that components map to different cache sets.
pub(crate) fn component_stride(blocks: usize, tiles: usize) -> usize {
    (blocks * tiles) | 1
}

/// Number of cache lines of all 36 components of `tiles` transformed Winograd tiles with `blocks` channel
/// blocks.
pub(crate) fn transformed_lines(blocks: usize, tiles: usize) -> usize {
    winograd::COMPONENTS * component_stride(blocks, tiles)
}

/// The layout of the normalized, zero-padded copy that the first layer makes of images of `height` x `width`
/// pixels, for its GEMM. Rows are long enough for all values that the GEMM reads for the last output of a
/// row.
pub(crate) fn padded_images(packed: &PackedConv, height: usize, width: usize) -> PaddedImages {
    let columns = packed.output_len(width).unwrap_or(1);
    let read_end = (columns - 1) * packed.stride * image::CHANNELS + packed.panels.steps;
    // Rounded up to 32 `f32`, two cache lines, so that each row starts a new line.
    let row_len = read_end.max((width + 2 * packed.padding) * image::CHANNELS).next_multiple_of(32);
    PaddedImages { height, width, padding: packed.padding, row_len }
}

/// The layout of the padded copy that a direct convolution makes of its input of `height` x `width` pixels.
pub(crate) fn padded_input(packed: &PackedConv, height: usize, width: usize) -> Padded {
    Padded { stride: packed.stride, padding: packed.padding, height, width }
}
