//! The GEMM microkernel: a tile of pixels by a panel of output channels, accumulated in registers.

use crate::cache_line::CacheLine;
use crate::kernels::{Kernel, Simd, Vector};

/// Bytes between the activations of two pixels: constants, so that they become address displacements.
pub(crate) trait Stride {
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

/// The operands and output of a tile.
///
/// Row `r`, step `s` of k-block `b` reads the 4 bytes at `activations + offsets[b] + r * stride + 4 * s`; the
/// weights are read in order, [`Kernel::VECTORS`] lines per step. There is at least one step. All these must
/// be valid for reads, as must bias and residual; the output must be valid for writes and overlap nothing
/// that is read, except the residual, which may be the output itself.
pub(crate) struct Tile<'a> {
    pub(crate) activations: *const u8,
    /// In bytes, one per k-block.
    pub(crate) offsets: &'a [usize],
    /// Steps in a k-block.
    pub(crate) steps: usize,
    pub(crate) weights: *const CacheLine,
    pub(crate) output: TileOutput,
    /// Output pixel of row 0.
    pub(crate) pixel: usize,
    /// First vector of 16 output channels.
    pub(crate) vector: usize,
}

/// Destination of sums. Channels `16 * v..` of pixel `p` are in line `v / parts * block_stride + p`.
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

/// A value added to the output, in the precision that the kernel reads.
#[derive(Clone, Copy)]
pub(crate) struct TileResidual {
    pub(crate) lines: *const CacheLine,
    /// Lines between two channel blocks.
    pub(crate) block_stride: usize,
}

impl TileOutput {
    /// Applies the epilogue to channels `16 * vector..` of a pixel and stores them.
    ///
    /// # Safety
    /// The channels must be inside the output, the bias and the residual; the output must be valid for
    /// writes, the others for reads.
    #[inline(always)]
    pub(crate) unsafe fn store<K: Kernel>(&self, kernel: K, pixel: usize, vector: usize, sums: Vector<K>) {
        let simd = kernel.simd();
        // SAFETY: guaranteed by the caller.
        unsafe {
            match self.epilogue {
                TileEpilogue::Raw => {
                    simd.store(self.lines.add(vector * self.block_stride + pixel).cast(), sums);
                }
                TileEpilogue::Add { bias, residual, floor } => {
                    let mut sums = simd.add(sums, simd.load(bias.add(16 * vector)));
                    if let Some(residual) = residual {
                        let line = residual.lines.add(vector / K::PARTS * residual.block_stride + pixel);
                        sums = simd.add(sums, kernel.load_part(line, vector % K::PARTS));
                    }
                    let line = self.lines.add(vector / K::OUT_PARTS * self.block_stride + pixel);
                    kernel.store_out_part(line, vector % K::OUT_PARTS, simd.max(simd.splat(floor), sums));
                }
            }
        }
    }
}

impl Tile<'_> {
    /// Applies the epilogue to the sums of a row and stores them.
    ///
    /// # Safety
    /// The row must be one of the tile's, whose pointers must be valid as [`Tile`] requires.
    #[inline(always)]
    pub(crate) unsafe fn store_row<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums) {
        for (index, &vector) in sums.as_ref().iter().enumerate() {
            // SAFETY: guaranteed by the caller.
            unsafe { self.output.store(kernel, self.pixel + row, self.vector + index, vector) };
        }
    }
}

/// Consumer of the sums of a tile.
pub(crate) trait TileSink {
    /// Stores the sums of a row.
    ///
    /// # Safety
    /// The row must be one of the tile's.
    unsafe fn write_row<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums);
}

impl TileSink for Tile<'_> {
    #[inline(always)]
    unsafe fn write_row<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums) {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.store_row(kernel, row, sums) }
    }
}

/// The activations and weights of a tile.
///
/// Row `r`, step `s` of k-block `b` reads the 4 bytes at `activations + offsets[b] + r * S::BYTES + s *
/// S::STEP`; the weights are read in order, [`Kernel::VECTORS`] lines per step. There is at least one step.
/// All must be valid for reads.
pub(crate) struct TileOperands<'a> {
    pub(crate) activations: *const u8,
    /// In bytes, one per k-block.
    pub(crate) offsets: &'a [usize],
    /// Steps in a k-block.
    pub(crate) steps: usize,
    pub(crate) weights: *const CacheLine,
}

