//! Derivatives of convolutions of 3 x 3 taps with stride 1 and a margin of 1, as products at Winograd's points.
//!
//! Forward they are not: the transforms round more, and what is near 0 would pass a ReLU here and not there. Derivatives have no such
//! edge.
//!
//! Kernels change with every step, so that theirs are transformed in every product, a part of them at a time: at the points they are
//! four times as large.

mod backward_input;
mod backward_weights;

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Mutex;

pub(super) use self::backward_input::WinogradInputGrad;
use super::ConvShape;
use crate::cache_line::{Arena, CacheLine};
use crate::dispatch::AnyKernel;
use crate::winograd::{COMPONENTS, TileTransform, Tiling, TransformSource, TransformTiles, TransformedTiles};

/// Tiles below which kernels cost more to transform than products are saved.
const MIN_TILES: usize = 8;

/// How much of the work is done at a time. The sums of a derivative by weights depend on the last two.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockSizes {
    /// Bytes of kernels at the points.
    pub(super) kernel_bytes: usize,
    /// Bytes of a thread's tiles at the points and of their products,
    pub(super) thread_bytes: usize,
    /// but for so many tiles at least, and at most.
    pub(super) thread_tiles: [usize; 2],
    /// Bytes of tiles at the points that are summed at once,
    pub(super) set_bytes: usize,
    /// but for so many tiles.
    pub(super) set_tiles: usize,
}

impl Default for BlockSizes {
    fn default() -> Self {
        Self {
            kernel_bytes: 4 << 20,
            thread_bytes: 1 << 20,
            thread_tiles: [32, 64],
            set_bytes: 12 << 20,
            set_tiles: 256,
        }
    }
}

/// Photos in tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct TiledConv {
    tiling: Tiling,
    batch: usize,
}

/// Memory to work in, which stays.
pub(super) struct Workspace<'a> {
    pub(super) block_sizes: BlockSizes,
    /// For each thread.
    pub(super) thread_buffers: &'a [Mutex<Vec<CacheLine>>],
    pub(super) kernel_arena: &'a mut Arena,
    pub(super) tile_arena: &'a mut Arena,
}

impl TiledConv {
    /// Of a convolution that has half as many products at the points, or less.
    pub(super) fn for_shape(shape: &ConvShape) -> Option<Self> {
        let ConvShape { batch, height, width, inputs, outputs, kernel, stride, padding } = *shape;
        let tiles = Self { tiling: Tiling { height, width }, batch };
        let fits = (kernel, stride, padding) == (3, 1, 1) && inputs % 16 == 0 && outputs % 16 == 0;
        let pays = tiles.n_tiles() >= MIN_TILES
            && 2 * COMPONENTS * tiles.n_tiles() <= kernel * kernel * batch * height * width;
        (fits && pays).then_some(tiles)
    }

    fn n_tiles(&self) -> usize {
        self.batch * self.tiling.tiles_per_image()
    }

    /// Transforms some of them, of `[N, H, W, C]`; tile 0 of the result is the first one.
    fn transform<T: TileTransform<SIDE>, const SIDE: usize>(
        self,
        kernel: AnyKernel,
        (values, channels): (&[f32], usize),
        tiles: Range<usize>,
        dst: TransformedTiles,
    ) {
        let blocks = channels / 16;
        let source = TransformSource { lines: values.as_ptr().cast(), pixel_stride: blocks, block_stride: 1 };
        let units = 0..blocks * tiles.len();
        kernel.run_f32(TransformTiles {
            tiling: self.tiling,
            source,
            tiles,
            units,
            dst,
            kind: PhantomData::<T>,
        });
    }
}

/// `count` tiles of panels of so many blocks of channels, which lie side by side. Tiles and points are an odd number of cells apart,
/// so that they spread over a cache.
fn transformed_tiles(lines: *mut CacheLine, panels: usize, blocks: usize, count: usize) -> TransformedTiles {
    let panel = count | 1;
    TransformedTiles {
        lines,
        component_stride: (panels * panel * blocks) | 1,
        panel_stride: panel,
        panel_blocks: blocks,
    }
}

/// Cells of [`transformed`] tiles.
fn transformed_lines(panels: usize, blocks: usize, count: usize) -> usize {
    COMPONENTS * transformed_tiles(std::ptr::null_mut(), panels, blocks, count).component_stride
}
