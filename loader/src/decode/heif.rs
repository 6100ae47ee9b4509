//! HEIC and AVIF, by the library libheif.
//!
//! The container's properties rotate and mirror the image; an EXIF orientation beside them is not applied again.
//! Of a sequence the primary image is decoded. libheif repeats the subsampled chroma of HEIC, as `pillow-heif` does; that of AVIF
//! is interpolated, as Pillow does.

mod ycbcr;

use std::sync::Arc;

use image::{DynamicImage, RgbImage, RgbaImage};
use libheif_rs::{ColorSpace, HeifContext, HeifError, HeifErrorSubCode, ImageHandle, LibHeif, RgbChroma};

use super::color::{ColorConversion, conversion_from};
use super::{ColorProfiles, DecodeError, DecodeOptions, TRUNCATED, check_size, without_premultiplication};

/// The name of the formats in messages.
pub(super) const HEIF: &str = "HEIC or AVIF";

/// A HEIC or AVIF whose header was read.
pub(super) struct OpenedHeif<'a> {
    handle: ImageHandle,
    /// Keeps the bytes of the file, which `handle` reads.
    _context: HeifContext<'a>,
    is_avif: bool,
    /// Width and height of the upright image.
    pub(super) size: (u32, u32),
    pub(super) conversion: Option<Arc<ColorConversion>>,
}

/// Reads the header of the file `bytes` and checks that it has at most as many pixels as the options allow.
pub(super) fn open(bytes: &[u8], options: DecodeOptions) -> Result<OpenedHeif<'_>, DecodeError> {
    let mut context = HeifContext::read_from_bytes(bytes).map_err(damaged)?;
    // Images are decoded in parallel already: on the thread of the caller.
    context.set_max_decoding_threads(0);
    let handle = context.primary_image_handle().map_err(damaged)?;
    let size = (handle.width(), handle.height());
    check_size(HEIF, size.0.into(), size.1.into(), options.max_pixels)?;
    // The size of the image as it is coded, before a part of it is cut out.
    let coded_pixels = i64::from(handle.ispe_width()) * i64::from(handle.ispe_height());
    if coded_pixels.unsigned_abs() > options.max_pixels {
        let (width, height) =
            (handle.ispe_width().unsigned_abs().into(), handle.ispe_height().unsigned_abs().into());
        return Err(DecodeError::TooLarge { width, height, max_pixels: options.max_pixels });
    }
    let profile = match options.color {
        ColorProfiles::Srgb => handle.color_profile_raw(),
        ColorProfiles::Ignore => None,
    };
    let conversion = profile.and_then(|profile| conversion_from(profile.data, /* is_gray */ false));
    Ok(OpenedHeif { handle, _context: context, is_avif: is_avif(bytes), size, conversion })
}

impl OpenedHeif<'_> {
    /// Decodes the image, upright. 10 and 12 bits become 8.
    pub(super) fn decode(self) -> Result<DynamicImage, DecodeError> {
        let image = match self.is_avif.then(|| self.decode_interpolated()).transpose()?.flatten() {
            Some(image) => image,
            None => self.decode_repeated()?,
        };
        let is_premultiplied = image.color().has_alpha() && self.handle.is_premultiplied_alpha();
        Ok(if is_premultiplied { without_premultiplication(image) } else { image })
    }

    /// Decodes the planes of the image and converts them with interpolated chroma. `None` for planes of other color
    /// spaces.
    fn decode_interpolated(&self) -> Result<Option<DynamicImage>, DecodeError> {
        let decoded = LibHeif::new().decode(&self.handle, ColorSpace::Undefined, None).map_err(damaged)?;
        Ok(ycbcr::to_rgb(&decoded).filter(|image| (image.width(), image.height()) == self.size))
    }

    /// Decodes the image with libheif's own conversion, which repeats subsampled chroma.
    fn decode_repeated(&self) -> Result<DynamicImage, DecodeError> {
        let has_alpha = self.handle.has_alpha_channel();
        let (chroma, n_channels) = if has_alpha { (RgbChroma::Rgba, 4) } else { (RgbChroma::Rgb, 3) };
        // No options: this version of libheif-rs frees them before libheif reads them. The defaults transform the
        // image and make 8 bits of more.
        let decoded = LibHeif::new().decode(&self.handle, ColorSpace::Rgb(chroma), None).map_err(damaged)?;
        let plane = decoded.planes().interleaved.filter(|plane| (plane.width, plane.height) == self.size);
        let plane = plane.ok_or_else(|| other("the size differs from that in the header"))?;
        let (width, height) = self.size;
        // Rows may be padded.
        let row_length = n_channels * width as usize;
        let rows = plane.data.chunks(plane.stride.max(1)).take(height as usize);
        let pixels: Vec<u8> = rows.flat_map(|row| &row[..row_length.min(row.len())]).copied().collect();
        let image = if has_alpha {
            RgbaImage::from_raw(width, height, pixels).map(DynamicImage::from)
        } else {
            RgbImage::from_raw(width, height, pixels).map(DynamicImage::from)
        };
        image.ok_or_else(|| other("the file has fewer pixels than its header declares"))
    }
}

/// Whether one of the brands in the first box, `ftyp`, is of AVIF.
fn is_avif(bytes: &[u8]) -> bool {
    let box_length = bytes.first_chunk().map_or(0, |length| u32::from_be_bytes(*length) as usize);
    let brands = bytes.get(8..box_length.min(bytes.len())).unwrap_or_default();
    brands.chunks_exact(4).any(|brand| matches!(brand, b"avif" | b"avis"))
}

/// The error for a file that libheif cannot decode.
#[expect(clippy::needless_pass_by_value, reason = "a function for `map_err`")]
fn damaged(error: HeifError) -> DecodeError {
    match error.sub_code {
        HeifErrorSubCode::EndOfData => other(TRUNCATED),
        _ => other(&error.message),
    }
}

/// The error with this message.
fn other(message: &str) -> DecodeError {
    DecodeError::Damaged { format: HEIF, message: message.into() }
}
