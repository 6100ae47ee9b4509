//! The derivative by the weights: a sum over all positions, for each tap, input and output.

use std::ops::Range;
use std::sync::Mutex;

use rayon::prelude::*;

use super::gather::{self, Gather, Grid};
use super::pack::piece;
use super::product::{Shared, with_room};
use super::{Sums, Weights, even};
use crate::cell::Cell;
use crate::kernels::{Job, Kernel, Simd, Vector};
use crate::machine::Machine;
use crate::product::tiles;
use crate::tile::{Factors, Sink, Stride, multiply};

/// Positions that are summed at once, at most: their inputs for a tile are in the L1 cache, their gradients in the L2.
pub(super) const PIECE: usize = 128;
/// Outputs that are taken at once, at most.
const COLUMNS: usize = 2048;
/// Positions of a slice, at least. Where there are more, sums of slices are made side by side and then added.
const SLICE: usize = 3136;
/// Slices, at most.
const SLICES: usize = 16;

pub(super) struct ByWeights<'a> {
    pub(super) machine: Machine,
    pub(super) gather: Gather,
    pub(super) photos: usize,
    pub(super) outputs: usize,
    pub(super) input: &'a [f32],
    pub(super) gradient: &'a [f32],
    pub(super) weights: Weights<'a>,
    pub(super) add: bool,
}

/// A tile of rows of the weights: the row of taps, the first value in it, and how many.
type Tile = (usize, usize, usize);

/// How the work is cut. Slices and groups depend on the sizes and the kernel alone: sums are made of theirs.
struct Cut {
    tiles: Vec<Tile>,
    /// Ranges of tiles.
    groups: Vec<Range<usize>>,
    /// Ranges of panels.
    chunks: Vec<Range<usize>>,
    /// Ranges of positions.
    slices: Vec<Range<usize>>,
}

impl Cut {
    fn new(job: &ByWeights<'_>, positions: usize) -> Self {
        let layout = job.machine.layout();
        let gather = &job.gather;
        let tiles: Vec<Tile> = (0..gather.taps[0])
            .flat_map(|tap| tiles(gather.line(), layout.rows).map(move |(start, rows)| (tap, start, rows)))
            .collect();
        let slices = positions.div_ceil(SLICE).min(SLICES);
        let groups = if slices >= 4 {
            tiles.len().div_ceil(24)
        } else {
            tiles.len().div_ceil(16).next_multiple_of(4).min(tiles.len())
        };
        let panels = job.outputs.div_ceil(16 * layout.vectors);
        let enough = (2 * rayon::current_num_threads()).div_ceil(slices * groups);
        let chunks = job.outputs.div_ceil(COLUMNS).max(enough).min(panels);
        Self {
            groups: even(tiles.len(), groups),
            tiles,
            chunks: even(panels, chunks),
            slices: even(positions, slices),
        }
    }

    /// Rows of the weights in a group.
    fn rows(&self, group: usize, line: usize) -> Range<usize> {
        let at = |&(tap, start, _): &Tile| tap * line + start;
        let tiles = &self.tiles[self.groups[group].clone()];
        let last = &tiles[tiles.len() - 1];
        at(&tiles[0])..at(last) + last.2
    }
}

