//! Decodes the bytes of an image file to RGB pixels.
//!
//! The rules:
//!
//! - The format is detected from the content, not from the file name.
//! - The EXIF orientation is applied (JPEG, PNG, WebP, TIFF).
//! - Only the first frame of an animation and the first page of a multi-page file are decoded.
//! - Gray becomes RGB. CMYK is converted without a color profile, as in Pillow.
//! - Transparent pixels are blended over white: `(v a + 255 (255 - a)) / 255`, rounded.
//! - Of 16-bit RGB the upper 8 bits of a value count (in a PNM, `v / 257` is rounded), as in Pillow. 16-bit gray is an
//!   error, unless [`Gray16`] asks for a conversion.
//! - Floating-point values are clamped to `[0, 1]`.
//! - A truncated or damaged file is an error, never a half-gray image, unless [`TruncatedFiles::Accept`] asks
//!   for what is there. Bytes after a complete image are ignored.
//! - Color profiles are ignored, unless [`ColorProfiles::Srgb`] asks for sRGB.
//!
//! The pixels equal Pillow's in every format, except for CMYK: a TIFF differs by at most 1, a JPEG by a few
//! levels, because its decoder rounds differently. TIFFs with a palette and JPEGs that are lossless, 12-bit
//! or arithmetically coded are not supported; the error says so.
//!
//! A [`LazyImage`] has an image's size before the pixels are decoded, and decodes only the region that is
//! needed, a JPEG also at a reduced scale.

mod chunks;
mod color;
#[cfg(feature = "heif")]
mod heif;
mod jpeg;
mod lazy_image;
mod options;
mod png_completion;
mod tiff_kind;
mod unsupported;

use std::any::Any;
use std::error::Error as _;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::error::UnsupportedErrorKind;
use image::{DynamicImage, GrayImage, ImageError, ImageFormat, RgbImage};
use thiserror::Error;

use self::color::ColorConversion;
pub use self::lazy_image::LazyImage;
pub use self::options::{ColorProfiles, DecodeMode, DecodeOptions, Gray16, PixelChanges, TruncatedFiles};
use self::unsupported::UnsupportedFormat;
pub(crate) use self::unsupported::is_heif_extension;
pub use self::unsupported::unsupported_image_format;
use crate::image_ref::ReadError;

/// Why an image cannot be read or decoded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes cannot be read, or there are none.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The content is in a format that is recognized but not decoded.
    #[error("the file is {description}: {advice}")]
    UnsupportedFormat {
        /// What the file is, with an article.
        description: &'static str,
        /// What to do about it.
        advice: &'static str,
    },
    /// The content is not in a supported format.
    #[error(
        "not a photo in a supported format (JPEG, PNG, WebP, GIF, BMP, TIFF or PNM): convert the file or leave \
         it out"
    )]
    UnknownFormat,
    /// The image has more pixels than allowed.
    #[error(
        "the photo has {width} x {height} pixels, more than `max_pixels` = {max_pixels} allows: make the photo \
         smaller or raise `max_pixels`"
    )]
    TooLarge {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// The maximum number of pixels.
        max_pixels: u64,
    },
    /// The image is 16-bit gray, and [`Gray16`] does not say how it becomes 8-bit.
    #[error(
        "the photo is 16-bit gray, and it is not clear how its values become 8-bit: choose to scale or to clip them, \
         or convert the photo to 8 bits"
    )]
    Gray16,
    /// The file is damaged or truncated, or uses a feature that the decoder does not support.
    #[error(
        "damaged or unsupported {format} file: {message}; copy or download the photo again, or convert it \
         with an image editor"
    )]
    Damaged {
        /// The detected format.
        format: &'static str,
        /// What the decoder found.
        message: String,
    },
}

impl DecodeError {
    /// Whether the file ends too early: then a different copy of the file may be complete.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        matches!(self, Self::Damaged { message, .. } if message == TRUNCATED)
    }
}

/// The message for a truncated file of any format.
const TRUNCATED: &str = "the end of the file is missing";

