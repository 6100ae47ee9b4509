//! Matrix products of features and weights in `f64`.
//!
//! [`PackedWeights`] gives the same bits for a row alone and in a batch, on any processor: each value is
//! summed term by term with fused multiply-adds, and a SIMD register holds neighboring values, never parts of
//! one sum. Solvers, which need throughput, use faer's GEMM.

use std::array::from_fn;
use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::traits::ComplexField;
use faer::traits::math_utils::one;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::data::FeatureMatrix;

/// Values of a tile row: two AVX-512 registers, four AVX ones.
const LANES: usize = 16;
/// Columns per parallel task in [`gemm_tn`].
const COLUMNS_PER_TASK: usize = 256;
/// Features of [`LANES`] classes that stay in the first-level cache while all rows pass over them in
/// [`PackedWeights::multiply`].
const FEATURES_PER_PASS: usize = 128;
/// Samples summed at a time in [`gemm_tn`]: with the columns half a mebibyte of `f32`, which fits the
/// second-level cache.
const ROWS_PER_BLOCK: usize = 512;

/// Adds `Σ_k a_k b_k` to the tile `sums` `[R, LANES]`; `a` has `R` rows of at least `K` factors, `b` is
/// `[K, LANES]`.
///
/// A row of sums takes `V` registers. `R V` is about 8: enough to hide the latency of an addition while the
/// sums stay in registers.
#[inline(always)]
fn accumulate_tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    a: [&[f32]; R],
    b: &[f64],
    sums: &mut [[f64; LANES]],
) {
    let b = S::as_simd_f64s(b).0;
    let steps = b.len() / V;
    let a = a.map(|row| &row[..steps]);
    let mut registers = [[simd.splat_f64s(0.0); V]; R];
    for r in 0..R {
        registers[r].copy_from_slice(S::as_simd_f64s(&sums[r]).0);
    }
    for (k, b) in b.chunks_exact(V).enumerate() {
        for r in 0..R {
            let a = simd.splat_f64s(f64::from(a[r][k]));
            for v in 0..V {
                registers[r][v] = simd.mul_add_f64s(a, b[v], registers[r][v]);
            }
        }
    }
    for r in 0..R {
        S::as_mut_simd_f64s(&mut sums[r]).0.copy_from_slice(&registers[r]);
    }
}

/// Weights `[C, F]` packed for products with rows of features: in panels of 16 classes, each ordered by
/// feature.
#[derive(Clone, Debug)]
pub(crate) struct PackedWeights {
    panels: Vec<f64>,
    width: usize,
    classes: usize,
}

impl PackedWeights {
    /// Packs `weight` `[C, F]`.
    pub(crate) fn new<W: Copy + Into<f64>>(weight: &[W], width: usize) -> Self {
        let classes = weight.len() / width;
        let mut panels = vec![0.0; classes.div_ceil(LANES) * LANES * width];
        for (class, weight) in weight.chunks_exact(width).enumerate() {
            let panel = &mut panels[class / LANES * LANES * width..][class % LANES..];
            for (packed, &w) in panel.iter_mut().step_by(LANES).zip(weight) {
                *packed = w.into();
            }
        }
        Self { panels, width, classes }
    }

    /// `rows · weightᵀ`: `rows` `[n, F]` to `out` `[n, C]`, on the calling thread.
    pub(crate) fn multiply(&self, rows: &[f32], out: &mut [f64]) {
        Arch::new().dispatch(PackedMultiply { weights: self, rows, out });
    }

    /// [`multiply`](Self::multiply) in tiles of `R` rows and [`LANES`] classes, `V` registers wide.
    #[inline(always)]
    fn multiply_tiles<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        rows: &[f32],
        out: &mut [f64],
    ) {
        let mut sums = vec![[0.0; LANES]; rows.len() / self.width];
        for (panel, first) in self.panels.chunks_exact(LANES * self.width).zip((0..).step_by(LANES)) {
            sums.fill([0.0; LANES]);
            for (panel, start) in
                panel.chunks(FEATURES_PER_PASS * LANES).zip((0..).step_by(FEATURES_PER_PASS))
            {
                let row = |i: usize| &rows[i * self.width..(i + 1) * self.width][start..];
                let mut tiles = sums.chunks_exact_mut(R);
                let mut i = 0;
                for sums in tiles.by_ref() {
                    accumulate_tile::<S, R, V>(simd, from_fn(|r| row(i + r)), panel, sums);
                    i += R;
                }
                for sums in tiles.into_remainder().chunks_exact_mut(1) {
                    accumulate_tile::<S, 1, V>(simd, [row(i)], panel, sums);
                    i += 1;
                }
            }
            let classes = first..self.classes.min(first + LANES);
            for (out, sums) in out.chunks_exact_mut(self.classes).zip(&sums) {
                out[classes.clone()].copy_from_slice(&sums[..classes.len()]);
            }
        }
    }
}

