//! How near two photos are.

use serde::{Deserialize, Serialize};

/// How near two photos are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// By the distance between their features.
    #[default]
    Euclidean,
    /// By the angle between their features; how large those are does not count.
    Cosine,
}

/// What brings a length to 1; a length of 0 stays.
pub(crate) fn inverse_or_zero(norm: f64) -> f64 {
    if norm == 0.0 { 0.0 } else { 1.0 / norm }
}
