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

/// Which vectors of a matrix `X` a Gram matrix has the dot products of.
#[derive(Clone, Copy)]
pub(crate) enum GramAxis {
    /// Columns: `XᵀX` `[F, F]`, for covariances and least-squares problems.
    Columns,
    /// Rows: `XXᵀ` `[N, N]`, which replaces `XᵀX` in problems with fewer samples than features.
    Rows,
}

impl GramAxis {
    /// Reads one of the two factors of a block of a Gram matrix. The Gram matrix holds dot products of
    /// vectors: of the columns of `X` (`XᵀX`) or of its rows (`XXᵀ`), according to this axis. Of the vectors
    /// with the indices `vectors`, this reads the entries `terms`, some of the terms of the dot products.
    /// `rows` computes them. Returns a matrix `[vectors, terms]`, a view of the buffer `out`.
    fn read_factor<'a, T: Real>(
        self,
        rows: &impl RowSource,
        vectors: Range<usize>,
        terms: Range<usize>,
        out: &'a mut Vec<T>,
    ) -> MatRef<'a, T> {
        let (n_vectors, n_terms) = (vectors.len(), terms.len());
        match self {
            Self::Columns => {
                rows.read_block(terms, vectors, out);
                MatRef::from_row_major_slice(out, n_terms, n_vectors).transpose()
            }
            Self::Rows => {
                rows.read_block(vectors, terms, out);
                MatRef::from_row_major_slice(out, n_vectors, n_terms)
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
    /// Computes the Gram matrix of the columns (`XᵀX`) or of the rows (`XXᵀ`) of the matrix `X`, whose rows
    /// `rows` computes on demand. Only the lower triangle is computed, in parallel over square tiles of it.
    /// The sums of a tile are added [`TERMS_PER_STEP`] terms at a time, so that only small blocks of `X` are
    /// in memory.
    pub(crate) fn gram(rows: &impl RowSource, axis: GramAxis) -> Self {
        let (size, n_terms) = match axis {
            GramAxis::Columns => (rows.width(), rows.n_rows()),
            GramAxis::Rows => (rows.n_rows(), rows.width()),
        };
        let mut gram = Self { values: vec![T::default(); size * size], size };
        tiles(gram.as_mut(), TILE_SIDE).into_par_iter().for_each_init(
            // Buffers that a thread uses again for each of its tiles.
            || (Vec::new(), Vec::new(), Vec::new()),
            |(left_buffer, right_buffer, sums), tile| {
                // The tile is summed in a buffer of its own and copied at the end. Columns of the result are
                // far apart in memory, often by a power of two; a separate tile stays in the cache.
                let (height, width) = (tile.values.nrows(), tile.values.ncols());
                sums.clear();
                sums.resize(height * width, T::default());
                let values = MatMut::from_column_major_slice_mut(sums, height, width);
                let Tile { first_row, first_column, values: mut out } = tile;
                let mut tile = Tile { first_row, first_column, values };
                for start in (0..n_terms).step_by(TERMS_PER_STEP) {
                    let terms = start..n_terms.min(start + TERMS_PER_STEP);
                    let left = axis.read_factor(rows, tile.rows(), terms.clone(), left_buffer);
                    if tile.is_on_diagonal() {
                        tile.add_product(left, left, T::from_f64(1.0));
                    } else {
                        let right = axis.read_factor(rows, tile.columns(), terms, right_buffer);
                        tile.add_product(left, right, T::from_f64(1.0));
                    }
                }
                out.copy_from(tile.values);
            },
        );
        gram
    }

    /// Wraps the values of a matrix `[n, n]`, column-major, with `n = size`; those above the diagonal are
    /// never read.
    pub(crate) fn from_column_major(values: Vec<T>, size: usize) -> Self {
        Self { values, size }
    }

    /// Number of rows, `n`.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The matrix as a view of faer; entries above the diagonal have no meaning.
    pub(crate) fn as_ref(&self) -> MatRef<'_, T> {
        MatRef::from_column_major_slice(&self.values, self.size, self.size)
    }

    /// The matrix as a mutable view of faer; entries above the diagonal have no meaning.
    pub(crate) fn as_mut(&mut self) -> MatMut<'_, T> {
        MatMut::from_column_major_slice_mut(&mut self.values, self.size, self.size)
    }

    /// The diagonal, `[n]`.
    pub(crate) fn diagonal(&self) -> impl Iterator<Item = f64> {
        self.values.iter().step_by(self.size + 1).map(|&value| value.into())
    }

    /// Adds one value to each entry of the diagonal, `[n]`, such as the regularization of a least-squares
    /// problem.
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

    /// The sum of squares of all entries of the symmetric matrix (squared Frobenius norm), which Ledoit and
    /// Wolf's shrinkage needs. Entries below the diagonal count twice, for themselves and for those above it,
    /// which are not stored.
    pub(crate) fn sum_of_squares(&self) -> f64 {
        let column_sum = |(column, values): (usize, &[f64])| {
            let below: f64 = values[column + 1..].iter().map(|value| value * value).sum();
            values[column] * values[column] + 2.0 * below
        };
        self.values.chunks_exact(self.size).enumerate().map(column_sum).sum()
    }
}

