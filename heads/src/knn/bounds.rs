//! Error bounds on distances that are computed from `f32` products.

use crate::metric::{Metric, inverse_or_zero};

/// Query rows processed together: two AVX-512 registers of `f64`.
pub(super) const LANES: usize = 16;
/// Half the distance between 1 and the next `f32`: the unit roundoff `u`.
const UNIT_ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;
/// The smallest positive `f32`: the most that a product loses to underflow.
const MIN_SUBNORMAL: f64 = 1.401_298_464_324_817e-45;

/// The error parameters for a metric and a row width.
///
/// A sum of `F` products in any order is off by at most `γ |a| |b|`, `γ = F u / (1 - F u)` (Higham 2002,
/// *Accuracy and Stability of Numerical Algorithms*, section 3.1), plus what its products lose to underflow.
pub(super) struct BoundParams {
    metric: Metric,
    /// `γ`.
    gamma: f64,
    /// Largest loss of a dot product to underflow.
    underflow: f64,
    /// Relative error of the `f64` distances that decide.
    f64_error: f64,
}

/// The terms of the bounds that depend on a query row.
#[derive(Clone, Copy)]
pub(super) struct QueryTerms {
    scale: f64,
    error_slope: f64,
    error_offset: f64,
}

/// The terms of the bounds that depend on a stored row.
#[derive(Clone, Copy)]
pub(super) struct StoredTerms {
    base: f64,
    scale: f64,
    error_slope: f64,
    error_offset: f64,
}

impl BoundParams {
    pub(super) fn new(metric: Metric, width: usize) -> Self {
        let width = width as f64;
        let gamma = (width + 8.0) * UNIT_ROUNDOFF;
        let gamma = gamma / (1.0 - gamma.min(0.5));
        Self { metric, gamma, underflow: width * MIN_SUBNORMAL, f64_error: 8.0 * width * f64::EPSILON }
    }

    /// The terms of a query row with this norm.
    pub(super) fn query_terms(&self, norm: f64) -> QueryTerms {
        let &Self { metric, gamma, underflow, f64_error } = self;
        match metric {
            Metric::Euclidean => QueryTerms {
                scale: 2.0,
                error_slope: 2.0 * gamma * norm,
                error_offset: 2.0 * underflow + f64_error * norm * norm,
            },
            Metric::Cosine => QueryTerms {
                scale: inverse_or_zero(norm),
                error_slope: underflow * inverse_or_zero(norm),
                error_offset: gamma + f64_error,
            },
        }
    }

    /// The terms of a stored row with this norm.
    pub(super) fn stored_terms(&self, norm: f64) -> StoredTerms {
        match self.metric {
            Metric::Euclidean => StoredTerms {
                base: norm * norm,
                scale: 1.0,
                error_slope: norm,
                error_offset: self.f64_error * norm * norm,
            },
            Metric::Cosine => StoredTerms {
                base: 0.0,
                scale: inverse_or_zero(norm),
                error_slope: inverse_or_zero(norm),
                error_offset: 0.0,
            },
        }
    }
}

/// Lower and upper bound (up to a monotonic transform of the distance) from the terms of two rows and their
/// `f32` product.
#[inline(always)]
pub(super) fn distance_bounds(query: QueryTerms, stored: StoredTerms, product: f32) -> (f64, f64) {
    let middle = stored.base - f64::from(product) * query.scale * stored.scale;
    let error = query.error_slope * stored.error_slope + (query.error_offset + stored.error_offset);
    (middle - error, middle + error)
}

/// True if the lower bound is finite and exceeds `limit`; it is not finite when a product overflowed `f32`.
#[inline(always)]
pub(super) fn exceeds_limit(lower: f64, limit: f64) -> bool {
    (lower > limit) & (lower < f64::INFINITY)
}

/// Several query rows side by side, each with the limit of its neighbors' distances.
#[derive(Clone)]
pub(super) struct QueryLanes {
    scale: [f64; LANES],
    error_slope: [f64; LANES],
    error_offset: [f64; LANES],
    limit: [f64; LANES],
}

impl QueryLanes {
    /// Packs up to [`LANES`] rows.
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

    /// Whether a stored row may be a neighbor of any of the query rows.
    #[inline(always)]
    pub(super) fn may_be_neighbor(&self, stored: StoredTerms, products: &[f32; LANES]) -> bool {
        let mut any = false;
        for (i, &product) in products.iter().enumerate() {
            let query = QueryTerms {
                scale: self.scale[i],
                error_slope: self.error_slope[i],
                error_offset: self.error_offset[i],
            };
            any |= !exceeds_limit(distance_bounds(query, stored, product).0, self.limit[i]);
        }
        any
    }
}
