//! How images are decoded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How images are decoded.
///
/// A number stands for the options with this `max_pixels` and the defaults of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DecodeOptions {
    /// Maximum number of pixels of an image. Larger images are refused by their header, because a small file
    /// can decode to gigabytes. The default is 200 million.
    pub max_pixels: u64,
    /// Whether JPEGs may be decoded at a reduced size.
    pub decode: DecodeMode,
    /// What happens to JPEGs and PNGs that end too early.
    pub truncated: TruncatedFiles,
    /// What happens to colors of another color space than sRGB.
    pub color: ColorProfiles,
    /// How 16-bit gray images become 8-bit.
    pub gray16: Gray16,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            // Twice the largest sensor of a phone; 600 MB when decoded.
            max_pixels: 200_000_000,
            decode: DecodeMode::default(),
            truncated: TruncatedFiles::default(),
            color: ColorProfiles::default(),
            gray16: Gray16::default(),
        }
    }
}

impl DecodeOptions {
    /// Whether these options give some images other pixels than the defaults do, or pixels at all:
    /// [`LazyImage::pixel_changes`](super::LazyImage::pixel_changes) says which images. It leaves out `decode`,
    /// which changes the pixels of any image.
    #[must_use]
    pub fn may_change_pixels(&self) -> bool {
        !self.truncated.is_error() || !self.color.is_ignore() || !self.gray16.is_error()
    }
}

impl From<u64> for DecodeOptions {
    /// The options with this `max_pixels` and the defaults of the others.
    fn from(max_pixels: u64) -> Self {
        Self { max_pixels, ..Self::default() }
    }
}

/// The size at which photos are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DecodeMode {
    /// Photos are decoded at full size.
    #[default]
    Exact,
    /// JPEGs are decoded at 1/2, 1/4 or 1/8 of their size: the smallest at which the decoded region is still
    /// at least as wide and as high as the size that it is then resized to (as in Pillow's `draft`). A photo
    /// of 12 megapixels takes a fraction of the time. Pixels differ slightly, so features are cached
    /// separately.
    Scaled,
}

impl DecodeMode {
    /// Whether this is the default mode, which written configs and cache keys leave out.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        *self == Self::Exact
    }
}

/// What happens to JPEGs and PNGs that end too early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TruncatedFiles {
    /// They cannot be read.
    #[default]
    Error,
    /// What is there is decoded, as Pillow does with `ImageFile.LOAD_TRUNCATED_IMAGES`: a photo that lacks
    /// only its end marker is complete; missing rows of a JPEG are gray, those of a PNG black (white if it is
    /// transparent).
    Accept,
}

impl TruncatedFiles {
    /// Whether this is the default, which written configs leave out.
    #[must_use]
    pub fn is_error(&self) -> bool {
        *self == Self::Error
    }
}

/// What happens to the colors of photos with an embedded color profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ColorProfiles {
    /// The profile is ignored, as Pillow and torchvision do: the stored values count as sRGB.
    #[default]
    Ignore,
    /// Colors of another color space, such as Display P3 of telephones or Adobe RGB, are converted to sRGB
    /// (relative colorimetric). A profile that cannot be read is ignored, and so are the profiles of CMYK
    /// photos.
    Srgb,
}

impl ColorProfiles {
    /// Whether this is the default, which written configs leave out.
    #[must_use]
    pub fn is_ignore(&self) -> bool {
        *self == Self::Ignore
    }
}

/// How 16-bit gray photos become 8-bit: X-rays, microscopy, depth maps. Their values have no common meaning: Pillow and
/// torchvision make all values above 255 white, which leaves nothing of most such photos, and others scale.
///
/// 16-bit RGB is not affected: as in Pillow, the upper 8 bits of a value count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Gray16 {
    /// They cannot be read.
    #[default]
    Error,
    /// Value `v` becomes `v / 257`, rounded.
    Scale,
    /// Values above 255 become 255, as in Pillow's `convert("RGB")`.
    Clip,
}

impl Gray16 {
    /// Whether this is the default, which written configs leave out.
    #[must_use]
    pub fn is_error(&self) -> bool {
        *self == Self::Error
    }
}

/// What [`DecodeOptions`] change in the pixels of an image, for keys of caches. With its default, the image has the pixels
/// that the default options give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PixelChanges {
    /// The file ends too early, and what is there is decoded.
    pub truncated: bool,
    /// Colors are converted to sRGB.
    pub srgb: bool,
    /// How 16-bit gray becomes 8-bit; [`Gray16::Error`] for other images.
    pub gray16: Gray16,
}

impl PixelChanges {
    /// The changes as text, empty if there are none.
    #[must_use]
    pub fn key(self) -> String {
        let gray16 = match self.gray16 {
            Gray16::Error => None,
            Gray16::Scale => Some("scaled"),
            Gray16::Clip => Some("clipped"),
        };
        let names = [self.truncated.then_some("truncated"), self.srgb.then_some("sRGB"), gray16];
        names.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}
