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

/// Work that is compiled once per instruction set.
pub(crate) trait Job {
    /// Does the work. Implementations must be `#[inline(always)]` to be compiled for the caller's instruction
    /// set.
    fn run<K: Kernel>(self, kernel: K);
}

/// A job that runs with kernel `K` inside the function of another kernel, which must be compiled for at least
/// the same instructions.
#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) struct WithKernel<K, J>(pub(crate) K, pub(crate) J);

#[cfg(any(test, target_arch = "x86_64"))]
impl<K: Kernel, J: Job> Job for WithKernel<K, J> {
    #[inline(always)]
    fn run<Outer: Kernel>(self, _: Outer) {
        self.1.run(self.0);
    }
}

/// Vectors of 16 `f32`.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// 16 `f32`.
    type Vector: Copy;

    fn splat(self, value: f32) -> Self::Vector;
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`, fused if the instruction set has that.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The maximum; `b` if one of them is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// `value` where `sign` is positive, and 0 elsewhere.
    fn select_positive(self, value: Self::Vector, sign: Self::Vector) -> Self::Vector;

    /// Lane `i` of vector `j` becomes lane `j` of vector `i`.
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

    /// # Safety
    /// `src` must be valid for reads of 16 `f32`.
    unsafe fn load(self, src: *const f32) -> Self::Vector;
    /// # Safety
    /// `dst` must be valid for writes of 16 `f32`.
    unsafe fn store(self, dst: *mut f32, vector: Self::Vector);

    /// Prefetches a cache line. The address need not be valid.
    fn prefetch(self, address: *const u8);
}

/// An instruction set with an input precision and an output precision.
pub(crate) trait Kernel: Copy + Send + Sync + 'static {
    type Simd: Simd;
    /// Sums of one pixel for a panel of weights: an array of [`VECTORS`](Self::VECTORS) vectors.
    type Sums: Copy + AsRef<[Vector<Self>]>;
    /// Weights of one step of a panel.
    type Weights: Copy;
    /// Maximum number of pixels (rows) in a tile.
    const ROWS: usize;
    /// Vectors of 16 output channels in a panel of weights.
    const VECTORS: usize;
    /// Vectors of 16 channels in a cache line of the input: 1 for `f32`, 2 for `bf16`.
    const PARTS: usize;
    /// Vectors of 16 channels in a cache line of the output.
    const OUT_PARTS: usize = Self::PARTS;
    /// Whether the instructions multiply whole tiles, not step by step.
    const WHOLE_TILES: bool = false;
    /// Whether Winograd's algorithm is faster than a direct convolution.
    const WINOGRAD: bool = true;

    fn simd(self) -> Self::Simd;

    /// Runs `job` compiled for this instruction set.
    fn vectorize<J: Job>(self, job: J);

    /// Loads channels `16 * part..` of an input cache line as `f32`.
    ///
    /// # Safety
    /// `src` must be valid for reads and `part` below [`PARTS`](Self::PARTS).
    unsafe fn load_part(self, src: *const CacheLine, part: usize) -> Vector<Self>;
    /// Stores channels `16 * part..` of an input cache line, rounded to the input precision.
    ///
    /// # Safety
    /// `dst` must be valid for writes and `part` below [`PARTS`](Self::PARTS).
    unsafe fn store_part(self, dst: *mut CacheLine, part: usize, vector: Vector<Self>);

    /// As [`store_part`](Self::store_part), for an output cache line in the output precision.
    ///
    /// # Safety
    /// `dst` must be valid for writes and `part` below [`OUT_PARTS`](Self::OUT_PARTS).
    #[inline(always)]
    unsafe fn store_out_part(self, dst: *mut CacheLine, part: usize, vector: Vector<Self>) {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.store_part(dst, part, vector) }
    }

    /// Zeroed accumulators of one pixel: a lane per output channel of a panel.
    fn zero_sums(self) -> Self::Sums;
    /// Loads the weights of a panel for one step of the inner loop: for each output channel one `f32`, or two `bf16`.
    ///
    /// # Safety
    /// `src` must be valid for reads of [`VECTORS`](Self::VECTORS) cache lines.
    unsafe fn load_weights(self, src: *const CacheLine) -> Self::Weights;
    /// Multiplies the 4 bytes at `activations` (one `f32`, or two `bf16`), broadcast to all lanes, with the weights
    /// of a step, and adds the products to `sums`.
    ///
    /// # Safety
    /// `activations` must be valid for reads of 4 bytes.
    unsafe fn madd(self, sums: Self::Sums, activations: *const u8, weights: Self::Weights) -> Self::Sums;

    /// Computes and stores a tile: `rows` pixels by the output channels of one panel of weights. `S` is the distance
    /// between pixels in memory.
    ///
    /// # Safety
    /// The pointers of the tile must be valid as [`Tile`] requires, and `rows` in `1..=ROWS`.
    #[inline(always)]
    unsafe fn compute_tile<S: Stride>(self, rows: usize, tile: &Tile<'_>) {
        // SAFETY: the caller upholds the same contract.
        unsafe { tile::tile_in_registers::<Self, S>(self, rows, tile) }
    }
}

/// The vector type of a kernel: 16 `f32`.
pub(crate) type Vector<K> = <<K as Kernel>::Simd as Simd>::Vector;
