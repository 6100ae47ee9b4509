//! Where every value lies, for photos of one size.
//!
//! A segment is what lies between two taps. It takes a group of photos at a time, as many as make its weights worth the
//! reading; the segment before runs in smaller groups until there are enough. So one arena holds the inputs of all
//! segments, and room that the values within a segment share.

use crate::cache_line::CacheLine;
use crate::error::EngineError;
use crate::image::{self, PaddedImages};
use crate::layer::{Method, PackedConv, channel_vectors};
use crate::network::{Network, Node, Op};
use crate::pad::Padded;
use crate::pool;
use crate::winograd::{self, Tiling};

/// Cells past the last value that a tile may read, though nothing comes of it.
pub(crate) const READ_SLACK: usize = 64;

/// The most photos in a group: values of more would leave the cache.
const LARGEST_GROUP: usize = 8;

/// Where a value lies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BufferSlot {
    /// Its first cell in the arena.
    pub(crate) offset: usize,
    /// Cells from a block of channels to the next.
    pub(crate) block_stride: usize,
}

/// What a node needs to run.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) node: usize,
    pub(crate) input: BufferSlot,
    pub(crate) output: BufferSlot,
    pub(crate) residual: BufferSlot,
    /// The first cell of its own memory.
    pub(crate) scratch: usize,
    /// Cells from a block of the copy it makes there to the next.
    pub(crate) copy_block_stride: usize,
    /// Bytes from a pixel to what each segment of its sum reads.
    pub(crate) offsets: Vec<usize>,
    /// Tiles that go through Winograd's transforms at a time.
    pub(crate) tiles: usize,
}

#[derive(Debug)]
pub(crate) struct Stage {
    /// Photos at a time.
    pub(crate) group_size: usize,
    pub(crate) steps: Vec<Step>,
    /// The value at its end.
    pub(crate) output: BufferSlot,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Height and width of each value.
    pub(crate) sizes: Vec<(usize, usize)>,
    pub(crate) stages: Vec<Stage>,
    /// Cells of the arena.
    pub(crate) arena_lines: usize,
}

/// Memory that is in use from one step to another, both included.
struct Allocation {
    offset: usize,
    lines: usize,
    first_step: usize,
    last_step: usize,
}

/// Room shared by values that do not live at the same time.
#[derive(Default)]
struct ArenaAllocator {
    allocations: Vec<Allocation>,
}

impl ArenaAllocator {
    /// The lowest place for `cells` from step `first` to `last`: the number of the lease.
    fn allocate(&mut self, lines: usize, first_step: usize, last_step: usize) -> usize {
        let mut taken: Vec<(usize, usize)> = self
            .allocations
            .iter()
            .filter(|allocation| allocation.first_step <= last_step && first_step <= allocation.last_step)
            .map(|allocation| (allocation.offset, allocation.offset + allocation.lines))
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

    fn peak_lines(&self) -> usize {
        self.allocations.iter().map(|lease| lease.offset + lease.lines).max().unwrap_or(0)
    }
}

/// Cells from a block to the next for `pixels`: blocks then start a tile's height apart in the cache, not on top of each
/// other, as they would with a distance of a multiple of 4 KiB.
fn block_stride(pixels: usize) -> usize {
    const SETS: usize = 64;
    const REMAINDER: usize = 15;
    (pixels + SETS - 1 - REMAINDER) / SETS * SETS + REMAINDER
}

impl Plan {
    /// # Errors
    /// [`EngineError::Photos`] when a layer has nothing left to look at.
    pub(crate) fn new(network: &Network, height: usize, width: usize) -> Result<Self, EngineError> {
        let sizes = infer_sizes(network, height, width)?;
        let count = network.taps.len();
        let group_sizes: Vec<usize> =
            (0..count).map(|stage| stage_group_size(network, &sizes, stage)).collect();
        let mut planner = Planner { network, sizes: &sizes, tap_slots: Vec::new(), shared_start: 0 };
        for (stage, &value) in network.taps.iter().enumerate() {
            // The value at the end of a segment serves the next one's groups.
            let images = group_sizes[stage].max(group_sizes.get(stage + 1).copied().unwrap_or(0));
            let slot = BufferSlot {
                offset: planner.shared_start,
                block_stride: planner.value_block_stride(value, images),
            };
            planner.shared_start += network.n_blocks(value) * slot.block_stride;
            planner.tap_slots.push(slot);
        }
        let (mut stages, mut shared_lines) = (Vec::with_capacity(count), 0);
        for (stage, &group) in group_sizes.iter().enumerate() {
            let (planned, lines) = planner.plan_stage(stage, group);
            stages.push(planned);
            shared_lines = shared_lines.max(lines);
        }
        let arena_lines = planner.shared_start + shared_lines + READ_SLACK;
        Ok(Self { height, width, sizes, stages, arena_lines })
    }
}

/// What all segments are planned with.
struct Planner<'a> {
    network: &'a Network,
    /// Height and width of each value.
    sizes: &'a [(usize, usize)],
    /// The value at the end of each segment.
    tap_slots: Vec<BufferSlot>,
    /// The first cell of the room that values within a segment share.
    shared_start: usize,
}

