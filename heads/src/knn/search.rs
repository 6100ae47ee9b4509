//! Exact nearest-neighbor search.
//!
//! An `f32` matrix product gives every distance with an error bound. Few rows can be among the nearest by
//! these bounds; only their distances are computed in `f64`. So the result does not depend on the rounding of
//! the product or on the other rows of a call.

use std::collections::BinaryHeap;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::{Arch, Simd, WithSimd};

use super::bounds::{self, BoundParams, LANES, QueryLanes, distance_bounds, exceeds_limit};
use crate::data::FeatureMatrix;
use crate::metric::{DistanceMetric, inverse_or_zero};
use crate::vector::VectorOps;

/// Maximum number of query rows per parallel task.
pub(super) const MAX_ROWS_PER_TASK: usize = 256;
/// Stored rows per matrix product: enough to make packing the query rows again for each product cheap.
const STORED_PER_BLOCK: usize = 1024;

/// A stored row and its distance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbor {
    /// Index of the row.
    pub row: usize,
    /// Distance in the metric; for `cosine`, 1 minus the cosine.
    pub distance: f64,
}

/// The stored rows and the parameters of a search.
pub(super) struct NeighborSearch<'a> {
    pub(super) stored: FeatureMatrix<'a>,
    /// The norm of each stored row, `[N]`.
    pub(super) norms: &'a [f64],
    pub(super) metric: DistanceMetric,
    /// Number of neighbors to find.
    pub(super) k: usize,
}

/// The state of the search for one query row.
struct QueryState {
    norm: f64,
    terms: bounds::QueryTerms,
    /// The `k` smallest upper bounds so far, the largest on top.
    smallest_upper_bounds: BinaryHeap<UpperBound>,
    /// The `k`-th smallest upper bound, infinite before there are `k`: no neighbor is farther away.
    limit: f64,
    /// Stored rows that may be neighbors: the lower bound of the distance, and the index.
    candidates: Vec<(f64, usize)>,
}

/// The Euclidean norm of a row.
pub(super) fn row_norm(row: &[f32]) -> f64 {
    VectorOps::new().dot(row, row).sqrt()
}

impl NeighborSearch<'_> {
    /// Finds the `k` nearest stored rows of each query row in `rows` `[n, F]`, nearest first; ties go to the
    /// lowest index. A non-finite query row has no neighbors. Matrix products in `f32` give bounds on all
    /// distances; only for the candidates, stored rows that may be among the nearest by these bounds, is the
    /// distance computed in `f64`.
    pub(super) fn find(&self, rows: &[f32]) -> Vec<Vec<Neighbor>> {
        let (width, arch) = (self.stored.width(), Arch::new());
        let params = BoundParams::new(self.metric, width);
        let new_query = |row: &[f32]| {
            let norm = row_norm(row);
            QueryState {
                norm,
                terms: params.query_terms(norm),
                smallest_upper_bounds: BinaryHeap::with_capacity(self.k + 1),
                limit: f64::INFINITY,
                candidates: Vec::new(),
            }
        };
        let mut queries: Vec<QueryState> = rows.chunks_exact(width).map(new_query).collect();
        let mut lanes: Vec<QueryLanes> = queries.chunks(LANES).map(to_lanes).collect();
        // Dot products `[stored rows of a block, stride]`: those of a stored row with all query rows are
        // adjacent, so that it is compared with many at once.
        let stride = lanes.len() * LANES;
        let mut products = vec![0.0f32; stride * STORED_PER_BLOCK.min(self.stored.len())];
        for (block, first) in
            self.stored.as_slice().chunks(STORED_PER_BLOCK * width).zip((0..).step_by(STORED_PER_BLOCK))
        {
            let count = block.len() / width;
            let products = &mut products[..stride * count];
            matmul(
                MatMut::from_column_major_slice_with_stride_mut(products, queries.len(), count, stride),
                Accum::Replace,
                MatRef::from_row_major_slice(rows, queries.len(), width),
                MatRef::from_row_major_slice(block, count, width).transpose(),
                1.0,
                Par::Seq,
            );
            let (queries, lanes, k) = (&mut queries, &mut lanes, self.k);
            arch.dispatch(UpdateCandidates {
                params: &params,
                norms: self.norms,
                k,
                queries,
                lanes,
                first,
                products,
            });
        }
        let rows = rows.chunks_exact(width);
        queries.into_iter().zip(rows).map(|(query, row)| self.rank_candidates(&query, row)).collect()
    }

    /// The last step of [`find`](Self::find) for the query row `row` `[F]`: computes the distances of its
    /// candidates (stored rows that may be among the nearest) in `f64` and returns the `k` nearest, nearest
    /// first.
    fn rank_candidates(&self, query: &QueryState, row: &[f32]) -> Vec<Neighbor> {
        // The limit, beyond which no neighbor can be, may have become lower since a candidate was added.
        let candidates = query.candidates.iter().filter(|(lower, _)| *lower <= query.limit);
        let mut neighbors: Vec<Neighbor> = candidates
            .map(|&(_, stored)| Neighbor { row: stored, distance: self.distance(query.norm, row, stored) })
            .collect();
        neighbors.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.row.cmp(&b.row)));
        neighbors.truncate(self.k);
        neighbors
    }

    /// Computes in `f64` the distance of the query row `row` `[F]`, whose norm is `query_norm`, to the stored
    /// row with the index `stored`. Candidates are ranked by it.
    fn distance(&self, query_norm: f64, row: &[f32], stored: usize) -> f64 {
        let (vectors, stored_row) = (VectorOps::new(), self.stored.row(stored));
        match self.metric {
            DistanceMetric::Euclidean => vectors.squared_distance(row, stored_row).sqrt(),
            DistanceMetric::Cosine => {
                let scale = inverse_or_zero(query_norm) * inverse_or_zero(self.norms[stored]);
                let distance = 1.0 - vectors.dot(row, stored_row) * scale;
                // Rows in the same direction have the distance 0, not a rounding error.
                let rounding = row.len() as f64 * f64::EPSILON;
                if distance <= rounding { 0.0 } else { distance }
            }
        }
    }
}

