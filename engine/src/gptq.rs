//! Rounding of weights to `bf16` with error compensation: GPTQ (Frantar et al. 2022, "GPTQ: Accurate
//! Post-Training Quantization for Generative Pre-trained Transformers") on the grid of `bf16`.
//!
//! Weights are rounded column by column, in the order of decreasing input power; the error of each is
//! compensated in the remaining columns as far as the layer's inputs are correlated. With `H` the damped Gram
//! matrix of the inputs in that order, the paper subtracts `(w_j - q_j) / L_jj * L_jk` from `w_k`, where
//! `H^-1 = L^T L` and `L` is upper triangular. Nothing is inverted here: with `R = L^-1`, `H = R R^T`, the
//! value rounded in column `k` is `w_k + sum over j < k of (w_j - q_j) R_jk / R_kk`, with `w` the original
//! weights.
//!
//! Results do not depend on the number of threads: the order of each sum is fixed. Only the Gram matrix may
//! differ in its last bits between instruction sets.

use half::bf16;
use rayon::prelude::*;

use crate::dispatch::AnyKernel;
use crate::kernels::{Job, Kernel, Simd};

/// Damping: this fraction of the mean diagonal is added to the diagonal, for few samples and channels that
/// are always 0.
const DAMPING: f64 = 1e-3;
/// Samples summed in `f32` before the sum is added to the `f64` matrix; their panels fit the L2 cache.
const SAMPLE_CHUNK: usize = 128;
/// Size of a tile of the Gram matrix, whose sums [`GramUpdate`] keeps in registers: one vector, and enough
/// rows to hide the latency of additions with AVX-512.
const TILE_COLUMNS: usize = 16;
const TILE_ROWS: usize = 8;
/// Side of a tile of `f64`, for the Cholesky factor and for rounding: half of the registers of baseline
/// x86-64.
const SIDE: usize = 4;

/// The sum of `x x^T` over samples `x` of a layer's inputs: how the inputs are correlated, which GPTQ needs.
pub(crate) struct Gram {
    /// Number of inputs.
    pub(crate) size: usize,
    /// `[size, size]`; only the upper triangle is valid.
    values: Vec<f64>,
}

impl Gram {
    /// The zero matrix of a layer with `size` inputs, to which samples are added.
    pub(crate) fn new(size: usize) -> Self {
        Self { size, values: vec![0.0; size * size] }
    }

    /// Adds `x x^T` to the Gram matrix of a layer's inputs, by which GPTQ chooses the rounding of the layer's
    /// weights, for each row `x` `[size]` of `samples`. Works on all threads. `kernel` only selects the
    /// instruction set: with any kernel up to [`SAMPLE_CHUNK`] samples are summed in `f32`, and these sums
    /// are added in `f64`.
    pub(crate) fn add_samples(&mut self, kernel: AnyKernel, samples: &[f32]) {
        let size = self.size;
        if size == 0 {
            return;
        }
        debug_assert_eq!(samples.len() % size, 0, "whole samples");
        for chunk in samples.chunks(SAMPLE_CHUNK * size) {
            let count = chunk.len() / size;
            let panels = pack_samples(chunk, size);
            self.values.par_chunks_mut(TILE_ROWS * size).enumerate().for_each(|(block, rows)| {
                kernel.run(GramUpdate { panels: &panels, count, size, first_row: block * TILE_ROWS, rows });
            });
        }
    }

    /// The entry at `row`, `column` of the symmetric matrix, from its upper triangle.
    pub(crate) fn get(&self, row: usize, column: usize) -> f64 {
        self.values[row.min(column) * self.size + row.max(column)]
    }
}

/// Packs samples of a layer's inputs, `[count, size]`, as `[panel of 16 inputs][sample][16]`, with zeros
/// after the last input. [`GramUpdate`] then reads adjacent memory when it goes over all samples for 16
/// inputs.
fn pack_samples(samples: &[f32], size: usize) -> Vec<[f32; TILE_COLUMNS]> {
    let count = samples.len() / size;
    let mut panels = vec![[0.0; TILE_COLUMNS]; size.div_ceil(TILE_COLUMNS) * count];
    for (sample_index, sample) in samples.chunks_exact(size).enumerate() {
        for (panel, inputs) in sample.chunks(TILE_COLUMNS).enumerate() {
            panels[panel * count + sample_index][..inputs.len()].copy_from_slice(inputs);
        }
    }
    panels
}

