//! Memory plan: the offset of every value in the arena, for images of one size.
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

/// Location of a value in the arena.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BufferSlot {
    /// The first line.
    pub(crate) offset: usize,
    /// Lines between two channel blocks.
    pub(crate) block_stride: usize,
}

/// A node with its buffers.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) node: usize,
    pub(crate) input: BufferSlot,
    pub(crate) output: BufferSlot,
    pub(crate) residual: BufferSlot,
    /// First line of the scratch memory.
    pub(crate) scratch: usize,
    /// Lines between two channel blocks of the input's copy in the scratch memory.
    pub(crate) copy_block_stride: usize,
    /// Offset in bytes from a pixel to the values that each k-block of its sum reads.
    pub(crate) offsets: Vec<usize>,
    /// Winograd tiles transformed at a time.
    pub(crate) tiles: usize,
}

/// The layers between two taps.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Images at a time.
    pub(crate) group_size: usize,
    pub(crate) steps: Vec<Step>,
    /// The value at the end of the stage.
    pub(crate) output: BufferSlot,
}

/// The memory plan of a network for images of `height` x `width` pixels.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Height and width of each value.
    pub(crate) sizes: Vec<(usize, usize)>,
    pub(crate) stages: Vec<Stage>,
    /// Size of the arena.
    pub(crate) arena_lines: usize,
}

/// Memory in use from `first_step` to `last_step`, both included.
struct Allocation {
    offset: usize,
    lines: usize,
    first_step: usize,
    last_step: usize,
}

/// Allocator for values that share memory if they do not live at the same time.
#[derive(Default)]
struct ArenaAllocator {
    allocations: Vec<Allocation>,
}

impl ArenaAllocator {
    /// Allocates `lines` at the lowest offset that is free from `first_step` to `last_step`; returns the
    /// allocation's index.
    fn allocate(&mut self, lines: usize, first_step: usize, last_step: usize) -> usize {
        let mut taken: Vec<(usize, usize)> = self
            .allocations
            .iter()
            .filter(|other| other.first_step <= last_step && first_step <= other.last_step)
            .map(|other| (other.offset, other.offset + other.lines))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, end) in taken {
            if offset + lines <= start {
                break;
            }
            offset = offset.max(end);
        }
        self.allocations.push(Allocation { offset, lines, first_step, last_step });
        self.allocations.len() - 1
    }

    /// Lines needed for all allocations.
    fn peak_lines(&self) -> usize {
        self.allocations.iter().map(|allocation| allocation.offset + allocation.lines).max().unwrap_or(0)
    }
}

/// Lines between two channel blocks of `pixels` each. The remainder modulo 4 KiB keeps blocks a tile's height
/// apart in the cache; with a multiple of 4 KiB they would all map to the same cache sets.
fn block_stride(pixels: usize) -> usize {
    const SETS: usize = 64;
    const REMAINDER: usize = 15;
    (pixels + SETS - 1 - REMAINDER) / SETS * SETS + REMAINDER
}

impl Plan {
    /// Plans the memory of `network`.
    ///
    /// # Errors
    /// [`EngineError::Input`] if the images are too small for a layer, or a residual has another size.
    pub(crate) fn new(network: &Network, height: usize, width: usize) -> Result<Self, EngineError> {
        let sizes = infer_sizes(network, height, width)?;
        let count = network.taps.len();
        let groups: Vec<usize> = (0..count).map(|stage| stage_group_size(network, &sizes, stage)).collect();
        let mut planner = Planner { network, sizes: &sizes, tap_slots: Vec::new(), shared_start: 0 };
        for (stage, &value) in network.taps.iter().enumerate() {
            // The value at the end of a stage holds a group of the next one.
            let images = groups[stage].max(groups.get(stage + 1).copied().unwrap_or(0));
            let block_stride = planner.value_block_stride(value, images);
            planner.tap_slots.push(BufferSlot { offset: planner.shared_start, block_stride });
            planner.shared_start += network.n_blocks(value) * block_stride;
        }
        let (mut stages, mut shared_lines) = (Vec::with_capacity(count), 0);
        for (stage, &group) in groups.iter().enumerate() {
            let (planned, lines) = planner.plan_stage(stage, group);
            stages.push(planned);
            shared_lines = shared_lines.max(lines);
        }
        let arena_lines = planner.shared_start + shared_lines + READ_SLACK;
        Ok(Self { height, width, sizes, stages, arena_lines })
    }
}

