//! What a product in `f32` tells of a distance: a value that grows with it, and how far off that may be.

use crate::metric::{Metric, inverse};

/// Rows asked for that are looked at side by side: two AVX-512 registers of `f64`.
pub(super) const LANES: usize = 16;
/// Half the distance between 1 and the next `f32`.
const HALF_ULP: f64 = 1.0 / (1u64 << 24) as f64;
/// The smallest `f32` above 0: what a product that is below it may lose.
const SMALLEST: f64 = 1.401_298_464_324_817e-45;

/// The bounds for a metric and a width.
///
/// A sum of `F` products in any order is off by at most `γ |a| |b|`, `γ = F u / (1 - F u)` (Higham 2002, *Accuracy and
/// Stability of Numerical Algorithms*, section 3.1), and by what its products lose below the range of `f32`.
pub(super) struct Bounds {
    metric: Metric,
    /// `γ`.
    share: f64,
    /// What is lost below the range of `f32`.
    lost: f64,
    /// How far off the `f64` distances are that decide.
    exact: f64,
}

/// What the bounds take of a row that is asked for.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    scale: f64,
    slope: f64,
    rest: f64,
}

/// What the bounds take of a stored row.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    level: f64,
    scale: f64,
    slope: f64,
    rest: f64,
}

impl Bounds {
    pub(super) fn new(metric: Metric, width: usize) -> Self {
        let width = width as f64;
        let share = (width + 8.0) * HALF_ULP;
        let share = share / (1.0 - share.min(0.5));
        Self { metric, share, lost: width * SMALLEST, exact: 8.0 * width * f64::EPSILON }
    }

    /// Of a row of length `norm`.
    pub(super) fn asked(&self, norm: f64) -> Asked {
        let &Self { metric, share, lost, exact } = self;
        match metric {
            Metric::Euclidean => {
                Asked { scale: 2.0, slope: 2.0 * share * norm, rest: 2.0 * lost + exact * norm * norm }
            }
            Metric::Cosine => {
                Asked { scale: inverse(norm), slope: lost * inverse(norm), rest: share + exact }
            }
        }
    }

    /// Of a row of length `norm`.
    pub(super) fn stored(&self, norm: f64) -> Stored {
        match self.metric {
            Metric::Euclidean => {
                Stored { level: norm * norm, scale: 1.0, slope: norm, rest: self.exact * norm * norm }
            }
            Metric::Cosine => Stored { level: 0.0, scale: inverse(norm), slope: inverse(norm), rest: 0.0 },
        }
    }
}

/// The bounds from two rows and their product.
#[inline(always)]
pub(super) fn bounds(asked: Asked, stored: Stored, product: f32) -> (f64, f64) {
    let middle = stored.level - f64::from(product) * asked.scale * stored.scale;
    let error = asked.slope * stored.slope + (asked.rest + stored.rest);
    (middle - error, middle + error)
}

/// Whether a lower bound is one, and larger than `limit`: it is none where a product left the range of `f32`.
#[inline(always)]
pub(super) fn is_beyond(lower: f64, limit: f64) -> bool {
    (lower > limit) & (lower < f64::INFINITY)
}

/// Rows that are asked for, side by side, each with how far its neighbours may be.
#[derive(Clone)]
pub(super) struct Lanes {
    scale: [f64; LANES],
    slope: [f64; LANES],
    rest: [f64; LANES],
    limit: [f64; LANES],
}

impl Lanes {
    /// Up to [`LANES`] rows.
    pub(super) fn of(rows: impl Iterator<Item = (Asked, f64)>) -> Self {
        let zeros = [0.0; LANES];
        // Nothing is near a lane without a row.
        let mut lanes = Self { scale: zeros, slope: zeros, rest: zeros, limit: [f64::NEG_INFINITY; LANES] };
        for (i, (Asked { scale, slope, rest }, limit)) in rows.enumerate() {
            (lanes.scale[i], lanes.slope[i], lanes.rest[i], lanes.limit[i]) = (scale, slope, rest, limit);
        }
        lanes
    }

    /// Whether a stored row may be a neighbour of any of the rows.
    #[inline(always)]
    pub(super) fn may_neighbour(&self, stored: Stored, products: &[f32; LANES]) -> bool {
        let mut may = false;
        for (i, &product) in products.iter().enumerate() {
            let asked = Asked { scale: self.scale[i], slope: self.slope[i], rest: self.rest[i] };
            may |= !is_beyond(bounds(asked, stored, product).0, self.limit[i]);
        }
        may
    }
}