/// Adds the products of pairs of inputs, summed over packed samples, to some rows of a Gram matrix, in the
/// upper triangle.
struct GramUpdate<'a> {
    /// The samples, `[panel of 16 inputs][sample][16]`, as [`pack_samples`] packs them.
    panels: &'a [[f32; TILE_COLUMNS]],
    /// Number of samples.
    count: usize,
    /// Number of inputs: rows and columns of the Gram matrix.
    size: usize,
    /// Index in the Gram matrix of the first of `rows`.
    first_row: usize,
    /// Rows of the Gram matrix, at most [`TILE_ROWS`], of `size` values each.
    rows: &'a mut [f64],
}

impl Job for GramUpdate<'_> {
    /// Adds, over all samples `x`, the sums of `x[i] * x[j]` to entry `i`, `j` of the Gram matrix that GPTQ
    /// needs, for the job's rows `i`. The matrix is symmetric and only its upper triangle is kept, so the
    /// columns `j`, a panel of 16 at a time, start at the panel with the diagonal of these rows. The sums are
    /// in `f32` registers until they are added to the `f64` rows.
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        let panel = |index: usize| &self.panels[index * self.count..][..self.count];
        // The panel with the inputs of the rows, and the position of the first row in it.
        let (row_panel, row_start) = (self.first_row / TILE_COLUMNS, self.first_row % TILE_COLUMNS);
        for column_panel in row_panel..self.size.div_ceil(TILE_COLUMNS) {
            let mut sums = [simd.splat(0.0); TILE_ROWS];
            for (row_inputs, column_inputs) in panel(row_panel).iter().zip(panel(column_panel)) {
                // SAFETY: a sample has 16 values in a panel.
                let column_inputs = unsafe { simd.load(column_inputs.as_ptr()) };
                for (sum, &row_input) in sums.iter_mut().zip(&row_inputs[row_start..]) {
                    *sum = simd.mul_add(simd.splat(row_input), column_inputs, *sum);
                }
            }
            for (row, sum) in self.rows.chunks_exact_mut(self.size).zip(sums) {
                let mut products = [0.0; TILE_COLUMNS];
                // SAFETY: `products` has 16 values.
                unsafe { simd.store(products.as_mut_ptr(), sum) };
                for (value, product) in row[column_panel * TILE_COLUMNS..].iter_mut().zip(products) {
                    *value += f64::from(product);
                }
            }
        }
    }
}

/// The product `a^T b` of two matrices of [`SIDE`] columns, as a sum of outer products of their rows, so that
/// the tile of sums stays in registers. Rows that only the longer matrix has are ignored. Cholesky
/// factorization and rounding, the two parts of GPTQ, spend most of their time here.
#[inline(always)]
fn transposed_product(a: &[[f64; SIDE]], b: &[[f64; SIDE]]) -> [[f64; SIDE]; SIDE] {
    let mut product = [[0.0; SIDE]; SIDE];
    for (a_row, b_row) in a.iter().zip(b) {
        for (sums, &factor) in product.iter_mut().zip(a_row) {
            for (sum, &value) in sums.iter_mut().zip(b_row) {
                *sum += factor * value;
            }
        }
    }
    product
}

/// An upper triangular matrix in panels of [`SIDE`] columns, one panel after the other. A panel has the rows
/// from 0 to the end of its diagonal tile; the zeros below are not stored.
#[derive(Default)]
struct UpperTriangle(Vec<[f64; SIDE]>);

impl UpperTriangle {
    /// Index of the first row of panel `index`: the total number of rows of the panels before it.
    fn panel_start(index: usize) -> usize {
        SIDE * index * (index + 1) / 2
    }

    /// The rows of panel `index`, the columns from `SIDE * index` on.
    fn panel(&self, index: usize) -> &[[f64; SIDE]] {
        &self.0[Self::panel_start(index)..Self::panel_start(index + 1)]
    }

