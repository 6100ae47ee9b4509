//! The derivative by the input: a convolution of that by the output, with kernels turned around.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::{Rooms, Tiles, room, transformed};
use crate::cell::{Arena, Cell};
use crate::kernels::{Job, Kernel, Simd};
use crate::machine::Machine;
use crate::product::{self, Runs};
use crate::tile::{self, Cells, Output};
use crate::training::product::{Finished, Place, Shared, with_room};
use crate::training::{Finish, even};
use crate::winograd::{FromPoints, INPUTS, Inputs, POINTS, TAPS, Transformed, kernel_at_points};

/// Steps of a panel's kernels that are transformed by a unit.
const STEPS: usize = 64;
/// Groups of tiles that are transformed before kernels pass by.
const GROUPS: usize = 4;

/// A convolution as products at the points.
pub(in crate::training) struct Product<'a> {
    pub(in crate::training) machine: Machine,
    pub(in crate::training) tiles: Tiles,
    /// Channels that sums go over, and those of the result.
    pub(in crate::training) channels: [usize; 2],
    /// `[N, H, W, C]`
    pub(in crate::training) from: &'a [f32],
    /// Packed, a tap after the other.
    pub(in crate::training) weights: &'a [Cell],
    pub(in crate::training) finish: Finish<'a>,
}

/// Kernels of some panels at the points.
#[derive(Clone, Copy)]
struct Kernels<'a> {
    cells: &'a Arena,
    /// The first panel.
    first: usize,
    /// Cells from a point to the next: odd.
    point: usize,
    /// Cells of a panel.
    panel: usize,
}

