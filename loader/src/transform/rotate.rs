//! Rotation as Pillow's `Image.rotate(angle)` with its defaults: nearest, same size, black outside.

use image::{RgbImage, imageops};

/// `photo` turned by `degrees` counter-clockwise around its middle.
///
/// Source: Pillow's `Image.rotate` and `Geometry.c` (`affine_fixed`, 16.16 fixed point).
pub(crate) fn rotate(photo: &RgbImage, degrees: f64) -> RgbImage {
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
    let rounded = |value: f64| (value * 1e15).round_ties_even() / 1e15;
    let (cos, sin) = (rounded(angle.cos()), rounded(angle.sin()));
    let (middle_x, middle_y) = (f64::from(width) / 2.0, f64::from(height) / 2.0);
    let from_x = cos * -middle_x + sin * -middle_y + middle_x;
    let from_y = -sin * -middle_x + cos * -middle_y + middle_y;

    let fixed = |value: f64| (value * 65536.0 + 0.5).floor() as i64;
    let (step_cos, step_sin, step_minus_sin) = (fixed(cos), fixed(sin), fixed(-sin));
    let mut row_x = fixed(from_x + cos * 0.5 + sin * 0.5);
    let mut row_y = fixed(from_y - sin * 0.5 + cos * 0.5);
    let mut out = RgbImage::new(width, height);
    for row in out.rows_mut() {
        let (mut x, mut y) = (row_x, row_y);
        for pixel in row {
            let inside = |at: i64, size: u32| u32::try_from(at >> 16).ok().filter(|&at| at < size);
            if let (Some(x), Some(y)) = (inside(x, width), inside(y, height)) {
                *pixel = *photo.get_pixel(x, y);
            }
            x += step_cos;
            y += step_minus_sin;
        }
        row_x += step_sin;
        row_y += step_cos;
    }
    out
}
