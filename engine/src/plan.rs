//! Where every value lies, for photos of one size.
//!
//! A segment is what lies between two taps. It takes a group of photos at a time, as many as make its weights worth the
//! reading; the segment before runs in smaller groups until there are enough. So one arena holds the inputs of all
//! segments, and room that the values within a segment share.

use crate::cell::Cell;
use crate::error::EngineError;
use crate::gather::Padded;
use crate::image::{self, Framed};
use crate::layer::{Method, Packed, vectors};
use crate::network::{Network, Node, Op};
use crate::pool;
use crate::winograd::{self, Tiling};

/// Cells past the last value that a tile may read, though nothing comes of it.
pub(crate) const ROOM: usize = 64;

/// The most photos in a group: values of more would leave the cache.
const LARGEST_GROUP: usize = 8;

/// Where a value lies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    /// Its first cell in the arena.
    pub(crate) offset: usize,
    /// Cells from a block of channels to the next.
    pub(crate) block: usize,
}

/// What a node needs to run.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) node: usize,
    pub(crate) input: Place,
    pub(crate) output: Place,
    pub(crate) residual: Place,
    /// The first cell of its own memory.
    pub(crate) scratch: usize,
    /// Cells from a block of the copy it makes there to the next.
    pub(crate) block: usize,
    /// Bytes from a pixel to what each segment of its sum reads.
    pub(crate) offsets: Vec<usize>,
    /// Tiles that go through Winograd's transforms at a time.
    pub(crate) tiles: usize,
}

#[derive(Debug)]
pub(crate) struct Segment {
    /// Photos at a time.
    pub(crate) group: usize,
    pub(crate) steps: Vec<Step>,
    /// The value at its end.
    pub(crate) output: Place,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Height and width of each value.
    pub(crate) sizes: Vec<(usize, usize)>,
    pub(crate) segments: Vec<Segment>,
    /// Cells of the arena.
    pub(crate) cells: usize,
}

/// Memory that is in use from one step to another, both included.
struct Lease {
    offset: usize,
    cells: usize,
    first: usize,
    last: usize,
}

/// Room shared by values that do not live at the same time.
#[derive(Default)]
struct Shared {
    leases: Vec<Lease>,
}

impl Shared {
    /// The lowest place for `cells` from step `first` to `last`: the number of the lease.
    fn lease(&mut self, cells: usize, first: usize, last: usize) -> usize {
        let mut taken: Vec<(usize, usize)> = self
            .leases
            .iter()
            .filter(|lease| lease.first <= last && first <= lease.last)
            .map(|lease| (lease.offset, lease.offset + lease.cells))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, end) in taken {
            if offset + cells <= start {
                break;
            }
            offset = offset.max(end);
        }
        self.leases.push(Lease { offset, cells, first, last });
        self.leases.len() - 1
    }

    fn cells(&self) -> usize {
        self.leases.iter().map(|lease| lease.offset + lease.cells).max().unwrap_or(0)
    }
}

/// Cells from a block to the next for `pixels`: blocks then start a tile's height apart in the cache, not on top of each
/// other, as they would with a distance of a multiple of 4 KiB.
fn block_stride(pixels: usize) -> usize {
    const SETS: usize = 64;
    const APART: usize = 15;
    (pixels + SETS - 1 - APART) / SETS * SETS + APART
}

impl Plan {
    /// # Errors
    /// [`EngineError::Photos`] when a layer has nothing left to look at.
    pub(crate) fn new(network: &Network, height: usize, width: usize) -> Result<Self, EngineError> {
        let sizes = sizes(network, height, width)?;
        let count = network.taps.len();
        let groups: Vec<usize> = (0..count).map(|segment| group(network, &sizes, segment)).collect();
        let mut planner = Planner { network, sizes: &sizes, ends: Vec::new(), start: 0 };
        for (segment, &value) in network.taps.iter().enumerate() {
            // The value at the end of a segment serves the next one's groups.
            let photos = groups[segment].max(groups.get(segment + 1).copied().unwrap_or(0));
            let place = Place { offset: planner.start, block: planner.stride(value, photos) };
            planner.start += network.blocks(value) * place.block;
            planner.ends.push(place);
        }
        let (mut segments, mut shared) = (Vec::with_capacity(count), 0);
        for (segment, &group) in groups.iter().enumerate() {
            let (planned, cells) = planner.segment(segment, group);
            segments.push(planned);
            shared = shared.max(cells);
        }
        let cells = planner.start + shared + ROOM;
        Ok(Self { height, width, sizes, segments, cells })
    }
}

/// What all segments are planned with.
struct Planner<'a> {
    network: &'a Network,
    /// Height and width of each value.
    sizes: &'a [(usize, usize)],
    /// The value at the end of each segment.
    ends: Vec<Place>,
    /// The first cell of the room that values within a segment share.
    start: usize,
}

