//! AVX2 with FMA.

use std::arch::x86_64::*;

use super::{Job, Kernel, Simd};
use crate::cache_line::CacheLine;

/// AVX2 with FMA in `f32`: a vector is two registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
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
        // SAFETY: as in `splat`.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as in `splat`.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as in `splat`.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn max(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as in `splat`.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn select_positive(self, value: [__m256; 2], sign: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as in `splat`.
        unsafe {
            let above = |sign| _mm256_cmp_ps::<_CMP_GT_OQ>(sign, _mm256_setzero_ps());
            [_mm256_and_ps(above(sign[0]), value[0]), _mm256_and_ps(above(sign[1]), value[1])]
        }
    }

    #[inline(always)]
    unsafe fn load(self, src: *const f32) -> [__m256; 2] {
        // SAFETY: as in `splat`; the caller guarantees the address.
        unsafe { [_mm256_loadu_ps(src), _mm256_loadu_ps(src.add(8))] }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut f32, vector: [__m256; 2]) {
        // SAFETY: as in `load`.
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
    const ROWS: usize = 6;
    const VECTORS: usize = 1;
    const PARTS: usize = 1;

    #[inline(always)]
    fn simd(self) -> Self {
        self
    }

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
    unsafe fn load_part(self, src: *const CacheLine, _: usize) -> [__m256; 2] {
        // SAFETY: a cache line is 16 `f32`.
        unsafe { self.load(src.cast()) }
    }

    #[inline(always)]
    unsafe fn store_part(self, dst: *mut CacheLine, _: usize, vector: [__m256; 2]) {
        // SAFETY: a cache line is 16 `f32`.
        unsafe { self.store(dst.cast(), vector) }
    }

    #[inline(always)]
    fn zero_sums(self) -> [[__m256; 2]; 1] {
        [self.splat(0.0)]
    }

    #[inline(always)]
    unsafe fn load_weights(self, src: *const CacheLine) -> [__m256; 2] {
        // SAFETY: the caller guarantees a cache line, 16 `f32`.
        unsafe { self.load(src.cast()) }
    }

    #[inline(always)]
    unsafe fn madd(self, [sums]: Self::Sums, activations: *const u8, weights: [__m256; 2]) -> Self::Sums {
        // SAFETY: the caller guarantees 4 bytes.
        let value = self.splat(unsafe { activations.cast::<f32>().read_unaligned() });
        [self.mul_add(value, weights, sums)]
    }
}
