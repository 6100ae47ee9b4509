//! AVX2 with FMA.

use std::arch::x86_64::*;

use super::{Job, Kernel, Simd};
use crate::cache_line::CacheLine;

/// The kernel for AVX2 with FMA in `f32`. A vector of 16 `f32` is two registers of 8.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The kernel if this CPU has AVX2 and FMA.
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

impl Simd for Avx2 {
    type Vector = [__m256; 2];

    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        // SAFETY: the type exists only if AVX2 and FMA are present.
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the type exists only if AVX2 and FMA are present.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the type exists only if AVX2 and FMA are present.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the type exists only if AVX2 and FMA are present.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn max(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the type exists only if AVX2 and FMA are present.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    /// `value` in the lanes where `sign > 0`, and 0 in the others, for the backward pass of a ReLU. The
    /// comparison gives lanes of all ones or all zeros, and a bitwise AND applies them to the value.
    #[inline(always)]
    fn select_positive(self, value: [__m256; 2], sign: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the type exists only if AVX2 and FMA are present.
        unsafe {
            let is_positive = |sign| _mm256_cmp_ps::<_CMP_GT_OQ>(sign, _mm256_setzero_ps());
            [_mm256_and_ps(is_positive(sign[0]), value[0]), _mm256_and_ps(is_positive(sign[1]), value[1])]
        }
    }

    /// Reads 16 `f32`, the two halves of a vector, from `src` on.
    #[inline(always)]
    unsafe fn load(self, src: *const f32) -> [__m256; 2] {
        // SAFETY: AVX2 and FMA are present; the caller guarantees the address.
        unsafe { [_mm256_loadu_ps(src), _mm256_loadu_ps(src.add(8))] }
    }

    /// Writes the two halves of a vector, 16 `f32`, from `dst` on.
    #[inline(always)]
    unsafe fn store(self, dst: *mut f32, vector: [__m256; 2]) {
        // SAFETY: AVX2 and FMA are present; the caller guarantees the address.
        unsafe {
            _mm256_storeu_ps(dst, vector[0]);
            _mm256_storeu_ps(dst.add(8), vector[1]);
        }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}

impl Kernel for Avx2 {
    type Simd = Self;
    type Sums = [[__m256; 2]; 1];
    type Weights = [__m256; 2];
    /// 6 rows by 2 registers of sums, 2 of weights and a broadcast: 15 of the 16 registers.
    const MAX_ROWS: usize = 6;
    const VECTORS_PER_PANEL: usize = 1;
    const VECTORS_PER_LINE: usize = 1;

    #[inline(always)]
    fn simd(self) -> Self {
        self
    }

    /// Runs `job` inside a function that is compiled for AVX2 and FMA. The job is inlined there, so that the
    /// compiler uses these instructions for all of its code.
    #[inline(always)]
    fn vectorize<J: Job>(self, job: J) {
        #[target_feature(enable = "avx2,fma")]
        fn enter<J: Job>(kernel: Avx2, job: J) {
            job.run(kernel);
        }
        // SAFETY: the type exists only if these are present.
        unsafe { enter(self, job) }
    }

    #[inline(always)]
    fn zero_sums(self) -> [[__m256; 2]; 1] {
        [self.splat(0.0)]
    }

    /// Loads one cache line of weights for a step of a GEMM: one `f32` for each of 16 output channels.
    #[inline(always)]
    unsafe fn load_weights(self, src: *const CacheLine) -> [__m256; 2] {
        // SAFETY: the caller guarantees a cache line, 16 `f32`.
        unsafe { self.load(src.cast()) }
    }

    /// One step of a GEMM for one pixel: reads an `f32` activation, and adds its products with the weights of
    /// 16 output channels to the channels' sums, one per lane.
    #[inline(always)]
    unsafe fn multiply_accumulate(
        self,
        [sums]: Self::Sums,
        activations: *const u8,
        weights: [__m256; 2],
    ) -> Self::Sums {
        // SAFETY: the caller guarantees 4 bytes.
        let activation = self.splat(unsafe { activations.cast::<f32>().read_unaligned() });
        [self.mul_add(activation, weights, sums)]
    }
}
