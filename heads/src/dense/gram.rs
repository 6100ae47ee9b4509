//! Gram matrices of a feature matrix: `XᵀX` and `XXᵀ`.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::Real;
use super::rows::RowSource;

/// Side of the tiles that a task computes. A tile and a block of factors fit the second-level cache,
/// converting a block to `f64` is cheap relative to its products, and a ResNet-18's 512 features still give
/// three tiles. Measured: 256 is a tenth slower, 512 no faster.
const TILE_SIDE: usize = 384;
/// Terms of the sums that are added at a time.
const TERMS_PER_STEP: usize = 256;

/// Which vectors of the matrix are multiplied with each other.
#[derive(Clone, Copy)]
enum GramAxis {
    Columns,
    Rows,
}

impl GramAxis {
    /// A block of the factor, `[paired, terms]`.
    fn read_factor<'a, T: Real>(
        self,
        rows: &impl RowSource,
        paired: Range<usize>,
        terms: Range<usize>,
        out: &'a mut Vec<T>,
    ) -> MatRef<'a, T> {
        let shape = (paired.len(), terms.len());
        match self {
            Self::Columns => {
                rows.read_block(terms, paired, out);
                MatRef::from_row_major_slice(out, shape.1, shape.0).transpose()
            }
            Self::Rows => {
                rows.read_block(paired, terms, out);
                MatRef::from_row_major_slice(out, shape.0, shape.1)
            }
        }
    }
}

/// A symmetric matrix `[n, n]` stored as its lower triangle, or a lower triangular matrix.
#[derive(Clone, Debug)]
pub(crate) struct LowerTriangular<T = f64> {
    /// Column-major; entries above the diagonal are never read.
    values: Vec<T>,
    size: usize,
}

impl<T: Real> LowerTriangular<T> {
    /// `Xᵀ X`, `[F, F]`.
    pub(crate) fn column_gram(rows: &impl RowSource) -> Self {
        Self::gram(rows, GramAxis::Columns)
    }

    /// `X Xᵀ`, `[N, N]`.
    pub(crate) fn row_gram(rows: &impl RowSource) -> Self {
        Self::gram(rows, GramAxis::Rows)
    }

    /// The Gram matrix along an axis, in parallel over tiles.
    fn gram(rows: &impl RowSource, axis: GramAxis) -> Self {
        let (size, depth) = match axis {
            GramAxis::Columns => (rows.width(), rows.n_rows()),
            GramAxis::Rows => (rows.n_rows(), rows.width()),
        };
        let mut gram = Self { values: vec![T::default(); size * size], size };
        tiles(gram.as_mut(), TILE_SIDE).into_par_iter().for_each_init(
            || (Vec::new(), Vec::new(), Vec::new()),
            |(left, right, sums), tile| {
                // Columns of the matrix are far apart in memory, often by a power of two; a separate tile
                // stays in the cache.
                let (height, width) = (tile.values.nrows(), tile.values.ncols());
                sums.clear();
                sums.resize(height * width, T::default());
                let values = MatMut::from_column_major_slice_mut(sums, height, width);
                let Tile { first_row, first_column, values: mut out } = tile;
                let mut tile = Tile { first_row, first_column, values };
                for start in (0..depth).step_by(TERMS_PER_STEP) {
                    let terms = start..depth.min(start + TERMS_PER_STEP);
                    let left = axis.read_factor(rows, tile.rows(), terms.clone(), left);
                    if tile.is_on_diagonal() {
                        tile.add_product(left, left, T::from_f64(1.0));
                    } else {
                        let right = axis.read_factor(rows, tile.columns(), terms, right);
                        tile.add_product(left, right, T::from_f64(1.0));
                    }
                }
                out.copy_from(tile.values);
            },
        );
        gram
    }

    /// Wraps values `[n, n]`, column-major.
    pub(crate) fn from_column_major(values: Vec<T>, size: usize) -> Self {
        Self { values, size }
    }

    /// `n`
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn as_ref(&self) -> MatRef<'_, T> {
        MatRef::from_column_major_slice(&self.values, self.size, self.size)
    }

    pub(crate) fn as_mut(&mut self) -> MatMut<'_, T> {
        MatMut::from_column_major_slice_mut(&mut self.values, self.size, self.size)
    }

    /// The diagonal, `[n]`.
    pub(crate) fn diagonal(&self) -> impl Iterator<Item = f64> {
        self.values.iter().step_by(self.size + 1).map(|&value| value.into())
    }

    /// Adds values to the diagonal, `[n]`.
    pub(crate) fn add_to_diagonal(&mut self, values: impl IntoIterator<Item = f64>) {
        for (sum, value) in self.values.iter_mut().step_by(self.size + 1).zip(values) {
            *sum = T::from_f64((*sum).into() + value);
        }
    }
}

impl LowerTriangular {
    /// Multiplies all values by `factor`.
    pub(crate) fn scale(&mut self, factor: f64) {
        self.values.iter_mut().for_each(|value| *value *= factor);
    }

