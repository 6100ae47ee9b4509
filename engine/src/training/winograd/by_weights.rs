//! The derivative by the weights: sums over tiles of what they are at each point, and these back to taps.

use std::ops::Range;

use rayon::prelude::*;

use super::{Rooms, Tiles, room, transformed};
use crate::cell::Cell;
use crate::kernels::{Job, Kernel, Simd};
use crate::product::tiles;
use crate::tile::{Factors, multiply};
use crate::training::by_weights::{self, ByWeights, Ending, PIECE, Place, Raw, Results, Sources};
use crate::training::product::{Shared, with_room};
use crate::training::{Sums, even};
use crate::winograd::{Gradients, INPUTS, Inputs, OUTPUTS, POINTS, TAPS, Transformed, by_kernel};

/// Tiles that are transformed by a unit.
const TILES: usize = 32;
/// Blocks of 16 inputs whose sums a unit makes.
const BLOCKS: usize = 2;

impl ByWeights<'_> {
    /// As [`run`](Self::run), of a convolution in tiles.
    pub(in crate::training) fn at_points(
        self,
        tiles: Tiles,
        rooms: Rooms<'_>,
        partial: &mut Vec<f32>,
        out: &mut [f32],
    ) -> Sums {
        let Rooms { limits, threads, tiles: shared, .. } = rooms;
        let (machine, inputs) = (self.machine, self.gather.channels);
        let vectors = machine.layout().vectors;
        let (blocks, panels) = (inputs / 16, self.outputs.div_ceil(16 * vectors));
        let width = panels * 16 * vectors;
        let each = POINTS * (blocks + panels * vectors) * Cell::BYTES;
        let most = (limits.set / each).max(limits.tiles_of_set);
        let sets = even(tiles.count(), tiles.count().div_ceil(most));
        let ranges = even(blocks, blocks.div_ceil(BLOCKS));
        let mut products = vec![0.0f32; ranges.len() * width];
        let results =
            Results { out: Shared(out.as_mut_ptr()), products: Shared(products.as_mut_ptr()), width };

        // Sums of a unit, and what they are at the taps.
        let (of_sums, of_taps) = (POINTS * BLOCKS * 16 * vectors, TAPS * TAPS * BLOCKS * 16 * vectors);
        let kept = if sets.len() > 1 { ranges.len() * panels * of_sums * 16 } else { 0 };
        if partial.len() < kept {
            *partial = vec![0.0; kept];
        }
        let partial = Shared(partial.as_mut_ptr());
        for (number, set) in sets.iter().enumerate() {
            let count = set.len();
            let of_inputs = room(blocks, 1, count);
            shared.grow(of_inputs + room(panels, vectors, count));
            let shared = &*shared;
            let points = || {
                let gradients = shared.pointer().wrapping_add(of_inputs);
                let inputs = transformed(shared.pointer(), blocks, 1, count);
                (inputs, transformed(gradients, panels, vectors, count))
            };

            let pieces = even(count, count.div_ceil(TILES));
            (0..2 * pieces.len()).into_par_iter().with_max_len(1).for_each(|unit| {
                let piece = pieces[unit / 2].clone();
                let some = set.start + piece.start..set.start + piece.end;
                let (mut of_inputs, mut of_gradients) = points();
                if unit % 2 == 0 {
                    of_inputs.cells = of_inputs.cells.wrapping_add(piece.start);
                    tiles.transform::<Inputs, INPUTS>(machine, (self.input, inputs), some, of_inputs);
                } else {
                    of_gradients.cells = of_gradients.cells.wrapping_add(piece.start * vectors);
                    let gradient = (self.gradient, self.outputs);
                    tiles.transform::<Gradients, OUTPUTS>(machine, gradient, some, of_gradients);
                }
            });
            (0..ranges.len() * panels).into_par_iter().with_max_len(1).for_each(|unit| {
                let (range, panel) = (unit / panels, unit % panels);
                with_room(threads, of_sums + of_taps, |room| {
                    let (sums, taps) = room.split_at_mut(of_sums);
                    let sums = if sets.len() > 1 {
                        // SAFETY: inside; the unit's sums are its own.
                        unsafe { partial.at(unit * of_sums * 16) }
                    } else {
                        sums.as_mut_ptr().cast()
                    };
                    let blocks = ranges[range].clone();
                    machine.run_wide(AtPoints {
                        points: points(),
                        count,
                        blocks: blocks.clone(),
                        panel,
                        sums,
                        adds: number > 0,
                    });
                    if number + 1 == sets.len() {
                        let rows = 16 * blocks.start..16 * blocks.end;
                        let taps = taps.as_mut_ptr().cast();
                        machine.run_wide(ToTaps { sums, rows: rows.len(), taps });
                        for tap in 0..TAPS * TAPS {
                            let stride = 16 * vectors;
                            // SAFETY: there is room for all taps.
                            let to = unsafe { taps.add(tap * rows.len() * stride) };
                            machine.run_wide(Ending {
                                job: &self,
                                rows: tap * inputs + rows.start..tap * inputs + rows.end,
                                panels: panel..panel + 1,
                                sources: Sources { first: Place { to, stride }, count: 1, apart: 0 },
                                results,
                                group: range,
                            });
                        }
                    }
                });
            });
        }
        let sum = |column: usize| {
            (0..ranges.len()).map(|range| f64::from(products[range * width + column])).sum::<f64>()
        };
        Sums {
            products: (0..self.outputs).map(|column| sum(column) as f32).collect(),
            gradients: sums_of_columns(self.gradient, self.outputs),
        }
    }
}

