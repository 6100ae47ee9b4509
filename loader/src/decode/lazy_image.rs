//! An image whose header was read and whose pixels are decoded on demand.

use std::borrow::Cow;
use std::io::Cursor;
use std::sync::Arc;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage, imageops};

use super::color::{ColorConversion, conversion_from};
#[cfg(feature = "heif")]
use super::heif;
use super::{
    ColorProfiles, DecodeError, DecodeOptions, Gray16, PixelChanges, TRUNCATED, TruncatedFiles, check_size,
    chunks, damaged, detect_format, format_name, into_rgb, jpeg, png_completion, to_eight_bits,
    without_panic, without_premultiplication,
};
use crate::geometry::{Crop, DecodedRegion};
use crate::tiff_tags::TiffTags;

/// An image whose header was read; its pixels are decoded on demand, only where they are needed.
///
/// ```
/// use headstock_loader::{Crop, LazyImage};
///
/// let mut file = std::io::Cursor::new(Vec::new());
/// image::RgbImage::new(40, 30).write_to(&mut file, image::ImageFormat::Jpeg)?;
/// let image = LazyImage::open(file.get_ref(), 1_000_000)?;
/// assert_eq!(image.size(), (40, 30));
/// let part = image.decode_window(Crop { top: 4, left: 8, height: 10, width: 20 })?;
/// assert_eq!(part.dimensions(), (20, 10));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LazyImage<'a> {
    bytes: &'a [u8],
    options: DecodeOptions,
    format: ImageFormat,
    /// `None` once it was used: decoding consumes it.
    decoder: Option<FormatDecoder<'a>>,
    orientation: ExifOrientation,
    /// Width and height of the upright image.
    size: (u32, u32),
    is_truncated: bool,
    is_premultiplied: bool,
    is_gray16: bool,
    conversion: Option<Arc<ColorConversion>>,
}

/// What the header of an image file says.
struct ImageHeader {
    /// Width and height as stored, before the EXIF orientation is applied.
    stored_size: (u32, u32),
    orientation: Orientation,
    /// Whether the file ends too early, and what is there is decoded all the same.
    is_truncated: bool,
    /// Whether colors are multiplied by their alpha.
    is_premultiplied: bool,
    /// Whether pixels are 16-bit gray without alpha.
    is_gray16: bool,
    /// The conversion of the colors to sRGB, if it is wanted and they differ.
    conversion: Option<Arc<ColorConversion>>,
}