    /// The sum of squares of all entries of the symmetric matrix (squared Frobenius norm).
    pub(crate) fn sum_of_squares(&self) -> f64 {
        let column_sum = |(column, values): (usize, &[f64])| {
            let below: f64 = values[column + 1..].iter().map(|value| value * value).sum();
            values[column] * values[column] + 2.0 * below
        };
        self.values.chunks_exact(self.size).enumerate().map(column_sum).sum()
    }
}

/// A tile of a lower triangle.
pub(crate) struct Tile<'a, T> {
    first_row: usize,
    first_column: usize,
    values: MatMut<'a, T>,
}

impl<T: Real> Tile<'_, T> {
    /// The rows of the matrix in this tile.
    pub(crate) fn rows(&self) -> Range<usize> {
        self.first_row..self.first_row + self.values.nrows()
    }

    /// The columns of the matrix in this tile.
    pub(crate) fn columns(&self) -> Range<usize> {
        self.first_column..self.first_column + self.values.ncols()
    }

    fn is_on_diagonal(&self) -> bool {
        self.first_row == self.first_column
    }

    /// Adds `factor · left · rightᵀ`: `left` `[rows, terms]`, `right` `[columns, terms]`.
    pub(crate) fn add_product(&mut self, left: MatRef<'_, T>, right: MatRef<'_, T>, factor: T) {
        let on_diagonal = self.is_on_diagonal();
        let (out, right) = (self.values.as_mut(), right.transpose());
        if on_diagonal {
            let full = BlockStructure::Rectangular;
            let lower = BlockStructure::TriangularLower;
            triangular::matmul(out, lower, Accum::Add, left, full, right, full, factor, Par::Seq);
        } else {
            matmul(out, Accum::Add, left, right, factor, Par::Seq);
        }
    }
}

/// The tiles of the lower triangle of a square matrix, with at most `side` rows and columns each.
pub(crate) fn tiles<T: Real>(matrix: MatMut<'_, T>, side: usize) -> Vec<Tile<'_, T>> {
    let mut tiles = Vec::new();
    let (mut rest, mut first_column) = (matrix, 0);
    while rest.ncols() > 0 {
        let width = rest.ncols().min(side);
        let (panel, right) = rest.split_at_col_mut(width);
        let (mut below, mut first_row) = (panel.split_at_row_mut(first_column).1, first_column);
        while below.nrows() > 0 {
            let height = below.nrows().min(side);
            let (values, next) = below.split_at_row_mut(height);
            tiles.push(Tile { first_row, first_column, values });
            (below, first_row) = (next, first_row + height);
        }
        (rest, first_column) = (right, first_column + width);
    }
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::FeatureMatrix;
    use crate::dense::rows::CenteredRows;
    use crate::random::KeyedRng;

    /// Small integers make every order of summation exact. The sizes need several tiles and term blocks.
    #[test]
    fn products_of_many_tiles_are_the_schoolbook_ones() {
        for (count, width) in [(300, 2 * TILE_SIDE + 7), (2 * TILE_SIDE + 7, 300)] {
            let mut rng = KeyedRng::new(&[count as u64]);
            let values: Vec<f32> = (0..count * width).map(|_| rng.below(9) as f32 - 4.0).collect();
            let mean: Vec<f64> = (0..width).map(|column| (column % 3) as f64).collect();
            let rows = CenteredRows {
                features: FeatureMatrix::from_valid_rows(&values, width),
                group: &vec![0; count],
                means: &mean,
                scales: &[2.0],
            };
            let value =
                |row: usize, column: usize| 2.0 * (f64::from(values[row * width + column]) - mean[column]);
            let (columns, pairs) =
                (LowerTriangular::<f64>::column_gram(&rows), LowerTriangular::<f64>::row_gram(&rows));
            for (a, b) in [(0, 0), (299, 5), (299, 299), (260, 259)] {
                let expected: f64 = (0..width).map(|column| value(a, column) * value(b, column)).sum();
                assert_eq!(pairs.as_ref()[(a, b)], expected, "rows {a} and {b}");
                let expected: f64 = (0..count).map(|row| value(row, a) * value(row, b)).sum();
                assert_eq!(columns.as_ref()[(a, b)], expected, "columns {a} and {b}");
            }
            let last = width.max(count) - 1;
            let expected_last: f64 = if width > count {
                (0..count).map(|row| value(row, last) * value(row, TILE_SIDE)).sum()
            } else {
                (0..width).map(|column| value(last, column) * value(TILE_SIDE, column)).sum()
            };
            let larger = if width > count { &columns } else { &pairs };
            assert_eq!(larger.as_ref()[(last, TILE_SIDE)], expected_last);
            assert_eq!(columns.sum_of_squares(), pairs.sum_of_squares(), "|XᵀX| = |XXᵀ|");
        }
    }
}
