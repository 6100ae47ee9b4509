//! Error bounds on distances that are computed from `f32` products, with which the search skips stored rows
//! that are too far away.
//!
//! The bounds are on a value that grows with the distance of a query row `a` and a stored row `b` and is
//! cheaper: `|b|² - 2 a·b` for Euclidean distances, `-a·b / (|a| |b|)` for cosine distances.

use crate::metric::{DistanceMetric, inverse_or_zero};

/// Query rows processed together: two AVX-512 registers of `f64`.
pub(super) const LANES: usize = 16;
/// Half the distance between 1 and the next `f32`: the unit roundoff `u`.
const UNIT_ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;
/// The smallest positive `f32`: the most that a product loses to underflow.
const MIN_SUBNORMAL: f64 = 1.401_298_464_324_817e-45;

/// The error parameters for a metric and a number of features, from which the terms of each row are computed.
///
/// A sum of `F` products in any order is off by at most `γ |a| |b|`, `γ = F u / (1 - F u)` (Higham 2002,
/// *Accuracy and Stability of Numerical Algorithms*, section 3.1), plus what its products lose to underflow.
pub(super) struct BoundParams {
    metric: DistanceMetric,
    /// `γ`.
    gamma: f64,
    /// Largest loss of a dot product to underflow.
    underflow: f64,
    /// Relative error of the `f64` distances, by which the nearest rows are chosen in the end.
    f64_error: f64,
}

/// The terms of [`distance_bounds`] that depend on a query row.
#[derive(Clone, Copy)]
pub(super) struct QueryTerms {
    /// Factor of the dot product: 2, or `1 / |a|` for cosine distances.
    scale: f64,
    /// Factor of the stored row's `error_slope`: their product is a part of the error.
    error_slope: f64,
    /// The rest of the error, as far as it depends on the query row.
    error_offset: f64,
}

/// The terms of [`distance_bounds`] that depend on a stored row.
#[derive(Clone, Copy)]
pub(super) struct StoredTerms {
    /// What the dot product is subtracted from: `|b|²`, or 0 for cosine distances.
    base: f64,
    /// Factor of the dot product: 1, or `1 / |b|` for cosine distances.
    scale: f64,
    /// Factor of the query row's `error_slope`: their product is a part of the error.
    error_slope: f64,
    /// The rest of the error, as far as it depends on the stored row.
    error_offset: f64,
}

impl BoundParams {
    /// Computes bounds on the rounding errors of distances in `metric` between rows of `width` features; with
    /// them the search skips stored rows that are too far away. `gamma` bounds the relative error of a dot
    /// product in `f32`, `underflow` what the dot product loses to underflow, `f64_error` the relative error
    /// of a final distance in `f64`.
    pub(super) fn new(metric: DistanceMetric, width: usize) -> Self {
        let width = width as f64;
        // 8 more than the `width` terms of a dot product, and 8 times the `f64` error, are safety margins.
        let gamma = (width + 8.0) * UNIT_ROUNDOFF;
        let gamma = gamma / (1.0 - gamma.min(0.5));
        Self { metric, gamma, underflow: width * MIN_SUBNORMAL, f64_error: 8.0 * width * f64::EPSILON }
    }

    /// Computes what [`distance_bounds`] needs from a query row `a` with the Euclidean norm `norm`. The `f32`
    /// dot product with a stored row `b` is off by at most `gamma |a| |b| + underflow`. The value bounded has
    /// twice the dot product for Euclidean distances, and the dot product divided by `|a| |b|` for cosine
    /// distances. The error of the final distances in `f64` is added.
    pub(super) fn query_terms(&self, norm: f64) -> QueryTerms {
        let &Self { metric, gamma, underflow, f64_error } = self;
        match metric {
            DistanceMetric::Euclidean => QueryTerms {
                scale: 2.0,
                error_slope: 2.0 * gamma * norm,
                error_offset: 2.0 * underflow + f64_error * norm * norm,
            },
            DistanceMetric::Cosine => QueryTerms {
                scale: inverse_or_zero(norm),
                error_slope: underflow * inverse_or_zero(norm),
                error_offset: gamma + f64_error,
            },
        }
    }

