//! Nearest-neighbor search for other uses than the head, such as finding outliers and duplicates.

use rayon::prelude::*;

use super::search::{MAX_ROWS_PER_TASK, Neighbor, NeighborSearch, row_norm};
use crate::data::FeatureMatrix;
use crate::metric::DistanceMetric;

/// Finds the `k` nearest rows of `stored` `[N, F]` for each row of `queries` `[M, F]`, nearest first; ties go
/// to the lowest index. Non-finite query rows have no neighbors; `stored` must be finite. `on_rows_done` is
/// called from the worker threads with the number of rows that were completed. Outliers and duplicates are
/// found with it.
///
/// The search is exact and parallel. It takes `N M F` multiplications and memory for a few blocks of rows.
///
/// ```
/// use headstock_heads::knn::nearest_neighbors;
/// use headstock_heads::{FeatureMatrix, DistanceMetric};
///
/// let rows = FeatureMatrix::new(&[1.0, 0.0, 0.0, 1.0, 1.0, 0.1], 2)?;
/// let found = nearest_neighbors(rows, rows, DistanceMetric::Cosine, 2, |_| ());
/// let nearest_to_first: Vec<usize> = found[0].iter().map(|neighbor| neighbor.row).collect();
/// assert_eq!(nearest_to_first, [0, 2]);
/// # Ok::<(), headstock_heads::HeadError>(())
/// ```
///
/// # Panics
/// When the rows have different widths, or `k` is 0.
#[must_use]
pub fn nearest_neighbors(
    stored: FeatureMatrix<'_>,
    queries: FeatureMatrix<'_>,
    metric: DistanceMetric,
    k: usize,
    on_rows_done: impl Fn(usize) + Sync,
) -> Vec<Vec<Neighbor>> {
    assert!(
        stored.width() == queries.width() && k > 0,
        "stored rows and queries must have the same width, and k must be at least 1"
    );
    let norms: Vec<f64> = stored.as_slice().par_chunks_exact(stored.width()).map(row_norm).collect();
    let search = NeighborSearch { stored, norms: &norms, metric, k };
    let blocks = queries.as_slice().par_chunks(MAX_ROWS_PER_TASK * queries.width());
    blocks
        .flat_map_iter(|rows| {
            let found = search.find(rows);
            on_rows_done(found.len());
            found
        })
        .collect()
}
