//! A photo whose header was read, and the ways to its pixels.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage, imageops};
use serde::{Deserialize, Serialize};

use super::{
    DecodeError, TRUNCATED, check_size, chunks, damaged, format_name, into_rgb, jpeg, require_known_format,
    without_panic,
};
use crate::transform::RenderSpec;

/// At which size photos are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodeMode {
    /// At their own.
    #[default]
    Exact,
    /// JPEGs at a half, a quarter or an eighth of it: the smallest that is still as large, along both axes, as what is made of
    /// them (as Pillow's `draft`). Large photos take a fraction of the time, and give slightly other pixels.
    Scaled,
}

impl DecodeMode {
    /// Whether it is the default.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        *self == Self::Exact
    }
}

/// A part of an upright photo, in its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Rows above it.
    pub top: u32,
    /// Columns left of it.
    pub left: u32,
    /// Its rows.
    pub height: u32,
    /// Its columns.
    pub width: u32,
}

impl Crop {
    /// The whole of a photo of `size` (width, height).
    pub(crate) fn whole((width, height): (u32, u32)) -> Self {
        Self { top: 0, left: 0, height, width }
    }

    /// What of it lies within `size` (width, height).
    pub(crate) fn clipped_to(self, (width, height): (u32, u32)) -> Self {
        let (left, top) = (self.left.min(width), self.top.min(height));
        Self { top, left, height: self.height.min(height - top), width: self.width.min(width - left) }
    }

    /// The least crop around both.
    pub(crate) fn union(self, other: Self) -> Self {
        let (left, top) = (self.left.min(other.left), self.top.min(other.top));
        let end = |a: (u32, u32), b: (u32, u32)| (a.0 + a.1).max(b.0 + b.1);
        Self {
            top,
            left,
            height: end((self.top, self.height), (other.top, other.height)) - top,
            width: end((self.left, self.width), (other.left, other.width)) - left,
        }
    }
}

/// How the pixels at hand lie in the photo that they are of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DecodedRegion {
    /// The photo is reduced by this factor.
    pub(crate) scale: u32,
    /// The upright photo's size, reduced.
    pub(crate) image_size: (u32, u32),
    /// Where the pixels begin in it (x, y).
    pub(crate) origin: (u32, u32),
    /// How far into its first column and row the photo begins: a photo that is turned has the column of its end first, which
    /// it need not fill.
    pub(crate) shift: (f64, f64),
}

impl DecodedRegion {
    /// That of a whole photo of `size` (width, height).
    pub(crate) fn whole(size: (u32, u32)) -> Self {
        Self { scale: 1, image_size: size, origin: (0, 0), shift: (0.0, 0.0) }
    }
}

/// A photo of which the header was read. What it takes to give pixels is done when they are asked for.
///
/// ```
/// use headstock_loader::{Crop, PhotoDecoder};
///
/// let mut file = std::io::Cursor::new(Vec::new());
/// image::RgbImage::new(40, 30).write_to(&mut file, image::ImageFormat::Jpeg)?;
/// let photo = PhotoDecoder::open(file.get_ref(), 1_000_000)?;
/// assert_eq!(photo.size(), (40, 30));
/// let part = photo.decode_window(Crop { top: 4, left: 8, height: 10, width: 20 })?;
/// assert_eq!(part.dimensions(), (20, 10));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LazyImage<'a> {
    bytes: &'a [u8],
    max_pixels: u64,
    format: ImageFormat,
    decoder: FormatDecoder<'a>,
    orientation: ExifOrientation,
    /// Width and height of the upright photo.
    size: (u32, u32),
}

