//! Operations as torchvision does them on tensors of 8 bits, in single precision: other than Pillow where a value is rounded,
//! where pixels lie, and beyond the edges.
//!
//! Source: torchvision 0.29.2's `functional/_color.py` and `_geometry.py`, PyTorch's `grid_sample`.

use image::{Rgb, RgbImage, imageops};

use super::operation::Operation;
use crate::augment::ops::colour::smoothed;
use crate::augment::ops::geometry::AffineMap;
use crate::augment::ops::tone::{self, extent, map, map_channels, table};

pub(super) fn apply(mut photo: RgbImage, operation: Operation, magnitude: f64) -> RgbImage {
    let factor = 1.0 + magnitude;
    match operation {
        Operation::Identity => {}
        Operation::ShearX | Operation::ShearY | Operation::TranslateX | Operation::TranslateY => {
            return operation.affine(magnitude).map_or_else(|| photo.clone(), |map| sample(&photo, &map));
        }
        Operation::Rotate => return rotate(&photo, magnitude),
        Operation::Brightness => map(&mut photo, &table(|value| (f32::from(value) * factor as f32) as u8)),
        Operation::Color => saturation(&mut photo, factor),
        Operation::Contrast => contrast(&mut photo, factor),
        Operation::Sharpness => return sharpness(&photo, factor),
        Operation::AutoContrast => autocontrast(&mut photo),
        Operation::Posterize => tone::posterize(&mut photo, magnitude as u8),
        Operation::Solarize => tone::solarize(&mut photo, 255.0 * magnitude),
        Operation::Equalize => tone::equalize(&mut photo),
        Operation::Invert => tone::invert(&mut photo),
    }
    photo
}

/// `value * factor + plain * (1 - factor)`, the sum rounded once.
fn blend(value: u8, plain: f32, factor: f64) -> u8 {
    let scaled = f32::from(value) * factor as f32;
    (f64::from(scaled) + f64::from(plain) * f64::from((1.0 - factor) as f32)) as f32 as u8
}

fn grey([r, g, b]: [u8; 3]) -> f32 {
    let [r, g, b] = [r, g, b].map(f32::from);
    (r * 0.2989 + g * 0.587 + b * 0.114).floor()
}

fn saturation(photo: &mut RgbImage, factor: f64) {
    for pixel in photo.pixels_mut() {
        let plain = grey(pixel.0);
        pixel.0 = pixel.0.map(|value| blend(value, plain, factor));
    }
}

fn contrast(photo: &mut RgbImage, factor: f64) {
    let sum: f64 = photo.pixels().map(|pixel| f64::from(grey(pixel.0))).sum();
    let mean = (sum / (f64::from(photo.width()) * f64::from(photo.height())).max(1.0)) as f32;
    map(photo, &table(|value| blend(value, mean, factor)));
}

fn sharpness(photo: &RgbImage, factor: f64) -> RgbImage {
    smoothed(photo, |rows| {
        let all: u16 = rows.iter().flatten().map(|&value| u16::from(value)).sum();
        let value = rows[1][1];
        let smooth = (f32::from(all + 4 * u16::from(value)) / 13.0).round_ties_even();
        let off = f64::from(smooth - f32::from(value)) * f64::from((1.0 - factor) as f32);
        (f64::from(value) + off) as f32 as u8
    })
}

fn autocontrast(photo: &mut RgbImage) {
    map_channels(photo, |histogram| match extent(histogram) {
        Some((darkest, brightest)) => {
            let scale = f32::from(brightest - darkest) * (1.0_f64 / 255.0) as f32;
            table(|value| ((f32::from(value) - f32::from(darkest)) / scale) as u8)
        }
        None => table(|value| value),
    });
}

fn rotate(photo: &RgbImage, degrees: f64) -> RgbImage {
    let degrees = degrees.rem_euclid(360.0);
    let square = photo.width() == photo.height();
    match degrees {
        0.0 => photo.clone(),
        180.0 => imageops::rotate180(photo),
        90.0 if square => imageops::rotate270(photo),
        270.0 if square => imageops::rotate90(photo),
        _ => sample(photo, &AffineMap { degrees: -degrees, ..AffineMap::IDENTITY }),
    }
}

/// Bilinear between the four nearest pixels, with black ones around the photo. Places are counted from the middle.
fn sample(photo: &RgbImage, map: &AffineMap) -> RgbImage {
    let (width, height) = photo.dimensions();
    let half = [width, height].map(|size| size as f32 * 0.5);
    let centre = match map.centre {
        Some(centre) => [centre[0] - f64::from(width) * 0.5, centre[1] - f64::from(height) * 0.5],
        None => [0.0; 2],
    };
    let [a, b, c, d, e, f] = map.inverse_around(centre).map(|value| value as f32);
    let across = [a, b, c].map(|value| value / half[0]);
    let down = [d, e, f].map(|value| value / half[1]);
    let from_middle = |at: u32, half: f32| at as f32 + 0.5 - half;
    let place = |[by_x, by_y, shift]: [f32; 3], x: f32, y: f32, half: f32| {
        (x * by_x + y * by_y + shift + 1.0) * half - 0.5
    };
    let pixel = |x: f32, y: f32| {
        let inside = x >= 0.0 && y >= 0.0 && x < width as f32 && y < height as f32;
        if inside { photo.get_pixel(x as u32, y as u32).0.map(f32::from) } else { [0.0; 3] }
    };
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (from_middle(x, half[0]), from_middle(y, half[1]));
        let (x, y) = (place(across, x, y, half[0]), place(down, x, y, half[1]));
        let (left, top) = (x.floor(), y.floor());
        let (east, south) = (x - left, y - top);
        let (west, north) = (1.0 - east, 1.0 - south);
        let corners = [
            (west * north, pixel(left, top)),
            (east * north, pixel(left + 1.0, top)),
            (west * south, pixel(left, top + 1.0)),
            (east * south, pixel(left + 1.0, top + 1.0)),
        ];
        Rgb([0, 1, 2].map(|channel| {
            let [a, b, c, d] = corners.map(|(weight, pixel)| weight * pixel[channel]);
            (a + b + c + d).round_ties_even() as u8
        }))
    })
}
