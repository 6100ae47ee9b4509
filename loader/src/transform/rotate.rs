//! Rotation as Pillow's `Image.rotate(angle, interpolation)`: same size, black outside.

use image::{RgbImage, imageops};

use super::{Resampling, warp};

/// `image` turned by `degrees` (0 to 360) counterclockwise, if that needs no interpolation and the size stays:
/// by 0 and 180 degrees, and square images by 90 and 270 degrees.
pub(crate) fn quarter_turn(image: &RgbImage, degrees: f64) -> Option<RgbImage> {
    let is_square = image.width() == image.height();
    match degrees {
        0.0 => Some(image.clone()),
        180.0 => Some(imageops::rotate180(image)),
        // `imageops` rotates clockwise.
        90.0 if is_square => Some(imageops::rotate270(image)),
        270.0 if is_square => Some(imageops::rotate90(image)),
        _ => None,
    }
}

/// Rotates `image` by `degrees` counterclockwise around its center, as an augmentation. The size stays, and
/// pixels from outside are black. Same pixels as Pillow's `Image.rotate(degrees, interpolation)`, which
/// turns by 180 degrees, and square images by 90 and 270 degrees, without interpolation.
pub(crate) fn rotate(image: &RgbImage, degrees: f64, interpolation: Resampling) -> RgbImage {
    let degrees = degrees.rem_euclid(360.0);
    if let Some(turned) = quarter_turn(image, degrees) {
        return turned;
    }
    let angle = -degrees.to_radians();
    // Python's `round(value, 15)`, which rounds the decimal representation.
    let rounded = |value: f64| format!("{value:.15}").parse().unwrap_or(value);
    let (cos, sin) = (rounded(angle.cos()), rounded(angle.sin()));
    // The offsets keep the center in place.
    let (center_x, center_y) = (f64::from(image.width()) / 2.0, f64::from(image.height()) / 2.0);
    let offset_x = cos * -center_x + sin * -center_y + center_x;
    let offset_y = -sin * -center_x + cos * -center_y + center_y;
    warp::affine(image, [cos, sin, offset_x, -sin, cos, offset_y], interpolation)
}