    /// The entry at `row`, `column`, which must not be below the diagonal tile.
    fn get(&self, row: usize, column: usize) -> f64 {
        self.0[Self::panel_start(column / SIDE) + row][column % SIDE]
    }

    /// The Cholesky factor `G`, an upper triangular matrix with `G^T G = A`, of the symmetric matrix `A`,
    /// `[size, size]`, whose entries are `a(row, column)`; `None` if `A` is not positive definite. GPTQ gets
    /// its coefficients from the factor of the Gram matrix. Sizes are padded to whole tiles with rows and
    /// columns of the identity.
    fn cholesky(size: usize, a: impl Fn(usize, usize) -> f64) -> Option<Self> {
        // Computes a tile of `SIDE` x `SIDE` at a time, panel by panel (`SIDE` columns each) and from the top
        // of a panel to its diagonal: tile `i` of panel `j` is
        // `G_ij = G_ii^-T (A_ij - sum over k < i of G_ki^T G_kj)`. On the diagonal (`i = j`) the bracket is
        // factorized like a small `A`.
        let mut factor = Self::default();
        for panel_index in 0..size.div_ceil(SIDE) {
            let first_column = panel_index * SIDE;
            let mut panel: Vec<[f64; SIDE]> = Vec::with_capacity(first_column + SIDE);
            for tile_index in 0..=panel_index {
                let first_row = tile_index * SIDE;
                let is_diagonal = tile_index == panel_index;
                let row_panel = if is_diagonal { &panel[..] } else { &factor.panel(tile_index)[..first_row] };
                // The sum over `k < i`: both matrices end before tile `i`.
                let sums = transposed_product(row_panel, &panel);
                let mut tile = [[0.0; SIDE]; SIDE];
                for (i, values) in tile.iter_mut().enumerate() {
                    for (j, value) in values.iter_mut().enumerate() {
                        let (row, column) = (first_row + i, first_column + j);
                        let entry =
                            if row.max(column) < size { a(row, column) } else { f64::from(row == column) };
                        *value = entry - sums[i][j];
                    }
                }
                if !is_diagonal {
                    // Multiplies with `G_ii^-T` by forward substitution.
                    let diagonal = &factor.panel(tile_index)[first_row..];
                    for i in 0..SIDE {
                        eliminate(&mut tile, i, |k| diagonal[k][i]);
                        tile[i] = tile[i].map(|value| value / diagonal[i][i]);
                    }
                } else {
                    for i in 0..SIDE {
                        let finished = tile;
                        eliminate(&mut tile, i, |k| finished[k][i]);
                        let pivot = tile[i][i];
                        if !(pivot > 0.0 && pivot.is_finite()) {
                            return None;
                        }
                        tile[i] = tile[i].map(|value| value / pivot.sqrt());
                        tile[i][..i].fill(0.0);
                    }
                }
                panel.extend(tile);
            }
            factor.0.extend(panel);
        }
        Some(factor)
    }
}

/// A step of forward substitution with a triangular matrix: subtracts from row `row` of `tile` each earlier
/// row `k`, which is final, times `entry(k)`, the matrix entry for the two rows. [`UpperTriangle::cholesky`]
/// computes the rows of a tile with it, one after the other.
fn eliminate(tile: &mut [[f64; SIDE]; SIDE], row: usize, entry: impl Fn(usize) -> f64) {
    for k in 0..row {
        let (factor, earlier_row) = (entry(k), tile[k]);
        for (value, earlier) in tile[row].iter_mut().zip(earlier_row) {
            *value -= factor * earlier;
        }
    }
}

/// How GPTQ corrects the weights of a layer for the rounding errors of weights that are already rounded. It
/// depends on the layer's inputs only, so it is the same for all outputs (rows of the weights).
struct GptqUpdate {
    /// Columns in the order in which they are rounded.
    order: Vec<usize>,
    /// How much of the rounding error in column `j` is added to column `k`: `R_jk / R_kk` (see the module's
    /// docs) for `j < k` in that order, and 0 on the diagonal.
    coefficients: UpperTriangle,
}

