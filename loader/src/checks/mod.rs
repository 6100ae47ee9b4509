//! Checks of images and class names before training.
//!
//! [`inspect`] reads an image header without decoding the pixels; [`decode`](crate::decode()) tells whether
//! the image can be read. [`similar_names`] finds classes that may be duplicates, [`SizeStats`] images of
//! unusual size or shape.

mod headers;
mod names;
mod sizes;

use std::fmt;

pub use headers::inspect;
pub use names::{NameDifference, SimilarNames, similar_names};
pub use sizes::{MAX_ASPECT_RATIO, MIN_SIDE, SizeStats};

/// How an image is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// `JPEG`, `PNG`, `WebP`, `GIF`, `BMP`, `TIFF` or `PNM`, detected from the content.
    pub format: &'static str,
    /// Stored width and height in pixels, before EXIF orientation is applied.
    pub size: (u32, u32),
    /// Pixel format.
    pub mode: ColorMode,
    /// Number of frames of an animation, or of pages of a TIFF.
    pub frames: usize,
    /// EXIF orientation, 1 to 8; 1 if missing or unknown.
    pub orientation: u8,
}

/// The pixel format in which an image is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ColorMode {
    /// Color space.
    pub color_space: ColorSpace,
    /// Whether there is an alpha channel or a transparent color.
    pub transparent: bool,
    /// Bits per channel.
    pub bits: u8,
    /// Whether values are floating-point.
    pub is_float: bool,
}

/// The color space in which an image is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ColorSpace {
    /// Grayscale, or black and white.
    Gray,
    /// Indices into a color table.
    Palette,
    /// RGB or `YCbCr`.
    Rgb,
    /// CMYK.
    Cmyk,
    /// Any other, such as `Lab`.
    Other,
}

impl ColorMode {
    /// Whether it is 8-bit RGB without transparency, the usual format.
    #[must_use]
    pub fn is_rgb8(self) -> bool {
        self == Self { color_space: ColorSpace::Rgb, transparent: false, bits: 8, is_float: false }
    }
}

impl fmt::Display for ColorMode {
    /// Writes the color mode for messages, such as `16-bit gray` or `RGB, transparent`; the usual 8 bits are
    /// not mentioned.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_float {
            f.write_str("floating-point ")?;
        } else if self.bits != 8 {
            write!(f, "{}-bit ", self.bits)?;
        }
        f.write_str(match self.color_space {
            ColorSpace::Gray => "gray",
            ColorSpace::Palette => "palette",
            ColorSpace::Rgb => "RGB",
            ColorSpace::Cmyk => "CMYK",
            ColorSpace::Other => "other colors",
        })?;
        if self.transparent { f.write_str(", transparent") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
