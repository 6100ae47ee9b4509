//! The ResNet family.

use std::fmt;
use std::str::FromStr;

/// A ResNet by its depth (He et al. 2016, with the stride in the 3 x 3 convolution as in torchvision).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// 18 layers, basic blocks.
    ResNet18,
    /// 34 layers, basic blocks.
    ResNet34,
    /// 50 layers, bottleneck blocks.
    ResNet50,
    /// 101 layers, bottleneck blocks.
    ResNet101,
    /// 152 layers, bottleneck blocks.
    ResNet152,
}

/// Inner channels of the blocks of each stage (torchvision's `planes`).
pub(crate) const STAGE_WIDTHS: [usize; 4] = [64, 128, 256, 512];

/// The smallest image height and width: the last stage divides each side by 32, and needs at least one
/// position.
pub(crate) const MIN_SIDE: usize = 32;

impl Architecture {
    /// All architectures, by depth.
    pub const ALL: [Self; 5] =
        [Self::ResNet18, Self::ResNet34, Self::ResNet50, Self::ResNet101, Self::ResNet152];

    /// The name in torchvision and timm, `resnet50` for example.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"][self as usize]
    }

    /// Number of residual blocks in each of the four stages (torchvision's `layer1` to `layer4`).
    #[must_use]
    pub fn depths(self) -> [usize; 4] {
        match self {
            Self::ResNet18 => [2, 2, 2, 2],
            Self::ResNet34 | Self::ResNet50 => [3, 4, 6, 3],
            Self::ResNet101 => [3, 4, 23, 3],
            Self::ResNet152 => [3, 8, 36, 3],
        }
    }

    /// Whether the blocks are bottlenecks (1 x 1, 3 x 3, 1 x 1) rather than basic (3 x 3, 3 x 3).
    #[must_use]
    pub fn has_bottlenecks(self) -> bool {
        !matches!(self, Self::ResNet18 | Self::ResNet34)
    }

    /// Output channels of a block divided by its inner channels (torchvision's `expansion`).
    #[must_use]
    pub fn expansion(self) -> usize {
        if self.has_bottlenecks() { 4 } else { 1 }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Architecture {
    type Err = ();

    /// Parses the name in torchvision and timm, `resnet50` for example.
    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|a| a.as_str() == name).ok_or(())
    }
}
