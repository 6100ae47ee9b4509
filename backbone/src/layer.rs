//! Layers whose output can be used as features.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, STAGE_WIDTHS};

/// The layer whose output is used as features.
///
/// A layer before `avgpool` is averaged over its positions, so every photo gives one feature per channel. The
/// output has shape `[C, H', W']`: `H'` and `W'` are the height and width of the photo divided by 4 (`stem`,
/// `layer1`), 8 (`layer2`), 16 (`layer3`) or 32 (`layer4`), rounded up. For photos of 224 x 224 pixels:
///
/// | layer | ResNet-18, 34 | ResNet-50, 101, 152 |
/// |---|---|---|
/// | `stem` | `[64, 56, 56]` | `[64, 56, 56]` |
/// | `layer1` | `[64, 56, 56]` | `[256, 56, 56]` |
/// | `layer2` | `[128, 28, 28]` | `[512, 28, 28]` |
/// | `layer3` | `[256, 14, 14]` | `[1024, 14, 14]` |
/// | `layer4` | `[512, 7, 7]` | `[2048, 7, 7]` |
/// | `avgpool` | `[512]` | `[2048]` |
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum FeatureLayer {
    /// The output of the first convolution, BatchNorm, ReLU and max pool.
    Stem,
    /// The output of the first stage.
    Layer1,
    /// The output of the second stage.
    Layer2,
    /// The output of the third stage.
    Layer3,
    /// The output of the fourth stage.
    Layer4,
    /// The output of the fourth stage, averaged over its positions.
    #[default]
    Avgpool,
}

impl FeatureLayer {
    /// All layers, from the input to the output.
    pub const ALL: [Self; 6] =
        [Self::Stem, Self::Layer1, Self::Layer2, Self::Layer3, Self::Layer4, Self::Avgpool];

    /// The four stages of residual blocks, torchvision's `layer1` to `layer4`.
    pub(crate) const STAGES: [Self; 4] = [Self::Layer1, Self::Layer2, Self::Layer3, Self::Layer4];

    /// The name of the layer in config files and messages: `stem`, `layer1` .. `layer4`, `avgpool`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        ["stem", "layer1", "layer2", "layer3", "layer4", "avgpool"][self as usize]
    }

    /// The number of output channels of this layer, `C`, which is also the number of features.
    #[must_use]
    pub fn channels(self, architecture: Architecture) -> usize {
        match self {
            Self::Stem => 64,
            Self::Avgpool => Self::Layer4.channels(architecture),
            stage => STAGE_WIDTHS[stage as usize - 1] * architecture.expansion(),
        }
    }

    /// Height and width, `(H', W')`, of the output of this layer for images of `height` x `width` pixels;
    /// `(1, 1)` for `avgpool`.
    #[must_use]
    pub fn output_size(self, height: usize, width: usize) -> (usize, usize) {
        if self == Self::Avgpool {
            return (1, 1);
        }
        // The product of the strides: 4 up to `layer1`, then twice as much after each stage.
        let reduction = 2 << (self as usize).max(1);
        (height.div_ceil(reduction), width.div_ceil(reduction))
    }
}

impl fmt::Display for FeatureLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for FeatureLayer {
    type Err = String;

    /// Parses the name of a layer in config files, [`as_str`](Self::as_str). The error is a message that
    /// lists the names.
    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|layer| layer.as_str() == name).ok_or_else(|| {
            format!("there is no layer `{name}`: use one of {}", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}
