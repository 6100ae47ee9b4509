//! `bf16` without instructions for it, to see what the kernels that have them should give.

use half::bf16;

use super::portable::{Portable, PortableF32};
use super::{Job, Kernel};
use crate::cell::Cell;
use crate::tile::{self, Stride, Tile};

/// `bf16` in plain Rust.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EmulatedBf16;

/// `f32` in plain Rust, giving `bf16`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EmulatedNarrowing;

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
    unsafe fn load_part(self, from: *const Cell, part: usize) -> [f32; 16] {
        // SAFETY: half a cell is 16 `bf16`.
        unsafe { from.cast::<[bf16; 16]>().add(part).read() }.map(bf16::to_f32)
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut Cell, part: usize, vector: [f32; 16]) {
        // SAFETY: half a cell is 16 `bf16`.
        unsafe { to.cast::<[bf16; 16]>().add(part).write(vector.map(bf16::from_f32)) }
    }

    #[inline(always)]
    fn zero(self) -> [[f32; 16]; 2] {
        [[0.0; 16]; 2]
    }

    #[inline(always)]
    fn vector(self, sums: &[[f32; 16]; 2], index: usize) -> [f32; 16] {
        sums[index]
    }

    #[inline(always)]
    unsafe fn weights(self, from: *const Cell) -> [[[f32; 2]; 16]; 2] {
        // SAFETY: the caller vouches for two cells, each 16 pairs of `bf16`.
        unsafe { from.cast::<[[[bf16; 2]; 16]; 2]>().read() }
            .map(|vector| vector.map(|pair| pair.map(bf16::to_f32)))
    }

    #[inline(always)]
    unsafe fn step(
        self,
        sums: [[f32; 16]; 2],
        activations: *const u8,
        weights: [[[f32; 2]; 16]; 2],
    ) -> [[f32; 16]; 2] {
        // SAFETY: the caller vouches for 4 bytes.
        let [a, b] = unsafe { activations.cast::<[bf16; 2]>().read_unaligned() }.map(bf16::to_f32);
        std::array::from_fn(|vector| {
            std::array::from_fn(|lane| {
                let [wa, wb] = weights[vector][lane];
                sums[vector][lane] + a * wa + b * wb
            })
        })
    }

    #[inline(always)]
    unsafe fn tile<S: Stride>(self, rows: usize, tile: &Tile<'_>) {
        // SAFETY: the caller's promise is the same.
        unsafe { tile::in_registers::<Self, S>(self, rows, tile) }
    }
}

impl Kernel for EmulatedNarrowing {
    type Simd = Portable;
    type Sums = [[f32; 16]; 2];
    type Weights = [[f32; 16]; 2];
    const ROWS: usize = 1;
    const VECTORS: usize = 2;
    const PARTS: usize = 1;
    const OUT_PARTS: usize = 2;

    #[inline(always)]
    fn simd(self) -> Portable {
        Portable
    }

    #[inline(always)]
    fn vectorize<J: Job>(self, job: J) {
        job.run(self);
    }

    #[inline(always)]
    unsafe fn load_part(self, from: *const Cell, part: usize) -> [f32; 16] {
        // SAFETY: the caller's promise is the same.
        unsafe { PortableF32.load_part(from, part) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut Cell, part: usize, vector: [f32; 16]) {
        // SAFETY: the caller's promise is the same.
        unsafe { PortableF32.store_part(to, part, vector) }
    }

    #[inline(always)]
    unsafe fn store_out(self, to: *mut Cell, part: usize, vector: [f32; 16]) {
        // SAFETY: the caller's promise is the same.
        unsafe { EmulatedBf16.store_part(to, part, vector) }
    }

    #[inline(always)]
    fn zero(self) -> [[f32; 16]; 2] {
        [[0.0; 16]; 2]
    }

    #[inline(always)]
    fn vector(self, sums: &[[f32; 16]; 2], index: usize) -> [f32; 16] {
        sums[index]
    }

    #[inline(always)]
    unsafe fn weights(self, from: *const Cell) -> [[f32; 16]; 2] {
        // SAFETY: the caller vouches for two cells.
        unsafe { [PortableF32.weights(from), PortableF32.weights(from.add(1))] }
    }

    #[inline(always)]
    unsafe fn step(
        self,
        sums: [[f32; 16]; 2],
        activations: *const u8,
        weights: [[f32; 16]; 2],
    ) -> [[f32; 16]; 2] {
        // SAFETY: the caller's promise is the same.
        unsafe {
            [
                PortableF32.step(sums[0], activations, weights[0]),
                PortableF32.step(sums[1], activations, weights[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Stride>(self, rows: usize, tile: &Tile<'_>) {
        // SAFETY: the caller's promise is the same.
        unsafe { tile::in_registers::<Self, S>(self, rows, tile) }
    }
}
