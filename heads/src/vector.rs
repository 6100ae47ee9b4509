//! Vector operations, compiled for several SIMD levels and selected at run time.

use pulp::{Simd, WithSimd};

/// Number of independent partial sums of a dot product: four AVX-512 registers of `f64`, so that additions
/// need not wait for each other. The number is fixed and products are fused with sums (FMA, in software if a
/// processor cannot), so that every processor gives the same bits.
const LANES: usize = 32;

/// Vector operations in the SIMD instructions of the current processor: what solvers compute with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VectorOps {
    arch: pulp::Arch,
}

impl VectorOps {
    /// Detects which SIMD instructions the processor has.
    pub(crate) fn new() -> Self {
        Self { arch: pulp::Arch::new() }
    }

    /// `Σ a_i b_i` in `f64`; the order of summation depends on the length only.
    pub(crate) fn dot<A: Copy + Into<f64>, B: Copy + Into<f64>>(self, a: &[A], b: &[B]) -> f64 {
        self.arch.dispatch(DotProduct::<A, B, false> { a, b })
    }

    /// `Σ (a_i - b_i)²` in `f64`; the order of summation depends on the length only.
    pub(crate) fn squared_distance<A: Copy + Into<f64>, B: Copy + Into<f64>>(self, a: &[A], b: &[B]) -> f64 {
        self.arch.dispatch(DotProduct::<A, B, true> { a, b })
    }

    /// Adds `scale` times the vector `x` to `y`, `y_i += scale * x_i` (BLAS's `axpy`).
    pub(crate) fn add_scaled<X: Copy + Into<f64>>(self, y: &mut [f64], scale: f64, x: &[X]) {
        self.arch.dispatch(AddScaled { y, scale, x });
    }
}

/// The arguments of [`VectorOps::dot`] or, if `SQUARED_DISTANCE`, of [`VectorOps::squared_distance`].
///
/// A struct, not a closure: `with_simd` must be inlined to use the processor's instructions, or each fused
/// product would be a function call.
struct DotProduct<'a, A, B, const SQUARED_DISTANCE: bool> {
    a: &'a [A],
    b: &'a [B],
}

impl<A: Copy + Into<f64>, B: Copy + Into<f64>, const SQUARED_DISTANCE: bool>
    DotProduct<'_, A, B, SQUARED_DISTANCE>
{
    /// `sum` plus the term of the entries `a` and `b`: `a * b`, or `(a - b)²` if `SQUARED_DISTANCE`. A fused
    /// operation, with one rounding.
    #[inline(always)]
    fn add(sum: f64, a: A, b: B) -> f64 {
        let (a, b) = (a.into(), b.into());
        if SQUARED_DISTANCE { (a - b).mul_add(a - b, sum) } else { a.mul_add(b, sum) }
    }
}

impl<A: Copy + Into<f64>, B: Copy + Into<f64>, const SQUARED_DISTANCE: bool> WithSimd
    for DotProduct<'_, A, B, SQUARED_DISTANCE>
{
    type Output = f64;

    /// Computes the dot product (or squared distance) of `a` and `b`: pulp calls this, compiled for the SIMD
    /// instructions `S`, which the compiler then uses on its own. The term of entry `i` is added to partial
    /// sum `i % LANES`; the terms after the last whole block of [`LANES`] entries are summed apart.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let mut sums = [0.0f64; LANES];
        let (a_blocks, a_rest) = self.a.as_chunks::<LANES>();
        let (b_blocks, b_rest) = self.b.as_chunks::<LANES>();
        for (a, b) in a_blocks.iter().zip(b_blocks) {
            for lane in 0..LANES {
                sums[lane] = Self::add(sums[lane], a[lane], b[lane]);
            }
        }
        let mut rest = 0.0;
        for (&a, &b) in a_rest.iter().zip(b_rest) {
            rest = Self::add(rest, a, b);
        }
        sums.iter().sum::<f64>() + rest
    }
}

/// The arguments of [`VectorOps::add_scaled`]. A struct, not a closure: `with_simd` must be inlined to use
/// the processor's instructions.
struct AddScaled<'a, X> {
    y: &'a mut [f64],
    scale: f64,
    x: &'a [X],
}

impl<X: Copy + Into<f64>> WithSimd for AddScaled<'_, X> {
    type Output = ();

    /// Computes `y += scale * x`: pulp calls this, compiled for the SIMD instructions `S`, which the compiler
    /// then uses on its own.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            *y = self.scale.mul_add(x.into(), *y);
        }
    }
}

/// The SIMD levels that can be tested on this processor: no SIMD, AVX2 (`V3`) if it has that, and the best
/// that it has. Tests check that all give the same bits.
#[cfg(test)]
pub(crate) fn available_archs() -> Vec<pulp::Arch> {
    let mut archs = vec![pulp::Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    archs.extend(pulp::x86::V3::try_new().map(pulp::Arch::V3));
    archs.push(pulp::Arch::new());
    archs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_products_of_every_length_count_each_value_once() {
        for n in 0..100 {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let twos = vec![2.0f64; n];
            assert_eq!(VectorOps::new().dot(&a, &twos), (n * n) as f64 - n as f64, "length {n}");
        }
    }

    #[test]
    fn squared_distances_of_every_length_count_each_value_once() {
        for n in 0..100 {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let b: Vec<f32> = a.iter().map(|i| i + 3.0).collect();
            assert_eq!(VectorOps::new().squared_distance(&a, &b), 9.0 * n as f64, "length {n}");
        }
    }

    #[test]
    fn scaled_vectors_are_added_at_every_length() {
        for n in 0..100 {
            let mut y = vec![1.0; n];
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            VectorOps::new().add_scaled(&mut y, 0.5, &x);
            assert!(y.iter().enumerate().all(|(i, &v)| v == 1.0 + 0.5 * i as f64), "length {n}");
        }
    }

    #[test]
    fn every_processor_gives_the_same_bits() {
        let a: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.7).sin()).collect();
        let b: Vec<f64> = (0..1000).map(|i| (i as f64 * 1.3).cos()).collect();
        let run_on = |ops: VectorOps| {
            let mut y = b.clone();
            ops.add_scaled(&mut y, 0.3, &a);
            (ops.dot(&a, &b).to_bits(), y)
        };
        for arch in available_archs() {
            assert_eq!(run_on(VectorOps { arch }), run_on(VectorOps::new()), "{arch:?}");
        }
    }
}
