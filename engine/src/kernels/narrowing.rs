//! From `f32` to `bf16`.

use super::{Job, Kernel, On, Vector};
use crate::cell::Cell;

/// Computes as `Wide` does, and keeps what comes out as `Narrow` does. `Narrow` is compiled for the instructions of both.
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
        self.1.vectorize(On(self, job));
    }

    #[inline(always)]
    unsafe fn load_part(self, from: *const Cell, part: usize) -> Vector<Self> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.load_part(from, part) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut Cell, part: usize, vector: Vector<Self>) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.store_part(to, part, vector) }
    }

    #[inline(always)]
    unsafe fn store_out(self, to: *mut Cell, part: usize, vector: Vector<Self>) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.1.store_out(to, part, vector) }
    }

    #[inline(always)]
    fn zero(self) -> Self::Sums {
        self.0.zero()
    }

    #[inline(always)]
    unsafe fn weights(self, from: *const Cell) -> Self::Weights {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.weights(from) }
    }

    #[inline(always)]
    unsafe fn step(self, sums: Self::Sums, activations: *const u8, weights: Self::Weights) -> Self::Sums {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.step(sums, activations, weights) }
    }
}