/// Where a value lies while its segment runs. One at a tap has no lease: its place is its own.
#[derive(Clone, Copy, Default)]
struct Held {
    place: Place,
    lease: Option<usize>,
}

impl Planner<'_> {
    /// Cells from a block to the next of a value of so many photos.
    fn stride(&self, value: usize, photos: usize) -> usize {
        block_stride(photos * self.sizes[value].0 * self.sizes[value].1)
    }

    /// A segment that takes `group` photos at a time, and the cells that it needs of the shared room.
    fn segment(&self, segment: usize, group: usize) -> (Segment, usize) {
        let (network, sizes) = (self.network, self.sizes);
        let range = network.segment(segment);
        let nodes = &network.nodes[range.clone()];
        let (mut shared, mut steps) = (Shared::default(), Vec::with_capacity(nodes.len()));
        let mut held = vec![Held::default(); network.values.len()];
        if let Some(before) = segment.checked_sub(1) {
            held[network.taps[before]].place = self.ends[before];
        }
        for (index, node) in nodes.iter().enumerate() {
            held[node.output] = if node.output == network.taps[segment] {
                Held { place: self.ends[segment], lease: None }
            } else {
                self.output(nodes, index, group, &held, &mut shared)
            };
            let tiles = winograd_tiles(sizes, node, group);
            let scratch = shared.lease(scratch(sizes, node, group, tiles), index, index);
            let input = held[node.input].place;
            let block = copied_block(sizes, node, group);
            steps.push(Step {
                node: range.start + index,
                input,
                block,
                offsets: offsets(sizes, node, input.block, block, tiles),
                output: held[node.output].place,
                residual: residual_of(node).map(|value| held[value].place).unwrap_or_default(),
                scratch: self.start + shared.leases[scratch].offset,
                tiles,
            });
        }
        (Segment { group, steps, output: self.ends[segment] }, shared.cells())
    }

    /// Finds a place for what the node of this number gives.
    fn output(&self, nodes: &[Node], index: usize, group: usize, held: &[Held], shared: &mut Shared) -> Held {
        let (network, node) = (self.network, &nodes[index]);
        let last_use = |value: usize| {
            (index..nodes.len()).rev().find(|&later| uses(&nodes[later], value)).unwrap_or(index)
        };
        let last = last_use(node.output);
        // A sum takes the place of what is added, where nobody needs that any more: each pixel is read before it is written.
        // Not of what is multiplied as well: later panels still read that.
        let replaced = residual_of(node).filter(|&value| {
            let alike = network.values[value] == network.values[node.output];
            alike && value != node.input && last_use(value) == index
        });
        if let Some((held, lease)) = replaced.and_then(|value| Some((held[value], held[value].lease?))) {
            shared.leases[lease].last = last;
            return held;
        }
        let block = self.stride(node.output, group);
        let lease = shared.lease(network.blocks(node.output) * block, index, last);
        let offset = self.start + shared.leases[lease].offset;
        Held { place: Place { offset, block }, lease: Some(lease) }
    }
}

fn residual_of(node: &Node) -> Option<usize> {
    match node.op {
        Op::Convolution { residual, .. } => residual,
        Op::MaxPool { .. } => None,
    }
}

fn uses(node: &Node, value: usize) -> bool {
    node.input == value || residual_of(node) == Some(value)
}

