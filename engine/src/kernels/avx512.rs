//! AVX-512, and AVX512-BF16.

use std::arch::x86_64::*;

use super::{Job, Kernel, Simd};
use crate::cache_line::CacheLine;

/// AVX-512 F in `f32`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

/// AVX512-BF16: one instruction adds two products per lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512Bf16(Avx512);

impl Avx512 {
    pub(crate) fn new() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }
}

impl Avx512Bf16 {
    pub(crate) fn new() -> Option<Self> {
        let present = is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw");
        Avx512::new().filter(|_| present).map(Self)
    }
}

/// 14 rows by 2 vectors of sums, 2 of weights and a broadcast: 31 of the 32 registers. At 224 x 224 pixels
/// the widths of ResNets are multiples of 14 down to layer3.
const ROWS: usize = 14;

impl Simd for Avx512 {
    type Vector = __m512;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: the type exists only if AVX-512 is present.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn select_positive(self, value: __m512, sign: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe {
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(sign, _mm512_setzero_ps());
            _mm512_maskz_mov_ps(above, value)
        }
    }

    #[inline(always)]
    fn transpose(self, vectors: [__m512; 16]) -> [__m512; 16] {
        // SAFETY: as in `splat`.
        unsafe {
            // Interleaves pairs of rows, then groups of four, within 128 bits; then shuffles 128-bit lanes,
            // twice.
            let pairs: [__m512; 16] = std::array::from_fn(|i| {
                let (a, b) = (vectors[i / 2 * 2], vectors[i / 2 * 2 + 1]);
                if i % 2 == 0 { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) }
            });
            let fours: [__m512; 16] = std::array::from_fn(|i| {
                let (four, column) = (i / 4 * 4, i % 4);
                let row_pair = |row: usize| _mm512_castps_pd(pairs[four + row + column / 2]);
                let (a, b) = (row_pair(0), row_pair(2));
                _mm512_castpd_ps(if column % 2 == 0 {
                    _mm512_unpacklo_pd(a, b)
                } else {
                    _mm512_unpackhi_pd(a, b)
                })
            });
            let halves: [__m512; 16] = std::array::from_fn(|i| {
                let (a, b) = (fours[i / 8 * 8 + i % 4], fours[i / 8 * 8 + 4 + i % 4]);
                if i % 8 < 4 {
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b)
                } else {
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b)
                }
            });
            // 128-bit lanes: `halves[i]` has columns `i % 4` and 8 more (or 4 and 12), of rows 0..4 and 4..8.
            std::array::from_fn(|column| {
                let half = column % 4 + column / 4 % 2 * 4;
                let (a, b) = (halves[half], halves[half + 8]);
                if column < 8 {
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b)
                } else {
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b)
                }
            })
        }
    }

    #[inline(always)]
    unsafe fn load(self, src: *const f32) -> __m512 {
        // SAFETY: as in `splat`; the caller guarantees the address.
        unsafe { _mm512_loadu_ps(src) }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut f32, vector: __m512) {
        // SAFETY: as in `load`.
        unsafe { _mm512_storeu_ps(dst, vector) }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}

impl Kernel for Avx512 {
    type Simd = Avx512;
    type Sums = [__m512; 2];
    type Weights = [__m512; 2];
    const ROWS: usize = ROWS;
    const VECTORS: usize = 2;
    const PARTS: usize = 1;

    #[inline(always)]
    fn vectorize<J: Job>(self, job: J) {
        #[target_feature(enable = "avx512f")]
        fn enter<J: Job>(kernel: Avx512, job: J) {
            job.run(kernel);
        }
        // SAFETY: the type exists only if AVX-512 is present.
        unsafe { enter(self, job) }
    }

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self
    }

    #[inline(always)]
    fn zero_sums(self) -> [__m512; 2] {
        [self.simd().splat(0.0); 2]
    }

    #[inline(always)]
    unsafe fn load_part(self, src: *const CacheLine, _: usize) -> __m512 {
        // SAFETY: a cache line is 16 `f32`.
        unsafe { self.simd().load(src.cast()) }
    }

    #[inline(always)]
    unsafe fn store_part(self, dst: *mut CacheLine, _: usize, vector: __m512) {
        // SAFETY: a cache line is 16 `f32`.
        unsafe { self.simd().store(dst.cast(), vector) }
    }

    #[inline(always)]
    unsafe fn load_weights(self, src: *const CacheLine) -> [__m512; 2] {
        // SAFETY: the caller guarantees two cache lines.
        unsafe { [self.simd().load(src.cast()), self.simd().load(src.add(1).cast())] }
    }

    #[inline(always)]
    unsafe fn madd(self, sums: [__m512; 2], activations: *const u8, weights: [__m512; 2]) -> [__m512; 2] {
        // SAFETY: the caller guarantees 4 bytes.
        let value = self.simd().splat(unsafe { activations.cast::<f32>().read_unaligned() });
        [self.simd().mul_add(value, weights[0], sums[0]), self.simd().mul_add(value, weights[1], sums[1])]
    }
}

impl Kernel for Avx512Bf16 {
    type Simd = Avx512;
    type Sums = [__m512; 2];
    type Weights = [__m512bh; 2];
    const ROWS: usize = ROWS;
    const VECTORS: usize = 2;
    const PARTS: usize = 2;

    #[inline(always)]
    fn vectorize<J: Job>(self, job: J) {
        #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
        fn enter<J: Job>(kernel: Avx512Bf16, job: J) {
            job.run(kernel);
        }
        // SAFETY: the type exists only if these are present.
        unsafe { enter(self, job) }
    }

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    fn zero_sums(self) -> [__m512; 2] {
        [self.simd().splat(0.0); 2]
    }

    #[inline(always)]
    unsafe fn load_part(self, src: *const CacheLine, part: usize) -> __m512 {
        // SAFETY: half a cache line is 16 `bf16`, 32 bytes; AVX-512 is present.
        unsafe {
            let halves = _mm256_loadu_si256(src.cast::<__m256i>().add(part));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        }
    }

    #[inline(always)]
    unsafe fn store_part(self, dst: *mut CacheLine, part: usize, vector: __m512) {
        // SAFETY: half a cache line is 16 `bf16`, 32 bytes; AVX512-BF16 is present.
        unsafe {
            let halves: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(vector));
            _mm256_storeu_si256(dst.cast::<__m256i>().add(part), halves);
        }
    }

    #[inline(always)]
    unsafe fn load_weights(self, src: *const CacheLine) -> [__m512bh; 2] {
        // SAFETY: the caller guarantees two cache lines; any bits are 32 `bf16`.
        unsafe {
            let load = |line| std::mem::transmute::<__m512, __m512bh>(self.simd().load(line));
            [load(src.cast()), load(src.add(1).cast())]
        }
    }

    #[inline(always)]
    unsafe fn madd(self, sums: [__m512; 2], activations: *const u8, weights: [__m512bh; 2]) -> [__m512; 2] {
        // SAFETY: the caller guarantees 4 bytes; any bits are 32 `bf16`; AVX512-BF16 is present.
        unsafe {
            let pair = self.simd().splat(activations.cast::<f32>().read_unaligned());
            let pairs: __m512bh = std::mem::transmute(pair);
            [_mm512_dpbf16_ps(sums[0], pairs, weights[0]), _mm512_dpbf16_ps(sums[1], pairs, weights[1])]
        }
    }
}