enum FormatDecoder<'a> {
    Jpeg(Box<jpeg::OpenedJpeg<'a>>),
    Other(Box<dyn ImageDecoder + 'a>),
}

impl<'a> LazyImage<'a> {
    /// Reads what comes before the pixels.
    ///
    /// # Errors
    /// [`DecodeError`]; a photo of more than `max_pixels` is refused here, before its pixels are allocated.
    pub fn open(bytes: &'a [u8], max_pixels: u64) -> Result<Self, DecodeError> {
        let format = require_known_format(bytes)?;
        without_panic(format_name(format), || {
            let (decoder, stored_size, orientation) = match format {
                ImageFormat::Jpeg => {
                    let opened = jpeg::open(bytes, max_pixels)?;
                    let (size, orientation) = (opened.size, opened.orientation);
                    (FormatDecoder::Jpeg(Box::new(opened)), size, orientation)
                }
                _ => {
                    let (decoder, orientation) = open_other(bytes, format, max_pixels)?;
                    let size = decoder.dimensions();
                    (FormatDecoder::Other(Box::new(decoder)), size, orientation)
                }
            };
            let exif_orientation = ExifOrientation(orientation);
            Ok(Self {
                bytes,
                max_pixels,
                format,
                decoder,
                orientation: exif_orientation,
                size: exif_orientation.upright_size(stored_size),
            })
        })
    }

    /// Width and height of the upright photo.
    #[must_use]
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    /// The whole photo, `[H, W, 3]`.
    ///
    /// # Errors
    /// [`DecodeError::Damaged`].
    pub fn decode(self) -> Result<RgbImage, DecodeError> {
        let whole = Crop::whole(self.size);
        self.decode_window(whole)
    }

    /// The part `window` of the photo, `[H, W, 3]`: the pixels that [`decode`](Self::decode) has there. What of the window is
    /// outside of the photo is left out. Of JPEGs the rest is read, so that damage to it is still an error, but its
    /// pixels are not made; other formats are decoded whole.
    ///
    /// # Errors
    /// Those of [`decode`](Self::decode).
    pub fn decode_window(self, window: Crop) -> Result<RgbImage, DecodeError> {
        let window = window.clipped_to(self.size);
        let (pixels, DecodedRegion { origin, .. }) = self.decode_region(1, window)?;
        let (x, y) = (window.left - origin.0, window.top - origin.1);
        if (x, y, pixels.dimensions()) == (0, 0, (window.width, window.height)) {
            return Ok(pixels);
        }
        Ok(imageops::crop_imm(&pixels, x, y, window.width, window.height).to_image())
    }

    /// What `renderings` make of the photo, each `[H, W, 3]`, and none of them depending on the others. It is decoded once for all
    /// of them, reduced once at each scale that they take, and of it what they need.
    ///
    /// ```
    /// use headstock_loader::{Augment, DecodeMode, EvalTransform, Interpolation, PhotoDecoder, RandomResizedCrop};
    ///
    /// let mut file = std::io::Cursor::new(Vec::new());
    /// image::RgbImage::new(400, 300).write_to(&mut file, image::ImageFormat::Jpeg)?;
    /// let photo = PhotoDecoder::open(file.get_ref(), 1_000_000)?;
    /// let plain = EvalTransform { resize: 64, crop: (56, 56), interpolation: Interpolation::Bilinear };
    /// let augment = Augment { random_resized_crop: Some(RandomResizedCrop::default()), ..Augment::default() };
    /// let both = [plain.rendering(), augment.rendering(photo.size(), &plain, 1, &[7; 32])];
    /// let pixels = photo.render(DecodeMode::Scaled, &both)?;
    /// assert_eq!(pixels[1].dimensions(), (56, 56));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`decode`](Self::decode).
    pub fn render(self, mode: DecodeMode, specs: &[RenderSpec]) -> Result<Vec<RgbImage>, DecodeError> {
        let Self { bytes, max_pixels, size, .. } = self;
        let is_reduced = mode == DecodeMode::Scaled && matches!(self.decoder, FormatDecoder::Jpeg(_));
        let scale_for = |spec: &RenderSpec| if is_reduced { spec.max_reduction(size) } else { 1 };
        let mut opened = Some(self);
        let mut rendered = vec![RgbImage::default(); specs.len()];
        for scale in [1, 2, 4, 8] {
            let specs_at_scale = || specs.iter().zip(0..).filter(|(spec, _)| scale_for(spec) == scale);
            if specs_at_scale().next().is_none() {
                continue;
            }
            let decoder = match opened.take() {
                Some(decoder) => decoder,
                None => Self::open(bytes, max_pixels)?,
            };
            let full_region = decoder.region_at_scale(scale);
            let needed =
                specs_at_scale().map(|(spec, _)| spec.needed_region(size, full_region)).reduce(Crop::union);
            let (pixels, region) = decoder.decode_region(scale, needed.expect("there is one at least"))?;
            specs_at_scale().for_each(|(spec, index): (_, usize)| {
                rendered[index] = spec.render_region(&pixels, size, region)
            });
        }
        Ok(rendered)
    }

    /// How the whole photo lies, reduced by `scale`.
    fn region_at_scale(&self, scale: u32) -> DecodedRegion {
        let (width, height) = self.size;
        let (flips_x, flips_y) = self.orientation.flips();
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

    /// Pixels of the photo reduced by `scale` that hold at least `needed`, which is counted in such pixels; the whole photo at
    /// its own size where no less can be had.
    pub(crate) fn decode_region(
        self,
        scale: u32,
        needed: Crop,
    ) -> Result<(RgbImage, DecodedRegion), DecodeError> {
        let region = self.region_at_scale(scale);
        let Self { format, decoder, orientation, size, .. } = self;
        without_panic(format_name(format), || {
            let (mut photo, region) = match decoder {
                FormatDecoder::Jpeg(opened) => {
                    match opened.decode(scale, orientation.stored_crop(needed, region.image_size))? {
                        jpeg::DecodedJpeg::Region(photo) => (
                            DynamicImage::ImageRgb8(photo),
                            DecodedRegion { origin: (needed.left, needed.top), ..region },
                        ),
                        jpeg::DecodedJpeg::Full(photo) => {
                            (DynamicImage::ImageRgb8(photo), DecodedRegion::whole(size))
                        }
                    }
                }
                FormatDecoder::Other(decoder) => {
                    let photo =
                        DynamicImage::from_decoder(decoder).map_err(|error| damaged(format, &error))?;
                    (photo, DecodedRegion::whole(size))
                }
            };
            photo.apply_orientation(orientation.0);
            Ok((into_rgb(photo), region))
        })
    }
}

/// How a photo is turned to stand upright.
#[derive(Clone, Copy)]
struct ExifOrientation(Orientation);

impl ExifOrientation {
    /// Whether rows become columns.
    fn transposes(self) -> bool {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        matches!(self.0, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
    }

    /// Along which axis of the upright photo (across, down) pixels come in the other order than stored.
    fn flips(self) -> (bool, bool) {
        match self.0 {
            Orientation::NoTransforms | Orientation::Rotate90FlipH => (false, false),
            Orientation::FlipHorizontal | Orientation::Rotate90 => (true, false),
            Orientation::FlipVertical | Orientation::Rotate270 => (false, true),
            Orientation::Rotate180 | Orientation::Rotate270FlipH => (true, true),
        }
    }

    fn upright_size(self, (width, height): (u32, u32)) -> (u32, u32) {
        if self.transposes() { (height, width) } else { (width, height) }
    }

    /// Where `crop` of an upright photo of `size` is stored.
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

/// What comes before the pixels: the header, and where that is known the end.
pub(super) fn open_other(
    bytes: &[u8],
    format: ImageFormat,
    max_pixels: u64,
) -> Result<(impl ImageDecoder, Orientation), DecodeError> {
    let name = format_name(format);
    let truncated = || DecodeError::Damaged { format: name, message: TRUNCATED.into() };
    if format == ImageFormat::WebP && chunks::is_truncated_webp(bytes) {
        return Err(truncated());
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // The widest pixel is 16 bytes; decoders keep a second copy at most.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_pixels.saturating_mul(32).saturating_add(1 << 24));
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| damaged(format, &error))?;
    let (width, height) = decoder.dimensions();
    check_size(name, width.into(), height.into(), max_pixels)?;
    let orientation = match format {
        ImageFormat::Png => chunks::png_orientation(bytes).ok_or_else(truncated)?,
        _ => decoder.orientation().unwrap_or(Orientation::NoTransforms),
    };
    Ok((decoder, orientation))
}