/// The decoder of an opened file: our own for JPEG, libheif for HEIC and AVIF, that of the `image` crate for other
/// formats.
enum FormatDecoder<'a> {
    Jpeg(Box<jpeg::OpenedJpeg<'a>>),
    #[cfg(feature = "heif")]
    Heif(Box<heif::OpenedHeif<'a>>),
    Other(Box<dyn ImageDecoder + 'a>),
}

impl<'a> FormatDecoder<'a> {
    /// Opens the image file with the contents `bytes`, which are in `format`: reads the header.
    fn open(
        bytes: &'a [u8],
        format: ImageFormat,
        options: DecodeOptions,
    ) -> Result<(Self, ImageHeader), DecodeError> {
        if format == ImageFormat::Jpeg {
            let opened = jpeg::open(bytes, options)?;
            let (stored_size, orientation) = (opened.size, opened.orientation);
            let (is_truncated, conversion) = (opened.is_truncated, opened.conversion.clone());
            let header = ImageHeader {
                stored_size,
                orientation,
                is_truncated,
                is_premultiplied: false,
                is_gray16: false,
                conversion,
            };
            return Ok((Self::Jpeg(Box::new(opened)), header));
        }
        #[cfg(feature = "heif")]
        if format == ImageFormat::Avif {
            let opened = heif::open(bytes, options)?;
            let header = ImageHeader {
                stored_size: opened.size,
                orientation: Orientation::NoTransforms,
                is_truncated: false,
                is_premultiplied: false,
                is_gray16: false,
                conversion: opened.conversion.clone(),
            };
            return Ok((Self::Heif(Box::new(opened)), header));
        }
        let (decoder, header) = open_other(bytes, format, options)?;
        Ok((Self::Other(Box::new(decoder)), header))
    }
}

impl<'a> LazyImage<'a> {
    /// Opens the image file with the contents `bytes`: reads its header (format, size and EXIF orientation)
    /// but no pixels.
    ///
    /// # Errors
    /// [`DecodeError`] if the header cannot be read, a JPEG, PNG or WebP is truncated, or the image has more
    /// pixels than the options allow. They may also allow truncated JPEGs and PNGs.
    pub fn open(bytes: &'a [u8], options: impl Into<DecodeOptions>) -> Result<Self, DecodeError> {
        let options = options.into();
        let format = detect_format(bytes)?;
        without_panic(format_name(format), || {
            let (decoder, header) = FormatDecoder::open(bytes, format, options)?;
            let orientation = ExifOrientation(header.orientation);
            let size = orientation.upright_size(header.stored_size);
            let ImageHeader { is_truncated, is_premultiplied, is_gray16, conversion, .. } = header;
            let decoder = Some(decoder);
            Ok(Self {
                bytes,
                options,
                format,
                decoder,
                orientation,
                size,
                is_truncated,
                is_premultiplied,
                is_gray16,
                conversion,
            })
        })
    }

    /// What the options `truncated`, `color` and `gray16` change in the pixels of this image.
    #[must_use]
    pub fn pixel_changes(&self) -> PixelChanges {
        PixelChanges {
            truncated: self.is_truncated,
            srgb: self.conversion.is_some(),
            gray16: if self.is_gray16 { self.options.gray16 } else { Gray16::Error },
        }
    }

    /// The name of the color profile from which colors are converted to sRGB. `None` if they are not:
    /// [`ColorProfiles::Ignore`](super::ColorProfiles::Ignore), no profile, or one of sRGB.
    #[must_use]
    pub fn converted_profile(&self) -> Option<&str> {
        Some(&self.conversion.as_ref()?.profile_name)
    }

    /// Whether the file ends too early, which [`TruncatedFiles::Accept`] allows.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// Width and height of the upright image.
    #[must_use]
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    /// Decodes the whole image to `[H, W, 3]`.
    ///
    /// # Errors
    /// [`DecodeError::Damaged`] if the pixels cannot be decoded.
    pub fn decode(self) -> Result<RgbImage, DecodeError> {
        let whole = Crop::whole(self.size);
        self.decode_window(whole)
    }

    /// Decodes `window` of the image to `[H, W, 3]`: the pixels that [`decode`](Self::decode) has there. The
    /// window is clipped to the image. The compressed data of a JPEG is read completely, so damage outside
    /// the window is still an error, but only the window's pixels are computed; other formats are decoded
    /// completely.
    ///
    /// # Errors
    /// [`DecodeError::Damaged`] if the pixels cannot be decoded.
    pub fn decode_window(mut self, window: Crop) -> Result<RgbImage, DecodeError> {
        let window = window.clipped_to(self.size);
        let (pixels, DecodedRegion { origin, .. }) = self.decode_region(1, window)?;
        let (x, y) = (window.left - origin.0, window.top - origin.1);
        if (x, y, pixels.dimensions()) == (0, 0, (window.width, window.height)) {
            return Ok(pixels);
        }
        Ok(imageops::crop_imm(&pixels, x, y, window.width, window.height).to_image())
    }

    /// Whether the decoder can reduce the image, which is then faster to decode.
    pub(crate) fn is_reducible(&self) -> bool {
        self.format == ImageFormat::Jpeg
    }

    /// Describes the whole image when it is decoded at 1 / `scale` of its size: its size, and how a flip
    /// shifts it.
    pub(crate) fn region_at_scale(&self, scale: u32) -> DecodedRegion {
        let (width, height) = self.size;
        let (flips_x, flips_y) = self.orientation.flips();
        // A flip moves the incomplete last column or row to the front, so the image starts within it.
        let shift = |flips: bool, size: u32| {
            if flips { f64::from(size.div_ceil(scale)) - f64::from(size) / f64::from(scale) } else { 0.0 }
        };
        DecodedRegion {
            scale,
            image_size: (width.div_ceil(scale), height.div_ceil(scale)),
            origin: (0, 0),
            shift: (shift(flips_x, width), shift(flips_y, height)),
        }
    }

    /// Decodes at least `needed`, which is in pixels of the image reduced by `scale`; returns the upright
    /// pixels and where they lie. Formats that cannot be reduced or decoded in part give the whole image at
    /// full size.
    pub(crate) fn decode_region(
        &mut self,
        scale: u32,
        needed: Crop,
    ) -> Result<(RgbImage, DecodedRegion), DecodeError> {
        let region = self.region_at_scale(scale);
        let Self { bytes, options, format, orientation, size, is_premultiplied, .. } = *self;
        let opened = self.decoder.take();
        let conversion = self.conversion.as_deref();
        without_panic(format_name(format), || {
            let decoder = match opened {
                Some(decoder) => decoder,
                None => FormatDecoder::open(bytes, format, options)?.0,
            };
            let (mut image, is_needed_region) = match decoder {
                FormatDecoder::Jpeg(opened) => {
                    let window = orientation.stored_crop(needed, region.image_size);
                    let (image, is_window) = opened.decode(scale, window)?;
                    (DynamicImage::ImageRgb8(image), is_window)
                }
                #[cfg(feature = "heif")]
                FormatDecoder::Heif(opened) => (opened.decode()?, false),
                FormatDecoder::Other(decoder) => {
                    (DynamicImage::from_decoder(decoder).map_err(|error| damaged(format, &error))?, false)
                }
            };
            image = to_eight_bits(image, format, options.gray16);
            image.apply_orientation(orientation.0);
            if is_premultiplied {
                image = without_premultiplication(image);
            }
            let needed_region = DecodedRegion { origin: (needed.left, needed.top), ..region };
            Ok((
                into_rgb(image, conversion),
                if is_needed_region { needed_region } else { DecodedRegion::whole(size) },
            ))
        })
    }
}

/// How a stored image is rotated and flipped to be upright.
#[derive(Clone, Copy)]
struct ExifOrientation(Orientation);

impl ExifOrientation {
    /// Whether rows and columns are swapped.
    fn transposes(self) -> bool {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        matches!(self.0, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
    }

    /// Whether the (x, y) axes of the upright image run opposite to the axes of the stored image that they
    /// come from, so that regions can be converted.
    fn flips(self) -> (bool, bool) {
        match self.0 {
            Orientation::NoTransforms | Orientation::Rotate90FlipH => (false, false),
            Orientation::FlipHorizontal | Orientation::Rotate90 => (true, false),
            Orientation::FlipVertical | Orientation::Rotate270 => (false, true),
            Orientation::Rotate180 | Orientation::Rotate270FlipH => (true, true),
        }
    }

    /// The size of the upright image whose stored size is (width, height).
    fn upright_size(self, (width, height): (u32, u32)) -> (u32, u32) {
        if self.transposes() { (height, width) } else { (width, height) }
    }

    /// The region of the stored image that becomes `crop` of the upright image, whose size is (width,
    /// height). Only this region has to be decoded.
    fn stored_crop(self, crop: Crop, (width, height): (u32, u32)) -> Crop {
        let (flips_x, flips_y) = self.flips();
        let left = if flips_x { width - crop.left - crop.width } else { crop.left };
        let top = if flips_y { height - crop.top - crop.height } else { crop.top };
        if self.transposes() {
            Crop { top: left, left: top, height: crop.width, width: crop.height }
        } else {
            Crop { top, left, ..crop }
        }
    }
}

// Tags of TIFF, and the value of the first for alpha by which colors are multiplied.
const EXTRA_SAMPLES: usize = 338;
const ICC_PROFILE: usize = 34_675;
const PREMULTIPLIED_ALPHA: usize = 1;

/// Opens an image that is not a JPEG, after checking that it has at most as many pixels as the `options` allow
/// and that a PNG or WebP is not truncated. A truncated PNG is completed if the options say so.
fn open_other<'a>(
    bytes: &'a [u8],
    format: ImageFormat,
    options: DecodeOptions,
) -> Result<(impl ImageDecoder + use<'a>, ImageHeader), DecodeError> {
    let name = format_name(format);
    let max_pixels = options.max_pixels;
    let truncated = || DecodeError::Damaged { format: name, message: TRUNCATED.into() };
    if format == ImageFormat::WebP && chunks::is_truncated_webp(bytes) {
        return Err(truncated());
    }
    let mut content = Cow::Borrowed(bytes);
    let mut png_orientation = chunks::png_orientation(bytes).filter(|_| format == ImageFormat::Png);
    let is_truncated = format == ImageFormat::Png && png_orientation.is_none();
    if is_truncated && options.truncated == TruncatedFiles::Accept {
        content = png_completion::complete_png(bytes, max_pixels)?.into();
        png_orientation = chunks::png_orientation(&content);
    }
    if format == ImageFormat::Png && chunks::has_incomplete_palette(&content) {
        return Err(DecodeError::Damaged { format: name, message: "the palette is incomplete".into() });
    }
    let mut reader = ImageReader::with_format(Cursor::new(content), format);
    // A pixel takes at most 16 bytes, and decoders hold at most two copies of the image; 16 MiB are for the
    // rest.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_pixels.saturating_mul(32).saturating_add(1 << 24));
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| damaged(format, &error))?;
    let (width, height) = decoder.dimensions();
    check_size(name, width.into(), height.into(), max_pixels)?;
    let tiff = TiffTags::open(bytes).filter(|_| format == ImageFormat::Tiff);
    let tiff = tiff.and_then(|tiff| tiff.directory_at(tiff.first_directory).map(|page| (tiff, page)));
    let is_premultiplied = tiff
        .as_ref()
        .is_some_and(|(tiff, page)| tiff.tag_values(page, EXTRA_SAMPLES).next() == Some(PREMULTIPLIED_ALPHA));
    let is_gray16 = decoder.color_type() == ColorType::L16;
    if is_gray16 && options.gray16 == Gray16::Error {
        return Err(DecodeError::Gray16);
    }
    let conversion = if options.color == ColorProfiles::Srgb {
        let profile = match &tiff {
            Some((tiff, page)) => Some(tiff.tag_values(page, ICC_PROFILE).map(|byte| byte as u8).collect()),
            None => decoder.icc_profile().ok().flatten(),
        };
        let is_cmyk = decoder.original_color_type().channel_count() > decoder.color_type().channel_count();
        let is_gray = !decoder.color_type().has_color();
        profile.filter(|_| !is_cmyk).and_then(|profile| conversion_from(profile, is_gray))
    } else {
        None
    };
    let orientation = match format {
        ImageFormat::Png => png_orientation.ok_or_else(truncated)?,
        _ => decoder.orientation().unwrap_or(Orientation::NoTransforms),
    };
    let header = ImageHeader {
        stored_size: (width, height),
        orientation,
        is_truncated,
        is_premultiplied,
        is_gray16,
        conversion,
    };
    Ok((decoder, header))
}
