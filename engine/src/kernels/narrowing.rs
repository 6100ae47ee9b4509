//! Kernels from `f32` to `bf16`.

use super::{Job, Kernel, Vector, WithKernel};
use crate::cache_line::CacheLine;

/// Computes with the kernel `Wide` and stores outputs with the kernel `Narrow`, which is compiled for the
/// instructions of both.
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
    unsafe fn load_part(self, src: *const CacheLine, part: usize) -> Vector<Self> {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.0.load_part(src, part) }
    }

    #[inline(always)]
    unsafe fn store_part(self, dst: *mut CacheLine, part: usize, vector: Vector<Self>) {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.0.store_part(dst, part, vector) }
    }

    #[inline(always)]
    unsafe fn store_out_part(self, dst: *mut CacheLine, part: usize, vector: Vector<Self>) {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.1.store_out_part(dst, part, vector) }
    }

    #[inline(always)]
    fn zero_sums(self) -> Self::Sums {
        self.0.zero_sums()
    }

    #[inline(always)]
    unsafe fn load_weights(self, src: *const CacheLine) -> Self::Weights {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.0.load_weights(src) }
    }

    #[inline(always)]
    unsafe fn madd(self, sums: Self::Sums, activations: *const u8, weights: Self::Weights) -> Self::Sums {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.0.madd(sums, activations, weights) }
    }
}
