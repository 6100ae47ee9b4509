//! The parts of the engine that depend on the instruction set.
//!
//! All other code is generic over [`Simd`] (vectors of 16 `f32`) and [`Kernel`] (an instruction set in one
//! precision: the format of cache lines, and one step of a GEMM). A kernel is a type that can only be
//! constructed if the CPU has its instructions, so its methods are safe to call; [`Kernel::vectorize`] calls
//! a function compiled for them, into which everything else is inlined.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod emulated;
#[cfg(any(test, target_arch = "x86_64"))]
mod narrowing;
mod portable;

#[cfg(test)]
pub(crate) use emulated::EmulatedBf16;
#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) use narrowing::Narrowing;
#[cfg(test)]
pub(crate) use portable::Portable;
pub(crate) use portable::PortableF32;
#[cfg(target_arch = "x86_64")]
pub(crate) use {
    amx::AmxBf16,
    avx2::Avx2,
    avx512::{Avx512, Avx512Bf16},
};

use crate::cache_line::CacheLine;
use crate::tile::{self, Stride, Tile};

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

/// Operations on vectors of 16 `f32` with one instruction set. A value of an implementing type has no data:
/// it proves that the CPU has the instructions.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// 16 `f32`.
    type Vector: Copy;

    /// A vector with `value` in all 16 lanes.
    fn splat(self, value: f32) -> Self::Vector;
    /// `a + b` in each lane.
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b` in each lane.
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c` in each lane, fused (rounded once) if the instruction set has that.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The larger value in each lane, for ReLUs and max pools; `b` where one of the two is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// `value` in the lanes where `sign` is positive, and 0 in the others. This is the backward pass of a
    /// ReLU, if `value` is the gradient of its output and `sign` is its output.
    fn select_positive(self, value: Self::Vector, sign: Self::Vector) -> Self::Vector;

    /// Transposes a 16 x 16 matrix: lane `i` of vector `j` becomes lane `j` of vector `i`. Training packs
    /// weights with it. This default goes through memory.
    #[inline(always)]
    fn transpose(self, vectors: [Self::Vector; 16]) -> [Self::Vector; 16] {
        let (mut rows, mut columns) = ([[0.0f32; 16]; 16], [[0.0f32; 16]; 16]);
        // SAFETY: rows and columns are 16 `f32` each.
        unsafe {
            for (row, vector) in rows.iter_mut().zip(vectors) {
                self.store(row.as_mut_ptr(), vector);
            }
            for (i, column) in columns.iter_mut().enumerate() {
                for (value, row) in column.iter_mut().zip(&rows) {
                    *value = row[i];
                }
            }
            columns.map(|column| self.load(column.as_ptr()))
        }
    }

    /// Reads a vector: the 16 `f32` from `src` on. The address need not be aligned.
    ///
    /// # Safety
    /// `src` must be valid for reads of 16 `f32`.
    unsafe fn load(self, src: *const f32) -> Self::Vector;
    /// Writes a vector as the 16 `f32` from `dst` on. The address need not be aligned.
    ///
    /// # Safety
    /// `dst` must be valid for writes of 16 `f32`.
    unsafe fn store(self, dst: *mut f32, vector: Self::Vector);

    /// Prefetches the cache line at `address` to the L1 cache, so that a later load need not wait. The
    /// address need not be valid.
    fn prefetch(self, address: *const u8);
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
    /// always 0 for `f32`, and 0 or 1 for `bf16`.
    ///
    /// # Safety
    /// `src` must be valid for reads and `part` below [`VECTORS_PER_LINE`](Self::VECTORS_PER_LINE).
    unsafe fn load_part(self, src: *const CacheLine, part: usize) -> Vector<Self>;
    /// Stores 16 channels as part `part` of a cache line, rounded to the input precision: for pools and
    /// Winograd's input transform, whose results later layers or GEMMs read.
    ///
    /// # Safety
    /// `dst` must be valid for writes and `part` below [`VECTORS_PER_LINE`](Self::VECTORS_PER_LINE).
    unsafe fn store_part(self, dst: *mut CacheLine, part: usize, vector: Vector<Self>);

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
    /// distance between pixels in memory.
    ///
    /// # Safety
    /// The pointers of the tile must be valid as [`Tile`] requires, and `rows` in `1..=MAX_ROWS`.
    #[inline(always)]
    unsafe fn compute_tile<S: Stride>(self, rows: usize, tile: &Tile<'_>) {
        // SAFETY: the caller upholds the same contract.
        unsafe { tile::tile_in_registers::<Self, S>(self, rows, tile) }
    }
}

/// The vector type of a kernel: 16 `f32`.
pub(crate) type Vector<K> = <<K as Kernel>::Simd as Simd>::Vector;
