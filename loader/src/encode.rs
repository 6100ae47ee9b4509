//! Encodes pixels as image files for people to look at.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage, imageops};

/// JPEG quality of a thumbnail; a thumbnail takes a few kilobytes.
const THUMBNAIL_QUALITY: u8 = 75;

/// Encodes `image` as a small JPEG for reports and returns the bytes of the file. The image is scaled down so
/// that neither side exceeds `max_side` pixels; a smaller image keeps its size.
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
/// If the image has no pixels.
#[must_use]
pub fn thumbnail(image: &RgbImage, max_side: u32) -> Vec<u8> {
    let (width, height) = image.dimensions();
    let longest = width.max(height);
    let scaled =
        |length: u32| (f64::from(length) * f64::from(max_side) / f64::from(longest)).round().max(1.0) as u32;
    let mut file = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut file, THUMBNAIL_QUALITY);
    let encoded = if longest > max_side {
        imageops::thumbnail(image, scaled(width), scaled(height)).write_with_encoder(encoder)
    } else {
        image.write_with_encoder(encoder)
    };
    encoded.expect("encoding a small JPEG in memory succeeds");
    file
}

/// Encodes `image` as a PNG, which keeps the exact pixels, and returns the bytes of the file.
///
/// # Panics
/// If the image has no pixels.
#[must_use]
pub fn png(image: &RgbImage) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, ImageFormat::Png).expect("encoding a PNG in memory succeeds");
    file.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;
    use crate::golden::{pixel_difference, synthetic_image};

    #[test]
    fn a_thumbnail_has_its_longest_side_and_a_small_image_keeps_its_size() {
        let size = |width, height, side| {
            decode(&thumbnail(&RgbImage::new(width, height), side), 10_000).unwrap().dimensions()
        };
        assert_eq!(size(60, 40, 30), (30, 20));
        assert_eq!(size(40, 60, 30), (20, 30));
        assert_eq!(size(31, 7, 30), (30, 7));
        assert_eq!(size(400, 1, 30), (30, 1));
        assert_eq!(size(30, 20, 30), (30, 20));
        assert_eq!(size(9, 30, 30), (9, 30));
    }

    #[test]
    fn png_is_lossless_and_a_thumbnail_keeps_colors() {
        let image = synthetic_image(40, 30);
        assert!(decode(&png(&image), 1200).unwrap() == image);
        let solid = |width, height| RgbImage::from_pixel(width, height, image::Rgb([200, 90, 17]));
        let small = decode(&thumbnail(&solid(40, 30), 20), 1200).unwrap();
        assert!(pixel_difference(&small, &solid(20, 15)).max <= 3);
    }
}
