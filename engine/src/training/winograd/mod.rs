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
use crate::cache_line::{Arena, CacheLine};
use crate::conv_shape::ConvShape;
use crate::dispatch::AnyKernel;
use crate::winograd::{COMPONENTS, TileTransform, Tiling, TransformSource, TransformTiles, TransformedTiles};

/// Minimum number of tiles: with fewer, the transform of the kernels costs more than Winograd's algorithm
/// saves.
const MIN_TILES: usize = 8;

/// Sizes of the blocks of work of gradients by Winograd's algorithm. The order of sums in the gradient of the
/// weights depends on `set_bytes` and `set_tiles`.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockSizes {
    /// Maximum bytes of transformed kernels.
    pub(super) kernel_bytes: usize,
    /// Maximum bytes of a thread's transformed tiles and their products.
    pub(super) thread_bytes: usize,
    /// Minimum and maximum number of tiles per thread, overriding `thread_bytes`.
    pub(super) thread_tiles: [usize; 2],
    /// Maximum bytes of the transformed tiles that are summed at once.
    pub(super) set_bytes: usize,
    /// Minimum number of tiles summed at once, overriding `set_bytes`.
    pub(super) set_tiles: usize,
}

impl Default for BlockSizes {
    /// Block sizes that suit the caches of a current server CPU: the tiles of one thread (1 MiB) fit its L2
    /// cache; the transformed kernels and the sets of tiles, which all threads read, fit the L3 cache.
    fn default() -> Self {
        Self {
            kernel_bytes: 4 << 20,  // 4 MiB
            thread_bytes: 1 << 20,  // 1 MiB
            thread_tiles: [32, 64], // minimum and maximum
            set_bytes: 12 << 20,    // 12 MiB
            set_tiles: 256,         // minimum
        }
    }
}

/// A convolution that Winograd's algorithm computes: how the images of its batch are divided into tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct TiledConv {
    tiling: Tiling,
    batch: usize,
}

/// Block sizes, and buffers that later calls reuse.
pub(super) struct Workspace<'a> {
    pub(super) block_sizes: BlockSizes,
    /// A buffer per thread.
    pub(super) thread_buffers: &'a [Mutex<Vec<CacheLine>>],
    /// Transformed kernels.
    pub(super) kernel_arena: &'a mut Arena,
    /// Transformed tiles that several threads read.
    pub(super) tile_arena: &'a mut Arena,
}

impl TiledConv {
    /// How the images of a convolution are divided into tiles of 4 x 4 pixels, so that Winograd's algorithm
    /// can compute its gradients. `None` if the algorithm does not apply to the convolution, or is not
    /// faster: it must save at least half of the multiplications.
    pub(super) fn for_shape(shape: &ConvShape) -> Option<Self> {
        let ConvShape { batch, height, width, inputs, outputs, kernel, stride, padding } = *shape;
        let tiled = Self { tiling: Tiling { height, width }, batch };
        let applies = (kernel, stride, padding) == (3, 1, 1) && inputs % 16 == 0 && outputs % 16 == 0;
        // Per input and output channel: 36 products per tile, compared with 9 per pixel. Tiles that go past
        // the edges of small images waste some.
        let is_faster = tiled.n_tiles() >= MIN_TILES
            && 2 * COMPONENTS * tiled.n_tiles() <= kernel * kernel * batch * height * width;
        (applies && is_faster).then_some(tiled)
    }

    /// Number of tiles in the batch.
    fn n_tiles(&self) -> usize {
        self.batch * self.tiling.tiles_per_image()
    }

    /// The first step of Winograd's algorithm for gradients: transforms the tiles `tiles` of `values`, a
    /// tensor `[N, H, W, channels]`, to their 36 components, which the GEMMs read, in `dst`, where the first
    /// of these tiles becomes tile 0. `T` selects the transform, of inputs or of output gradients, and `SIDE`
    /// is the height and width of its tiles in pixels.
    fn transform<T: TileTransform<SIDE>, const SIDE: usize>(
        self,
        gemm_kernel: AnyKernel,
        values: &[f32],
        channels: usize,
        tiles: Range<usize>,
        dst: TransformedTiles,
    ) {
        let (tiling, blocks) = (self.tiling, channels / 16);
        let source = TransformSource { lines: values.as_ptr().cast(), pixel_stride: blocks, block_stride: 1 };
        let units = 0..blocks * tiles.len();
        gemm_kernel.run_f32(TransformTiles { tiling, source, tiles, units, dst, kind: PhantomData::<T> });
    }
}

/// The memory layout of `n_tiles` tiles that Winograd's algorithm transforms, at `lines`, in `panels` panels
/// of `panel_blocks` adjacent channel blocks (cache lines of 16 channels); writes nothing. Panels are an odd
/// number of tiles apart, components an odd number of lines, so that they map to different cache sets.
fn transformed_tiles(
    lines: *mut CacheLine,
    panels: usize,
    panel_blocks: usize,
    n_tiles: usize,
) -> TransformedTiles {
    let panel_stride = n_tiles | 1;
    let component_stride = (panels * panel_stride * panel_blocks) | 1;
    TransformedTiles { lines, component_stride, panel_stride, panel_blocks }
}

/// Number of cache lines that `n_tiles` transformed tiles take in the layout of [`transformed_tiles`].
fn transformed_lines(panels: usize, panel_blocks: usize, n_tiles: usize) -> usize {
    COMPONENTS * transformed_tiles(std::ptr::null_mut(), panels, panel_blocks, n_tiles).component_stride
}
