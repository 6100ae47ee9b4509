//! The microkernel: a tile of pixels by a panel of output channels, summed in registers over all inputs.

use crate::cache_line::CacheLine;
use crate::kernels::{Kernel, Simd, Vector};

/// Bytes from a pixel's activations to the next one's, known when compiling so that they become displacements.
pub(crate) trait Stride {
    const BYTES: usize;
    /// Bytes from a step's activations to the next step's.
    const STEP: usize = 4;
}

/// Pixels one after the other, a cell each.
pub(crate) struct LinePixels;
/// Every other pixel of an image row, 3 channels of `f32` each.
pub(crate) struct ImagePixels;

impl Stride for LinePixels {
    const BYTES: usize = CacheLine::BYTES;
}
impl Stride for ImagePixels {
    const BYTES: usize = 2 * 3 * 4;
}

/// What a tile reads and writes.
///
/// Row `r`, step `s` of segment `b` reads the 4 bytes at `activations + offsets[b] + r * stride + 4 * s`; the weights are
/// read in order, [`Kernel::VECTORS`] cells a step. There is a step at least. All these are valid for reads, as are bias and
/// residual; the outputs are valid for writes and overlap nothing that is read, but for the residual, which may be the
/// output itself.
pub(crate) struct Tile<'a> {
    pub(crate) activations: *const u8,
    /// In bytes, a segment each.
    pub(crate) offsets: &'a [usize],
    /// Steps in a segment.
    pub(crate) steps: usize,
    pub(crate) weights: *const CacheLine,
    pub(crate) output: TileOutput,
    /// The pixel of row 0.
    pub(crate) pixel: usize,
    /// The first vector of 16 channels.
    pub(crate) vector: usize,
}

/// Where sums go. Channels `16 * v..` of pixel `p` lie in cell `v / parts * block + p`.
#[derive(Clone, Copy)]
pub(crate) struct TileOutput {
    pub(crate) lines: *mut CacheLine,
    /// Cells from a block of channels to the next.
    pub(crate) block_stride: usize,
    pub(crate) epilogue: TileEpilogue,
}

/// What happens to sums while they are in registers.
#[derive(Clone, Copy)]
pub(crate) enum TileEpilogue {
    /// Nothing: stored as `f32`, whatever the kernel's precision.
    Raw,
    /// Bias and residual are added; then `floor` is the least.
    Add { bias: *const f32, residual: Option<TileResidual>, floor: f32 },
}

/// What is added to an output, pixel by pixel, in the precision that the kernel reads.
#[derive(Clone, Copy)]
pub(crate) struct TileResidual {
    pub(crate) lines: *const CacheLine,
    /// Cells from a block of channels to the next.
    pub(crate) block_stride: usize,
}

impl TileOutput {
    /// Finishes and stores channels `16 * vector..` of a pixel.
    ///
    /// # Safety
    /// These are inside the output, the bias and the residual; the first is valid for writes, the others for reads.
    #[inline(always)]
    pub(crate) unsafe fn store_vector<K: Kernel>(
        &self,
        kernel: K,
        pixel: usize,
        vector: usize,
        sums: Vector<K>,
    ) {
        let simd = kernel.simd();
        // SAFETY: the caller's promise.
        unsafe {
            match self.epilogue {
                TileEpilogue::Raw => {
                    simd.store(self.lines.add(vector * self.block_stride + pixel).cast(), sums)
                }
                TileEpilogue::Add { bias, residual, floor } => {
                    let mut sums = simd.add(sums, simd.load(bias.add(16 * vector)));
                    if let Some(TileResidual { lines, block_stride }) = residual {
                        let line = lines.add(vector / K::PARTS * block_stride + pixel);
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
    /// Finishes and stores a row.
    ///
    /// # Safety
    /// The row is one of the tile's, which is as [`Tile`] says.
    #[inline(always)]
    pub(crate) unsafe fn store_row<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums) {
        for (index, &vector) in sums.as_ref().iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { self.output.store_vector(kernel, self.pixel + row, self.vector + index, vector) };
        }
    }
}

/// Where the sums of a tile go.
pub(crate) trait TileSink {
    /// Takes a row's sums.
    ///
    /// # Safety
    /// The row is one of the tile's.
    unsafe fn write_row<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums);
}

impl TileSink for Tile<'_> {
    #[inline(always)]
    unsafe fn write_row<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.store_row(kernel, row, sums) }
    }
}

