//! From `f32` to `bf16`.

use super::{Job, Kernel, Vector, WithKernel};
use crate::cache_line::CacheLine;

/// Computes as `Wide` does, and keeps what comes out as `Narrow` does. `Narrow` is compiled for the instructions of both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Narrowing<Wide, Narrow>(pub(crate) Wide, pub(crate) Narrow);

impl<Wide: Kernel, Narrow: Kernel<Simd = Wide::Simd>> Kernel for Narrowing<Wide, Narrow> {
    type Simd = Wide::Simd;
    type Sums = Wide::Sums;
    type Weights = Wide::Weights;
    const ROWS: usize = Wide::ROWS;
    const VECTORS: usize = Wide::VECTORS;
    const PARTS: usize = Wide::PARTS;
    const OUT_PARTS: usize = Narrow::OUT_PARTS;

    #[inline(always)]
    fn simd(self) -> Self::Simd {
        self.0.simd()
    }

    #[inline(always)]
    fn vectorize<J: Job>(self, job: J) {
        self.1.vectorize(WithKernel(self, job));
    }

    #[inline(always)]
    unsafe fn load_part(self, from: *const CacheLine, part: usize) -> Vector<Self> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.load_part(from, part) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut CacheLine, part: usize, vector: Vector<Self>) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.store_part(to, part, vector) }
    }

    #[inline(always)]
    unsafe fn store_out_part(self, to: *mut CacheLine, part: usize, vector: Vector<Self>) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.1.store_out_part(to, part, vector) }
    }

    #[inline(always)]
    fn zero_sums(self) -> Self::Sums {
        self.0.zero_sums()
    }

    #[inline(always)]
    unsafe fn load_weights(self, from: *const CacheLine) -> Self::Weights {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.load_weights(from) }
    }

    #[inline(always)]
    unsafe fn accumulate_step(
        self,
        sums: Self::Sums,
        activations: *const u8,
        weights: Self::Weights,
    ) -> Self::Sums {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.accumulate_step(sums, activations, weights) }
    }
}
