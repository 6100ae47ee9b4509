//! HEIC and AVIF, by the library libheif.
//!
//! The container's properties rotate and mirror the image; an EXIF orientation beside them is not applied again.
//! Of a sequence the primary image is decoded. libheif repeats the subsampled chroma of HEIC, as `pillow-heif` does; that of AVIF
//! is interpolated, as Pillow does.

mod ycbcr;

use std::sync::Arc;

use image::{DynamicImage, RgbImage, RgbaImage};
use libheif_rs::{
    Chroma, ColorSpace, HeifContext, HeifError, HeifErrorSubCode, ImageHandle, LibHeif, RgbChroma,
};

use super::color::{ColorConversion, conversion_from};
use super::{ColorProfiles, DecodeError, DecodeOptions, TRUNCATED, check_size, without_premultiplication};

/// The name of the formats in messages.
pub(super) const HEIF: &str = "HEIC or AVIF";

/// A HEIC or AVIF whose header was read.
pub(super) struct OpenedHeif<'a> {
    handle: ImageHandle,
    /// Keeps the bytes of the file, which `handle` reads.
    _context: HeifContext<'a>,
    /// The subsampling of an AVIF's chroma; `None` of other images.
    avif_subsampling: Option<Chroma>,
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
    Ok(OpenedHeif { handle, _context: context, avif_subsampling: avif_subsampling(bytes), size, conversion })
}

impl OpenedHeif<'_> {
    /// Decodes the image, upright. 10 and 12 bits become 8.
    pub(super) fn decode(self) -> Result<DynamicImage, DecodeError> {
        let interpolated =
            self.avif_subsampling.map(|chroma| self.decode_interpolated(chroma)).transpose()?;
        let image = match interpolated.flatten() {
            Some(image) => image,
            None => self.decode_repeated()?,
        };
        let is_premultiplied = image.color().has_alpha() && self.handle.is_premultiplied_alpha();
        Ok(if is_premultiplied { without_premultiplication(image) } else { image })
    }

    /// Decodes the planes of the image, whose chroma is subsampled, and interpolates it. `None` for colors that are not
    /// described in the file, or in a way that is not known here.
    fn decode_interpolated(&self, chroma: Chroma) -> Result<Option<DynamicImage>, DecodeError> {
        let Some(profile) = self.handle.color_profile_nclx() else { return Ok(None) };
        let planes = LibHeif::new().decode(&self.handle, ColorSpace::YCbCr(chroma), None).map_err(damaged)?;
        let image = ycbcr::to_rgb(&planes, chroma, &profile);
        Ok(image.filter(|image| (image.width(), image.height()) == self.size))
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

/// The subsampling of the chroma of an AVIF by its first configuration of AV1 (the box `av1C`) with colors; `None` if nothing is
/// subsampled, and for other files.
fn avif_subsampling(bytes: &[u8]) -> Option<Chroma> {
    // After the name of the box: marker and version, profile and level, flags.
    let flags = bytes.windows(7).filter(|window| window.starts_with(b"av1C")).map(|window| window[6]);
    let is_monochrome = |flags: &u8| flags & 0x10 != 0;
    let flags = flags.filter(|flags| !is_monochrome(flags)).next()?;
    match (flags & 0x08 != 0, flags & 0x04 != 0) {
        (true, true) => Some(Chroma::C420),
        (true, false) => Some(Chroma::C422),
        (false, _) => None,
    }
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
