//! Gradients of 3 x 3 convolutions with stride 1 and padding 1 by Winograd's algorithm.
//!
//! It is not used forward: its larger rounding errors would change which values near 0 pass a ReLU. Gradients
//! have no such discontinuity.
//!
//! Kernels change with every training step, so they are transformed on every call, a part at a time:
//! transformed kernels are four times as large.

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

/// Minimum number of tiles; with fewer, the transform of the kernels costs more than it saves.
const MIN_TILES: usize = 8;

/// Sizes of the blocks of work. The order of sums in the gradient of the weights depends on `set_bytes` and
/// `set_tiles`.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockSizes {
    /// Bytes of transformed kernels.
    pub(super) kernel_bytes: usize,
    /// Bytes of a thread's transformed tiles and their products.
    pub(super) thread_bytes: usize,
    /// Minimum and maximum number of tiles per thread, overriding `thread_bytes`.
    pub(super) thread_tiles: [usize; 2],
    /// Bytes of the transformed tiles that are summed at once.
    pub(super) set_bytes: usize,
    /// Minimum number of tiles summed at once, overriding `set_bytes`.
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

/// A convolution split into tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct TiledConv {
    tiling: Tiling,
    batch: usize,
}

/// Block sizes and reusable buffers.
pub(super) struct Workspace<'a> {
    pub(super) block_sizes: BlockSizes,
    /// A buffer per thread.
    pub(super) thread_buffers: &'a [Mutex<Vec<CacheLine>>],
    pub(super) kernel_arena: &'a mut Arena,
    pub(super) tile_arena: &'a mut Arena,
}

impl TiledConv {
    /// The tiles of a convolution, if Winograd's algorithm applies and takes at most half of the
    /// multiplications.
    pub(super) fn for_shape(shape: &ConvShape) -> Option<Self> {
        let ConvShape { batch, height, width, inputs, outputs, kernel, stride, padding } = *shape;
        let tiled = Self { tiling: Tiling { height, width }, batch };
        let applies = (kernel, stride, padding) == (3, 1, 1) && inputs % 16 == 0 && outputs % 16 == 0;
        let is_faster = tiled.n_tiles() >= MIN_TILES
            && 2 * COMPONENTS * tiled.n_tiles() <= kernel * kernel * batch * height * width;
        (applies && is_faster).then_some(tiled)
    }

    /// Number of tiles in the batch.
    fn n_tiles(&self) -> usize {
        self.batch * self.tiling.tiles_per_image()
    }

    /// Transforms tiles `tiles` of `values`, `[N, H, W, C]`; the first of them becomes tile 0 of `dst`.
    fn transform<T: TileTransform<SIDE>, const SIDE: usize>(
        self,
        kernel: AnyKernel,
        values: &[f32],
        channels: usize,
        tiles: Range<usize>,
        dst: TransformedTiles,
    ) {
        let (tiling, blocks) = (self.tiling, channels / 16);
        let source = TransformSource { lines: values.as_ptr().cast(), pixel_stride: blocks, block_stride: 1 };
        let units = 0..blocks * tiles.len();
        kernel.run_f32(TransformTiles { tiling, source, tiles, units, dst, kind: PhantomData::<T> });
    }
}

/// Layout of `count` tiles in panels of `panel_blocks` adjacent channel blocks. Panels and components are an
/// odd number of lines apart, so that they map to different cache sets.
fn transformed_tiles(
    lines: *mut CacheLine,
    panels: usize,
    panel_blocks: usize,
    count: usize,
) -> TransformedTiles {
    let panel_stride = count | 1;
    let component_stride = (panels * panel_stride * panel_blocks) | 1;
    TransformedTiles { lines, component_stride, panel_stride, panel_blocks }
}

/// Lines of [`transformed_tiles`].
fn transformed_lines(panels: usize, panel_blocks: usize, count: usize) -> usize {
    COMPONENTS * transformed_tiles(std::ptr::null_mut(), panels, panel_blocks, count).component_stride
}
