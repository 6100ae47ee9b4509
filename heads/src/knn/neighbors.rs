//! The search for others than the head: outliers, duplicates.

use rayon::prelude::*;

use super::search::{Neighbor, NeighborSearch};
use super::{MAX_ROWS_PER_TASK, row_norm};
use crate::data::FeatureMatrix;
use crate::metric::Metric;

/// The `k` nearest rows of `stored` `[N, F]` for each row of `asked` `[M, F]`, the nearest first; of those as far the lowest. A
/// row that is not finite has none; `stored` must be finite. `done` hears how many rows more have theirs, from the threads that search.
///
/// Exact, on all cores; `N M F` multiplications, and memory for a few blocks of rows beside what it is given and gives.
///
/// ```
/// use headstock_heads::knn::nearest;
/// use headstock_heads::{Features, Metric};
///
/// let rows = Features::new(&[1.0, 0.0, 0.0, 1.0, 1.0, 0.1], 2)?;
/// let found = nearest(rows, rows, Metric::Cosine, 2, |_| ());
/// let of_first: Vec<usize> = found[0].iter().map(|near| near.row).collect();
/// assert_eq!(of_first, [0, 2]);
/// # Ok::<(), headstock_heads::HeadError>(())
/// ```
///
/// # Panics
/// When the rows have different widths, or `k` is 0.
#[must_use]
pub fn nearest_neighbors(
    stored: FeatureMatrix<'_>,
    queries: FeatureMatrix<'_>,
    metric: Metric,
    k: usize,
    on_rows_done: impl Fn(usize) + Sync,
) -> Vec<Vec<Neighbor>> {
    assert!(
        stored.width() == queries.width() && k > 0,
        "rows are compared with rows as wide, and one is looked for"
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