impl ByWeights<'_> {
    pub(super) fn run(self, threads: &[Mutex<Vec<Cell>>], partial: &mut Vec<f32>, out: &mut [f32]) -> Sums {
        let grid = Grid { photos: self.photos, gather: self.gather };
        let layout = self.machine.layout();
        let (depth, line) = (self.gather.depth(), self.gather.line());
        let cut = Cut::new(&self, grid.positions());
        let width = self.outputs.next_multiple_of(16 * layout.vectors);
        let (groups, chunks, slices) = (cut.groups.len(), cut.chunks.len(), cut.slices.len());
        let in_slices = if slices > 1 { slices * depth * width } else { 0 };
        if partial.len() < in_slices {
            *partial = vec![0.0; in_slices];
        }
        let mut products = vec![0.0f32; groups * width];
        let mut gradients = vec![0.0f64; slices * width];
        let longest = cut.slices.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let piece = piece(longest, PIECE);
        let most_rows = (0..groups).map(|group| cut.rows(group, line).len()).max().unwrap_or(0);
        let most_panels = cut.chunks.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let (of_tile, of_gradient) = (piece, piece * most_panels * layout.vectors);
        let of_sums = if slices > 1 { 0 } else { most_rows * most_panels * layout.vectors };

        let shared = Shared(partial.as_mut_ptr());
        let results =
            Results { out: Shared(out.as_mut_ptr()), products: Shared(products.as_mut_ptr()), width };
        let of_gradients = SharedSums(gradients.as_mut_ptr());
        (0..slices * groups * chunks).into_par_iter().with_max_len(1).for_each(|unit| {
            let (slice, group, chunk) = (unit / chunks / groups, unit / chunks % groups, unit % chunks);
            let (rows, panels) = (cut.rows(group, line), cut.chunks[chunk].clone());
            with_room(threads, of_tile + of_gradient + of_sums, |room| {
                let (tile, room) = room.split_at_mut(of_tile);
                let (gradient, sums) = room.split_at_mut(of_gradient);
                let first = panels.start * 16 * layout.vectors;
                let to = if slices > 1 {
                    // SAFETY: inside; the slice's rows and columns are this unit's.
                    let to = unsafe { shared.at((slice * depth + rows.start) * width + first) };
                    Place { to, stride: width }
                } else {
                    Place { to: sums.as_mut_ptr().cast(), stride: panels.len() * 16 * layout.vectors }
                };
                self.machine.run_wide(Part {
                    job: &self,
                    grid: &grid,
                    tiles: &cut.tiles[cut.groups[group].clone()],
                    panels: panels.clone(),
                    positions: cut.slices[slice].clone(),
                    piece,
                    gradients: (group == 0).then_some((of_gradients, slice * width)),
                    room: (tile, gradient),
                    to,
                });
                if slices == 1 {
                    let sources = Sources { first: to, count: 1, apart: 0 };
                    self.machine.run_wide(Ending { job: &self, rows, panels, sources, results, group });
                }
            });
        });
        if slices > 1 {
            (0..groups * chunks).into_par_iter().with_max_len(1).for_each(|unit| {
                let (rows, panels) = (cut.rows(unit / chunks, line), cut.chunks[unit % chunks].clone());
                // SAFETY: inside.
                let to = unsafe { shared.at(rows.start * width + panels.start * 16 * layout.vectors) };
                let first = Place { to, stride: width };
                let sources = Sources { first, count: slices, apart: depth * width };
                self.machine.run_wide(Ending {
                    job: &self,
                    rows,
                    panels,
                    sources,
                    results,
                    group: unit / chunks,
                });
            });
        }
        let columns = 0..self.outputs;
        let sum = |column: usize, of: usize, at: &dyn Fn(usize) -> f64| {
            (0..of).map(|part| at(part * width + column)).sum::<f64>() as f32
        };
        Sums {
            products: columns
                .clone()
                .map(|column| sum(column, groups, &|at| f64::from(products[at])))
                .collect(),
            gradients: columns.map(|column| sum(column, slices, &|at| gradients[at])).collect(),
        }
    }
}

/// Rows of sums, so many values apart.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) to: *mut f32,
    pub(super) stride: usize,
}

/// Sums of slices, so many values apart.
#[derive(Clone, Copy)]
pub(super) struct Sources {
    pub(super) first: Place,
    pub(super) count: usize,
    pub(super) apart: usize,
}

/// What the units write to, each to its own rows and columns.
#[derive(Clone, Copy)]
pub(super) struct Results {
    pub(super) out: Shared,
    /// `[groups, width]`
    pub(super) products: Shared,
    pub(super) width: usize,
}

/// Of gradients, `[slices, width]`.
#[derive(Clone, Copy)]
struct SharedSums(*mut f64);

// SAFETY: as for `Shared`.
unsafe impl Send for SharedSums {}
// SAFETY: as for `Shared`.
unsafe impl Sync for SharedSums {}

/// The sums of some rows and columns over some positions.
struct Part<'a> {
    job: &'a ByWeights<'a>,
    grid: &'a Grid,
    tiles: &'a [Tile],
    panels: Range<usize>,
    positions: Range<usize>,
    piece: usize,
    /// Where the sums of the gradient go, if they are wanted.
    gradients: Option<(SharedSums, usize)>,
    /// For the inputs of a tile, and for gradients.
    room: (&'a mut [Cell], &'a mut [Cell]),
    to: Place,
}

/// Inputs of a position in a cell.
pub(super) struct Inputs;

impl Stride for Inputs {
    const BYTES: usize = 4;
    const STEP: usize = Cell::BYTES;
}

/// Stores sums as they are, or adds them.
pub(super) struct Raw {
    pub(super) to: *mut f32,
    pub(super) stride: usize,
    pub(super) adds: bool,
}

impl Sink for Raw {
    #[inline(always)]
    unsafe fn take<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums) {
        let simd = kernel.simd();
        for (index, &vector) in sums.as_ref().iter().enumerate() {
            // SAFETY: the maker has whole panels for each row.
            unsafe {
                let to = self.to.add(row * self.stride + 16 * index);
                simd.store(to, if self.adds { simd.add(vector, simd.load(to)) } else { vector });
            }
        }
    }
}