/// The inputs of the planning of every stage.
struct Planner<'a> {
    network: &'a Network,
    /// Height and width of each value.
    sizes: &'a [(usize, usize)],
    /// Slot of the value at each tap.
    tap_slots: Vec<BufferSlot>,
    /// First line of the memory that the values within a stage share.
    shared_start: usize,
}

/// Location of a value while its stage runs. A value at a tap has no allocation: its slot is not shared.
#[derive(Clone, Copy, Default)]
struct ValueLocation {
    slot: BufferSlot,
    allocation: Option<usize>,
}

impl Planner<'_> {
    /// Lines between two channel blocks of `value` for `images` images.
    fn value_block_stride(&self, value: usize, images: usize) -> usize {
        block_stride(images * self.sizes[value].0 * self.sizes[value].1)
    }

    /// Plans a stage with `group` images at a time. Returns it with the number of lines of shared memory it
    /// needs.
    fn plan_stage(&self, stage: usize, group: usize) -> (Stage, usize) {
        let (network, sizes) = (self.network, self.sizes);
        let range = network.stage_nodes(stage);
        let nodes = &network.nodes[range.clone()];
        let (mut allocator, mut steps) = (ArenaAllocator::default(), Vec::with_capacity(nodes.len()));
        let mut locations = vec![ValueLocation::default(); network.values.len()];
        if let Some(previous) = stage.checked_sub(1) {
            locations[network.taps[previous]].slot = self.tap_slots[previous];
        }
        for (index, node) in nodes.iter().enumerate() {
            locations[node.output] = if node.output == network.taps[stage] {
                ValueLocation { slot: self.tap_slots[stage], allocation: None }
            } else {
                self.allocate_output(nodes, index, group, &locations, &mut allocator)
            };
            let tiles = winograd_tile_count(sizes, node, group);
            let scratch = allocator.allocate(scratch_lines(sizes, node, group, tiles), index, index);
            let input = locations[node.input].slot;
            let copy_block_stride = copy_block_stride(sizes, node, group);
            steps.push(Step {
                node: range.start + index,
                input,
                copy_block_stride,
                offsets: k_block_offsets(sizes, node, input.block_stride, copy_block_stride, tiles),
                output: locations[node.output].slot,
                residual: residual_value(node).map(|value| locations[value].slot).unwrap_or_default(),
                scratch: self.shared_start + allocator.allocations[scratch].offset,
                tiles,
            });
        }
        (Stage { group_size: group, steps, output: self.tap_slots[stage] }, allocator.peak_lines())
    }

    /// Allocates the output of node `index`, or reuses the memory of its residual.
    fn allocate_output(
        &self,
        nodes: &[Node],
        index: usize,
        group: usize,
        locations: &[ValueLocation],
        allocator: &mut ArenaAllocator,
    ) -> ValueLocation {
        let (network, node) = (self.network, &nodes[index]);
        let last_use = |value: usize| {
            (index..nodes.len()).rev().find(|&later| reads_value(&nodes[later], value)).unwrap_or(index)
        };
        let last_step = last_use(node.output);
        // A sum overwrites its residual if no later node reads it: each pixel is read before it is written.
        // It cannot overwrite the input of the convolution, which later panels still read.
        let reused = residual_value(node).filter(|&value| {
            let same_type = network.values[value] == network.values[node.output];
            same_type && value != node.input && last_use(value) == index
        });
        let reused = reused.map(|value| locations[value]);
        if let Some(location @ ValueLocation { allocation: Some(allocation), .. }) = reused {
            allocator.allocations[allocation].last_step = last_step;
            return location;
        }
        let block_stride = self.value_block_stride(node.output, group);
        let allocation = allocator.allocate(network.n_blocks(node.output) * block_stride, index, last_step);
        let offset = self.shared_start + allocator.allocations[allocation].offset;
        ValueLocation { slot: BufferSlot { offset, block_stride }, allocation: Some(allocation) }
    }
}

