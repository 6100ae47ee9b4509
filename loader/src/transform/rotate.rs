//! Rotation as Pillow's `Image.rotate(angle, interpolation)`: same size, black outside.

use image::{RgbImage, imageops};

use super::{Resampling, warp};

/// `photo` turned by `degrees` counter-clockwise around its middle.
///
/// Source: Pillow's `Image.rotate`.
pub(crate) fn rotate(photo: &RgbImage, degrees: f64, interpolation: Resampling) -> RgbImage {
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
    let (center_x, center_y) = (f64::from(width) / 2.0, f64::from(height) / 2.0);
    let offset_x = cos * -center_x + sin * -center_y + center_x;
    let offset_y = -sin * -center_x + cos * -center_y + center_y;
    warp::affine(photo, [cos, sin, offset_x, -sin, cos, offset_y], interpolation)
}
