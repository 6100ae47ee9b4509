//! Emulation of `bf16` in plain Rust, as a reference for the kernels with `bf16` instructions.

use half::bf16;

use super::portable::Portable;
use super::{Job, Kernel};
use crate::cache_line::CacheLine;

/// `bf16` in plain Rust.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EmulatedBf16;

impl Kernel for EmulatedBf16 {
    type Simd = Portable;
    type Sums = [[f32; 16]; 2];
    type Weights = [[[f32; 2]; 16]; 2];
    const ROWS: usize = 1;
    const VECTORS: usize = 2;
    const PARTS: usize = 2;

    #[inline(always)]
    fn simd(self) -> Portable {
        Portable
    }

    #[inline(always)]
    fn vectorize<J: Job>(self, job: J) {
        job.run(self);
    }

    #[inline(always)]
    unsafe fn load_part(self, src: *const CacheLine, part: usize) -> [f32; 16] {
        // SAFETY: half a cache line is 16 `bf16`.
        unsafe { src.cast::<[bf16; 16]>().add(part).read() }.map(bf16::to_f32)
    }

    #[inline(always)]
    unsafe fn store_part(self, dst: *mut CacheLine, part: usize, vector: [f32; 16]) {
        // SAFETY: half a cache line is 16 `bf16`.
        unsafe { dst.cast::<[bf16; 16]>().add(part).write(vector.map(bf16::from_f32)) }
    }

    #[inline(always)]
    fn zero_sums(self) -> [[f32; 16]; 2] {
        [[0.0; 16]; 2]
    }

    #[inline(always)]
    unsafe fn load_weights(self, src: *const CacheLine) -> [[[f32; 2]; 16]; 2] {
        // SAFETY: the caller guarantees two cache lines, each 16 pairs of `bf16`.
        unsafe { src.cast::<[[[bf16; 2]; 16]; 2]>().read() }
            .map(|vector| vector.map(|pair| pair.map(bf16::to_f32)))
    }

    #[inline(always)]
    unsafe fn madd(
        self,
        sums: [[f32; 16]; 2],
        activations: *const u8,
        weights: [[[f32; 2]; 16]; 2],
    ) -> [[f32; 16]; 2] {
        // SAFETY: the caller guarantees 4 bytes.
        let [a, b] = unsafe { activations.cast::<[bf16; 2]>().read_unaligned() }.map(bf16::to_f32);
        std::array::from_fn(|vector| {
            std::array::from_fn(|lane| {
                let [wa, wb] = weights[vector][lane];
                sums[vector][lane] + a * wa + b * wb
            })
        })
    }
}