/// The value that a node adds to its result.
fn residual_value(node: &Node) -> Option<usize> {
    match node.op {
        Op::Convolution { residual, .. } => residual,
        Op::MaxPool { .. } => None,
    }
}

fn reads_value(node: &Node, value: usize) -> bool {
    node.input == value || residual_value(node) == Some(value)
}

/// Height and width of each value.
fn infer_sizes(network: &Network, height: usize, width: usize) -> Result<Vec<(usize, usize)>, EngineError> {
    let mut sizes = vec![(height, width)];
    for node in &network.nodes {
        let (input, residual) = (sizes[node.input], residual_value(node));
        let output_len = |size: usize| match &node.op {
            Op::Convolution { packed, .. } => packed.output_len(size),
            Op::MaxPool { kernel, stride, padding } => {
                (size + 2 * padding >= *kernel).then(|| pool::output_len(size, *kernel, *stride, *padding))
            }
        };
        let reject = |problem: String| EngineError::Input { images: 1, height, width, problem };
        let name = &node.name;
        let (Some(rows), Some(columns)) = (output_len(input.0), output_len(input.1)) else {
            return Err(reject(format!("the input of {name} has only {} x {} pixels", input.0, input.1)));
        };
        if let Some((height, width)) = residual.map(|value| sizes[value])
            && (height, width) != (rows, columns)
        {
            return Err(reject(format!(
                "{name} cannot add a residual of {height} x {width} pixels to {rows} x {columns}"
            )));
        }
        sizes.push((rows, columns));
    }
    Ok(sizes)
}

/// Images that a stage processes at a time: more if its weights are large compared to its values, since each
/// group reads all weights.
fn stage_group_size(network: &Network, sizes: &[(usize, usize)], stage: usize) -> usize {
    let nodes = &network.nodes[network.stage_nodes(stage)];
    let weights: usize = nodes
        .iter()
        .map(|node| match &node.op {
            Op::Convolution { packed, .. } => packed.weights.len(),
            Op::MaxPool { .. } => 0,
        })
        .sum();
    let value_lines = |value: usize| network.n_blocks(value) * sizes[value].0 * sizes[value].1;
    let largest = nodes.iter().map(|node| value_lines(node.output)).max().unwrap_or(1).max(1);
    (weights / largest / WEIGHTS_PER_VALUE).clamp(1, LARGEST_GROUP)
}

/// A stage takes one image per this many times that its weights are larger than its largest value: for
/// ResNet-50, layer2 takes 1, layer3 4, layer4 8. On a Xeon with 2 MiB of L2 other values were slower; on a
/// Zen 5 with 32 MB of L3 it hardly matters.
const WEIGHTS_PER_VALUE: usize = 16;

/// Bytes of transformed tiles and their products that stay in the L2 cache next to weights that fit it too.
const TRANSFORMED_IN_CACHE: usize = 512 << 10;

/// Winograd tiles transformed at a time: as many as stay in the L2 cache if the weights fit it too, else all
/// tiles of the group.
fn winograd_tile_count(sizes: &[(usize, usize)], node: &Node, group: usize) -> usize {
    let Op::Convolution { packed, .. } = &node.op else { return 0 };
    if packed.method != Method::Winograd {
        return 0;
    }
    let (height, width) = sizes[node.input];
    let n_tiles = group * Tiling { height, width }.tiles_per_image();
    let tile_bytes =
        winograd::COMPONENTS * (packed.panels.k_blocks + channel_vectors(packed.outputs)) * CacheLine::BYTES;
    let rows = node.kernel.layout().rows;
    if packed.weights.len() * CacheLine::BYTES <= 2 * TRANSFORMED_IN_CACHE {
        (TRANSFORMED_IN_CACHE / tile_bytes / rows * rows).clamp(rows, n_tiles.max(rows)).min(n_tiles)
    } else {
        n_tiles
    }
}

