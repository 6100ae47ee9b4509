//! A product of what lies under a kernel, position by position, with packed weights.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::gather::{self, Grid, ROW, STEPS};
use super::pack::piece;
use super::{Finish, even};
use crate::cell::Cell;
use crate::kernels::{Job, Kernel, Simd, Vector};
use crate::machine::Machine;
use crate::product::tiles;
use crate::tile::{Factors, Sink, Stride, multiply};
use crate::winograd::Store;

/// Tiles of rows that are gathered at once: with [`STEPS`] they fill a part of the L2 cache, and each panel of weights passes by once for
/// all of them.
const TILES: usize = 8;

/// A matrix of positions by channels: `from` gathered, times weights.
pub(super) struct Rows<'a> {
    pub(super) machine: Machine,
    pub(super) grid: Grid,
    /// Channels of the result.
    pub(super) columns: usize,
    pub(super) from: &'a [f32],
    pub(super) weights: &'a [Cell],
    pub(super) ends: Ends<'a>,
}

/// Where the positions of a grid lie in the result `[N, H, W, C]`, and what happens to sums before they are stored there.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    /// Row and column of the first position.
    pub(super) first: [usize; 2],
    /// Rows and columns from a position to the next.
    pub(super) step: usize,
    /// `[H, W]`
    pub(super) size: [usize; 2],
    pub(super) finish: Finish<'a>,
}

/// What threads write to, each in a place of its own.
#[derive(Clone, Copy)]
pub(super) struct Shared(pub(super) *mut f32);

// SAFETY: whoever writes says why nobody else does.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// The value is inside.
    #[inline(always)]
    pub(super) unsafe fn at(self, value: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(value) }
    }
}

/// Room of `count` cells for the thread at hand.
pub(super) fn with_room<R>(
    threads: &[Mutex<Vec<Cell>>],
    count: usize,
    act: impl FnOnce(&mut [Cell]) -> R,
) -> R {
    let thread = rayon::current_thread_index().unwrap_or(0) % threads.len();
    let mut cells = threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
    if cells.len() < count {
        *cells = Cell::zeros(count);
    }
    act(&mut cells[..count])
}

impl Rows<'_> {
    pub(super) fn run(&self, threads: &[Mutex<Vec<Cell>>], to: &mut [f32]) {
        let layout = self.machine.layout();
        let (positions, together) = (self.grid.positions(), rayon::current_num_threads());
        let panels = self.columns.div_ceil(16 * layout.vectors);
        let tiles = positions.div_ceil(layout.rows);
        // As many blocks for each thread, and for few positions a part of the panels each.
        let blocks = tiles.div_ceil(TILES).next_multiple_of(together).min(tiles);
        let parts = (2 * together).div_ceil(blocks).min(panels);
        let cells = TILES.max(tiles.div_ceil(blocks)) * layout.rows * ROW / Cell::BYTES;
        let out = Shared(to.as_mut_ptr());
        let (blocks, parts) = (even(tiles, blocks), even(panels, parts));
        (0..blocks.len() * parts.len()).into_par_iter().with_max_len(1).for_each(|unit| {
            let (rows, panels) = (&blocks[unit / parts.len()], parts[unit % parts.len()].clone());
            let positions = rows.start * layout.rows..(rows.end * layout.rows).min(positions);
            with_room(threads, cells, |room| {
                self.machine.run_wide(Block { product: self, positions, panels, out, room });
            });
        });
    }

    /// Where the channels of positions start in the result.
    fn offsets(&self, positions: Range<usize>) -> Vec<usize> {
        let Ends { first, step, size, .. } = self.ends;
        positions
            .map(|position| {
                let (photo, y, x) = self.grid.place(position);
                ((photo * size[0] + y * step + first[0]) * size[1] + x * step + first[1]) * self.columns
            })
            .collect()
    }
}

/// Some positions by some panels.
struct Block<'a> {
    product: &'a Rows<'a>,
    positions: Range<usize>,
    panels: Range<usize>,
    out: Shared,
    room: &'a mut [Cell],
}

/// Rows that were gathered.
struct Gathered;

impl Stride for Gathered {
    const BYTES: usize = ROW;
}

impl Job for Block<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let Rows { grid, columns, from, weights, ends, .. } = self.product;
        let panels = columns.div_ceil(16 * K::VECTORS);
        let depth = grid.gather.depth().max(1);
        let steps = piece(depth, STEPS);
        let room = self.room.as_mut_ptr();
        let offsets = self.product.offsets(self.positions.clone());
        let mut start = 0;
        while start < depth {
            let end = depth.min(start + steps);
            let length = end - start;
            // SAFETY: there is room for all rows; a sum over nothing reads a step of zeros.
            unsafe {
                if grid.gather.is_empty() {
                    for row in 0..self.positions.len() {
                        room.cast::<u8>().add(row * ROW).write_bytes(0, 4);
                    }
                } else {
                    gather::rows(grid, from, self.positions.start, self.positions.len(), start..end, room);
                }
            }
            for panel in self.panels.clone() {
                let cell = (start * panels + panel * length) * K::VECTORS;
                for (first, rows) in tiles(self.positions.len(), K::ROWS) {
                    let place = Place {
                        out: self.out.0,
                        offsets: &offsets[first..first + rows],
                        column: panel * 16 * K::VECTORS,
                        columns: *columns,
                        adds: start > 0 || ends.finish.accumulate,
                    };
                    let is_last = end == depth;
                    place.prefetch(kernel, is_last.then_some(&ends.finish));
                    // SAFETY: rows and weights are there, and nobody else writes these positions' channels.
                    unsafe {
                        let factors = Factors {
                            activations: room.cast::<u8>().add(first * ROW),
                            offsets: &[0],
                            steps: length,
                            weights: weights.as_ptr().add(cell),
                        };
                        let whole = place.column + 16 * K::VECTORS <= *columns;
                        if whole && !is_last {
                            multiply::<K, Gathered>(kernel, rows, &factors, &Partial(place));
                        } else {
                            let finish = if is_last { ends.finish } else { Finish::default() };
                            multiply::<K, Gathered>(kernel, rows, &factors, &Finished { place, finish });
                        }
                    }
                }
            }
            start = end;
        }
    }
}