impl GptqUpdate {
    /// Computes, from the Gram matrix of the layer's inputs, the order in which the columns of its weights
    /// are rounded (largest inputs first), and how much of the rounding error of a column is added to each
    /// later one. `None` if `gram` is all zeros or has values that are not finite: the weights are then
    /// rounded to nearest.
    fn from_gram(gram: &Gram) -> Option<Self> {
        let size = gram.size;
        let mut order: Vec<usize> = (0..size).collect();
        order.sort_by(|&a, &b| gram.get(b, b).total_cmp(&gram.get(a, a)));
        // `H` is the Gram matrix in that order, with `damping` added to its diagonal. The diagonal is summed
        // in sorted order, so that the sum does not depend on the order of the channels.
        let damping = DAMPING * order.iter().map(|&i| gram.get(i, i)).sum::<f64>() / size as f64;
        // `cholesky` gives a factor of the form `G^T G`; with rows and columns of `H` reversed, the transpose
        // of `G`, reversed too, is the `R` of `H = R R^T`.
        let reversed = |row: usize, column: usize| {
            let value = gram.get(order[size - 1 - row], order[size - 1 - column]);
            if row == column { value + damping } else { value }
        };
        let factor = UpperTriangle::cholesky(size, reversed)?;
        let mut coefficients = vec![[0.0; SIDE]; UpperTriangle::panel_start(size.div_ceil(SIDE))];
        for column in 0..size {
            let start = UpperTriangle::panel_start(column / SIDE);
            // `k` is the column in reversed order: `factor.get(k, size - 1 - row)` is `R[row][column]`.
            let k = size - 1 - column;
            let pivot = factor.get(k, k);
            for row in 0..column {
                coefficients[start + row][column % SIDE] = factor.get(k, size - 1 - row) / pivot;
            }
        }
        Some(Self { order, coefficients: UpperTriangle(coefficients) })
    }

    /// Rounds at most [`SIDE`] rows of weights (one row per output), `[rows, size]`, in place to `bf16`
    /// values, column by column in `order`. To each weight it first adds the rounding errors of its row so
    /// far, times their coefficients, so that the errors cancel in the layer's outputs.
    fn round_rows(&self, rows: &mut [f64]) {
        let size = self.order.len();
        // Rounding errors so far, `[column][row]`.
        let mut errors: Vec<[f64; SIDE]> = Vec::with_capacity(size);
        for (index, columns) in self.order.chunks(SIDE).enumerate() {
            let coefficients = self.coefficients.panel(index);
            // Corrections of the panel's columns by the errors of all earlier panels, `[row][column]`; those
            // by errors within the panel are added below.
            let mut corrections = transposed_product(&errors, coefficients);
            for (offset, &column) in columns.iter().enumerate() {
                let mut column_errors = [0.0; SIDE];
                let rows = rows.chunks_exact_mut(size).zip(&mut corrections);
                for ((row, row_corrections), error) in rows.zip(&mut column_errors) {
                    let exact = row[column];
                    row[column] = round_to_bf16(exact + row_corrections[offset]);
                    *error = exact - row[column];
                    // By how much this error corrects the other columns of the panel.
                    let error_coefficients = coefficients[index * SIDE + offset];
                    for (correction, coefficient) in row_corrections.iter_mut().zip(error_coefficients) {
                        *correction += *error * coefficient;
                    }
                }
                errors.push(column_errors);
            }
        }
    }
}

/// Rounds the weights of a layer, `[outputs, size]`, in place to `bf16` values by GPTQ: such that its outputs
/// change less than if each weight was rounded to nearest. `gram` is the Gram matrix of samples of its `size`
/// inputs. The weights of inputs that were always 0 are rounded to nearest, and so are all weights if `gram`
/// has no samples or values that are not finite.
pub(crate) fn quantize_weights(weights: &mut [f64], gram: &Gram) {
    match GptqUpdate::from_gram(gram) {
        Some(update) if gram.size > 0 => {
            weights.par_chunks_mut(SIDE * gram.size).for_each(|rows| update.round_rows(rows));
        }
        _ => weights.iter_mut().for_each(|weight| *weight = round_to_bf16(*weight)),
    }
}