/// Sums over all rows, of pieces as long as those that the direct way sums.
fn sums_of_columns(values: &[f32], columns: usize) -> Vec<f32> {
    let of_piece = |rows: &[f32]| {
        let mut sums = vec![0.0f32; columns];
        for row in rows.chunks_exact(columns) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        sums
    };
    let pieces: Vec<Vec<f32>> = values.par_chunks(PIECE * columns).map(of_piece).collect();
    (0..columns)
        .map(|column| pieces.iter().map(|piece| f64::from(piece[column])).sum::<f64>() as f32)
        .collect()
}

/// Sums of a panel for some blocks of inputs at all points, `[point][input][vector][16]`.
struct AtPoints {
    points: (Transformed, Transformed),
    /// Tiles.
    count: usize,
    blocks: Range<usize>,
    panel: usize,
    sums: *mut f32,
    adds: bool,
}

impl Job for AtPoints {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let (inputs, gradients) = self.points;
        let stride = 16 * K::VECTORS;
        let mut row = 0;
        for point in 0..POINTS {
            let gradient = point * gradients.point + gradients.cell(self.panel * K::VECTORS, 0);
            for block in self.blocks.clone() {
                let input = point * inputs.point + inputs.cell(block, 0);
                for (first, rows) in tiles(16, K::ROWS) {
                    // SAFETY: the maker of the job vouches for all tiles and for the sums, which are this unit's.
                    unsafe {
                        let factors = Factors {
                            activations: inputs.cells.add(input).cast::<f32>().add(first).cast_const().cast(),
                            offsets: &[0],
                            steps: self.count,
                            weights: gradients.cells.add(gradient),
                        };
                        let to = self.sums.add(row * stride);
                        let sink = Raw { to, stride, adds: self.adds };
                        multiply::<K, by_weights::Inputs>(kernel, rows, &factors, &sink);
                    }
                    row += rows;
                }
            }
        }
    }
}

/// Sums at the points to those at the taps, `[tap][input][vector][16]`.
struct ToTaps {
    sums: *const f32,
    /// Inputs.
    rows: usize,
    taps: *mut f32,
}

impl Job for ToTaps {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        let each = self.rows * K::VECTORS * 16;
        for at in (0..each).step_by(16) {
            let mut points = [[simd.splat(0.0); INPUTS]; INPUTS];
            for (point, value) in points.as_flattened_mut().iter_mut().enumerate() {
                // SAFETY: the maker of the job vouches for all points.
                *value = unsafe { simd.load(self.sums.add(point * each + at)) };
            }
            for (tap, value) in by_kernel(simd, points).as_flattened().iter().enumerate() {
                // SAFETY: and for all taps.
                unsafe { simd.store(self.taps.add(tap * each + at), *value) };
            }
        }
    }
}
