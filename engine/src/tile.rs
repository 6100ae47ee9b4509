//! The GEMM microkernel: a tile of pixels by a panel of output channels, accumulated in registers.

use crate::cache_line::CacheLine;
use crate::kernels::{Kernel, Simd, Vector};

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

/// A tile of a GEMM, up to [`Kernel::MAX_ROWS`] output pixels (rows) by one panel of output channels: what it
/// reads, and where its sums go.
///
/// The sum of an output is split into k-blocks, whose activations may be anywhere, and these into steps. Row
/// `r`, step `s` of k-block `b` reads the 4 bytes at `activations + offsets[b] + r * stride + 4 * s`; the
/// weights are read in order, [`Kernel::VECTORS_PER_PANEL`] lines per step. There is at least one step. All
/// these must be valid for reads, as must bias and residual; the output must be valid for writes and overlap
/// nothing that is read, except the residual, which may be the output itself.
pub(crate) struct Tile<'a> {
    pub(crate) activations: *const u8,
    /// In bytes, one per k-block.
    pub(crate) offsets: &'a [usize],
    /// Steps in a k-block.
    pub(crate) steps: usize,
    pub(crate) weights: *const CacheLine,
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

impl TileOutput {
    /// Finishes 16 values of a layer's output: applies the epilogue (bias, residual and ReLU, or nothing) to
    /// `sums`, the channels from `16 * vector` on of output pixel `pixel`, and stores the result in its cache
    /// line.
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
                    // A line has one vector of 16 `f32`.
                    simd.store(self.lines.add(vector * self.block_stride + pixel).cast(), sums);
                }
                TileEpilogue::Add { bias, residual, floor } => {
                    let mut sums = simd.add(sums, simd.load(bias.add(16 * vector)));
                    if let Some(residual) = residual {
                        let line =
                            residual.lines.add(vector / K::VECTORS_PER_LINE * residual.block_stride + pixel);
                        sums = simd.add(sums, kernel.load_part(line, vector % K::VECTORS_PER_LINE));
                    }
                    let line = self.lines.add(vector / K::OUT_VECTORS_PER_LINE * self.block_stride + pixel);
                    kernel.store_out_part(
                        line,
                        vector % K::OUT_VECTORS_PER_LINE,
                        simd.max(simd.splat(floor), sums),
                    );
                }
            }
        }
    }
}

impl Tile<'_> {
    /// Applies the epilogue (bias, residual and ReLU, or nothing) to `sums`, row `row` of the tile: all
    /// channels of the panel at one output pixel. Stores the result in the layer's output.
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

/// Destination of the sums of a tile of a GEMM, which may apply an epilogue (such as bias and ReLU) before it
/// stores them.
pub(crate) trait TileSink {
    /// Takes the sums of row `row` of the tile, a vector for each 16 channels of its panel of weights, and
    /// stores them, or adds them to values in memory. The GEMM calls it once per row, when the sums of the
    /// tile are computed.
    ///
    /// # Safety
    /// The row must be one of the tile's.
    unsafe fn write_row<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums);
}

impl TileSink for Tile<'_> {
    /// Applies the epilogue to the sums of row `row`, an output pixel of a frozen layer, and stores them in
    /// the layer's output.
    #[inline(always)]
    unsafe fn write_row<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums) {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.store_row(kernel, row, sums) }
    }
}

/// What a tile multiplies: the activations of its rows, and one panel of weights.
///
/// Row `r`, step `s` of k-block `b` reads the 4 bytes at
/// `activations + offsets[b] + r * S::BYTES + s * S::STEP`; the weights are read in order,
/// [`Kernel::VECTORS_PER_PANEL`] lines per step. There is at least one step. All must be valid for reads.
pub(crate) struct TileOperands<'a> {
    pub(crate) activations: *const u8,
    /// In bytes, one per k-block.
    pub(crate) offsets: &'a [usize],
    /// Steps in a k-block.
    pub(crate) steps: usize,
    pub(crate) weights: *const CacheLine,
}

/// Computes a tile of a GEMM, `rows` output pixels by the channels of one panel of weights, with all sums in
/// registers, and stores it in the tile's output. It is the [`Kernel::compute_tile`] of kernels that multiply
/// step by step (all but AMX).
///
/// # Safety
/// The pointers of the tile must be valid as [`Tile`] requires, and `rows` in `1..=MAX_ROWS`.
#[inline(always)]
pub(crate) unsafe fn tile_in_registers<K: Kernel, S: Stride>(kernel: K, rows: usize, tile: &Tile<'_>) {
    let &Tile { activations, offsets, steps, weights, .. } = tile;
    let operands = TileOperands { activations, offsets, steps, weights };
    // SAFETY: guaranteed by the caller.
    unsafe { multiply_tile::<K, S>(kernel, rows, &operands, tile) }
}

/// The innermost part of a GEMM: computes the sums of activation times weight for `rows` rows (output pixels,
/// in most GEMMs) by the channels of one panel of weights, with all sums in registers, and passes each row's
/// sums to `sink`. Calls [`multiply_rows`] with the number of rows as a constant.
///
/// # Safety
/// The operands must be valid as [`TileOperands`] requires, `rows` in `1..=MAX_ROWS`, and the sink must
/// accept all rows.
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
                    // Heights (numbers of rows) above `K::MAX_ROWS` generate no code.
                    $($height if $height <= K::MAX_ROWS => multiply_rows::<K, S, $height>(kernel, operands, sink),)*
                    _ => unreachable!("a tile has 1 to {} rows, not {rows}", K::MAX_ROWS),
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

/// The innermost loop of a GEMM: for `R` rows of activations by the channels of one panel of weights, adds up
/// activation times weight over all k-blocks (parts of the sum, at `operands.offsets`) and their steps, and
/// passes each row's sums to `sink`. `R` is a constant, so that the compiler keeps the sums in registers.
///
/// # Safety
/// The operands must be valid as [`TileOperands`] requires, and the sink must accept all rows.
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
            // Prefetches the activations of the k-block after the next.
            let offset_ahead = operands.offsets[(index + 2).min(operands.offsets.len() - 1)];
            let activations_ahead = operands.activations.wrapping_add(offset_ahead);
            each_row!(R, |ROW| simd.prefetch(activations_ahead.wrapping_add(ROW * S::BYTES)));
            let mut remaining = operands.steps;
            loop {
                for vector in 0..K::VECTORS_PER_PANEL {
                    simd.prefetch(
                        weights_line.wrapping_add(WEIGHTS_AHEAD * K::VECTORS_PER_PANEL + vector).cast(),
                    );
                }
                let weights = kernel.load_weights(weights_line);
                each_row!(R, |ROW| sums[ROW] =
                    kernel.multiply_accumulate(sums[ROW], activations.add(ROW * S::BYTES), weights));
                weights_line = weights_line.add(K::VECTORS_PER_PANEL);
                activations = activations.add(S::STEP);
                remaining -= 1;
                if remaining == 0 {
                    break; // `steps` is at least 1
                }
            }
        }
        each_row!(R, |ROW| sink.write_row(kernel, ROW, &sums[ROW]));
    }
}

/// How many steps ahead of their use weights are prefetched to the cache.
const WEIGHTS_AHEAD: usize = 32;