/// The SIMD operation of [`PackedWeights::multiply`].
struct PackedMultiply<'a> {
    weights: &'a PackedWeights,
    rows: &'a [f32],
    out: &'a mut [f64],
}

impl WithSimd for PackedMultiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match LANES / S::F64_LANES {
            2 => self.weights.multiply_tiles::<S, 4, 2>(simd, self.rows, self.out),
            4 => self.weights.multiply_tiles::<S, 2, 4>(simd, self.rows, self.out),
            8 => self.weights.multiply_tiles::<S, 1, 8>(simd, self.rows, self.out),
            _ => self.weights.multiply_tiles::<S, 1, LANES>(simd, self.rows, self.out),
        }
    }
}

/// `rows · weightᵀ`: `rows` `[n, F]` and `weight` `[C, F]` to `out` `[n, C]`, on the calling thread. Faster
/// than [`PackedWeights::multiply`], but the bits depend on the number of rows and on the processor.
pub(crate) fn gemm_nt<T: ComplexField + Copy>(rows: &[T], weight: &[T], width: usize, out: &mut [T]) {
    let (count, classes) = (rows.len() / width, weight.len() / width);
    let rows = MatRef::from_row_major_slice(rows, count, width);
    let weight = MatRef::from_row_major_slice(weight, classes, width);
    let out = MatMut::from_row_major_slice_mut(out, count, classes);
    matmul(out, Accum::Replace, rows, weight.transpose(), one::<T>(), Par::Seq);
}

/// `factorsᵀ · features`: `factors` `[N, C]` and `features` `[N, F]` to `[C, F]`, in parallel over `F`. The
/// bits do not depend on the number of threads.
pub(crate) fn gemm_tn(factors: &[f64], features: FeatureMatrix<'_>) -> Vec<f64> {
    let (width, classes) = (features.width(), factors.len() / features.len());
    par_fill_columns(width, classes, |columns, sums| {
        let (arch, mut block) = (Arch::new(), Vec::new());
        for (rows, factors) in
            features.as_slice().chunks(ROWS_PER_BLOCK * width).zip(factors.chunks(ROWS_PER_BLOCK * classes))
        {
            let count = rows.len() / width;
            block.resize(count * columns.len(), 0.0);
            for (row, block) in rows.chunks_exact(width).zip(block.chunks_exact_mut(columns.len())) {
                copy_to_f64(arch, &row[columns.clone()], block);
            }
            let sums = MatMut::from_row_major_slice_mut(sums, classes, columns.len());
            let factors = MatRef::from_row_major_slice(factors, count, classes);
            let block = MatRef::from_row_major_slice(&block, count, columns.len());
            matmul(sums, Accum::Add, factors.transpose(), block, 1.0, Par::Seq);
        }
    })
}

/// As [`gemm_tn`] with `f32` factors: products and sums over 512 samples are in `f32`, the sums of those in
/// `f64`.
pub(crate) fn gemm_tn_f32(factors: &[f32], features: FeatureMatrix<'_>) -> Vec<f64> {
    let (width, classes) = (features.width(), factors.len() / features.len());
    par_fill_columns(width, classes, |columns, sums| {
        let mut partial = vec![0.0f32; sums.len()];
        for (rows, factors) in
            features.as_slice().chunks(ROWS_PER_BLOCK * width).zip(factors.chunks(ROWS_PER_BLOCK * classes))
        {
            let count = rows.len() / width;
            let rows = MatRef::from_row_major_slice(rows, count, width).subcols(columns.start, columns.len());
            let factors = MatRef::from_row_major_slice(factors, count, classes);
            let out = MatMut::from_row_major_slice_mut(&mut partial, classes, columns.len());
            matmul(out, Accum::Replace, factors.transpose(), rows, 1.0, Par::Seq);
            for (sum, &partial_sum) in sums.iter_mut().zip(&partial) {
                *sum += f64::from(partial_sum);
            }
        }
    })
}