/// A rectangular tile of the lower triangle of a square matrix, the unit of parallel work; see [`tiles`].
pub(crate) struct Tile<'a, T> {
    /// Row of the matrix where the tile begins.
    first_row: usize,
    /// Column of the matrix where the tile begins.
    first_column: usize,
    /// The entries of the matrix in the tile, to be changed.
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

    /// Whether the tile contains a part of the matrix's diagonal; of such a tile only the lower triangle
    /// counts.
    fn is_on_diagonal(&self) -> bool {
        self.first_row == self.first_column
    }

    /// Adds the product `factor · left · rightᵀ` to this tile, with `left` `[rows, terms]` and `right`
    /// `[columns, terms]` for the rows and columns of the tile. Gram matrices, and the updates in matrix
    /// factorizations, are sums of such products. Of a tile on the diagonal only the lower triangle is
    /// computed, as the matrix is symmetric.
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

/// Splits the lower triangle of a square matrix into tiles of at most `side` rows and columns, which are
/// computed in parallel in Gram matrices and matrix factorizations. Tiles on the diagonal are square and
/// include entries above it, which do not count.
pub(crate) fn tiles<T: Real>(matrix: MatMut<'_, T>, side: usize) -> Vec<Tile<'_, T>> {
    let mut tiles = Vec::new();
    let (mut remaining, mut first_column) = (matrix, 0);
    while remaining.ncols() > 0 {
        let width = remaining.ncols().min(side);
        // The next columns; from the diagonal on they are cut into tiles.
        let (panel, right) = remaining.split_at_col_mut(width);
        let (mut below, mut first_row) = (panel.split_at_row_mut(first_column).1, first_column);
        while below.nrows() > 0 {
            let height = below.nrows().min(side);
            let (values, next) = below.split_at_row_mut(height);
            tiles.push(Tile { first_row, first_column, values });
            (below, first_row) = (next, first_row + height);
        }
        (remaining, first_column) = (right, first_column + width);
    }
    tiles
}

#[cfg(test)]
mod tests {
    use headstock_split::KeyedRng;

    use super::*;
    use crate::data::FeatureMatrix;
    use crate::dense::rows::CenteredRows;

    /// Small integers make every order of summation exact. The sizes need several tiles and term blocks.
    #[test]
    fn products_of_many_tiles_match_sums_over_single_entries() {
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
            let (columns, pairs) = (
                LowerTriangular::<f64>::gram(&rows, GramAxis::Columns),
                LowerTriangular::<f64>::gram(&rows, GramAxis::Rows),
            );
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