/// Rounds to the nearest `bf16`, by way of `f32`.
fn round_to_bf16(value: f64) -> f64 {
    bf16::from_f32(value as f32).to_f64()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rayon::ThreadPoolBuilder;
    use safetensors::SafeTensors;

    use super::*;
    use crate::dispatch::KernelSet;
    use crate::isa::Isa;
    use crate::tests::TestRng;

    /// Non-negative samples `[samples, size]`, mixtures of few factors.
    fn correlated(numbers: &mut TestRng, samples: usize, size: usize) -> Vec<f32> {
        let mixing: Vec<[f32; 6]> = (0..size).map(|_| [(); 6].map(|()| numbers.next())).collect();
        let mut values = Vec::new();
        for _ in 0..samples {
            let causes = [(); 6].map(|()| numbers.next());
            for weights in &mixing {
                let sum: f32 = weights.iter().zip(causes).map(|(a, b)| a * b).sum();
                values.push((sum + 0.2 * numbers.next() + 0.3).max(0.0));
            }
        }
        values
    }

    /// Random weights of about 0.1 that are not exact in `f32`.
    fn weights(numbers: &mut TestRng, count: usize) -> Vec<f64> {
        (0..count).map(|_| f64::from(numbers.next()) * 0.1 + 1e-9 * f64::from(numbers.next())).collect()
    }

    /// The Gram matrix of samples `[S, size]`.
    fn gram(samples: &[f32], size: usize) -> Gram {
        let mut gram = Gram::new(size);
        gram.add_samples(AnyKernel::PortableF32, samples);
        gram
    }

    /// A copy of the weights `[rows, size]`, rounded by GPTQ.
    fn quantized(weights: &[f64], gram: &Gram) -> Vec<f64> {
        let mut rounded = weights.to_vec();
        quantize_weights(&mut rounded, gram);
        rounded
    }

    /// The weights rounded to nearest.
    fn all_rounded(weights: &[f64]) -> Vec<f64> {
        weights.iter().copied().map(round_to_bf16).collect()
    }

    /// Results of numpy.
    struct Golden {
        name: &'static str,
        samples: Vec<f32>,
        gram: Gram,
        weights: Vec<f64>,
        rounded: Vec<f64>,
    }

    /// Reads the results of numpy for three small layers.
    fn golden() -> [Golden; 3] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference/rounding/golden.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        ["small", "correlated", "dead"].map(|name| {
            let doubles = |key: &str| -> Vec<f64> {
                let tensor = file.tensor(&format!("{name}.{key}")).unwrap();
                tensor.data().as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect()
            };
            let samples = file.tensor(&format!("{name}.samples")).unwrap();
            Golden {
                name,
                samples: samples.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
                gram: Gram { size: samples.shape()[1], values: doubles("gram") },
                weights: doubles("weights"),
                rounded: doubles("rounded"),
            }
        })
    }

    #[test]
    fn weights_are_those_of_the_paper_with_the_inverse() {
        for Golden { name, gram, weights, rounded: expected, .. } in golden() {
            assert_ne!(expected, all_rounded(&weights), "{name}");
            assert_eq!(quantized(&weights, &gram), expected, "{name}");
        }
    }

    #[test]
    fn gram_matrices_agree_with_numpy() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_present()) {
            let kernel = KernelSet::new(isa).unwrap().f32;
            for Golden { name, samples, gram: expected, .. } in golden() {
                // In two calls, the first of which ends within a block.
                let size = expected.size;
                let mut sums = Gram::new(size);
                let (first, second) = samples.split_at(5 * size);
                sums.add_samples(kernel, first);
                sums.add_samples(kernel, second);
                let scale = expected.values.iter().copied().fold(0.0, f64::max);
                for i in 0..size {
                    for j in 0..size {
                        let (sum, expected) = (sums.get(i, j), expected.get(i, j));
                        let near = (sum - expected).abs() <= 3e-7 * scale;
                        assert!(near, "{name} {isa} {i} {j}: {sum}, not {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn outputs_change_less_than_by_rounding_to_nearest() {
        let (size, rows) = (70, 9);
        let numbers = &mut TestRng(1);
        let samples = correlated(numbers, 400, size);
        let exact = weights(numbers, rows * size);
        let error = |quantized: &[f64]| -> f64 {
            let mut sum = 0.0;
            for sample in samples.chunks(size) {
                for (exact, rounded) in exact.chunks(size).zip(quantized.chunks(size)) {
                    let differences = exact.iter().zip(rounded).map(|(a, b)| a - b);
                    sum += differences.zip(sample).map(|(d, &x)| d * f64::from(x)).sum::<f64>().powi(2);
                }
            }
            sum.sqrt()
        };
        let compensated = quantized(&exact, &gram(&samples, size));
        assert_eq!(compensated, all_rounded(&compensated), "all are bf16 values");
        let (before, after) = (error(&all_rounded(&exact)), error(&compensated));
        assert!(after < before / 3.0, "{after}, {before} by rounding to nearest");
    }

    #[test]
    fn with_zero_inputs_all_weights_are_rounded_to_nearest() {
        let exact = weights(&mut TestRng(2), 7 * 10);
        for samples in [vec![], vec![0.0; 3 * 10]] {
            assert_eq!(quantized(&exact, &gram(&samples, 10)), all_rounded(&exact));
        }
    }

    #[test]
    fn a_channel_that_is_always_zero_is_rounded_to_nearest_and_affects_no_other() {
        let (size, dead) = (14, 5);
        let numbers = &mut TestRng(3);
        let mut samples = correlated(numbers, 50, size);
        samples.chunks_mut(size).for_each(|sample| sample[dead] = 0.0);
        let mut exact = weights(numbers, 6 * size);
        let first = quantized(&exact, &gram(&samples, size));
        for row in exact.chunks_mut(size) {
            row[dead] += 0.01;
        }
        let second = quantized(&exact, &gram(&samples, size));
        for ((first, second), exact) in first.chunks(size).zip(second.chunks(size)).zip(exact.chunks(size)) {
            assert_eq!(second[dead], round_to_bf16(exact[dead]));
            assert!((0..size).all(|column| column == dead || first[column] == second[column]));
        }
    }

    #[test]
    fn samples_that_are_not_finite_or_too_large_round_to_nearest() {
        let numbers = &mut TestRng(4);
        let samples = correlated(numbers, 50, 12);
        let exact = weights(numbers, 6 * 12);
        for value in [f32::NAN, f32::INFINITY, 1e30] {
            let mut samples = samples.clone();
            samples[40] = value;
            assert_eq!(quantized(&exact, &gram(&samples, 12)), all_rounded(&exact), "{value}");
        }
    }

    #[test]
    fn the_order_of_columns_does_not_matter() {
        let (size, count, rows) = (21, 60, 5);
        let numbers = &mut TestRng(5);
        let samples = correlated(numbers, count, size);
        let exact = weights(numbers, rows * size);
        let permuted = |column: usize| column * 8 % size;
        let plain = quantized(&exact, &gram(&samples, size));
        let samples: Vec<f32> =
            (0..count * size).map(|i| samples[i / size * size + permuted(i % size)]).collect();
        let moved: Vec<f64> = (0..rows * size).map(|i| exact[i / size * size + permuted(i % size)]).collect();
        let moved = quantized(&moved, &gram(&samples, size));
        for (i, value) in moved.iter().enumerate() {
            assert_eq!(*value, plain[i / size * size + permuted(i % size)]);
        }
    }

    #[test]
    fn rows_and_threads_do_not_matter() {
        let (size, rows) = (50, 23);
        let numbers = &mut TestRng(6);
        let samples = correlated(numbers, 300, size);
        let exact = weights(numbers, rows * size);
        let on_threads = |threads: usize| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| quantized(&exact, &gram(&samples, size)))
        };
        let alone = on_threads(1);
        assert_eq!(on_threads(3), alone);
        let sums = gram(&samples, size);
        for (row, expected) in exact.chunks(size).zip(alone.chunks(size)) {
            assert_eq!(quantized(row, &sums), expected);
        }
    }
}
