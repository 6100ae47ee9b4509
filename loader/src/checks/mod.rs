//! What is odd about photos and classes, before anything is learned from them.
//!
//! [`inspect`] tells how a photo is stored without decoding it; whether it can be read, [`decode`](crate::decode()) tells.
//! [`similar_names`] finds classes that may be one, [`SizeStats`] photos that are far from the others' size or no shape for a
//! network.

mod headers;
mod names;
mod sizes;

use std::fmt;

pub use names::{NameDifference, SimilarNames, similar_names};
pub use sizes::{MAX_ASPECT_RATIO, MIN_SIDE, SizeStats};

/// How a photo is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// `JPEG`, `PNG`, `WebP`, `GIF`, `BMP` or `TIFF`, by the content.
    pub format: &'static str,
    /// Width and height in pixels, as stored: before it is turned upright.
    pub size: (u32, u32),
    /// What a pixel consists of.
    pub mode: ColorMode,
    /// Pictures in the file: frames of an animation, or pages of a TIFF.
    pub frames: usize,
    /// The EXIF orientation, 1 to 8; 1 where there is none or an unknown one.
    pub orientation: u8,
}

/// What a pixel consists of, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ColorMode {
    /// The kind of colours.
    pub color_space: ColorSpace,
    /// Whether pixels may be transparent.
    pub transparent: bool,
    /// Bits of a value.
    pub bits: u8,
    /// Whether values are floating-point numbers.
    pub is_float: bool,
}

/// A kind of colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ColorSpace {
    /// Brightness alone, or black and white.
    Gray,
    /// Numbers of colours in a table.
    Palette,
    /// Red, green, blue, or what becomes these (`YCbCr`).
    Rgb,
    /// Four inks.
    Cmyk,
    /// Others: `Lab`, say.
    Other,
}

impl ColorMode {
    /// What most photos are: RGB with 8 bits and nothing else.
    #[must_use]
    pub fn is_rgb8(self) -> bool {
        self == Self { color_space: ColorSpace::Rgb, transparent: false, bits: 8, is_float: false }
    }
}

impl fmt::Display for ColorMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_float {
            f.write_str("floating-point ")?;
        } else if self.bits != 8 {
            write!(f, "{}-bit ", self.bits)?;
        }
        f.write_str(match self.color_space {
            ColorSpace::Gray => "grey",
            ColorSpace::Palette => "palette",
            ColorSpace::Rgb => "RGB",
            ColorSpace::Cmyk => "CMYK",
            ColorSpace::Other => "other colours",
        })?;
        if self.transparent { f.write_str(", transparent") } else { Ok(()) }
    }
}

/// How a photo is stored, by its header; none for what is no photo of a known format or has no whole header. Nothing is
/// decoded, and what lies behind the header may be damaged.
///
/// ```
/// use headstock_loader::checks::inspect;
///
/// let mut file = std::io::Cursor::new(Vec::new());
/// image::GrayImage::new(4, 3).write_to(&mut file, image::ImageFormat::Png)?;
/// let photo = inspect(file.get_ref()).ok_or("no photo")?;
/// assert_eq!((photo.format, photo.size, photo.frames), ("PNG", (4, 3), 1));
/// assert_eq!(photo.mode.to_string(), "grey");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn inspect(bytes: &[u8]) -> Option<Inspection> {
    headers::read(bytes)
}

#[cfg(test)]
mod tests;
