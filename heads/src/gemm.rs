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

/// Number of classes whose sums are computed side by side, the columns of a tile: two AVX-512 registers of
/// `f64`, four AVX ones.
const LANES: usize = 16;
/// Columns per parallel task in [`gemm_tn`].
const COLUMNS_PER_TASK: usize = 256;
/// Number of features per pass over all rows in [`PackedWeights::multiply`]: the weights of [`LANES`] classes
/// for them (16 KiB) stay in the first-level cache.
const FEATURES_PER_PASS: usize = 128;
/// Samples summed at a time in [`gemm_tn`]: with the columns half a mebibyte of `f32`, which fits the
/// second-level cache.
const ROWS_PER_BLOCK: usize = 512;

/// Adds the matrix product `rows · weights` to `sums`, the inner loop of [`PackedWeights::multiply`]: it adds
/// what some features contribute to logits. `sums` `[R, LANES]` is a tile of the logits, of `R` samples and
/// [`LANES`] classes. `rows` are the features of these samples. `weights` `[features, LANES]`, a part of a
/// panel of [`PackedWeights`], has the weights of these classes for the first features of `rows`; no others
/// are read. `V` SIMD registers hold a row of `sums`.
#[inline(always)]
fn accumulate_tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    rows: [&[f32]; R],
    weights: &[f64],
    sums: &mut [[f64; LANES]],
) {
    let weights = S::as_simd_f64s(weights).0;
    let n_features = weights.len() / V;
    let rows = rows.map(|row| &row[..n_features]);
    // `R V` is about 8: enough independent sums to hide the latency of an addition, and few enough to stay in
    // registers.
    let mut registers = [[simd.splat_f64s(0.0); V]; R];
    for r in 0..R {
        registers[r].copy_from_slice(S::as_simd_f64s(&sums[r]).0);
    }
    for (k, weights) in weights.chunks_exact(V).enumerate() {
        for r in 0..R {
            let feature = simd.splat_f64s(f64::from(rows[r][k]));
            for v in 0..V {
                registers[r][v] = simd.mul_add_f64s(feature, weights[v], registers[r][v]);
            }
        }
    }
    for r in 0..R {
        S::as_mut_simd_f64s(&mut sums[r]).0.copy_from_slice(&registers[r]);
    }
}

/// Weights `[C, F]`, copied into the order in which [`multiply`](Self::multiply) reads them: a panel
/// `[F, LANES]` holds the weights of [`LANES`] classes, feature by feature. The panels follow each other; the
/// last one is padded with zeros.
#[derive(Clone, Debug)]
pub(crate) struct PackedWeights {
    panels: Vec<f64>,
    width: usize,
    classes: usize,
}

impl PackedWeights {
    /// Copies `weight` `[C, F]`, with `F = width`, into panels: the order in which
    /// [`multiply`](Self::multiply) reads the weights to compute logits. A panel `[F, LANES]` has the weights
    /// of [`LANES`] classes: the weight of a class `c` and a feature `f` becomes entry `[f, c % LANES]` of
    /// panel `c / LANES`.
    pub(crate) fn pack<W: Copy + Into<f64>>(weight: &[W], width: usize) -> Self {
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

    /// Computes the matrix product `rows · weightᵀ` of features `rows` `[n, F]` and the packed weights
    /// `[C, F]`, and overwrites `out` `[n, C]` with it, on the calling thread. Heads compute their logits
    /// with it: the bits of a row do not depend on the other rows or the processor.
    pub(crate) fn multiply(&self, rows: &[f32], out: &mut [f64]) {
        Arch::new().dispatch(PackedMultiply { weights: self, rows, out });
    }

    /// Computes `rows · weightᵀ` `[n, C]` for [`multiply`](Self::multiply) with the SIMD instructions `S`,
    /// from features `rows` `[n, F]` and the packed weights, and writes it to `out`. Goes through the panels
    /// ([`LANES`] classes each), and in a panel through tiles of `R` rows. [`accumulate_tile`] keeps the sums
    /// of a tile in registers, `V` for each row.
    #[inline(always)]
    fn multiply_tiles<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        rows: &[f32],
        out: &mut [f64],
    ) {
        let mut sums = vec![[0.0; LANES]; rows.len() / self.width];
        for (panel, first_class) in self.panels.chunks_exact(LANES * self.width).zip((0..).step_by(LANES)) {
            sums.fill([0.0; LANES]);
            // A pass over all rows uses the weights of a few features, which stay in the cache.
            for (weights, first_feature) in
                panel.chunks(FEATURES_PER_PASS * LANES).zip((0..).step_by(FEATURES_PER_PASS))
            {
                let row = |i: usize| &rows[i * self.width..(i + 1) * self.width][first_feature..];
                let mut tiles = sums.chunks_exact_mut(R);
                let mut i = 0;
                for tile in tiles.by_ref() {
                    accumulate_tile::<S, R, V>(simd, from_fn(|r| row(i + r)), weights, tile);
                    i += R;
                }
                // The last rows, fewer than `R`.
                for tile in tiles.into_remainder().chunks_exact_mut(1) {
                    accumulate_tile::<S, 1, V>(simd, [row(i)], weights, tile);
                    i += 1;
                }
            }
            // The padding of the last panel is left out.
            let classes = first_class..self.classes.min(first_class + LANES);
            for (out, sums) in out.chunks_exact_mut(self.classes).zip(&sums) {
                out[classes.clone()].copy_from_slice(&sums[..classes.len()]);
            }
        }
    }
}