/// The SIMD operation of [`NeighborSearch::find`]: updates the candidates of all query rows with a block of
/// stored rows, which starts at row `first`; `products` are the dot products of each stored row with all
/// query rows.
///
/// A struct, not a closure: `with_simd` must be inlined to use the processor's instructions.
struct UpdateCandidates<'a> {
    params: &'a BoundParams,
    /// The norms of all stored rows.
    norms: &'a [f64],
    /// Number of neighbors to find.
    k: usize,
    queries: &'a mut [QueryState],
    /// A copy of the bounds of each [`LANES`] of the `queries`, for SIMD instructions.
    lanes: &'a mut [QueryLanes],
    /// Index of the first stored row of the block.
    first: usize,
    /// `[stored rows of the block, lanes.len() * LANES]`.
    products: &'a [f32],
}

impl WithSimd for UpdateCandidates<'_> {
    type Output = ();

    /// Adds stored rows of the block to the candidates (possible neighbors) of the query rows, compiled by
    /// pulp for the SIMD instructions `S`. By bounds on the distances, it tests each stored row against
    /// [`LANES`] query rows at once. Only if the row may be a neighbor of one of them is it considered for
    /// each of them.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { params, norms, k, queries, lanes, first, products } = self;
        for (products, row) in products.chunks_exact(lanes.len() * LANES).zip(first..) {
            let (products, stored) = (products.as_chunks::<LANES>().0, params.stored_terms(norms[row]));
            for ((queries, lanes), products) in queries.chunks_mut(LANES).zip(&mut *lanes).zip(products) {
                if lanes.may_be_neighbor(stored, products) {
                    for (query, &product) in queries.iter_mut().zip(products) {
                        query.consider(row, stored, product, k);
                    }
                    // Their limits may have become lower.
                    *lanes = to_lanes(queries);
                }
            }
        }
    }
}

/// Copies the terms and limits of up to [`LANES`] query rows into SIMD lanes.
fn to_lanes(queries: &[QueryState]) -> QueryLanes {
    QueryLanes::from_queries(queries.iter().map(|query| (query.terms, query.limit)))
}

impl QueryState {
    /// Adds the stored row with the index `row` to the candidates (possible neighbors) of this query row,
    /// unless the lower bound of its distance shows that `k` other rows are nearer. Then lowers the limit,
    /// beyond which no neighbor can be, to the `k`-th smallest upper bound of a distance. `stored` has the
    /// terms of the stored row for the bounds, `product` is its dot product with the query row.
    fn consider(&mut self, row: usize, stored: bounds::StoredTerms, product: f32, k: usize) {
        let (lower, upper) = distance_bounds(self.terms, stored, product);
        if !self.norm.is_finite() || exceeds_limit(lower, self.limit) {
            return;
        }
        if !lower.is_finite() {
            // The product overflowed f32: the row must be checked in f64.
            self.candidates.push((f64::NEG_INFINITY, row));
            return;
        }
        self.candidates.push((lower, row));
        self.smallest_upper_bounds.push(UpperBound(upper));
        if self.smallest_upper_bounds.len() > k {
            self.smallest_upper_bounds.pop();
        }
        if let (true, Some(UpperBound(largest))) =
            (self.smallest_upper_bounds.len() == k, self.smallest_upper_bounds.peek())
        {
            self.limit = *largest;
        }
    }
}

/// An upper bound of a distance, with the total order that a heap needs.
#[derive(Clone, Copy, PartialEq)]
struct UpperBound(f64);

impl Eq for UpperBound {}

impl PartialOrd for UpperBound {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for UpperBound {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use headstock_split::KeyedRng;
    use proptest::prelude::*;

    use super::*;

    fn find(
        stored: &[f32],
        width: usize,
        metric: DistanceMetric,
        k: usize,
        queries: &[f32],
    ) -> Vec<Vec<Neighbor>> {
        let norms: Vec<f64> = stored.chunks_exact(width).map(row_norm).collect();
        NeighborSearch { stored: FeatureMatrix::from_valid_rows(stored, width), norms: &norms, metric, k }
            .find(queries)
    }

