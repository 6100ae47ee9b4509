//! Plain Rust for any target, vectorized by the compiler.

use super::{Job, Kernel, Simd};
use crate::cache_line::CacheLine;

/// Vectors of 16 `f32` as arrays, for any CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

/// The kernel in `f32` for any CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortableF32;

impl Simd for Portable {
    type Vector = [f32; 16];

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; 16] {
        [value; 16]
    }

    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|lane| a[lane] - b[lane])
    }

    /// Not fused: on targets without an FMA instruction that would be a call of the C library.
    #[inline(always)]
    fn mul_add(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }

    #[inline(always)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|lane| if a[lane] > b[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    fn select_positive(self, value: [f32; 16], sign: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|lane| if sign[lane] > 0.0 { value[lane] } else { 0.0 })
    }

    #[inline(always)]
    unsafe fn load(self, src: *const f32) -> [f32; 16] {
        // SAFETY: the caller guarantees the address.
        unsafe { src.cast::<[f32; 16]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut f32, vector: [f32; 16]) {
        // SAFETY: the caller guarantees the address.
        unsafe { dst.cast::<[f32; 16]>().write_unaligned(vector) }
    }
}

impl Kernel for PortableF32 {
    type Simd = Portable;
    type Sums = [[f32; 16]; 1];
    type Weights = [f32; 16];
    /// 2 rows of 4 registers of 4 lanes: half of SSE2's registers, a quarter of NEON's.
    const MAX_ROWS: usize = 2;
    const VECTORS_PER_PANEL: usize = 1;
    const VECTORS_PER_LINE: usize = 1;

    #[inline(always)]
    fn simd(self) -> Portable {
        Portable
    }

    /// Runs `job` directly: it needs no instructions beyond those of the compilation target.
    #[inline(always)]
    fn vectorize<J: Job>(self, job: J) {
        job.run(self);
    }

    #[inline(always)]
    fn zero_sums(self) -> [[f32; 16]; 1] {
        [[0.0; 16]]
    }

    /// Loads one cache line of weights for a step of a GEMM: one `f32` for each of 16 output channels.
    #[inline(always)]
    unsafe fn load_weights(self, src: *const CacheLine) -> [f32; 16] {
        // SAFETY: the caller guarantees a cache line, 16 `f32`.
        unsafe { Portable.load(src.cast()) }
    }

    /// One step of a GEMM for one pixel: reads an `f32` activation, and adds its products with the weights of
    /// 16 output channels to the channels' sums, one per lane.
    #[inline(always)]
    unsafe fn multiply_accumulate(
        self,
        [sums]: Self::Sums,
        activations: *const u8,
        weights: [f32; 16],
    ) -> Self::Sums {
        // SAFETY: the caller guarantees 4 bytes.
        let activation = unsafe { activations.cast::<f32>().read_unaligned() };
        [Portable.mul_add([activation; 16], weights, sums)]
    }
}