/// Fills a matrix `[C, F]` in blocks of columns, `[C, columns]` each, in parallel.
pub(crate) fn par_fill_columns(
    width: usize,
    classes: usize,
    fill: impl Fn(Range<usize>, &mut [f64]) + Sync,
) -> Vec<f64> {
    let column_blocks: Vec<Vec<f64>> = (0..width.div_ceil(COLUMNS_PER_TASK))
        .into_par_iter()
        .map(|block| {
            let columns = block * COLUMNS_PER_TASK..width.min((block + 1) * COLUMNS_PER_TASK);
            let mut sums = vec![0.0; classes * columns.len()];
            fill(columns, &mut sums);
            sums
        })
        .collect();
    let mut out = Vec::with_capacity(classes * width);
    for class in 0..classes {
        for block in &column_blocks {
            let columns = block.len() / classes;
            out.extend_from_slice(&block[class * columns..][..columns]);
        }
    }
    out
}

/// Converts values to `f64`.
pub(crate) fn copy_to_f64(arch: Arch, source: &[f32], out: &mut [f64]) {
    arch.dispatch(
        #[inline(always)]
        || {
            for (out, &x) in out.iter_mut().zip(source) {
                *out = f64::from(x);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::KeyedRng;
    use crate::vector::available_archs;

    fn small_integers(n: usize, key: u64) -> Vec<f32> {
        let mut rng = KeyedRng::new(&[key]);
        (0..n).map(|_| rng.below(15) as f32 - 7.0).collect()
    }

    proptest! {
        /// Small integers make every order of summation exact.
        #[test]
        fn products_of_any_shape_are_the_schoolbook_ones(
            n in prop_oneof![1usize..210, Just(ROWS_PER_BLOCK + 1)],
            width in prop_oneof![1usize..150, Just(COLUMNS_PER_TASK + 1)],
            classes in 1usize..40,
        ) {
            let (rows, weight) = (small_integers(n * width, 1), small_integers(classes * width, 2));
            let mut out = vec![f64::NAN; n * classes];
            PackedWeights::new(&weight, width).multiply(&rows, &mut out);
            let mut expected_back = vec![0.0; classes * width];
            for i in 0..n {
                for c in 0..classes {
                    let expected: f32 = (0..width).map(|f| rows[i * width + f] * weight[c * width + f]).sum();
                    prop_assert_eq!(out[i * classes + c], f64::from(expected));
                    for f in 0..width {
                        expected_back[c * width + f] += out[i * classes + c] * f64::from(rows[i * width + f]);
                    }
                }
            }
            prop_assert_eq!(gemm_tn(&out, FeatureMatrix::new(&rows, width).unwrap()), expected_back);
            let to_f32 = |values: &[f64]| -> Vec<f32> { values.iter().map(|&v| v as f32).collect() };
            let factors: Vec<f32> = to_f32(&out).iter().map(|factor| factor % 3.0).collect();
            let wide: Vec<f64> = factors.iter().map(|&v| f64::from(v)).collect();
            let features = FeatureMatrix::new(&rows, width).unwrap();
            prop_assert_eq!(gemm_tn_f32(&factors, features), gemm_tn(&wide, features));
            let mut again = vec![f32::NAN; n * classes];
            gemm_nt(&rows, &weight, width, &mut again);
            let again: Vec<f64> = again.iter().map(|&v| f64::from(v)).collect();
            prop_assert_eq!(again, out);
        }
    }

    const SHAPE: (usize, usize, usize) = (75, 37, 21);

    fn test_matrices() -> (Vec<f32>, PackedWeights) {
        let (n, width, classes) = SHAPE;
        let weight: Vec<f64> = (0..classes * width).map(|i| (i as f64 * 1.3).cos()).collect();
        ((0..n * width).map(|i| (i as f32 * 0.7).sin()).collect(), PackedWeights::new(&weight, width))
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_among_others() {
        let (n, width, classes) = SHAPE;
        let (rows, weights) = test_matrices();
        let mut batch = vec![0.0; n * classes];
        weights.multiply(&rows, &mut batch);
        for (row, expected) in rows.chunks_exact(width).zip(batch.chunks_exact(classes)) {
            let mut alone = vec![0.0; classes];
            weights.multiply(row, &mut alone);
            assert_eq!(alone, expected);
        }
    }

    #[test]
    fn every_processor_gives_the_same_bits() {
        let (n, _, classes) = SHAPE;
        let (rows, weights) = test_matrices();
        let multiply_on = |arch: Arch| {
            let mut out = vec![0.0; n * classes];
            arch.dispatch(PackedMultiply { weights: &weights, rows: &rows, out: &mut out });
            out
        };
        for arch in available_archs() {
            assert_eq!(multiply_on(arch), multiply_on(Arch::new()), "{arch:?}");
        }
    }
}