    /// Computes what [`distance_bounds`] needs from a stored row `b` with the Euclidean norm `norm`: the
    /// terms of the bounds on its distance to any query row. [`query_terms`](Self::query_terms) computes
    /// those of the query row and explains the errors.
    pub(super) fn stored_terms(&self, norm: f64) -> StoredTerms {
        match self.metric {
            DistanceMetric::Euclidean => StoredTerms {
                base: norm * norm,
                scale: 1.0,
                error_slope: norm,
                error_offset: self.f64_error * norm * norm,
            },
            DistanceMetric::Cosine => StoredTerms {
                base: 0.0,
                scale: inverse_or_zero(norm),
                error_slope: inverse_or_zero(norm),
                error_offset: 0.0,
            },
        }
    }
}

/// Returns the lower and the upper bound of a value that grows with the distance of a query row `a` and a
/// stored row `b`: `|b|² - 2 a·b` for Euclidean distances, `-a·b / (|a| |b|)` for cosine distances. They are
/// computed from the terms of the two rows and `product`, their dot product `a·b` with the rounding errors of
/// `f32`.
#[inline(always)]
pub(super) fn distance_bounds(query: QueryTerms, stored: StoredTerms, product: f32) -> (f64, f64) {
    let estimate = stored.base - f64::from(product) * query.scale * stored.scale;
    let error = query.error_slope * stored.error_slope + (query.error_offset + stored.error_offset);
    (estimate - error, estimate + error)
}

/// Whether a row is too far away: its lower bound exceeds `limit` and is finite. A bound that is not finite
/// comes from a product that overflowed `f32` and says nothing.
#[inline(always)]
pub(super) fn exceeds_limit(lower: f64, limit: f64) -> bool {
    (lower > limit) & (lower < f64::INFINITY)
}

/// The terms of several query rows side by side, so that a stored row is compared with all of them in SIMD
/// instructions, and for each the limit beyond which a row cannot be a neighbor.
#[derive(Clone)]
pub(super) struct QueryLanes {
    scale: [f64; LANES],
    error_slope: [f64; LANES],
    error_offset: [f64; LANES],
    limit: [f64; LANES],
}

impl QueryLanes {
    /// Copies the terms of up to [`LANES`] query rows for [`distance_bounds`], and their limits beyond which
    /// a stored row cannot be a neighbor, into arrays. Entry (lane) `i` is for row `i`, so that SIMD
    /// instructions compare a stored row with all of them.
    pub(super) fn from_queries(rows: impl Iterator<Item = (QueryTerms, f64)>) -> Self {
        let zeros = [0.0; LANES];
        // Unused lanes accept no neighbors.
        let mut lanes =
            Self { scale: zeros, error_slope: zeros, error_offset: zeros, limit: [f64::NEG_INFINITY; LANES] };
        for (i, (QueryTerms { scale, error_slope, error_offset }, limit)) in rows.enumerate() {
            (lanes.scale[i], lanes.error_slope[i], lanes.error_offset[i], lanes.limit[i]) =
                (scale, error_slope, error_offset, limit);
        }
        lanes
    }

    /// Whether a stored row may be one of the nearest neighbors of any of these query rows: whether the lower
    /// bound of its distance is within the limit of one of them. `stored` has its terms for the bounds,
    /// `products` its dot products with the query rows. Most stored rows fail this test for all query rows at
    /// once, which makes the search fast.
    #[inline(always)]
    pub(super) fn may_be_neighbor(&self, stored: StoredTerms, products: &[f32; LANES]) -> bool {
        let mut any = false;
        for (i, &product) in products.iter().enumerate() {
            let query = QueryTerms {
                scale: self.scale[i],
                error_slope: self.error_slope[i],
                error_offset: self.error_offset[i],
            };
            // `.0` is the lower bound.
            any |= !exceeds_limit(distance_bounds(query, stored, product).0, self.limit[i]);
        }
        any
    }
}