/// Decodes an image file to upright RGB pixels `[H, W, 3]`, by the rules of [this module](self).
///
/// ```
/// use headstock_loader::decode;
///
/// let mut file = std::io::Cursor::new(Vec::new());
/// image::RgbImage::new(4, 3).write_to(&mut file, image::ImageFormat::Png)?;
/// let image = decode(file.get_ref(), 1_000_000)?;
/// assert_eq!(image.dimensions(), (4, 3));
///
/// let error = decode(file.get_ref(), 11).unwrap_err().to_string();
/// assert!(error.starts_with("the photo has 4 x 3 pixels, more than `max_pixels` = 11 allows"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`DecodeError`] if the image cannot be decoded. An image with more than `max_pixels` pixels is rejected by
/// its header, before memory for the pixels is allocated.
pub fn decode(bytes: &[u8], options: impl Into<DecodeOptions>) -> Result<RgbImage, DecodeError> {
    LazyImage::open(bytes, options)?.decode()
}

/// Checks an image file without decoding it: the format is supported, there are at most `max_pixels` pixels,
/// and a JPEG, PNG or WebP is not truncated. This takes about 1/50 of the time of [`decode`], which finds all
/// other damage, so most unreadable files are found before the expensive work starts.
///
/// ```
/// use headstock_loader::probe;
///
/// let mut file = std::io::Cursor::new(Vec::new());
/// image::RgbImage::new(4, 3).write_to(&mut file, image::ImageFormat::Jpeg)?;
/// let bytes = file.get_ref();
/// assert!(probe(bytes, 12).is_ok() && probe(bytes, 11).is_err());
/// assert!(probe(&bytes[..bytes.len() - 2], 12).unwrap_err().is_truncated());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The [`DecodeError`] that [`decode`] would also return.
pub fn probe(bytes: &[u8], options: impl Into<DecodeOptions>) -> Result<(), DecodeError> {
    LazyImage::open(bytes, options).map(|_| ())
}

/// The format of an image file by its first bytes; an error if the file is empty or the format is not
/// supported.
fn detect_format(bytes: &[u8]) -> Result<ImageFormat, DecodeError> {
    if bytes.is_empty() {
        return Err(ReadError::Empty.into());
    }
    #[cfg(feature = "heif")]
    if unsupported::is_heif(bytes) {
        // Both have the same container; `image` has a name for one of them.
        return Ok(ImageFormat::Avif);
    }
    if let Some(UnsupportedFormat { description, advice, .. }) = unsupported::unsupported_format(bytes) {
        return Err(DecodeError::UnsupportedFormat { description, advice });
    }
    if bytes.starts_with(b"II+\0") || bytes.starts_with(b"MM\0+") {
        return Ok(ImageFormat::Tiff); // BigTIFF
    }
    // `image` takes any text that begins with `P1` to `P7`.
    let is_pnm =
        matches!(bytes, [b'P', b'1'..=b'6', next, ..] if next.is_ascii_whitespace() || *next == b'#');
    let is_supported = |format: &ImageFormat| match format {
        ImageFormat::Pnm => is_pnm,
        _ => !format_name(*format).is_empty(),
    };
    image::guess_format(bytes).ok().filter(is_supported).ok_or(DecodeError::UnknownFormat)
}

/// The name of a format for messages; empty if the format is not supported.
fn format_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Gif => "GIF",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Tiff => "TIFF",
        ImageFormat::Pnm => "PNM",
        #[cfg(feature = "heif")]
        ImageFormat::Avif => heif::HEIF,
        _ => "",
    }
}

/// Runs a decoder and turns a panic into an error. Third-party decoders index slices by values from untrusted
/// files; if one panics, only this image fails and not the whole run.
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

/// An error if an image has no pixels or more than `max_pixels`, which is checked before memory for the
/// pixels is allocated. `format` is the name of the format for the message.
fn check_size(format: &'static str, width: u64, height: u64, max_pixels: u64) -> Result<(), DecodeError> {
    if width == 0 || height == 0 {
        let message = format!("the header declares {width} x {height} pixels");
        return Err(DecodeError::Damaged { format, message });
    }
    if width.saturating_mul(height) > max_pixels {
        return Err(DecodeError::TooLarge { width, height, max_pixels });
    }
    Ok(())
}

/// The error for a file of `format` that the `image` crate cannot decode.
fn damaged(format: ImageFormat, error: &ImageError) -> DecodeError {
    DecodeError::Damaged { format: format_name(format), message: decoder_message(error) }
}

