//! AVX-512, and AVX512-BF16.

use std::arch::x86_64::*;

use super::{Job, Kernel, Simd};
use crate::cache_line::CacheLine;

/// The kernel for AVX-512 F in `f32`. A vector of 16 `f32` is one register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

/// The kernel for AVX512-BF16 in `bf16`, where one instruction adds two products per lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512Bf16(Avx512);

impl Avx512 {
    /// The kernel if this CPU has AVX-512 F.
    pub(crate) fn new() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }
}

impl Avx512Bf16 {
    /// The kernel if this CPU has AVX512-BF16.
    pub(crate) fn new() -> Option<Self> {
        let present = is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw");
        Avx512::new().filter(|_| present).map(Self)
    }
}

/// 14 rows by 2 vectors of sums, 2 of weights and a broadcast: 31 of the 32 registers. At 224 x 224 pixels
/// the widths of ResNets are multiples of 14 down to layer3.
const MAX_ROWS: usize = 14;

impl Simd for Avx512 {
    type Vector = __m512;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: the type exists only if AVX-512 is present.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the type exists only if AVX-512 is present.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the type exists only if AVX-512 is present.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the type exists only if AVX-512 is present.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the type exists only if AVX-512 is present.
        unsafe { _mm512_max_ps(a, b) }
    }

    /// `value` in the lanes where `sign > 0`, and 0 in the others, for the backward pass of a ReLU.
    #[inline(always)]
    fn select_positive(self, value: __m512, sign: __m512) -> __m512 {
        // SAFETY: the type exists only if AVX-512 is present.
        unsafe {
            let is_positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(sign, _mm512_setzero_ps());
            _mm512_maskz_mov_ps(is_positive, value)
        }
    }

    /// Transposes a 16 x 16 matrix, whose rows are the vectors, in registers; training packs weights with it.
    /// Each of four rounds combines pairs of registers, which then have values of 2, 4, 8 and 16 rows. The
    /// instructions work on quarters of a register, four lanes each; quarter `q` of a row has the columns
    /// `4 * q..4 * q + 4`.
    #[inline(always)]
    fn transpose(self, vectors: [__m512; 16]) -> [__m512; 16] {
        // SAFETY: the type exists only if AVX-512 is present.
        unsafe {
            // Quarter `q` of `pairs[i]`: two columns of rows `i` and `i + 1` (for even `i`, else `i - 1` and
            // `i`).
            let pairs: [__m512; 16] = std::array::from_fn(|i| {
                let (a, b) = (vectors[i / 2 * 2], vectors[i / 2 * 2 + 1]);
                if i % 2 == 0 { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) }
            });
            // Quarter `q` of `fours[4 * k + c]`: column `4 * q + c` of rows `4 * k..4 * k + 4`.
            let fours: [__m512; 16] = std::array::from_fn(|i| {
                let (first_row, column) = (i / 4 * 4, i % 4);
                let row_pair = |row: usize| _mm512_castps_pd(pairs[first_row + row + column / 2]);
                let (a, b) = (row_pair(0), row_pair(2));
                _mm512_castpd_ps(if column % 2 == 0 {
                    _mm512_unpacklo_pd(a, b)
                } else {
                    _mm512_unpackhi_pd(a, b)
                })
            });
            // Quarters of `eights[8 * k + c]`: columns `c` and `c + 8` of four rows from `8 * k` on, then of
            // the next four rows.
            let eights: [__m512; 16] = std::array::from_fn(|i| {
                let (a, b) = (fours[i / 8 * 8 + i % 4], fours[i / 8 * 8 + 4 + i % 4]);
                if i % 8 < 4 {
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b)
                } else {
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b)
                }
            });
            // A column: four quarters, with four rows each.
            std::array::from_fn(|column| {
                let (a, b) = (eights[column % 8], eights[column % 8 + 8]);
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
        // SAFETY: AVX-512 is present; the caller guarantees the address.
        unsafe { _mm512_loadu_ps(src) }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut f32, vector: __m512) {
        // SAFETY: AVX-512 is present; the caller guarantees the address.
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
    const MAX_ROWS: usize = MAX_ROWS;
    const VECTORS_PER_PANEL: usize = 2;
    const VECTORS_PER_LINE: usize = 1;

    /// Runs `job` inside a function that is compiled for AVX-512. The job is inlined there, so that the
    /// compiler uses these instructions for all of its code.
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

    /// Loads the weights of 32 output channels for one step of a GEMM, which multiplies one activation of a
    /// pixel: one `f32` per channel, and 16 channels in each of the two lines from `src` on.
    #[inline(always)]
    unsafe fn load_weights(self, src: *const CacheLine) -> [__m512; 2] {
        // SAFETY: the caller guarantees two cache lines.
        unsafe { [self.simd().load(src.cast()), self.simd().load(src.add(1).cast())] }
    }

    /// One step of a GEMM for one pixel: reads an `f32` activation, and adds its products with the weights of
    /// 32 output channels to the channels' sums, one per lane.
    #[inline(always)]
    unsafe fn multiply_accumulate(
        self,
        sums: [__m512; 2],
        activations: *const u8,
        weights: [__m512; 2],
    ) -> [__m512; 2] {
        // SAFETY: the caller guarantees 4 bytes.
        let value = self.simd().splat(unsafe { activations.cast::<f32>().read_unaligned() });
        [self.simd().mul_add(value, weights[0], sums[0]), self.simd().mul_add(value, weights[1], sums[1])]
    }
}

impl Kernel for Avx512Bf16 {
    type Simd = Avx512;
    type Sums = [__m512; 2];
    type Weights = [__m512bh; 2];
    const MAX_ROWS: usize = MAX_ROWS;
    const VECTORS_PER_PANEL: usize = 2;
    const VECTORS_PER_LINE: usize = 2;

    /// Runs `job` inside a function that is compiled for AVX512-BF16. The job is inlined there, so that the
    /// compiler uses these instructions for all of its code.
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

    /// Loads 16 channels, half `part` of a cache line of `bf16`, and widens them to `f32`: the bits of a
    /// `bf16` are the upper half of the same value as an `f32`.
    #[inline(always)]
    unsafe fn load_part(self, src: *const CacheLine, part: usize) -> __m512 {
        // SAFETY: half a cache line is 16 `bf16`, 32 bytes; AVX-512 is present.
        unsafe {
            let halves = _mm256_loadu_si256(src.cast::<__m256i>().add(part));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        }
    }

    /// Rounds 16 channels to `bf16` and stores them as half `part` of a cache line.
    #[inline(always)]
    unsafe fn store_part(self, dst: *mut CacheLine, part: usize, vector: __m512) {
        // SAFETY: half a cache line is 16 `bf16`, 32 bytes; AVX512-BF16 is present.
        unsafe {
            let rounded: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(vector));
            _mm256_storeu_si256(dst.cast::<__m256i>().add(part), rounded);
        }
    }

    /// Loads the weights of 32 output channels for one step of a GEMM. A step multiplies two `bf16`
    /// activations of a pixel, so each channel has two adjacent weights. Each of the two lines from `src` on,
    /// and so each of the two vectors returned, has the pairs of weights of 16 channels.
    #[inline(always)]
    unsafe fn load_weights(self, src: *const CacheLine) -> [__m512bh; 2] {
        // SAFETY: the caller guarantees two cache lines; any bits are 32 `bf16`.
        unsafe {
            let load = |line| std::mem::transmute::<__m512, __m512bh>(self.simd().load(line));
            [load(src.cast()), load(src.add(1).cast())]
        }
    }

    /// One step of a GEMM for one pixel: reads two `bf16` activations, and adds their products with the two
    /// weights of each of 32 output channels to the channels' sums. A lane is a channel, with its two weights
    /// as a pair.
    #[inline(always)]
    unsafe fn multiply_accumulate(
        self,
        sums: [__m512; 2],
        activations: *const u8,
        weights: [__m512bh; 2],
    ) -> [__m512; 2] {
        // SAFETY: the caller guarantees 4 bytes; any bits are 32 `bf16`; AVX512-BF16 is present.
        unsafe {
            // The two activations as the bits of an `f32`, for a broadcast to all lanes.
            let pair = self.simd().splat(activations.cast::<f32>().read_unaligned());
            let pairs: __m512bh = std::mem::transmute(pair);
            [_mm512_dpbf16_ps(sums[0], pairs, weights[0]), _mm512_dpbf16_ps(sums[1], pairs, weights[1])]
        }
    }
}
