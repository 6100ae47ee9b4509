//! Rotation as Pillow's `Image.rotate(angle, interpolation)`: same size, black outside.

use image::{RgbImage, imageops};

use super::{Interpolation, warp};

/// `photo` turned by `degrees` counter-clockwise around its middle.
///
/// Source: Pillow's `Image.rotate`.
pub(crate) fn rotate(photo: &RgbImage, degrees: f64, interpolation: Interpolation) -> RgbImage {
    let degrees = degrees.rem_euclid(360.0);
    let (width, height) = photo.dimensions();
    match degrees {
        0.0 => return photo.clone(),
        180.0 => return imageops::rotate180(photo),
        90.0 if width == height => return imageops::rotate270(photo),
        270.0 if width == height => return imageops::rotate90(photo),
        _ => {}
    }
    let angle = -degrees.to_radians();
    // Python's `round(value, 15)`, which goes by the decimal digits.
    let rounded = |value: f64| format!("{value:.15}").parse().unwrap_or(value);
    let (cos, sin) = (rounded(angle.cos()), rounded(angle.sin()));
    let (middle_x, middle_y) = (f64::from(width) / 2.0, f64::from(height) / 2.0);
    let from_x = cos * -middle_x + sin * -middle_y + middle_x;
    let from_y = -sin * -middle_x + cos * -middle_y + middle_y;
    warp::affine(photo, [cos, sin, from_x, -sin, cos, from_y], interpolation)
}