/// The message of an error of the `image` crate, for users: without the format name that its `Display` adds,
/// and the same for every truncated file.
fn decoder_message(error: &ImageError) -> String {
    match error {
        ImageError::Decoding(error) => {
            let message = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            // The errors of the GIF and the PNM decoder have no kind to match on.
            let is_truncated =
                ["Unexpected End of File", "Not enough data was provided to the Decoder to decode the image"]
                    .contains(&&*message);
            if is_truncated { TRUNCATED.into() } else { message }
        }
        ImageError::Unsupported(error) => match error.kind() {
            UnsupportedErrorKind::GenericFeature(feature) => feature,
            UnsupportedErrorKind::Color(_) => {
                "pixels of this kind are not supported: gray values with 2 or 4 \
                                               bits, with transparency or in floating point, and YCbCr"
                    .into()
            }
            _ => error.to_string(),
        },
        ImageError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => TRUNCATED.into(),
        ImageError::Limits(_) => "decoding takes more memory than `max_pixels` allows".into(),
        _ => error.to_string(),
    }
}

/// Converts 16-bit values to 8-bit in Pillow's way. The values of gray without alpha become as `gray16` says.
fn to_eight_bits(image: DynamicImage, format: ImageFormat, gray16: Gray16) -> DynamicImage {
    match image {
        DynamicImage::ImageLuma16(gray) if gray16 == Gray16::Clip => {
            let clipped = gray.iter().map(|&value| value.min(255) as u8).collect();
            GrayImage::from_raw(gray.width(), gray.height(), clipped).expect("a value for each pixel").into()
        }
        // `image` rounds `v / 257`, and so does Pillow in a PNM.
        image @ DynamicImage::ImageLuma16(_) => image.into_luma8().into(),
        image if format == ImageFormat::Pnm => image,
        DynamicImage::ImageLumaA16(mut image) => {
            keep_upper_bits(&mut image);
            DynamicImage::ImageLumaA16(image).into_luma_alpha8().into()
        }
        DynamicImage::ImageRgb16(mut image) => {
            keep_upper_bits(&mut image);
            DynamicImage::ImageRgb16(image).into_rgb8().into()
        }
        DynamicImage::ImageRgba16(mut image) => {
            keep_upper_bits(&mut image);
            DynamicImage::ImageRgba16(image).into_rgba8().into()
        }
        image => image,
    }
}

/// Replaces each 16-bit value by the one that `v / 257` makes its upper 8 bits of.
fn keep_upper_bits(values: &mut [u16]) {
    values.iter_mut().for_each(|value| *value = (*value >> 8) * 257);
}

/// Divides the colors of an image by their alpha, in Pillow's way.
fn without_premultiplication(image: DynamicImage) -> DynamicImage {
    let mut rgba = image.into_rgba8();
    for pixel in rgba.pixels_mut() {
        let alpha = u32::from(pixel.0[3]);
        for value in &mut pixel.0[..3] {
            *value =
                (255 * u32::from(*value)).checked_div(alpha).map_or(*value, |value| value.min(255) as u8);
        }
    }
    rgba.into()
}

/// Converts a decoded image to 8-bit RGB, which all later steps take. Transparent pixels are blended over
/// white: value `v` with alpha `a` becomes `(v a + 255 (255 - a)) / 255`, rounded. Before that, colors are
/// converted as `conversion` says.
fn into_rgb(image: DynamicImage, conversion: Option<&ColorConversion>) -> RgbImage {
    if !image.color().has_alpha() {
        let mut rgb = image.into_rgb8();
        if let Some(conversion) = conversion {
            conversion.convert(&mut rgb);
        }
        return rgb;
    }
    let rgba = image.into_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (target, source) in rgb.pixels_mut().zip(rgba.pixels()) {
        target.0 = [source.0[0], source.0[1], source.0[2]];
    }
    if let Some(conversion) = conversion {
        conversion.convert(&mut rgb);
    }
    for (color, source) in rgb.pixels_mut().zip(rgba.pixels()) {
        let alpha = u32::from(source.0[3]);
        let over_white = |value: u8| ((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        color.0 = color.0.map(over_white);
    }
    rgb
}

#[cfg(test)]
mod tests;
