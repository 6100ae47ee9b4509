//! Pixels into files, for people to look at.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage, imageops};

/// Quality of a thumbnail's JPEG: a few kilobytes.
const THUMBNAIL_QUALITY: u8 = 75;

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
pub fn thumbnail(photo: &RgbImage, max_side: u32) -> Vec<u8> {
    let (width, height) = photo.dimensions();
    let longest = width.max(height);
    let scaled =
        |length: u32| (f64::from(length) * f64::from(max_side) / f64::from(longest)).round().max(1.0) as u32;
    let mut file = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut file, THUMBNAIL_QUALITY);
    let encoded = if longest > max_side {
        imageops::thumbnail(photo, scaled(width), scaled(height)).write_with_encoder(encoder)
    } else {
        photo.write_with_encoder(encoder)
    };
    encoded.expect("a photo that is at most so large is a JPEG in memory");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;
    use crate::golden::{pixel_difference, synthetic_image};

    #[test]
    fn a_thumbnail_has_its_longest_side_and_a_small_photo_keeps_its_size() {
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
    fn a_picture_survives_being_written() {
        let photo = synthetic_image(40, 30);
        assert!(decode(&png(&photo), 1200).unwrap() == photo);
        let plain = RgbImage::from_pixel(40, 30, image::Rgb([200, 90, 17]));
        assert!(
            pixel_difference(
                &decode(&thumbnail(&plain, 20), 1200).unwrap(),
                &RgbImage::from_pixel(20, 15, image::Rgb([200, 90, 17]))
            )
            .max <= 3
        );
    }
}