/// Where a value lies while its segment runs. One at a tap has no lease: its place is its own.
#[derive(Clone, Copy, Default)]
struct ValueLocation {
    slot: BufferSlot,
    allocation: Option<usize>,
}

impl Planner<'_> {
    /// Cells from a block to the next of a value of so many photos.
    fn value_block_stride(&self, value: usize, images: usize) -> usize {
        block_stride(images * self.sizes[value].0 * self.sizes[value].1)
    }

    /// A segment that takes `group` photos at a time, and the cells that it needs of the shared room.
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

    /// Finds a place for what the node of this number gives.
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
        // A sum takes the place of what is added, where nobody needs that any more: each pixel is read before it is written.
        // Not of what is multiplied as well: later panels still read that.
        let reused = residual_value(node).filter(|&value| {
            let same_type = network.values[value] == network.values[node.output];
            same_type && value != node.input && last_use(value) == index
        });
        if let Some((location, allocation)) =
            reused.and_then(|value| Some((locations[value], locations[value].allocation?)))
        {
            allocator.allocations[allocation].last_step = last_step;
            return location;
        }
        let block_stride = self.value_block_stride(node.output, group);
        let allocation = allocator.allocate(network.n_blocks(node.output) * block_stride, index, last_step);
        let offset = self.shared_start + allocator.allocations[allocation].offset;
        ValueLocation { slot: BufferSlot { offset, block_stride }, allocation: Some(allocation) }
    }
}

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
        let along = |size: usize| match &node.op {
            Op::Convolution { packed, .. } => packed.output_len(size),
            Op::MaxPool { kernel, stride, padding } => {
                (size + 2 * padding >= *kernel).then(|| pool::output_len(size, *kernel, *stride, *padding))
            }
        };
        let reject = |problem: String| EngineError::Input { images: 1, height, width, problem };
        let (Some(rows), Some(columns)) = (along(input.0), along(input.1)) else {
            let problem = format!("{} has only {} x {} pixels left", node.name, input.0, input.1);
            return Err(reject(problem));
        };
        if let Some(residual) = residual.map(|value| sizes[value]).filter(|&size| size != (rows, columns)) {
            let (height, width) = residual;
            return Err(reject(format!(
                "{}: {rows} x {columns} cannot be added to {height} x {width}",
                node.name
            )));
        }
        sizes.push((rows, columns));
    }
    Ok(sizes)
}

/// Photos that a segment takes at a time: more where its weights are many beside its values, since all weights pass by for
/// each group.
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

/// A photo more in a group for each time that a segment's weights are this many times its largest value: a ResNet-50's layer2
/// takes one, layer3 four, layer4 eight. On a Xeon with 2 MiB of L2 other sizes were slower; on a Zen 5 with 32 MB of L3 it
/// hardly matters.
const WEIGHTS_PER_VALUE: usize = 16;

/// Bytes of transformed tiles and their products that stay in the L2 cache beside weights that do as well.
const TRANSFORMED_IN_CACHE: usize = 512 << 10;

/// Tiles that go through Winograd's transforms at a time: as many as stay in the cache where the weights do too, all of them
/// where the weights come from further away.
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

/// Cells that a node needs for itself.
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

/// Cells from a block to the next of the copy that a node makes of its input.
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

/// Bytes from a pixel of what a product reads to where each segment of its sum lies.
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
            let (block, tap) =
                (k_block / (packed.kernel * packed.kernel), k_block % (packed.kernel * packed.kernel));
            let (y, x) = (tap / packed.kernel, tap % packed.kernel);
            let column = x % packed.stride * padded.phase_columns() + x / packed.stride;
            (block * copy_block_stride + y * padded.row_len() + column) * CacheLine::BYTES
        }
    };
    (0..packed.panels.k_blocks).map(offset).collect()
}

/// Cells from a point of transformed tiles to the next: odd, so that they spread over the cache.
pub(crate) fn component_stride(blocks: usize, tiles: usize) -> usize {
    (blocks * tiles) | 1
}

/// Cells of transformed tiles.
pub(crate) fn transformed_lines(blocks: usize, tiles: usize) -> usize {
    winograd::COMPONENTS * component_stride(blocks, tiles)
}

/// The photo's rows as the first layer reads them.
pub(crate) fn padded_images(packed: &PackedConv, height: usize, width: usize) -> PaddedImages {
    let columns = packed.output_len(width).unwrap_or(1);
    let row_end = (columns - 1) * packed.stride * image::CHANNELS + packed.panels.steps;
    let row_len = row_end.max((width + 2 * packed.padding) * image::CHANNELS).next_multiple_of(32);
    PaddedImages { height, width, padding: packed.padding, row_len }
}

/// The copy that a direct convolution reads.
pub(crate) fn padded_input(packed: &PackedConv, height: usize, width: usize) -> Padded {
    Padded { stride: packed.stride, padding: packed.padding, height, width }
}
