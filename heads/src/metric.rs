//! Distance metrics between photos.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The distance between the features of two photos.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Euclidean distance.
    #[default]
    Euclidean,
    /// Cosine distance; the norm of the features does not matter.
    Cosine,
}

/// `1 / norm`, or 0 for a norm of 0.
pub(crate) fn inverse_or_zero(norm: f64) -> f64 {
    if norm == 0.0 { 0.0 } else { 1.0 / norm }
}
