//! Bytes of a photo to RGB pixels.
//!
//! The rules: the format is told by the content; the EXIF orientation is applied; of an animation the first frame is
//! taken; grey becomes RGB; what is transparent is laid over white; 16 bits become 8 by rounding (`v / 257`), floating
//! point is cut to `[0, 1]`; CMYK is converted without a colour profile, as Pillow does. A file that is cut short or
//! damaged is an error, never a half-grey photo.

use std::fs;
use std::io::{self, Cursor};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use thiserror::Error;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Why a photo cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// There are no bytes.
    #[error("the file is empty")]
    Empty,
    /// The content is of no known format.
    #[error("not a photo of a known format (JPEG, PNG, WebP, GIF, BMP, TIFF)")]
    Format,
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

/// The bytes of the photo at `path`.
///
/// # Errors
/// [`DecodeError::Io`] as the system says it, [`DecodeError::Empty`] for no bytes.
pub fn read_photo(path: &Path) -> Result<Vec<u8>, DecodeError> {
    let bytes = fs::read(path)?;
    if bytes.is_empty() { Err(DecodeError::Empty) } else { Ok(bytes) }
}

/// Decodes a photo to RGB, `[H, W, 3]`, upright.
///
/// # Errors
/// [`DecodeError`]; a photo of more than `max_pixels` is refused by its header, before its pixels are allocated.
pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<RgbImage, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let format = image::guess_format(bytes).map_err(|_| DecodeError::Format)?;
    let (mut photo, orientation) = match format {
        ImageFormat::Jpeg => {
            let (pixels, orientation) = decode_jpeg(bytes, max_pixels)?;
            (DynamicImage::ImageRgb8(pixels), orientation)
        }
        ImageFormat::Png | ImageFormat::WebP | ImageFormat::Gif | ImageFormat::Bmp | ImageFormat::Tiff => {
            decode_other(bytes, format, max_pixels)?
        }
        _ => return Err(DecodeError::Format),
    };
    photo.apply_orientation(orientation);
    Ok(into_rgb(photo))
}

fn within(width: u64, height: u64, max_pixels: u64) -> Result<(), DecodeError> {
    if width.saturating_mul(height) > max_pixels {
        return Err(DecodeError::TooLarge { width, height, max_pixels });
    }
    Ok(())
}

fn decode_other(
    bytes: &[u8],
    format: ImageFormat,
    max_pixels: u64,
) -> Result<(DynamicImage, Orientation), DecodeError> {
    let name = match format {
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Gif => "GIF",
        ImageFormat::Bmp => "BMP",
        _ => "TIFF",
    };
    let damaged = |error: ImageError| DecodeError::Damaged { format: name, message: error.to_string() };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // The widest pixel is 16 bytes; decoders keep a second copy at most.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_pixels.saturating_mul(32).saturating_add(1 << 24));
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    within(width.into(), height.into(), max_pixels)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((DynamicImage::from_decoder(decoder).map_err(damaged)?, orientation))
}

/// JPEG by the decoder that `image` uses as well, but strictly: what is cut short is an error.
fn decode_jpeg(bytes: &[u8], max_pixels: u64) -> Result<(RgbImage, Orientation), DecodeError> {
    let damaged = |error: zune_jpeg::errors::DecodeErrors| DecodeError::Damaged {
        format: "JPEG",
        message: error.to_string(),
    };
    let options =
        DecoderOptions::default().set_strict_mode(true).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(damaged)?;
    let unreadable = || DecodeError::Damaged { format: "JPEG", message: "no frame header".into() };
    let (width, height) = decoder.dimensions().ok_or_else(unreadable)?;
    within(width as u64, height as u64, max_pixels)?;
    let cmyk = decoder.input_colorspace() == Some(ColorSpace::CMYK);
    let target = if cmyk { ColorSpace::CMYK } else { ColorSpace::RGB };
    decoder.set_options(options.jpeg_set_out_colorspace(target));
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    let mut pixels = decoder.decode().map_err(damaged)?;
    if cmyk {
        // Adobe's programs store the inks inverted, and mark the file.
        let inverted = bytes.windows(5).take(1 << 16).any(|window| window == b"Adobe");
        pixels = cmyk_to_rgb(&pixels, inverted);
    }
    let photo = RgbImage::from_raw(width as u32, height as u32, pixels).ok_or_else(unreadable)?;
    Ok((photo, orientation.unwrap_or(Orientation::NoTransforms)))
}

/// Pillow's `cmyk2rgb`.
fn cmyk_to_rgb(pixels: &[u8], inverted: bool) -> Vec<u8> {
    let paper = |ink: u8| u32::from(if inverted { ink } else { 255 - ink });
    let mut out = Vec::with_capacity(pixels.len() / 4 * 3);
    for pixel in pixels.chunks_exact(4) {
        let black = paper(pixel[3]);
        out.extend(pixel[..3].iter().map(|&ink| {
            let shade = (255 - paper(ink)) * black + 128;
            black.saturating_sub(((shade >> 8) + shade) >> 8) as u8
        }));
    }
    out
}

fn into_rgb(photo: DynamicImage) -> RgbImage {
    if !photo.color().has_alpha() {
        return photo.into_rgb8();
    }
    let rgba = photo.into_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let alpha = u32::from(from.0[3]);
        let over_white = |value: u8| ((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        to.0 = [over_white(from.0[0]), over_white(from.0[1]), over_white(from.0[2])];
    }
    rgb
}