/// Where the sums of a tile go.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) out: *mut f32,
    /// Of each row, in the result.
    pub(super) offsets: &'a [usize],
    /// The first channel of the panel.
    pub(super) column: usize,
    pub(super) columns: usize,
    /// Whether sums are added to what is there.
    pub(super) adds: bool,
}

impl Place<'_> {
    #[inline(always)]
    fn prefetch<K: Kernel>(&self, kernel: K, finish: Option<&Finish<'_>>) {
        let others = finish.map(|finish| [finish.other, finish.mask]).into_iter().flatten().flatten();
        let there = self.adds.then_some(self.out.cast_const());
        for from in others.map(<[f32]>::as_ptr).chain(there) {
            for offset in self.offsets {
                for vector in 0..K::VECTORS {
                    let at = offset + self.column + 16 * vector;
                    kernel.simd().prefetch(from.wrapping_add(at).cast());
                }
            }
        }
    }
}

/// Stores sums that are not complete yet, of a whole panel.
struct Partial<'a>(Place<'a>);

impl Sink for Partial<'_> {
    #[inline(always)]
    unsafe fn take<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums) {
        let (Place { out, offsets, column, adds, .. }, simd) = (self.0, kernel.simd());
        for (index, &vector) in sums.as_ref().iter().enumerate() {
            // SAFETY: the result has the panel's channels of each row.
            unsafe {
                let to = out.add(*offsets.get_unchecked(row) + column + 16 * index);
                simd.store(to, if adds { simd.add(vector, simd.load(to)) } else { vector });
            }
        }
    }
}

/// Stores sums, finished.
pub(super) struct Finished<'a> {
    pub(super) place: Place<'a>,
    pub(super) finish: Finish<'a>,
}

impl Finished<'_> {
    /// # Safety
    /// 16 channels from `channel` on, at `at` in the result, are inside all that is read and written.
    #[inline(always)]
    unsafe fn store<K: Kernel>(&self, kernel: K, at: usize, channel: usize, mut sums: Vector<K>) {
        let simd = kernel.simd();
        // SAFETY: the caller's promise.
        unsafe {
            let Finish { bias, other, relu, mask, .. } = self.finish;
            let to = self.place.out.add(at);
            if self.place.adds {
                sums = simd.add(sums, simd.load(to));
            }
            if let Some(bias) = bias {
                sums = simd.add(sums, simd.load(bias.as_ptr().add(channel)));
            }
            if let Some(other) = other {
                sums = simd.add(sums, simd.load(other.as_ptr().add(at)));
            }
            if relu {
                sums = simd.max(simd.splat(0.0), sums);
            }
            if let Some(mask) = mask {
                sums = simd.keep(sums, simd.load(mask.as_ptr().add(at)));
            }
            simd.store(to, sums);
        }
    }
}

impl Sink for Finished<'_> {
    #[inline(always)]
    unsafe fn take<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums) {
        for (index, &vector) in sums.as_ref().iter().enumerate() {
            let channel = self.place.column + 16 * index;
            let at = self.place.offsets[row] + channel;
            if channel + 16 <= self.place.columns {
                // SAFETY: the result has all of these channels.
                unsafe { self.store(kernel, at, channel, vector) };
            } else if channel < self.place.columns {
                // SAFETY: the result has as many as are written.
                unsafe { self.store_some(kernel, at, channel, vector) };
            }
        }
    }
}

/// For channels in whole vectors.
impl Store for Finished<'_> {
    #[inline(always)]
    unsafe fn store<K: Kernel>(&self, kernel: K, pixel: usize, vector: usize, sums: Vector<K>) {
        let channel = self.place.column + 16 * vector;
        // SAFETY: the caller's promise is the same.
        unsafe { self.store(kernel, pixel * self.place.columns + channel, channel, sums) }
    }
}

impl Finished<'_> {
    /// As [`store`](Self::store), of the last channels, less than 16.
    ///
    /// # Safety
    /// The channels up to the last are inside all that is read and written.
    #[inline(always)]
    unsafe fn store_some<K: Kernel>(&self, kernel: K, at: usize, channel: usize, sums: Vector<K>) {
        let lanes = self.place.columns - channel;
        let some = |from: *const f32| {
            let mut values = [0.0; 16];
            // SAFETY: the caller's promise.
            unsafe { from.copy_to_nonoverlapping(values.as_mut_ptr(), lanes) };
            values
        };
        let mut out = some(self.place.out.wrapping_add(at));
        let bias = self.finish.bias.map(|bias| some(bias[channel..].as_ptr()));
        let [other, mask] = [self.finish.other, self.finish.mask]
            .map(|values| values.map(|values| some(values[at..].as_ptr())));
        let finish = Finish {
            bias: bias.as_ref().map(<[f32; 16]>::as_slice),
            other: other.as_ref().map(<[f32; 16]>::as_slice),
            mask: mask.as_ref().map(<[f32; 16]>::as_slice),
            ..self.finish
        };
        let copy = Finished { place: Place { out: out.as_mut_ptr(), ..self.place }, finish };
        // SAFETY: the copies are 16 long; as many go back as the result has.
        unsafe {
            copy.store(kernel, 0, 0, sums);
            out.as_ptr().copy_to_nonoverlapping(self.place.out.add(at), lanes);
        }
    }
}
