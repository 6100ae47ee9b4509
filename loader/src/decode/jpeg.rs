//! JPEG. Baseline and progressive files are decoded by our own decoder, which gives the same pixels as
//! libjpeg and can decode a region at a reduced scale. Other kinds are decoded by `zune-jpeg` (as in
//! `image`), in strict mode.

mod codec;
mod frame;
mod huffman;
mod idct;
mod planes;
mod scan;

use std::sync::Arc;

use image::RgbImage;
use image::metadata::Orientation;
use memchr::memchr;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use self::planes::PixelArea;
use super::color::{ColorConversion, conversion_from};
use super::{ColorProfiles, DecodeError, DecodeOptions, TRUNCATED, TruncatedFiles, check_size};
use crate::geometry::Crop;

const JPEG: &str = "JPEG";

/// A JPEG whose header was read, ready to be decoded by our own decoder or by the fallback decoder
/// `zune-jpeg`.
pub(super) struct OpenedJpeg<'a> {
    bytes: &'a [u8],
    /// The fallback decoder.
    decoder: JpegDecoder<ZCursor<&'a [u8]>>,
    /// The color space that `decoder` outputs: RGB or CMYK.
    out_colorspace: ColorSpace,
    /// Width and height as stored, before the EXIF orientation is applied.
    pub(super) size: (u32, u32),
    pub(super) orientation: Orientation,
    /// Whether the file has no end marker, and what is there is decoded all the same.
    pub(super) is_truncated: bool,
    /// The conversion of the colors to sRGB, if it is wanted and they differ.
    pub(super) conversion: Option<Arc<ColorConversion>>,
}

/// Why our own decoder fails.
#[derive(Debug)]
enum JpegError {
    /// The file is damaged, with a message for users.
    Damaged(&'static str),
    /// A kind of JPEG that only the fallback decoder may support.
    Unsupported,
}

/// The error for a file that ends too early, for `ok_or_else`.
fn truncated() -> JpegError {
    JpegError::Damaged(TRUNCATED)
}

/// The error for a damaged or unsupported JPEG.
fn damaged(message: String) -> DecodeError {
    DecodeError::Damaged { format: JPEG, message }
}

/// Reads the header of a JPEG and checks that it has at most `max_pixels` pixels and, unless truncated files
/// are accepted, an end marker, before any pixel is decoded. Bytes between header segments are skipped, as in libjpeg; damage in the compressed
/// data is an error when the pixels are decoded.
pub(super) fn open(bytes: &[u8], options: DecodeOptions) -> Result<OpenedJpeg<'_>, DecodeError> {
    let DecodeOptions { max_pixels, truncated: truncated_files, color, .. } = options;
    let zune_options =
        DecoderOptions::default().set_strict_mode(false).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), zune_options);
    decoder.decode_headers().map_err(from_zune_error)?;
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged("no frame header".into()))?;
    check_size(JPEG, width as u64, height as u64, max_pixels)?;
    let is_gray = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let out_colorspace = match decoder.input_colorspace() {
        Some(ColorSpace::Luma | ColorSpace::YCbCr | ColorSpace::RGB | ColorSpace::YCCK) => ColorSpace::RGB,
        Some(ColorSpace::CMYK) => ColorSpace::CMYK,
        colorspace => return Err(damaged(format!("the color space is not supported ({colorspace:?})"))),
    };
    let is_truncated = !has_end_marker(bytes);
    if is_truncated && truncated_files == TruncatedFiles::Error {
        return Err(damaged(TRUNCATED.into()));
    }
    let profile = if color == ColorProfiles::Srgb { decoder.icc_profile() } else { None };
    let conversion = profile.and_then(|profile| conversion_from(profile, is_gray));
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    // In strict mode, damage in the compressed data is an error, and so is a missing end.
    let zune_options = zune_options.set_strict_mode(!is_truncated).jpeg_set_out_colorspace(out_colorspace);
    decoder.set_options(zune_options);
    Ok(OpenedJpeg {
        bytes,
        decoder,
        out_colorspace,
        size: (width as u32, height as u32),
        orientation: orientation.unwrap_or(Orientation::NoTransforms),
        is_truncated,
        conversion,
    })
}

