//! The search for others than the head: outliers, duplicates.

use rayon::prelude::*;

use super::search::{Neighbour, Search};
use super::{BLOCK, norm};
use crate::data::Features;
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
pub fn nearest(
    stored: Features<'_>,
    asked: Features<'_>,
    metric: Metric,
    k: usize,
    done: impl Fn(usize) + Sync,
) -> Vec<Vec<Neighbour>> {
    assert!(
        stored.width() == asked.width() && k > 0,
        "rows are compared with rows as wide, and one is looked for"
    );
    let norms: Vec<f64> = stored.as_slice().par_chunks_exact(stored.width()).map(norm).collect();
    let search = Search { stored, norms: &norms, metric, k };
    let blocks = asked.as_slice().par_chunks(BLOCK * asked.width());
    blocks
        .flat_map_iter(|rows| {
            let found = search.nearest(rows);
            done(found.len());
            found
        })
        .collect()
}
