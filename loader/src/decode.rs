//! Decodes the bytes of a photo to RGB pixels.
//!
//! The rules:
//!
//! - The format is detected from the content, not from the file name.
//! - The EXIF orientation is applied (JPEG, PNG, WebP, TIFF).
//! - Only the first frame of an animation and the first page of a multi-page file are decoded.
//! - Gray becomes RGB. CMYK is converted without a color profile, as in Pillow.
//! - Transparent pixels are blended over white: `(v a + 255 (255 - a)) / 255`, rounded.
//! - 16-bit values become 8-bit by rounding `v / 257`; floating-point values are clamped to `[0, 1]`.
//! - A truncated or damaged file is an error, never a half-gray photo. Bytes after a complete photo are
//!   ignored.
//!
//! The pixels equal Pillow's in every format, except for CMYK: a TIFF differs by at most 1, a JPEG by a few
//! levels, because its decoder rounds differently. TIFFs with a palette and JPEGs that are lossless, 12-bit
//! or arithmetically coded are not supported; the error says so.
//!
//! A [`LazyImage`] knows a photo's size before decoding it, and decodes only what is needed ([`DecodeMode`]).

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

/// Why a photo cannot be read or decoded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The shard that holds the photo is damaged.
    #[error("{0}")]
    Shard(String),
    /// The file has no bytes.
    #[error("the file is empty")]
    Empty,
    /// The content is not in a supported format.
    #[error("not a photo of a known format (JPEG, PNG, WebP, GIF, BMP, TIFF)")]
    UnknownFormat,
    /// The photo has more pixels than allowed.
    #[error("{width} x {height} pixels are more than `data.max_pixels` = {max_pixels}")]
    TooLarge {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// The maximum number of pixels.
        max_pixels: u64,
    },
    /// The file is damaged or truncated, or uses a feature that the decoder does not support.
    #[error("{format}: {message}")]
    Damaged {
        /// The detected format.
        format: &'static str,
        /// The decoder's message.
        message: String,
    },
}

impl DecodeError {
    /// Whether the file ends too early; another copy of it may be complete.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        matches!(self, Self::Damaged { message, .. } if message == TRUNCATED)
    }
}

/// The message for a truncated file of any format.
const TRUNCATED: &str = "the file is cut short";

/// Decodes a photo to upright RGB pixels `[H, W, 3]`, by the rules of [this module](self).
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
/// [`DecodeError`] if the photo cannot be decoded. A photo with more than `max_pixels` pixels is rejected by
/// its header, before its pixels are allocated.
pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<RgbImage, DecodeError> {
    LazyImage::open(bytes, max_pixels)?.decode()
}

/// Checks a photo without decoding it: its format is supported, it has at most `max_pixels` pixels, and a
/// JPEG, PNG or WebP is not truncated. This takes about 1/50 of the time of [`decode`], which finds all other
/// damage.
///
/// ```
/// use headstock_loader::probe;
///
/// let mut file = std::io::Cursor::new(Vec::new());
/// image::RgbImage::new(4, 3).write_to(&mut file, image::ImageFormat::Jpeg)?;
/// let bytes = file.get_ref();
/// assert!(probe(bytes, 12).is_ok() && probe(bytes, 11).is_err());
/// assert_eq!(probe(&bytes[..bytes.len() - 2], 12).unwrap_err().to_string(), "JPEG: the file is cut short");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The error that [`decode`] would return as well.
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

/// The format of `bytes`, if it is supported.
fn detect_format(bytes: &[u8]) -> Option<ImageFormat> {
    if bytes.starts_with(b"II+\0") || bytes.starts_with(b"MM\0+") {
        return Some(ImageFormat::Tiff); // BigTIFF
    }
    let format = image::guess_format(bytes).ok()?;
    (!format_name(format).is_empty()).then_some(format)
}

/// The display name of a supported format; empty for others.
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

/// Runs a decoder and turns a panic into an error. Third-party decoders index slices by values from untrusted
/// files. Millions of mutated files have not caused a panic; if one does, only that photo fails and not the
/// whole run.
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

/// The message of an `image` error, without the format name that its `Display` adds.
fn decoder_message(error: &ImageError) -> String {
    match error {
        ImageError::Decoding(error) => {
            let message = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            // The GIF decoder's error has no kind to match on.
            if message == "Unexpected End of File" { TRUNCATED.into() } else { message }
        }
        ImageError::Unsupported(error) => match error.kind() {
            UnsupportedErrorKind::GenericFeature(feature) => feature,
            _ => error.to_string(),
        },
        ImageError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => TRUNCATED.into(),
        ImageError::Limits(_) => "decoding takes more memory than `data.max_pixels` allows".into(),
        _ => error.to_string(),
    }
}

/// Converts to 8-bit RGB; transparent pixels are blended over white.
fn into_rgb(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let rgba = image.into_rgba8();
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
