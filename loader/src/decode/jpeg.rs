//! JPEG. Photos as cameras write them are decoded by a decoder of our own, which gives libjpeg's pixels, also of a part of a photo
//! and at a fraction of its size; what it does not know by the decoder that `image` uses as well, but strictly.

mod codec;
mod frame;
mod huffman;
mod idct;
mod planes;
mod scan;

use image::RgbImage;
use image::metadata::Orientation;
use memchr::memchr;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use self::planes::PixelArea;
use super::{Crop, DecodeError, TRUNCATED, check_size};

const JPEG: &str = "JPEG";

/// A JPEG whose header was read: its pixels come out as `colours`.
pub(super) struct OpenedJpeg<'a> {
    bytes: &'a [u8],
    decoder: JpegDecoder<ZCursor<&'a [u8]>>,
    out_colorspace: ColorSpace,
    pub(super) size: (u32, u32),
    pub(super) orientation: Orientation,
}

/// Why our own decoder gives no pixels.
#[derive(Debug)]
enum JpegError {
    Damaged(&'static str),
    /// It is another kind of JPEG.
    Unsupported,
}

fn truncated() -> JpegError {
    JpegError::Damaged(TRUNCATED)
}

fn damaged(message: String) -> DecodeError {
    DecodeError::Damaged { format: JPEG, message }
}

fn from_zune_error(error: &DecodeErrors) -> DecodeError {
    damaged(zune_message(error))
}

/// Reads what comes before the picture, and looks for its end. Bytes between the segments of the header are passed over,
/// as libjpeg does; in the picture itself every fault is an error.
pub(super) fn open(bytes: &[u8], max_pixels: u64) -> Result<OpenedJpeg<'_>, DecodeError> {
    let options =
        DecoderOptions::default().set_strict_mode(false).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| from_zune_error(&error))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged("no frame header".into()))?;
    check_size(JPEG, width as u64, height as u64, max_pixels)?;
    let out_colorspace = match decoder.input_colorspace() {
        Some(ColorSpace::Luma | ColorSpace::YCbCr | ColorSpace::RGB | ColorSpace::YCCK) => ColorSpace::RGB,
        Some(ColorSpace::CMYK) => ColorSpace::CMYK,
        colorspace => return Err(damaged(format!("colours of an unknown kind ({colorspace:?})"))),
    };
    if !has_end_marker(bytes) {
        return Err(damaged(TRUNCATED.into()));
    }
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    decoder.set_options(options.set_strict_mode(true).jpeg_set_out_colorspace(out_colorspace));
    Ok(OpenedJpeg {
        bytes,
        decoder,
        out_colorspace,
        size: (width as u32, height as u32),
        orientation: orientation.unwrap_or(Orientation::NoTransforms),
    })
}

/// What comes of asking for a part of a photo, reduced.
pub(super) enum DecodedJpeg {
    Region(RgbImage),
    /// The whole photo at its own size.
    Full(RgbImage),
}

impl OpenedJpeg<'_> {
    /// The part `window` of the photo as it is stored, reduced by `scale` (1, 2, 4 or 8), in pixels of which the window is.
    pub(super) fn decode(self, scale: u32, window: Crop) -> Result<DecodedJpeg, DecodeError> {
        let pixel_range = |start: u32, length: u32| start as usize..start as usize + length as usize;
        let area = PixelArea {
            x: pixel_range(window.left, window.width),
            y: pixel_range(window.top, window.height),
        };
        let size = (self.size.0 as usize, self.size.1 as usize);
        match codec::decode(self.bytes, size, 8 / scale as usize, &area) {
            Ok(photo) => Ok(DecodedJpeg::Region(photo)),
            Err(JpegError::Damaged(message)) => Err(damaged(message.into())),
            Err(JpegError::Unsupported) => self.decode_with_zune().map(DecodedJpeg::Full),
        }
    }

    /// The whole photo, by the other decoder.
    fn decode_with_zune(self) -> Result<RgbImage, DecodeError> {
        let Self { mut decoder, out_colorspace, size: (width, height), .. } = self;
        let mut pixels = decoder.decode().map_err(|error| from_zune_error(&error))?;
        if out_colorspace == ColorSpace::CMYK {
            pixels = cmyk_to_rgb(&pixels);
        }
        RgbImage::from_raw(width, height, pixels)
            .ok_or_else(|| damaged("fewer pixels than the header says".into()))
    }
}

/// The decoder's message, without the quotes that its `Display` puts around it.
fn zune_message(error: &DecodeErrors) -> String {
    match error {
        DecodeErrors::Format(message) => message.clone(),
        DecodeErrors::FormatStatic(message) => (*message).into(),
        // Bytes in memory can only run out.
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => TRUNCATED.into(),
        _ => error.to_string(),
    }
}

/// Whether the end of the picture is marked. The decoder fills in what is missing from the last rows of blocks.
fn has_end_marker(bytes: &[u8]) -> bool {
    const END_OF_IMAGE: u8 = 0xD9;
    let mut rest = bytes.get(2..).unwrap_or_default();
    while let Some(skipped) = memchr(0xFF, rest) {
        rest = &rest[skipped..];
        let Some(fill) = rest.iter().position(|&byte| byte != 0xFF) else { return false };
        let marker = rest[fill];
        rest = &rest[fill + 1..];
        match marker {
            END_OF_IMAGE => return true,
            // A 0xFF of the compressed data, a restart, or another marker without a segment.
            0x00 | 0x01 | 0xD0..=0xD8 => {}
            _ => {
                let Some(&length) = rest.first_chunk() else { return false };
                rest = rest.get(usize::from(u16::from_be_bytes(length))..).unwrap_or_default();
            }
        }
    }
    false
}

/// Pillow's `cmyk2rgb`, of inks stored inverted: every JPEG is taken as Adobe's programs write it, as Pillow does.
fn cmyk_to_rgb(pixels: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pixels.len() / 4 * 3);
    for pixel in pixels.chunks_exact(4) {
        let inverted_black = u32::from(pixel[3]);
        out.extend(pixel[..3].iter().map(|&inverted_ink| {
            let shade = u32::from(255 - inverted_ink) * inverted_black + 128;
            inverted_black.saturating_sub(((shade >> 8) + shade) >> 8) as u8
        }));
    }
    out
}