/// What the sums of a tile are made of.
///
/// Row `r`, step `s` of segment `b` reads the 4 bytes at `activations + offsets[b] + r * stride + s * step`; the weights are read in
/// order, [`Kernel::VECTORS`] cells a step. There is a step at least. All these are valid for reads.
pub(crate) struct TileOperands<'a> {
    pub(crate) activations: *const u8,
    /// In bytes, a segment each.
    pub(crate) offsets: &'a [usize],
    /// Steps in a segment.
    pub(crate) steps: usize,
    pub(crate) weights: *const CacheLine,
}

/// [`Kernel::tile`] with all sums in registers.
///
/// # Safety
/// As for [`Kernel::tile`].
#[inline(always)]
pub(crate) unsafe fn tile_in_registers<K: Kernel, S: Stride>(kernel: K, rows: usize, tile: &Tile<'_>) {
    let &Tile { activations, offsets, steps, weights, .. } = tile;
    // SAFETY: the caller's promise.
    unsafe {
        multiply_tile::<K, S>(kernel, rows, &TileOperands { activations, offsets, steps, weights }, tile)
    }
}

/// The sums of `rows` rows by one panel, in registers until the sink takes them.
///
/// # Safety
/// As [`Factors`] says. `rows` is in `1..=ROWS`, and the sink takes all of them.
#[inline(always)]
pub(crate) unsafe fn multiply_tile<K: Kernel, S: Stride>(
    kernel: K,
    rows: usize,
    operands: &TileOperands<'_>,
    sink: &impl TileSink,
) {
    // SAFETY: the caller's promise, for each number of rows.
    unsafe {
        macro_rules! of_each_height {
            ($($height:literal)*) => {
                match rows {
                    // The heights that a kernel does not have leave no code.
                    $($height if $height <= K::ROWS => multiply_rows::<K, S, $height>(kernel, operands, sink),)*
                    _ => unreachable!("a tile has 1 to {} rows, not {rows}", K::ROWS),
                }
            };
        }
        of_each_height!(14 13 12 11 10 9 8 7 6 5 4 3 2 1);
    }
}

/// The statement once for each row below `$rows`, with the row's number a constant: loops the compiler might leave as
/// loops, and their sums in memory.
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

#[inline(always)]
unsafe fn multiply_rows<K: Kernel, S: Stride, const R: usize>(
    kernel: K,
    operands: &TileOperands<'_>,
    sink: &impl TileSink,
) {
    let simd = kernel.simd();
    let mut sums = [kernel.zero_sums(); R];
    let mut weights_line = operands.weights;
    // SAFETY: `Factors` says that all of these are valid.
    unsafe {
        for (index, &offset) in operands.offsets.iter().enumerate() {
            let mut activations = operands.activations.add(offset);
            let ahead = operands
                .activations
                .wrapping_add(operands.offsets[(index + 2).min(operands.offsets.len() - 1)]);
            each_row!(R, |ROW| simd.prefetch(ahead.wrapping_add(ROW * S::BYTES)));
            let mut remaining = operands.steps;
            loop {
                for vector in 0..K::VECTORS {
                    simd.prefetch(weights_line.wrapping_add(WEIGHTS_AHEAD * K::VECTORS + vector).cast());
                }
                let weights = kernel.load_weights(weights_line);
                each_row!(R, |ROW| sums[ROW] =
                    kernel.accumulate_step(sums[ROW], activations.add(ROW * S::BYTES), weights));
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

/// Steps that weights are asked for before they are used.
const WEIGHTS_AHEAD: usize = 32;
