//! The size that an image is resized to.

use serde::{Deserialize, Serialize};

/// The size that an image is resized to before its center is cropped. Written as one number or as `[height,
/// width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Resize {
    /// The length of the short side, in pixels; the long side keeps its ratio.
    ShortSide(u32),
    /// Height and width, in pixels: the ratio of the sides changes.
    BothSides([u32; 2]),
}

impl From<u32> for Resize {
    fn from(short_side: u32) -> Self {
        Self::ShortSide(short_side)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_short_side_and_two_are_height_and_width() {
        for (json, resize) in [("256", Resize::from(256)), ("[224,256]", Resize::BothSides([224, 256]))] {
            assert_eq!(serde_json::from_str::<Resize>(json).unwrap(), resize);
            assert_eq!(serde_json::to_string(&resize).unwrap(), json);
        }
        for json in ["\"256\"", "[224]", "-1", "null", "[1, 2, 3]"] {
            assert!(serde_json::from_str::<Resize>(json).is_err(), "{json}");
        }
    }
}
