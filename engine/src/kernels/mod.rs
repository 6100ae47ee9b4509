//! The parts of the engine that depend on the instruction set.
//!
//! All other code is generic over [`Simd`] (vectors of 16 `f32`) and [`Kernel`] (an instruction set in one
//! precision: the format of cache lines, and one step of a GEMM). A kernel is a type that can only be
//! constructed if the CPU has its instructions, so its methods are safe to call; [`Kernel::vectorize`] calls
//! a function compiled for them, into which everything else is inlined.
//!
//! The microkernel of the GEMM is at the end: [`Kernel::compute_tile`] accumulates a tile in registers.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(any(test, target_arch = "x86_64"))]
mod narrowing;
mod portable;
mod simd;
mod tile;

#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) use narrowing::Narrowing;
#[cfg(test)]
pub(crate) use portable::Portable;
pub(crate) use portable::PortableF32;
pub(crate) use simd::Simd;
pub(crate) use tile::{
    ImagePixels, LinePixels, Stride, Tile, TileEpilogue, TileOperands, TileOutput, TileResidual,
};
#[cfg(target_arch = "x86_64")]
pub(crate) use {
    amx::AmxBf16,
    avx2::Avx2,
    avx512::{Avx512, Avx512Bf16},
};

use crate::cache_line::CacheLine;

/// Work that is compiled once per kernel, e.g. one thread's share of a GEMM. The fields of the implementing
/// struct are the operands. [`AnyKernel::run`](crate::dispatch::AnyKernel::run) runs a job.
pub(crate) trait Job {
    /// Does the work with the instructions of `kernel`. [`Kernel::vectorize`] calls it inside a function that
    /// is compiled for these instructions. Implementations must be `#[inline(always)]`: only then are they
    /// compiled for them too.
    fn run<K: Kernel>(self, kernel: K);
}

/// A job that runs with kernel `K` inside the function of another kernel, which must be compiled for at least
/// the same instructions.
#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) struct WithKernel<K, J> {
    pub(crate) kernel: K,
    pub(crate) job: J,
}

#[cfg(any(test, target_arch = "x86_64"))]
impl<K: Kernel, J: Job> Job for WithKernel<K, J> {
    /// Runs the job with the stored kernel, and ignores the kernel whose function this is.
    #[inline(always)]
    fn run<Outer: Kernel>(self, _: Outer) {
        self.job.run(self.kernel);
    }
}