/// Height and width of each value.
fn sizes(network: &Network, height: usize, width: usize) -> Result<Vec<(usize, usize)>, EngineError> {
    let mut sizes = vec![(height, width)];
    for node in &network.nodes {
        let (input, residual) = (sizes[node.input], residual_of(node));
        let along = |size: usize| match &node.op {
            Op::Convolution { packed, .. } => packed.outputs_along(size),
            Op::MaxPool { kernel, stride, padding } => {
                (size + 2 * padding >= *kernel).then(|| pool::outputs(size, *kernel, *stride, *padding))
            }
        };
        let wrong = |problem: String| EngineError::Photos { photos: 1, height, width, problem };
        let (Some(rows), Some(columns)) = (along(input.0), along(input.1)) else {
            let problem = format!("{} has only {} x {} pixels left", node.name, input.0, input.1);
            return Err(wrong(problem));
        };
        if let Some(residual) = residual.map(|value| sizes[value]).filter(|&size| size != (rows, columns)) {
            let (height, width) = residual;
            return Err(wrong(format!(
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
fn group(network: &Network, sizes: &[(usize, usize)], segment: usize) -> usize {
    let nodes = &network.nodes[network.segment(segment)];
    let weights: usize = nodes
        .iter()
        .map(|node| match &node.op {
            Op::Convolution { packed, .. } => packed.weights.len(),
            Op::MaxPool { .. } => 0,
        })
        .sum();
    let value = |value: usize| network.blocks(value) * sizes[value].0 * sizes[value].1;
    let largest = nodes.iter().map(|node| value(node.output)).max().unwrap_or(1).max(1);
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
fn winograd_tiles(sizes: &[(usize, usize)], node: &Node, group: usize) -> usize {
    let Op::Convolution { packed, .. } = &node.op else { return 0 };
    if packed.method != Method::Winograd {
        return 0;
    }
    let (height, width) = sizes[node.input];
    let all = group * Tiling { height, width }.count();
    let tile = winograd::POINTS * (packed.panels.segments + vectors(packed.outputs)) * Cell::BYTES;
    let rows = node.machine.layout().rows;
    if packed.weights.len() * Cell::BYTES <= 2 * TRANSFORMED_IN_CACHE {
        (TRANSFORMED_IN_CACHE / tile / rows * rows).clamp(rows, all.max(rows)).min(all)
    } else {
        all
    }
}

/// Cells that a node needs for itself.
fn scratch(sizes: &[(usize, usize)], node: &Node, group: usize, tiles: usize) -> usize {
    let Op::Convolution { packed, .. } = &node.op else { return 0 };
    let (height, width) = sizes[node.input];
    match packed.method {
        Method::Image => {
            let framed = framed(packed, height, width);
            (group * framed.rows() * framed.row * size_of::<f32>()).div_ceil(Cell::BYTES)
        }
        Method::Pointwise if packed.stride == 1 => 0,
        Method::Pointwise => packed.panels.segments * copied_block(sizes, node, group),
        Method::Direct => {
            packed.panels.segments / (packed.kernel * packed.kernel) * copied_block(sizes, node, group)
        }
        Method::Winograd => {
            transformed(packed.panels.segments, tiles) + transformed(vectors(packed.outputs), tiles)
        }
    }
}

/// Cells from a block to the next of the copy that a node makes of its input.
fn copied_block(sizes: &[(usize, usize)], node: &Node, group: usize) -> usize {
    let Op::Convolution { packed, .. } = &node.op else { return 0 };
    let (height, width) = sizes[node.input];
    match packed.method {
        Method::Pointwise if packed.stride > 1 => {
            block_stride(group * sizes[node.output].0 * sizes[node.output].1)
        }
        Method::Direct => block_stride(group * padded(packed, height, width).photo()),
        Method::Pointwise | Method::Image | Method::Winograd => 0,
    }
}

/// Bytes from a pixel of what a product reads to where each segment of its sum lies.
fn offsets(sizes: &[(usize, usize)], node: &Node, input: usize, copied: usize, tiles: usize) -> Vec<usize> {
    let Op::Convolution { packed, .. } = &node.op else { return Vec::new() };
    let (height, width) = sizes[node.input];
    let offset = |segment: usize| match packed.method {
        Method::Image => segment * framed(packed, height, width).row * size_of::<f32>(),
        Method::Pointwise if packed.stride == 1 => segment * input * Cell::BYTES,
        Method::Pointwise => segment * copied * Cell::BYTES,
        Method::Winograd => segment * tiles * Cell::BYTES,
        Method::Direct => {
            let padded = padded(packed, height, width);
            let (block, tap) =
                (segment / (packed.kernel * packed.kernel), segment % (packed.kernel * packed.kernel));
            let (y, x) = (tap / packed.kernel, tap % packed.kernel);
            let column = x % packed.stride * padded.columns() + x / packed.stride;
            (block * copied + y * padded.row() + column) * Cell::BYTES
        }
    };
    (0..packed.panels.segments).map(offset).collect()
}

/// Cells from a point of transformed tiles to the next: odd, so that they spread over the cache.
pub(crate) fn point_stride(blocks: usize, tiles: usize) -> usize {
    (blocks * tiles) | 1
}

/// Cells of transformed tiles.
pub(crate) fn transformed(blocks: usize, tiles: usize) -> usize {
    winograd::POINTS * point_stride(blocks, tiles)
}

/// The photo's rows as the first layer reads them.
pub(crate) fn framed(packed: &Packed, height: usize, width: usize) -> Framed {
    let columns = packed.outputs_along(width).unwrap_or(1);
    let read = (columns - 1) * packed.stride * image::CHANNELS + packed.panels.steps;
    let row = read.max((width + 2 * packed.padding) * image::CHANNELS).next_multiple_of(32);
    Framed { height, width, padding: packed.padding, row }
}

/// The copy that a direct convolution reads.
pub(crate) fn padded(packed: &Packed, height: usize, width: usize) -> Padded {
    Padded { stride: packed.stride, padding: packed.padding, height, width }
}
