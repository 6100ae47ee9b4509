//! Pixels into files, for people to look at.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage, imageops};

/// Quality of a thumbnail's JPEG: a few kilobytes.
const QUALITY: u8 = 75;

/// A JPEG of `photo` made so small that neither side is longer than `side`; a photo that is small enough keeps its size.
///
/// ```
/// use headstock_loader::encode::thumbnail;
///
/// let small = thumbnail(&image::RgbImage::new(640, 480), 96);
/// assert_eq!(headstock_loader::decode(&small, 10_000)?.dimensions(), (96, 72));
/// # Ok::<(), headstock_loader::DecodeError>(())
/// ```
///
/// # Panics
/// For a photo without pixels.
#[must_use]
pub fn thumbnail(photo: &RgbImage, side: u32) -> Vec<u8> {
    let (width, height) = photo.dimensions();
    let longest = width.max(height);
    let scaled =
        |length: u32| (f64::from(length) * f64::from(side) / f64::from(longest)).round().max(1.0) as u32;
    let mut file = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut file, QUALITY);
    let written = if longest > side {
        imageops::thumbnail(photo, scaled(width), scaled(height)).write_with_encoder(encoder)
    } else {
        photo.write_with_encoder(encoder)
    };
    written.expect("a photo that is at most so large is a JPEG in memory");
    file
}

/// A PNG of `photo`.
///
/// # Panics
/// For a photo without pixels.
#[must_use]
pub fn png(photo: &RgbImage) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    photo.write_to(&mut file, ImageFormat::Png).expect("pixels are a PNG in memory");
    file.into_inner()
}