impl Product<'_> {
    pub(in crate::training) fn run(&self, rooms: Rooms<'_>, to: &mut [f32]) {
        let Rooms { limits, threads, kernels, tiles: shared } = rooms;
        let [sources, columns] = self.channels;
        let vectors = self.machine.layout().vectors;
        let (blocks, panels) = (sources / 16, columns.div_ceil(16 * vectors));
        let (panel, together) = (sources * vectors, rayon::current_num_threads());
        let chunks =
            even(panels, (POINTS * panels * panel * Cell::BYTES).div_ceil(limits.kernels).min(panels));

        let most = chunks.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let each = POINTS * (blocks + most * vectors) * Cell::BYTES;
        let [least, largest] = limits.tiles_of_thread;
        let all = self.tiles.count();
        let groups = even(all, all.div_ceil((limits.thread / each).clamp(least, largest)));
        let parts = (2 * together).div_ceil(groups.len()).min(most);
        // Where a group is taken more than once it is transformed beforehand.
        let is_shared = chunks.len() * parts > 1;

        kernels.grow(POINTS * (most * panel + 1));
        let out = Shared(to.as_mut_ptr());
        for (number, set) in groups.chunks(if is_shared { GROUPS } else { groups.len() }).enumerate() {
            let first = set[0].start;
            let count = set[set.len() - 1].end - first;
            if is_shared {
                shared.grow(room(blocks, 1, count));
                let shared = &*shared;
                even(count, count.min(4 * together)).into_par_iter().with_max_len(1).for_each(|tiles| {
                    let mut to = transformed(shared.pointer(), blocks, 1, count);
                    to.cells = to.cells.wrapping_add(tiles.start);
                    self.transform(first + tiles.start..first + tiles.end, to);
                });
            }
            let shared = &*shared;
            for chunk in &chunks {
                let point = (chunk.len() * panel) | 1;
                let kernels = Kernels { cells: kernels, first: chunk.start, point, panel };
                if number == 0 || chunks.len() > 1 {
                    self.transform_kernels(kernels, chunk.clone(), panels);
                }
                let parts = even(chunk.len(), parts.min(chunk.len()));
                (0..set.len() * parts.len()).into_par_iter().with_max_len(1).for_each(|unit| {
                    let (group, part) = (set[unit / parts.len()].clone(), &parts[unit % parts.len()]);
                    let panels = chunk.start + part.start..chunk.start + part.end;
                    let width = panels.len() * vectors;
                    let own = if is_shared { 0 } else { room(blocks, 1, group.len()) };
                    with_room(threads, own + room(width, 1, group.len()), |cells| {
                        let (tiles, products) = cells.split_at_mut(own);
                        let products = transformed(products.as_mut_ptr(), width, 1, group.len());
                        let points = if is_shared {
                            let mut points = transformed(shared.pointer(), blocks, 1, count);
                            points.cells = points.cells.wrapping_add(group.start - first);
                            points
                        } else {
                            let points = transformed(tiles.as_mut_ptr(), blocks, 1, group.len());
                            self.transform(group.clone(), points);
                            points
                        };
                        self.multiply(kernels, (points, products), group.len(), panels.clone());
                        self.finish(products, group, panels.start * vectors..panels.end * vectors, out);
                    });
                });
            }
        }
    }

    fn transform(&self, tiles: Range<usize>, to: Transformed) {
        self.tiles.transform::<Inputs, INPUTS>(self.machine, (self.from, self.channels[0]), tiles, to);
    }

    /// Transforms products of tiles back, and finishes some vectors of channels, as many of them as there are.
    fn finish(&self, from: Transformed, tiles: Range<usize>, vectors: Range<usize>, out: Shared) {
        let columns = self.channels[1];
        let (column, adds) = (16 * vectors.start, self.finish.accumulate);
        let units = 0..tiles.len() * ((columns / 16).min(vectors.end) - vectors.start);
        let place = Place { out: out.0, offsets: &[], column, columns, adds };
        let output = Finished { place, finish: self.finish };
        self.machine.run_wide(FromPoints { tiling: self.tiles.tiling, from, tiles, units, output });
    }

    /// Transforms kernels of some panels, of so many in all.
    fn transform_kernels(&self, kernels: Kernels<'_>, chunk: Range<usize>, panels: usize) {
        let steps = self.channels[0];
        let parts = even(steps, steps.div_ceil(STEPS));
        (0..chunk.len() * parts.len()).into_par_iter().with_max_len(1).for_each(|unit| {
            let (index, steps) = (unit / parts.len(), parts[unit % parts.len()].clone());
            let (tap, vectors) = (panels * kernels.panel, kernels.panel / self.channels[0]);
            let within = steps.start * vectors..steps.end * vectors;
            let at = (chunk.start + index) * kernels.panel + within.start;
            // SAFETY: the unit's cells of each point are its own, and inside.
            let to = unsafe { kernels.cells.pointer().add(index * kernels.panel + within.start) };
            let from = &self.weights[at..];
            self.machine.run_wide(ToKernels { from, tap, count: within.len(), to, point: kernels.point });
        });
    }

    /// Products of tiles with panels, point by point.
    fn multiply(
        &self,
        kernels: Kernels<'_>,
        (points, products): (Transformed, Transformed),
        count: usize,
        panels: Range<usize>,
    ) {
        let offsets: Vec<usize> =
            (0..self.channels[0] / 16).map(|block| points.cell(block, 0) * Cell::BYTES).collect();
        for point in 0..POINTS {
            let at = point * kernels.point + (panels.start - kernels.first) * kernels.panel;
            let output = products.cells.wrapping_add(point * products.point);
            // All of these are as many as the product takes.
            self.machine.run_wide(product::Product {
                activations: points.cells.wrapping_add(point * points.point).cast_const().cast(),
                offsets: &offsets,
                steps: 16,
                weights: kernels.cells.pointer().wrapping_add(at),
                panels: panels.len(),
                runs: Runs { count: 1, length: count, from: 0, to: 0 },
                output: Output { cells: output, block: products.panel, finish: tile::Finish::Raw },
                pixel: 0,
                vector: 0,
                stride: PhantomData::<Cells>,
            });
        }
    }
}

/// Transforms kernels, 16 at a time.
struct ToKernels<'a> {
    /// From the first one's first tap on.
    from: &'a [Cell],
    /// Cells from a tap to the next.
    tap: usize,
    count: usize,
    /// The first point of the first one, and cells from a point to the next.
    to: *mut Cell,
    point: usize,
}

impl Job for ToKernels<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        let last = TAPS * TAPS - 1;
        assert!(last * self.tap + self.count <= self.from.len(), "kernels are inside");
        for index in 0..self.count {
            let mut taps = [[simd.splat(0.0); TAPS]; TAPS];
            for (tap, value) in taps.as_flattened_mut().iter_mut().enumerate() {
                // SAFETY: checked above.
                *value = unsafe { simd.load(self.from.as_ptr().add(tap * self.tap + index).cast()) };
            }
            for (point, value) in kernel_at_points(simd, taps).as_flattened().iter().enumerate() {
                // SAFETY: the maker of the job vouches for all points.
                unsafe { simd.store(self.to.add(point * self.point + index).cast(), *value) };
            }
        }
    }
}