/// [`Kernel::compute_tile`] with all sums in registers.
///
/// # Safety
/// As for [`Kernel::compute_tile`].
#[inline(always)]
pub(crate) unsafe fn tile_in_registers<K: Kernel, S: Stride>(kernel: K, rows: usize, tile: &Tile<'_>) {
    let &Tile { activations, offsets, steps, weights, .. } = tile;
    let operands = TileOperands { activations, offsets, steps, weights };
    // SAFETY: guaranteed by the caller.
    unsafe { multiply_tile::<K, S>(kernel, rows, &operands, tile) }
}

/// Multiplies `rows` rows with one panel, with the sums in registers, and passes them to the sink.
///
/// # Safety
/// The operands must be valid as [`TileOperands`] requires, `rows` in `1..=ROWS`, and the sink must accept
/// all rows.
#[inline(always)]
pub(crate) unsafe fn multiply_tile<K: Kernel, S: Stride>(
    kernel: K,
    rows: usize,
    operands: &TileOperands<'_>,
    sink: &impl TileSink,
) {
    // SAFETY: guaranteed by the caller, for each number of rows.
    unsafe {
        macro_rules! match_height {
            ($($height:literal)*) => {
                match rows {
                    // Heights above `K::ROWS` generate no code.
                    $($height if $height <= K::ROWS => multiply_rows::<K, S, $height>(kernel, operands, sink),)*
                    _ => unreachable!("a tile has 1 to {} rows, not {rows}", K::ROWS),
                }
            };
        }
        match_height!(14 13 12 11 10 9 8 7 6 5 4 3 2 1);
    }
}

/// Unrolls a statement for each row below `$rows`, with the row as a constant. The compiler might not unroll
/// a loop, and would then keep the sums in memory.
macro_rules! each_row {
    ($rows:ident, |$row:ident| $body:expr) => {
        each_row!(@ $rows, $row, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $rows:ident, $row:ident, $body:expr, $($number:literal)*) => {
        $(if $number < $rows {
            const $row: usize = $number;
            $body
        })*
    };
}

/// [`multiply_tile`] for a constant number of rows `R`.
///
/// # Safety
/// As for [`multiply_tile`].
#[inline(always)]
unsafe fn multiply_rows<K: Kernel, S: Stride, const R: usize>(
    kernel: K,
    operands: &TileOperands<'_>,
    sink: &impl TileSink,
) {
    let simd = kernel.simd();
    let mut sums = [kernel.zero_sums(); R];
    let mut weights_line = operands.weights;
    // SAFETY: all reads are valid as `TileOperands` requires.
    unsafe {
        for (index, &offset) in operands.offsets.iter().enumerate() {
            let mut activations = operands.activations.add(offset);
            let ahead = operands.offsets[(index + 2).min(operands.offsets.len() - 1)];
            let ahead = operands.activations.wrapping_add(ahead);
            each_row!(R, |ROW| simd.prefetch(ahead.wrapping_add(ROW * S::BYTES)));
            let mut remaining = operands.steps;
            loop {
                for vector in 0..K::VECTORS {
                    simd.prefetch(weights_line.wrapping_add(WEIGHTS_AHEAD * K::VECTORS + vector).cast());
                }
                let weights = kernel.load_weights(weights_line);
                each_row!(R, |ROW| sums[ROW] =
                    kernel.madd(sums[ROW], activations.add(ROW * S::BYTES), weights));
                weights_line = weights_line.add(K::VECTORS);
                activations = activations.add(S::STEP);
                remaining -= 1;
                if remaining == 0 {
                    break;
                }
            }
        }
        each_row!(R, |ROW| sink.write_row(kernel, ROW, &sums[ROW]));
    }
}

/// Prefetch distance of weights in steps.
const WEIGHTS_AHEAD: usize = 32;
