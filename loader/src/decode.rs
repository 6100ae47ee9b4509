//! Bytes of a photo to RGB pixels.
//!
//! The rules:
//!
//! - The format is told by the content, not by the name.
//! - The EXIF orientation is applied (JPEG, PNG, WebP, TIFF).
//! - Of an animation the first frame is taken, of several pages the first.
//! - Grey becomes RGB. CMYK is converted without a colour profile, as Pillow does.
//! - What is transparent is laid over white: `(v a + 255 (255 - a)) / 255`, rounded.
//! - 16 bits become 8 by rounding `v / 257`; floating point is cut to `[0, 1]`.
//! - A file that is cut short or damaged is an error, never a half-grey photo. What lies behind a whole photo does not
//!   matter.
//!
//! All formats give Pillow's pixels, but CMYK ones: those of a TIFF within 1, those of a JPEG nearly, for the decoder that they go to
//! rounds differently. Not read are TIFFs with a palette and JPEGs that are lossless, of 12 bits or arithmetically coded: they
//! give an error that says so.
//!
//! A [`LazyImage`] knows a photo's size before it is decoded, and decodes what is needed of it ([`DecodeMode`]).

mod chunks;
mod jpeg;
mod lazy_image;

use std::any::Any;
use std::error::Error as _;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::error::UnsupportedErrorKind;
use image::{DynamicImage, ImageError, ImageFormat, RgbImage};
use thiserror::Error;

pub(crate) use self::lazy_image::DecodedRegion;
pub use self::lazy_image::{Crop, DecodeMode, LazyImage};

/// Why a photo cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The shard that it is a record of is damaged.
    #[error("{0}")]
    Shard(String),
    /// There are no bytes.
    #[error("the file is empty")]
    Empty,
    /// The content is of no known format.
    #[error("not a photo of a known format (JPEG, PNG, WebP, GIF, BMP, TIFF)")]
    UnknownFormat,
    /// More pixels than allowed.
    #[error("{width} x {height} pixels are more than `data.max_pixels` = {max_pixels}")]
    TooLarge {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// The limit.
        max_pixels: u64,
    },
    /// The file is damaged, cut short, or uses what the decoder does not know.
    #[error("{format}: {message}")]
    Damaged {
        /// The format that the content claims.
        format: &'static str,
        /// What the decoder says.
        message: String,
    },
}

impl DecodeError {
    /// Whether the photo ends too early: another copy of it may be whole.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        matches!(self, Self::Damaged { message, .. } if message == TRUNCATED)
    }
}

/// What is said of every format that ends too early.
const TRUNCATED: &str = "the file is cut short";

/// Decodes a photo to RGB, `[H, W, 3]`, upright, by the rules of [this module](self).
///
/// ```
/// use headstock_loader::decode;
///
/// let mut file = std::io::Cursor::new(Vec::new());
/// image::RgbImage::new(4, 3).write_to(&mut file, image::ImageFormat::Png)?;
/// let photo = decode(file.get_ref(), 1_000_000)?;
/// assert_eq!(photo.dimensions(), (4, 3));
///
/// let refused = decode(file.get_ref(), 11).unwrap_err();
/// assert_eq!(refused.to_string(), "4 x 3 pixels are more than `data.max_pixels` = 11");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`DecodeError`]; a photo of more than `max_pixels` is refused by its header, before its pixels are allocated.
pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<RgbImage, DecodeError> {
    LazyImage::open(bytes, max_pixels)?.decode()
}

/// Looks at a photo as far as that takes no decoding: whether its format is known, it has at most `max_pixels`, and a
/// JPEG, PNG or WebP has its end. It costs a fiftieth of [`decode`], which finds the rest.
///
/// ```
/// use headstock_loader::glance;
///
/// let mut file = std::io::Cursor::new(Vec::new());
/// image::RgbImage::new(4, 3).write_to(&mut file, image::ImageFormat::Jpeg)?;
/// let bytes = file.get_ref();
/// assert!(glance(bytes, 12).is_ok() && glance(bytes, 11).is_err());
/// assert_eq!(glance(&bytes[..bytes.len() - 2], 12).unwrap_err().to_string(), "JPEG: the file is cut short");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those that [`decode`] would give as well.
pub fn probe(bytes: &[u8], max_pixels: u64) -> Result<(), DecodeError> {
    LazyImage::open(bytes, max_pixels).map(|_| ())
}

fn require_known_format(bytes: &[u8]) -> Result<ImageFormat, DecodeError> {
    if bytes.is_empty() {
        Err(DecodeError::Empty)
    } else {
        detect_format(bytes).ok_or(DecodeError::UnknownFormat)
    }
}

/// One of the formats that are read.
fn detect_format(bytes: &[u8]) -> Option<ImageFormat> {
    if bytes.starts_with(b"II+\0") || bytes.starts_with(b"MM\0+") {
        return Some(ImageFormat::Tiff); // with offsets of 64 bits
    }
    let format = image::guess_format(bytes).ok()?;
    (!format_name(format).is_empty()).then_some(format)
}

fn format_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Gif => "GIF",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Tiff => "TIFF",
        _ => "",
    }
}

/// The decoders are others' code that reads strangers' files, and they index slices by what those say. Mutated files by
/// the million have not made one panic; should one, the photo is at fault, and not a run over many thousand of them.
fn without_panic<T>(
    format: &'static str,
    decode: impl FnOnce() -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|panic: Box<dyn Any + Send>| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(DecodeError::Damaged { format, message: format!("the decoder panicked: {message}") })
    })
}

fn check_size(format: &'static str, width: u64, height: u64, max_pixels: u64) -> Result<(), DecodeError> {
    if width == 0 || height == 0 {
        return Err(DecodeError::Damaged { format, message: format!("{width} x {height} pixels") });
    }
    if width.saturating_mul(height) > max_pixels {
        return Err(DecodeError::TooLarge { width, height, max_pixels });
    }
    Ok(())
}

fn damaged(format: ImageFormat, error: &ImageError) -> DecodeError {
    DecodeError::Damaged { format: format_name(format), message: decoder_message(error) }
}

/// What `image` says, without the format's name around it.
fn decoder_message(error: &ImageError) -> String {
    match error {
        ImageError::Decoding(error) => {
            let message = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            // The GIF decoder's error has no kind that can be asked for.
            if message == "Unexpected End of File" { TRUNCATED.into() } else { message }
        }
        ImageError::Unsupported(error) => match error.kind() {
            UnsupportedErrorKind::GenericFeature(feature) => feature,
            _ => error.to_string(),
        },
        ImageError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => TRUNCATED.into(),
        ImageError::Limits(_) => "it takes more memory than `data.max_pixels` allows for".into(),
        _ => error.to_string(),
    }
}

fn into_rgb(photo: DynamicImage) -> RgbImage {
    if !photo.color().has_alpha() {
        return photo.into_rgb8();
    }
    let rgba = photo.into_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (target, source) in rgb.pixels_mut().zip(rgba.pixels()) {
        let alpha = u32::from(source.0[3]);
        let over_white = |value: u8| ((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        target.0 = [over_white(source.0[0]), over_white(source.0[1]), over_white(source.0[2])];
    }
    rgb
}

#[cfg(test)]
mod tests;
