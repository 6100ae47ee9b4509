//! Kernels from `f32` to `bf16`.

use super::{Job, Kernel, Vector, WithKernel};
use crate::cache_line::CacheLine;

/// Computes with a kernel from `f32` to `f32` and stores outputs with a `bf16` kernel, which must be compiled
/// for the instructions of both: for the layer of a network that switches from `f32` to `bf16`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Narrowing<Wide, Narrow> {
    pub(crate) compute: Wide,
    pub(crate) store: Narrow,
}

impl<Wide: Kernel, Narrow: Kernel<Simd = Wide::Simd>> Kernel for Narrowing<Wide, Narrow> {
    type Simd = Wide::Simd;
    type Sums = Wide::Sums;
    type Weights = Wide::Weights;
    const MAX_ROWS: usize = Wide::MAX_ROWS;
    const VECTORS_PER_PANEL: usize = Wide::VECTORS_PER_PANEL;
    const VECTORS_PER_LINE: usize = Wide::VECTORS_PER_LINE;
    const OUT_VECTORS_PER_LINE: usize = Narrow::OUT_VECTORS_PER_LINE;

    #[inline(always)]
    fn simd(self) -> Self::Simd {
        self.compute.simd()
    }

    /// Runs `job` with this kernel inside the function of the `bf16` kernel, which is compiled for the
    /// instructions of both.
    #[inline(always)]
    fn vectorize<J: Job>(self, job: J) {
        self.store.vectorize(WithKernel { kernel: self, job });
    }

    /// Stores 16 channels of an output rounded to `bf16`: the only step that differs from the `f32` kernel.
    #[inline(always)]
    unsafe fn store_out_part(self, dst: *mut CacheLine, part: usize, vector: Vector<Self>) {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.store.store_out_part(dst, part, vector) }
    }

    #[inline(always)]
    fn zero_sums(self) -> Self::Sums {
        self.compute.zero_sums()
    }

    #[inline(always)]
    unsafe fn load_weights(self, src: *const CacheLine) -> Self::Weights {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.compute.load_weights(src) }
    }

    /// One step of a GEMM for one pixel, with the `f32` kernel `compute`: the layer that switches a network
    /// from `f32` to `bf16` reads `f32`, and only its outputs are `bf16`.
    #[inline(always)]
    unsafe fn multiply_accumulate(
        self,
        sums: Self::Sums,
        activations: *const u8,
        weights: Self::Weights,
    ) -> Self::Sums {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.compute.multiply_accumulate(sums, activations, weights) }
    }
}