impl OpenedJpeg<'_> {
    /// Decodes `window` of the stored (not yet rotated) image, reduced by `scale` (1, 2, 4 or 8). The window
    /// is in pixels of the reduced image. Also returns whether the image is this window. If our own decoder
    /// does not support this kind of JPEG, it is the whole image at full size instead: the fallback decoder
    /// supports neither regions nor scales.
    pub(super) fn decode(self, scale: u32, window: Crop) -> Result<(RgbImage, bool), DecodeError> {
        let range = |start: u32, length: u32| start as usize..start as usize + length as usize;
        let area = PixelArea { x: range(window.left, window.width), y: range(window.top, window.height) };
        let size = (self.size.0 as usize, self.size.1 as usize);
        match codec::decode(self.bytes, size, /* eighths */ 8 / scale as usize, &area, self.is_truncated) {
            Ok(image) => Ok((image, true)),
            Err(JpegError::Damaged(message)) => Err(damaged(message.into())),
            Err(JpegError::Unsupported) => Ok((self.decode_with_zune()?, false)),
        }
    }

    /// Decodes the whole image with the fallback decoder, for the kinds of JPEG that our decoder does not
    /// support.
    fn decode_with_zune(self) -> Result<RgbImage, DecodeError> {
        let Self { mut decoder, out_colorspace, size: (width, height), .. } = self;
        let mut pixels = decoder.decode().map_err(from_zune_error)?;
        if out_colorspace == ColorSpace::CMYK {
            pixels = cmyk_to_rgb(&pixels);
        }
        RgbImage::from_raw(width, height, pixels)
            .ok_or_else(|| damaged("the file has fewer pixels than its header declares".into()))
    }
}

/// The error for a JPEG that the fallback decoder rejects, with a message for users: without the quotes that
/// `Display` adds, and the same for every truncated file.
fn from_zune_error(error: DecodeErrors) -> DecodeError {
    damaged(match error {
        DecodeErrors::Format(message) => message,
        DecodeErrors::FormatStatic(message) => message.into(),
        // Reading from memory fails only at the end of the bytes.
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => TRUNCATED.into(),
        _ => error.to_string(),
    })
}

/// Whether the file has an end-of-image marker. Without this check the decoder would fill the missing rows of
/// a truncated file with gray. Skips header segments, because an EXIF thumbnail has an end marker of its own.
fn has_end_marker(bytes: &[u8]) -> bool {
    const END_OF_IMAGE: u8 = 0xD9;
    let mut rest = bytes.get(2..).unwrap_or_default(); // after the start-of-image marker
    while let Some(marker_start) = memchr(0xFF, rest) {
        rest = &rest[marker_start..];
        // A marker is one or more bytes 0xFF and the byte that names it.
        let Some(n_fill_bytes) = rest.iter().position(|&byte| byte != 0xFF) else { return false };
        let marker = rest[n_fill_bytes];
        rest = &rest[n_fill_bytes + 1..];
        match marker {
            END_OF_IMAGE => return true,
            // An escaped 0xFF in the compressed data, a restart, or another marker without a segment.
            0x00 | 0x01 | 0xD0..=0xD8 => {}
            _ => {
                let Some(&length) = rest.first_chunk() else { return false };
                rest = rest.get(usize::from(u16::from_be_bytes(length))..).unwrap_or_default();
            }
        }
    }
    false
}

/// Converts CMYK pixels `[N, 4]` with inverted inks, as the fallback decoder gives them, to RGB `[N, 3]` as
/// Pillow's `cmyk2rgb`: red is `k - (255 - c) k / 255`, rounded, where `c` and `k` are the inverted cyan and
/// black. Like Pillow, this assumes that every CMYK JPEG is inverted, as Adobe's are.
fn cmyk_to_rgb(pixels: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pixels.len() / 4 * 3);
    for pixel in pixels.chunks_exact(4) {
        let inverted_black = u32::from(pixel[3]);
        out.extend(pixel[..3].iter().map(|&inverted_ink| {
            let product = u32::from(255 - inverted_ink) * inverted_black + 128;
            // The product divided by 255 and rounded, in Pillow's way.
            inverted_black.saturating_sub(((product >> 8) + product) >> 8) as u8
        }));
    }
    out
}
