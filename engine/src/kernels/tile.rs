//! What a tile of a GEMM reads, and where its sums go.

use crate::cache_line::CacheLine;

/// Distances in memory that a tile reads at: constants, so that they become address displacements.
pub(crate) trait Stride {
    /// Bytes between the activations of two pixels.
    const BYTES: usize;
    /// Bytes between the activations of two steps.
    const STEP: usize = 4;
}

/// Adjacent pixels of a cache line each.
pub(crate) struct LinePixels;
/// Every other pixel of an image row, 3 channels of `f32` each.
pub(crate) struct ImagePixels;

impl Stride for LinePixels {
    const BYTES: usize = CacheLine::BYTES;
}
impl Stride for ImagePixels {
    const BYTES: usize = 2 * 3 * 4;
}

/// A tile of a GEMM, up to [`MAX_ROWS`](super::Kernel::MAX_ROWS) output pixels (rows) by one panel of output
/// channels: what it reads, and where its sums go.
///
/// The operands must be valid for reads, as must bias and residual; the output must be valid for writes and
/// overlap nothing that is read, except the residual, which may be the output itself.
pub(crate) struct Tile<'a> {
    pub(crate) operands: TileOperands<'a>,
    pub(crate) output: TileOutput,
    /// Index of the output pixel of row 0.
    pub(crate) pixel: usize,
    /// First vector of 16 output channels.
    pub(crate) vector: usize,
}

/// Destination of the sums of a GEMM, the output of a layer, and what is applied to them. Vector `v` of 16
/// channels of pixel `p` is in line `v / n * block_stride + p`, where `n` is the number of vectors in a line.
#[derive(Clone, Copy)]
pub(crate) struct TileOutput {
    pub(crate) lines: *mut CacheLine,
    /// Lines between two channel blocks.
    pub(crate) block_stride: usize,
    pub(crate) epilogue: TileEpilogue,
}

/// What is applied to sums before they are stored.
#[derive(Clone, Copy)]
pub(crate) enum TileEpilogue {
    /// Nothing: sums are stored as `f32`, for any precision of the kernel.
    Raw,
    /// `max(sum + bias + residual, floor)`, in the kernel's output precision.
    Add { bias: *const f32, residual: Option<TileResidual>, floor: f32 },
}

/// The output of an earlier layer that is added to the sums, in the precision that the kernel reads.
#[derive(Clone, Copy)]
pub(crate) struct TileResidual {
    pub(crate) lines: *const CacheLine,
    /// Lines between two channel blocks.
    pub(crate) block_stride: usize,
}

/// What a tile multiplies: the activations of its rows, and one panel of weights.
///
/// The sum of an output is split into k-blocks, whose activations may be anywhere, and these into steps. Row
/// `r`, step `s` of k-block `b` reads the 4 bytes at
/// `activations + offsets[b] + r * S::BYTES + s * S::STEP`; the weights are read in order,
/// [`VECTORS_PER_PANEL`](super::Kernel::VECTORS_PER_PANEL) lines per step. There is at least one step. All
/// must be valid for reads.
pub(crate) struct TileOperands<'a> {
    pub(crate) activations: *const u8,
    /// In bytes, one per k-block.
    pub(crate) offsets: &'a [usize],
    /// Steps in a k-block.
    pub(crate) steps: usize,
    pub(crate) weights: *const CacheLine,
}
