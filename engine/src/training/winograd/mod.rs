//! Derivatives of convolutions of 3 x 3 taps with stride 1 and a margin of 1, as products at Winograd's points.
//!
//! Forward they are not: the transforms round more, and what is near 0 would pass a ReLU here and not there. Derivatives have no such
//! edge.
//!
//! Kernels change with every step, so that theirs are transformed in every product, a part of them at a time: at the points they are
//! four times as large.

mod by_weights;
mod product;

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Mutex;

pub(super) use self::product::Product;
use super::Shape;
use crate::cell::{Arena, Cell};
use crate::machine::Machine;
use crate::winograd::{AtPoints, POINTS, Source, Tiling, ToPoints, Transformed};

/// Tiles below which kernels cost more to transform than products are saved.
const FEW: usize = 8;

/// How much of the work is done at a time. The sums of a derivative by weights depend on the last two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of kernels at the points.
    pub(super) kernels: usize,
    /// Bytes of a thread's tiles at the points and of their products,
    pub(super) thread: usize,
    /// but for so many tiles at least, and at most.
    pub(super) tiles_of_thread: [usize; 2],
    /// Bytes of tiles at the points that are summed at once,
    pub(super) set: usize,
    /// but for so many tiles.
    pub(super) tiles_of_set: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            kernels: 4 << 20,
            thread: 1 << 20,
            tiles_of_thread: [32, 64],
            set: 12 << 20,
            tiles_of_set: 256,
        }
    }
}

/// Photos in tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    tiling: Tiling,
    photos: usize,
}

/// Memory to work in, which stays.
pub(super) struct Rooms<'a> {
    pub(super) limits: Limits,
    /// For each thread.
    pub(super) threads: &'a [Mutex<Vec<Cell>>],
    pub(super) kernels: &'a mut Arena,
    pub(super) tiles: &'a mut Arena,
}

impl Tiles {
    /// Of a convolution that has half as many products at the points, or less.
    pub(super) fn of(shape: &Shape) -> Option<Self> {
        let Shape { photos, height, width, inputs, outputs, kernel, stride, padding } = *shape;
        let tiles = Self { tiling: Tiling { height, width }, photos };
        let fits = (kernel, stride, padding) == (3, 1, 1) && inputs % 16 == 0 && outputs % 16 == 0;
        let pays =
            tiles.count() >= FEW && 2 * POINTS * tiles.count() <= kernel * kernel * photos * height * width;
        (fits && pays).then_some(tiles)
    }

    fn count(&self) -> usize {
        self.photos * self.tiling.count()
    }

    /// Transforms some of them, of `[N, H, W, C]`; tile 0 of the result is the first one.
    fn transform<T: AtPoints<SIDE>, const SIDE: usize>(
        self,
        machine: Machine,
        (values, channels): (&[f32], usize),
        tiles: Range<usize>,
        to: Transformed,
    ) {
        let blocks = channels / 16;
        let source = Source { cells: values.as_ptr().cast(), pixel: blocks, block: 1 };
        let units = 0..blocks * tiles.len();
        machine.run_wide(ToPoints { tiling: self.tiling, source, tiles, units, to, of: PhantomData::<T> });
    }
}

/// `count` tiles of panels of so many blocks of channels, which lie side by side. Tiles and points are an odd number of cells apart,
/// so that they spread over a cache.
fn transformed(cells: *mut Cell, panels: usize, blocks: usize, count: usize) -> Transformed {
    let panel = count | 1;
    Transformed { cells, point: (panels * panel * blocks) | 1, panel, blocks }
}

/// Cells of [`transformed`] tiles.
fn room(panels: usize, blocks: usize, count: usize) -> usize {
    POINTS * transformed(std::ptr::null_mut(), panels, blocks, count).point
}