/// An instruction set with an input precision and an output precision: how cache lines are read and written,
/// and how a GEMM multiplies pixels (rows) with panels of weights (some vectors of output channels). A step
/// of a GEMM multiplies one 4-byte activation of a pixel, one `f32` or two `bf16`, with its weights.
pub(crate) trait Kernel: Copy + Send + Sync + 'static {
    /// The vector operations of the instruction set.
    type Simd: Simd;
    /// Sums of one pixel for a panel of weights: [`VECTORS_PER_PANEL`](Self::VECTORS_PER_PANEL) vectors.
    type Sums: Copy + AsRef<[Vector<Self>]>;
    /// Weights of one step of a panel, as [`load_weights`](Self::load_weights) loads them.
    type Weights: Copy;
    /// Maximum number of pixels (rows) in a tile.
    const MAX_ROWS: usize;
    /// Vectors of 16 output channels in a panel of weights.
    const VECTORS_PER_PANEL: usize;
    /// Vectors of 16 channels in a cache line of the input: 1 for `f32`, 2 for `bf16`. Part `p` of a line is
    /// its `p`-th vector, channels `16 * p..16 * (p + 1)` of the channel block.
    const VECTORS_PER_LINE: usize;
    /// Vectors of 16 channels in a cache line of the output.
    const OUT_VECTORS_PER_LINE: usize = Self::VECTORS_PER_LINE;
    /// Whether the instructions multiply whole tiles, so that
    /// [`multiply_accumulate`](Self::multiply_accumulate) does not show the peak throughput.
    const MULTIPLIES_WHOLE_TILES: bool = false;
    /// Whether Winograd's algorithm is faster than a direct convolution.
    const PREFERS_WINOGRAD: bool = true;

    /// The vector operations, for code of a [`Job`] other than GEMM steps.
    fn simd(self) -> Self::Simd;

    /// Runs `job` with this kernel, inside a function that is compiled for this instruction set. The compiler
    /// inlines the whole job there, because only such a function can inline the instructions.
    fn vectorize<J: Job>(self, job: J);

    /// Loads 16 channels as `f32` from a cache line in the input precision: part `part` of the line, which is
    /// always 0 for `f32`, and 0 or 1 for `bf16`. This default is for `f32`, where they are the whole line.
    ///
    /// # Safety
    /// `src` must be valid for reads and `part` below [`VECTORS_PER_LINE`](Self::VECTORS_PER_LINE).
    #[inline(always)]
    unsafe fn load_part(self, src: *const CacheLine, part: usize) -> Vector<Self> {
        let _ = part;
        // SAFETY: the caller guarantees a cache line, 16 `f32`.
        unsafe { self.simd().load(src.cast()) }
    }

    /// Stores 16 channels as part `part` of a cache line, rounded to the input precision: for pools and
    /// Winograd's input transform, whose results later layers or GEMMs read. This default is for `f32`, where
    /// they are the whole line.
    ///
    /// # Safety
    /// `dst` must be valid for writes and `part` below [`VECTORS_PER_LINE`](Self::VECTORS_PER_LINE).
    #[inline(always)]
    unsafe fn store_part(self, dst: *mut CacheLine, part: usize, vector: Vector<Self>) {
        let _ = part;
        // SAFETY: the caller guarantees a cache line, 16 `f32`.
        unsafe { self.simd().store(dst.cast(), vector) }
    }

    /// Stores 16 channels as part `part` of a cache line, rounded to the output precision: for the results of
    /// convolutions. The output precision differs from the input precision only in `Narrowing`.
    ///
    /// # Safety
    /// `dst` must be valid for writes and `part` below [`OUT_VECTORS_PER_LINE`](Self::OUT_VECTORS_PER_LINE).
    #[inline(always)]
    unsafe fn store_out_part(self, dst: *mut CacheLine, part: usize, vector: Vector<Self>) {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.store_part(dst, part, vector) }
    }

    /// The sums of one pixel at the start of a GEMM, all 0. A lane is an output channel of the panel.
    fn zero_sums(self) -> Self::Sums;
    /// Loads the weights of a panel for one step of the GEMM's inner loop, from `src` on in packed order: for
    /// each output channel one `f32`, or two `bf16`.
    ///
    /// # Safety
    /// `src` must be valid for reads of [`VECTORS_PER_PANEL`](Self::VECTORS_PER_PANEL) cache lines.
    unsafe fn load_weights(self, src: *const CacheLine) -> Self::Weights;
    /// One step of the GEMM's inner loop for one pixel: returns `sums + activation * weights`. The
    /// activation, 4 bytes at `activations` (one `f32`, or two `bf16` whose two products are added), is
    /// broadcast to all lanes.
    ///
    /// # Safety
    /// `activations` must be valid for reads of 4 bytes.
    unsafe fn multiply_accumulate(
        self,
        sums: Self::Sums,
        activations: *const u8,
        weights: Self::Weights,
    ) -> Self::Sums;

    /// Computes and stores a tile: `rows` pixels by the output channels of one panel of weights. `S` is the
    /// distance between pixels in memory. This default multiplies step by step, with all sums in registers.
    ///
    /// # Safety
    /// The pointers of the tile must be valid as [`Tile`] requires, and `rows` in `1..=MAX_ROWS`.
    #[inline(always)]
    unsafe fn compute_tile<S: Stride>(self, rows: usize, tile: &Tile<'_>) {
        // SAFETY: the caller upholds the same contract.
        unsafe { multiply_tile::<Self, S>(self, rows, &tile.operands, tile) }
    }
}

/// The vector type of a kernel: 16 `f32`.
pub(crate) type Vector<K> = <<K as Kernel>::Simd as Simd>::Vector;

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
    /// Applies the epilogue (bias, residual and ReLU, or nothing) to the sums of row `row`, an output pixel
    /// of a frozen layer, and stores them in the layer's output.
    #[inline(always)]
    unsafe fn write_row<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums) {
        for (index, &vector) in sums.as_ref().iter().enumerate() {
            // SAFETY: guaranteed by the caller and the creator of the tile.
            unsafe { self.output.store(kernel, self.pixel + row, self.vector + index, vector) };
        }
    }
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
