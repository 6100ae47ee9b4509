//! The filter of a resize.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Pillow's resampling filters. All except `Nearest` are antialiased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Resampling {
    /// The nearest pixel.
    Nearest,
    /// Triangle filter with support 1.
    Bilinear,
    /// Cubic filter with a = -0.5 and support 2.
    Bicubic,
    /// Windowed sinc with support 3.
    Lanczos,
}

impl Resampling {
    /// All filters.
    pub const ALL: [Self; 4] = [Self::Nearest, Self::Bilinear, Self::Bicubic, Self::Lanczos];
}
