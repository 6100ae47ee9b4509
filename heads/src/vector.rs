//! Vector operations, compiled for several SIMD levels and selected at run time.

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
        self.arch.dispatch(
            #[inline(always)]
            || sum_terms(a, b, |sum, a, b| a.mul_add(b, sum)),
        )
    }

    /// `Σ (a_i - b_i)²` in `f64`; the order of summation depends on the length only.
    pub(crate) fn squared_distance<A: Copy + Into<f64>, B: Copy + Into<f64>>(self, a: &[A], b: &[B]) -> f64 {
        self.arch.dispatch(
            #[inline(always)]
            || sum_terms(a, b, |sum, a, b| (a - b).mul_add(a - b, sum)),
        )
    }

    /// Adds `scale` times the vector `x` to `y`, `y_i += scale * x_i` (BLAS's `axpy`).
    pub(crate) fn add_scaled<X: Copy + Into<f64>>(self, y: &mut [f64], scale: f64, x: &[X]) {
        self.arch.dispatch(
            #[inline(always)]
            || {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = scale.mul_add(x.into(), *y);
                }
            },
        );
    }
}

/// Adds a term for each pair of entries of `a` and `b`; `add` adds that of two entries to a sum, fused, with
/// one rounding. The term of entry `i` is added to partial sum `i % LANES`; the terms after the last whole
/// block of [`LANES`] entries are summed apart. Inlined, so that the compiler uses the SIMD instructions that
/// pulp compiles the caller for, or each fused product would be a function call.
#[inline(always)]
fn sum_terms<A: Copy + Into<f64>, B: Copy + Into<f64>>(
    a: &[A],
    b: &[B],
    add: impl Fn(f64, f64, f64) -> f64,
) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            sums[lane] = add(sums[lane], a[lane].into(), b[lane].into());
        }
    }
    let rest = a_rest.iter().zip(b_rest).fold(0.0, |sum, (&a, &b)| add(sum, a.into(), b.into()));
    sums.iter().sum::<f64>() + rest
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
