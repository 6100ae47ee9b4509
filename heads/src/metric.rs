//! Distance metrics between photos.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the distance between the features of two photos is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DistanceMetric {
    /// Euclidean distance: the norm of the difference of the features.
    #[default]
    Euclidean,
    /// Cosine distance: 1 minus the cosine of the angle between the features, whose norms do not matter.
    Cosine,
}

/// `1 / norm`, or 0 for a norm of 0, so that a row of zeros has the cosine 0 to every row.
pub(crate) fn inverse_or_zero(norm: f64) -> f64 {
    if norm == 0.0 { 0.0 } else { 1.0 / norm }
}