impl Job for Part<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let (tile_room, gradient_room) = self.room;
        let mut first = self.positions.start;
        while first < self.positions.end {
            let last = self.positions.end.min(first + self.piece);
            let count = last - first;
            for (index, panel) in self.panels.clone().enumerate() {
                let cells = &mut gradient_room[index * count * K::VECTORS..][..count * K::VECTORS];
                let sums = pack(kernel, self.job, first, panel, cells);
                if let Some((SharedSums(to), at)) = self.gradients {
                    // A kernel of one vector has sums for no more: what lies behind is another unit's.
                    for (lane, sum) in sums[..K::VECTORS].as_flattened().iter().enumerate() {
                        // SAFETY: this unit alone has the slice's column.
                        unsafe { *to.add(at + panel * 16 * K::VECTORS + lane) += f64::from(*sum) };
                    }
                }
            }
            let mut row = 0;
            for &(tap, start, rows) in self.tiles {
                // SAFETY: there is a cell for each position; rows and columns of the sums are this unit's.
                unsafe {
                    let to = tile_room.as_mut_ptr();
                    gather::cells(self.grid, self.job.input, first..last, (tap, start, rows), to);
                    for index in 0..self.panels.len() {
                        let factors = Factors {
                            activations: to.cast_const().cast(),
                            offsets: &[0],
                            steps: count,
                            weights: gradient_room.as_ptr().add(index * count * K::VECTORS),
                        };
                        let to = self.to.to.add(row * self.to.stride + index * 16 * K::VECTORS);
                        let adds = first > self.positions.start;
                        let sink = Raw { to, stride: self.to.stride, adds };
                        multiply::<K, Inputs>(kernel, rows, &factors, &sink);
                    }
                }
                row += rows;
            }
            first = last;
        }
    }
}

/// A panel of the gradient at some positions, from `first` on, and its sums over them.
#[inline(always)]
fn pack<K: Kernel>(
    kernel: K,
    job: &ByWeights<'_>,
    first: usize,
    panel: usize,
    to: &mut [Cell],
) -> [[f32; 16]; 2] {
    let (simd, outputs) = (kernel.simd(), job.outputs);
    let mut all = [[0.0; 16]; 2];
    for (vector, all) in all.iter_mut().enumerate().take(K::VECTORS) {
        let column = (panel * K::VECTORS + vector) * 16;
        let lanes = outputs.saturating_sub(column).min(16);
        let mut sums = simd.splat(0.0);
        for (index, cell) in to.iter_mut().skip(vector).step_by(K::VECTORS).enumerate() {
            let at = (first + index) * outputs + column;
            // SAFETY: 16 values of the gradient, or a copy of as many as there are; a cell has 16.
            unsafe {
                let values = if lanes == 16 {
                    simd.load(job.gradient[at..at + 16].as_ptr())
                } else {
                    let mut values = [0.0; 16];
                    if lanes > 0 {
                        values[..lanes].copy_from_slice(&job.gradient[at..at + lanes]);
                    }
                    simd.load(values.as_ptr())
                };
                sums = simd.add(sums, values);
                simd.store(std::ptr::from_mut(cell).cast(), values);
            }
        }
        // SAFETY: 16 values.
        unsafe { simd.store(all.as_mut_ptr(), sums) };
    }
    all
}

/// Adds the sums of slices, and makes the derivative of them.
pub(super) struct Ending<'a> {
    pub(super) job: &'a ByWeights<'a>,
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
    pub(super) sources: Sources,
    pub(super) results: Results,
    pub(super) group: usize,
}

impl Job for Ending<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let (simd, outputs) = (kernel.simd(), self.job.outputs);
        let zero = simd.splat(0.0);
        let Weights { values, scale } = self.job.weights;
        let first = self.panels.start * 16 * K::VECTORS;
        let vectors = (outputs.min(self.panels.end * 16 * K::VECTORS) - first).div_ceil(16);
        // SAFETY: the group's columns are this unit's.
        let products = unsafe { self.results.products.at(self.group * self.results.width + first) };
        for (index, row) in self.rows.clone().enumerate() {
            for vector in 0..vectors {
                let column = first + 16 * vector;
                let at = row * outputs + column;
                let lanes = (outputs - column).min(16);
                // SAFETY: sources and sums have whole panels; weights and results are read and written where they are.
                unsafe {
                    let mut sum = zero;
                    for source in 0..self.sources.count {
                        let Place { to, stride } = self.sources.first;
                        let from = to.add(source * self.sources.apart + index * stride + 16 * vector);
                        sum = simd.add(sum, simd.load(from));
                    }
                    let some = |from: *const f32| -> Vector<K> {
                        if lanes == 16 {
                            return simd.load(from);
                        }
                        let mut values = [0.0; 16];
                        from.copy_to_nonoverlapping(values.as_mut_ptr(), lanes);
                        simd.load(values.as_ptr())
                    };
                    let product = products.add(16 * vector);
                    simd.store(product, simd.mul_add(some(values.as_ptr().add(at)), sum, simd.load(product)));
                    let out = self.results.out.at(at);
                    let scaled = match scale {
                        Some(scale) => simd.mul_add(some(scale.as_ptr().add(column)), sum, zero),
                        None => sum,
                    };
                    let scaled = if self.job.add { simd.add(scaled, some(out)) } else { scaled };
                    if lanes == 16 {
                        simd.store(out, scaled);
                    } else {
                        let mut values = [0.0f32; 16];
                        simd.store(values.as_mut_ptr(), scaled);
                        values.as_ptr().copy_to_nonoverlapping(out, lanes);
                    }
                }
            }
        }
    }
}
