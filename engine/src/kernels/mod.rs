//! What differs between instruction sets.
//!
//! Everything is written once, over [`Simd`] (vectors of 16 `f32`) and [`Kernel`] (an instruction set in one precision:
//! the cells that values are stored in, one step of a product). Each is a type that can only be made where its
//! instructions are present, so that its methods are safe to call; [`Kernel::vectorize`] enters a function compiled for
//! them, into which all else is inlined.

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

/// Work that is compiled once for each instruction set.
pub(crate) trait Job {
    /// Does it. Implementations are `#[inline(always)]`: only so do they get the instruction set of their caller.
    fn run<K: Kernel>(self, kernel: K);
}

/// A job on one kernel that runs in the function of another, compiled for the same instructions or more.
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
    /// `a * b + c`, rounded once where the instruction set has that.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The larger; `b` where one is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// `value` where `sign` is above 0, and 0 elsewhere.
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
    /// `from` is valid for reads of 16 `f32`.
    unsafe fn load(self, from: *const f32) -> Self::Vector;
    /// # Safety
    /// `to` is valid for writes of 16 `f32`.
    unsafe fn store(self, to: *mut f32, vector: Self::Vector);

    /// Asks for a cache line. Any address will do.
    fn prefetch(self, address: *const u8);
}

/// An instruction set in one precision, and the precision in which it keeps what comes out.
pub(crate) trait Kernel: Copy + Send + Sync + 'static {
    type Simd: Simd;
    /// One pixel's sums over a panel of weights: an array of [`VECTORS`](Self::VECTORS) vectors.
    type Sums: Copy + AsRef<[Vector<Self>]>;
    /// One step's weights of a panel.
    type Weights: Copy;
    /// Pixels in the tallest tile.
    const ROWS: usize;
    /// Vectors of 16 output channels in a panel of weights.
    const VECTORS: usize;
    /// Vectors of 16 channels in a cell that is read: 1 for `f32`, 2 for `bf16`.
    const PARTS: usize;
    /// Vectors of 16 channels in a cell that a layer gives.
    const OUT_PARTS: usize = Self::PARTS;
    /// Whether products are of whole tiles, not step by step.
    const WHOLE_TILES: bool = false;
    /// Whether Winograd's transforms pay.
    const WINOGRAD: bool = true;

    fn simd(self) -> Self::Simd;

    /// Runs `job` compiled for this instruction set.
    fn vectorize<J: Job>(self, job: J);

    /// The channels `16 * part..` of a cell.
    ///
    /// # Safety
    /// `from` is valid for reads; `part` is below [`PARTS`](Self::PARTS).
    unsafe fn load_part(self, from: *const CacheLine, part: usize) -> Vector<Self>;
    /// Rounds to the precision of cells.
    ///
    /// # Safety
    /// `to` is valid for writes; `part` is below [`PARTS`](Self::PARTS).
    unsafe fn store_part(self, to: *mut CacheLine, part: usize, vector: Vector<Self>);

    /// As [`store_part`](Self::store_part), to what a layer gives; `part` is below [`OUT_PARTS`](Self::OUT_PARTS).
    ///
    /// # Safety
    /// `to` is valid for writes.
    #[inline(always)]
    unsafe fn store_out_part(self, to: *mut CacheLine, part: usize, vector: Vector<Self>) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.store_part(to, part, vector) }
    }

    fn zero_sums(self) -> Self::Sums;
    /// # Safety
    /// `from` is valid for reads of [`VECTORS`](Self::VECTORS) cells.
    unsafe fn load_weights(self, from: *const CacheLine) -> Self::Weights;
    /// Adds to `sums` the product of the 4 bytes at `activations` (one `f32`, or two `bf16`) with a step's weights.
    ///
    /// # Safety
    /// `activations` is valid for reads of 4 bytes.
    unsafe fn accumulate_step(
        self,
        sums: Self::Sums,
        activations: *const u8,
        weights: Self::Weights,
    ) -> Self::Sums;

    /// Computes a tile of `rows` pixels by one panel.
    ///
    /// # Safety
    /// As [`Tile`] says. `rows` is in `1..=ROWS`.
    #[inline(always)]
    unsafe fn compute_tile<S: Stride>(self, rows: usize, tile: &Tile<'_>) {
        // SAFETY: the caller's promise is the same.
        unsafe { tile::tile_in_registers::<Self, S>(self, rows, tile) }
    }
}

/// 16 `f32` of a kernel.
pub(crate) type Vector<K> = <<K as Kernel>::Simd as Simd>::Vector;