    proptest! {
        /// Rows on a coarse grid, so that many distances are equal; at every magnitude of f32.
        #[test]
        fn neighbors_match_a_brute_force_search(
            n in prop_oneof![1usize..700, Just(STORED_PER_BLOCK + 1)],
            n_queries in 1usize..40,
            width in 1usize..6,
            k in 1usize..20,
            exponent in -40i32..38,
            cosine: bool,
            key: u64,
        ) {
            let mut rng = KeyedRng::new(&[key]);
            let size = 10f32.powi(exponent);
            let mut rows = |n: usize| -> Vec<f32> {
                (0..n * width).map(|_| (rng.below(7) as f32 - 3.0) * size).collect()
            };
            let (stored, queries) = (rows(n), rows(n_queries));
            let metric = if cosine { DistanceMetric::Cosine } else { DistanceMetric::Euclidean };
            let found = find(&stored, width, metric, k, &queries);
            for (row, found) in queries.chunks_exact(width).zip(found) {
                let mut expected: Vec<(f64, usize)> = stored
                    .chunks_exact(width)
                    .map(|other| {
                        let dot = |a: &[f32], b: &[f32]| -> f64 {
                            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
                        };
                        let difference: Vec<f32> = row.iter().zip(other).map(|(a, b)| a - b).collect();
                        let cosine = dot(row, other) / (dot(row, row) * dot(other, other)).sqrt();
                        let cosine = if cosine.is_nan() { 0.0 } else { cosine };
                        if metric == DistanceMetric::Cosine { 1.0 - cosine } else { dot(&difference, &difference).sqrt() }
                    })
                    .zip(0..)
                    .collect();
                expected.sort_by(|a, b| a.0.total_cmp(&b.0));
                prop_assert_eq!(found.len(), k.min(n));
                for (found, (distance, _)) in found.iter().zip(&expected) {
                    let found_distance = expected.iter().find(|(_, row)| *row == found.row).unwrap().0;
                    let tolerance = 1e-5 * distance + 1e-12;
                    prop_assert!((found.distance - distance).abs() <= tolerance, "{} {}", found.distance, distance);
                    prop_assert!((found_distance - distance).abs() <= tolerance, "{found_distance} {distance}");
                }
            }
        }
    }

    #[test]
    fn rows_closer_than_f32_resolution_are_ranked_correctly() {
        let width = 300;
        let mut stored: Vec<f32> = (0..2000 * width).map(|i| 100.0 + ((i % width) as f32).sin()).collect();
        for (row, values) in stored.chunks_exact_mut(width).enumerate() {
            values[row % width] += 1e-3 * (2000 - row) as f32;
        }
        let queries: Vec<f32> = (0..width).map(|i| 100.0 + (i as f32).sin()).collect();
        let found = &find(&stored, width, DistanceMetric::Euclidean, 4, &queries)[0];
        let rows: Vec<usize> = found.iter().map(|neighbor| neighbor.row).collect();
        assert_eq!(rows, [1999, 1998, 1997, 1996]);
    }

    /// The second row's product is -1.5e38; an intermediate sum may reach -4.5e38, which overflows `f32`.
    #[test]
    fn a_product_that_overflows_f32_midway_hides_no_neighbor() {
        let (low, high) = (-1.5e19, 1e19);
        for near in [[low, low, high, high], [low, high, low, high], [high, low, low, high]] {
            let stored = [[-2e19, 0.0, 0.0, 0.0], near].concat();
            let found = find(&stored, 4, DistanceMetric::Euclidean, 1, &[1.5e19; 4]);
            assert_eq!(found[0][0].row, 1, "{near:?}");
        }
    }

    #[test]
    fn a_non_finite_row_has_no_neighbors_and_changes_no_others() {
        let stored: Vec<f32> = (0..60).map(|i| (i as f32).sin()).collect();
        let mut queries: Vec<f32> = (0..40).map(|i| (i as f32).cos()).collect();
        for metric in [DistanceMetric::Euclidean, DistanceMetric::Cosine] {
            let without_non_finite = find(&stored, 2, metric, 3, &queries);
            (queries[7], queries[24]) = (f32::NAN, f32::NEG_INFINITY);
            let found = find(&stored, 2, metric, 3, &queries);
            for (row, (found, expected)) in found.iter().zip(without_non_finite).enumerate() {
                assert_eq!(*found, if [3, 12].contains(&row) { Vec::new() } else { expected }, "row {row}");
            }
        }
    }

    #[test]
    fn ties_are_broken_by_the_lowest_row() {
        let stored = [2.0, 0.0, 1.0, 3.0, 1.0, 3.0];
        let rows = |k| -> Vec<usize> {
            find(&stored, 1, DistanceMetric::Euclidean, k, &[2.0])[0]
                .iter()
                .map(|neighbor| neighbor.row)
                .collect()
        };
        assert_eq!(rows(3), [0, 2, 3]);
        assert_eq!(rows(9), [0, 2, 3, 4, 5, 1]);
    }
}