/// Lines of scratch memory that a node needs.
fn scratch_lines(sizes: &[(usize, usize)], node: &Node, group: usize, tiles: usize) -> usize {
    let Op::Convolution { packed, .. } = &node.op else { return 0 };
    let (height, width) = sizes[node.input];
    match packed.method {
        Method::Image => {
            let padded = padded_images(packed, height, width);
            (group * padded.n_rows() * padded.row_len * size_of::<f32>()).div_ceil(CacheLine::BYTES)
        }
        Method::Pointwise if packed.stride == 1 => 0,
        Method::Pointwise => packed.panels.k_blocks * copy_block_stride(sizes, node, group),
        Method::Direct => {
            packed.panels.k_blocks / (packed.kernel * packed.kernel) * copy_block_stride(sizes, node, group)
        }
        Method::Winograd => {
            transformed_lines(packed.panels.k_blocks, tiles)
                + transformed_lines(channel_vectors(packed.outputs), tiles)
        }
    }
}

/// Lines between two channel blocks of the copy that a node makes of its input; 0 without a copy.
fn copy_block_stride(sizes: &[(usize, usize)], node: &Node, group: usize) -> usize {
    let Op::Convolution { packed, .. } = &node.op else { return 0 };
    let (height, width) = sizes[node.input];
    match packed.method {
        Method::Pointwise if packed.stride > 1 => {
            block_stride(group * sizes[node.output].0 * sizes[node.output].1)
        }
        Method::Direct => block_stride(group * padded_input(packed, height, width).image_len()),
        Method::Pointwise | Method::Image | Method::Winograd => 0,
    }
}

/// Offset in bytes from a pixel of what the GEMM of a node reads to the values of each k-block.
fn k_block_offsets(
    sizes: &[(usize, usize)],
    node: &Node,
    input_block_stride: usize,
    copy_block_stride: usize,
    tiles: usize,
) -> Vec<usize> {
    let Op::Convolution { packed, .. } = &node.op else { return Vec::new() };
    let (height, width) = sizes[node.input];
    let offset = |k_block: usize| match packed.method {
        Method::Image => k_block * padded_images(packed, height, width).row_len * size_of::<f32>(),
        Method::Pointwise if packed.stride == 1 => k_block * input_block_stride * CacheLine::BYTES,
        Method::Pointwise => k_block * copy_block_stride * CacheLine::BYTES,
        Method::Winograd => k_block * tiles * CacheLine::BYTES,
        Method::Direct => {
            let padded = padded_input(packed, height, width);
            let taps = packed.kernel * packed.kernel;
            let (block, tap) = (k_block / taps, k_block % taps);
            let (y, x) = (tap / packed.kernel, tap % packed.kernel);
            let column = x % packed.stride * padded.phase_columns() + x / packed.stride;
            (block * copy_block_stride + y * padded.row_len() + column) * CacheLine::BYTES
        }
    };
    (0..packed.panels.k_blocks).map(offset).collect()
}

/// Lines between two components of transformed tiles: odd, so that components map to different cache sets.
pub(crate) fn component_stride(blocks: usize, tiles: usize) -> usize {
    (blocks * tiles) | 1
}

/// Lines of transformed tiles.
pub(crate) fn transformed_lines(blocks: usize, tiles: usize) -> usize {
    winograd::COMPONENTS * component_stride(blocks, tiles)
}

/// The layout of the padded images that the first layer reads.
pub(crate) fn padded_images(packed: &PackedConv, height: usize, width: usize) -> PaddedImages {
    let columns = packed.output_len(width).unwrap_or(1);
    let row_end = (columns - 1) * packed.stride * image::CHANNELS + packed.panels.steps;
    let row_len = row_end.max((width + 2 * packed.padding) * image::CHANNELS).next_multiple_of(32);
    PaddedImages { height, width, padding: packed.padding, row_len }
}

/// The layout of the padded copy that a direct convolution reads.
pub(crate) fn padded_input(packed: &PackedConv, height: usize, width: usize) -> Padded {
    Padded { stride: packed.stride, padding: packed.padding, height, width }
}