/// The arguments of [`PackedWeights::multiply`], for pulp to run with the processor's SIMD instructions.
struct PackedMultiply<'a> {
    weights: &'a PackedWeights,
    rows: &'a [f32],
    out: &'a mut [f64],
}

impl WithSimd for PackedMultiply<'_> {
    type Output = ();

    /// Multiplies features by packed weights in tiles of `R` rows and [`LANES`] classes whose shape suits the
    /// SIMD instructions `S` that pulp chose. The generic constants are `R` and `V`, the number of registers
    /// that hold [`LANES`] values; a tile takes `R V` registers, about 8.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match LANES / S::F64_LANES {
            // AVX-512
            2 => self.weights.multiply_tiles::<S, 4, 2>(simd, self.rows, self.out),
            // AVX2
            4 => self.weights.multiply_tiles::<S, 2, 4>(simd, self.rows, self.out),
            // NEON
            8 => self.weights.multiply_tiles::<S, 1, 8>(simd, self.rows, self.out),
            // No SIMD: one value per register.
            _ => self.weights.multiply_tiles::<S, 1, LANES>(simd, self.rows, self.out),
        }
    }
}

/// Computes logits for a solver: overwrites `out` `[n, C]` with `rows · weightᵀ` for features `rows` `[n, F]`
/// and weights `weight` `[C, F]`, with `F = width`, on the calling thread (a GEMM with the second matrix
/// transposed, `NT` in BLAS). Faster than [`PackedWeights::multiply`], but the bits depend on the number of
/// rows and on the processor: good enough inside a solver.
pub(crate) fn gemm_nt<T: ComplexField + Copy>(rows: &[T], weight: &[T], width: usize, out: &mut [T]) {
    let (count, classes) = (rows.len() / width, weight.len() / width);
    let rows = MatRef::from_row_major_slice(rows, count, width);
    let weight = MatRef::from_row_major_slice(weight, classes, width);
    let out = MatMut::from_row_major_slice_mut(out, count, classes);
    matmul(out, Accum::Replace, rows, weight.transpose(), one::<T>(), Par::Seq);
}

/// Returns `factorsᵀ · features` `[C, F]` for `factors` `[N, C]` and `features` `[N, F]`, in parallel over
/// `F` (a GEMM with the first matrix transposed, `TN` in BLAS). If the factors are the gradients of a loss by
/// the logits, this is its gradient by the weights, which solvers need. The bits do not depend on the number
/// of threads.
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

/// Returns `factorsᵀ · features` `[C, F]` for `factors` `[N, C]` and `features` `[N, F]`: the gradient of a
/// loss by the weights, if the factors are its gradients by the logits. Faster and less accurate than
/// [`gemm_tn`], for the first iterations of a solver: products and sums over [`ROWS_PER_BLOCK`] samples are
/// in `f32`, only the sums of these blocks in `f64`.
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

/// Computes a matrix `[C, F]`, such as a gradient of the weights, with `C = classes` and `F = width`, in
/// parallel in blocks of columns. `fill` is called for each block with its range of columns and a buffer
/// `[C, columns]`, initially 0, for its values. Returns the matrix, row-major. The blocks have a fixed size,
/// so the bits do not depend on the number of threads.
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
    // Joins the blocks side by side.
    let mut out = Vec::with_capacity(classes * width);
    for class in 0..classes {
        for block in &column_blocks {
            let columns = block.len() / classes;
            out.extend_from_slice(&block[class * columns..][..columns]);
        }
    }
    out
}

/// Converts the features in `source` to `f64` and writes them to `out` (of the same length), for products in
/// `f64`. `arch` has the SIMD instructions to use; the caller detects it once for many calls.
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
    use headstock_split::KeyedRng;
    use proptest::prelude::*;

    use super::*;
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
            PackedWeights::pack(&weight, width).multiply(&rows, &mut out);
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
        ((0..n * width).map(|i| (i as f32 * 0.7).sin()).collect(), PackedWeights::pack(&weight, width))
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
