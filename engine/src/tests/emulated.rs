//! Emulation of `bf16` in plain Rust, as a reference for the kernels with `bf16` instructions.

use half::bf16;

use crate::cache_line::CacheLine;
use crate::kernels::{Job, Kernel, Portable};

/// A kernel in `bf16` in plain Rust, with which tests check the kernels that use `bf16` instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EmulatedBf16;

impl Kernel for EmulatedBf16 {
    type Simd = Portable;
    type Sums = [[f32; 16]; 2];
    type Weights = [[[f32; 2]; 16]; 2];
    const MAX_ROWS: usize = 1;
    const VECTORS_PER_PANEL: usize = 2;
    const VECTORS_PER_LINE: usize = 2;

    #[inline(always)]
    fn simd(self) -> Portable {
        Portable
    }

    /// Runs `job` directly: it needs no instructions beyond those of the compilation target.
    #[inline(always)]
    fn vectorize<J: Job>(self, job: J) {
        job.run(self);
    }

    /// Loads 16 channels as `f32`: half `part` of a cache line of 32 `bf16`.
    #[inline(always)]
    unsafe fn load_part(self, src: *const CacheLine, part: usize) -> [f32; 16] {
        // SAFETY: half a cache line is 16 `bf16`.
        unsafe { src.cast::<[bf16; 16]>().add(part).read() }.map(bf16::to_f32)
    }

    /// Rounds 16 channels to `bf16` and stores them as half `part` of a cache line.
    #[inline(always)]
    unsafe fn store_part(self, dst: *mut CacheLine, part: usize, vector: [f32; 16]) {
        // SAFETY: half a cache line is 16 `bf16`.
        unsafe { dst.cast::<[bf16; 16]>().add(part).write(vector.map(bf16::from_f32)) }
    }

    #[inline(always)]
    fn zero_sums(self) -> [[f32; 16]; 2] {
        [[0.0; 16]; 2]
    }

    /// Loads the weights of 32 output channels for one step of a GEMM, as `f32`. A step multiplies two
    /// activations of a pixel, so each channel has two adjacent `bf16` weights, and each of the two lines
    /// from `src` on has 16 channels. The result is indexed `[line][output channel][weight]`.
    #[inline(always)]
    unsafe fn load_weights(self, src: *const CacheLine) -> [[[f32; 2]; 16]; 2] {
        // SAFETY: the caller guarantees two cache lines, each 16 pairs of `bf16`.
        unsafe { src.cast::<[[[bf16; 2]; 16]; 2]>().read() }
            .map(|vector| vector.map(|pair| pair.map(bf16::to_f32)))
    }

    /// One step of a GEMM for one pixel, as a reference for tests: reads two `bf16` activations, `a` and `b`,
    /// and adds their products with the two weights of each of 32 output channels to the channels' sums.
    /// `weights` is `[vector][lane][weight]`; a lane is an output channel.
    #[inline(always)]
    unsafe fn multiply_accumulate(
        self,
        sums: [[f32; 16]; 2],
        activations: *const u8,
        weights: [[[f32; 2]; 16]; 2],
    ) -> [[f32; 16]; 2] {
        // SAFETY: the caller guarantees 4 bytes.
        let [a, b] = unsafe { activations.cast::<[bf16; 2]>().read_unaligned() }.map(bf16::to_f32);
        std::array::from_fn(|vector| {
            std::array::from_fn(|lane| {
                let [weight_a, weight_b] = weights[vector][lane];
                sums[vector][lane] + a * weight_a + b * weight_b
            })
        })
    }
}
