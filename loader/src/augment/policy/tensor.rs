//! torchvision's operations on 8-bit tensors, in single precision. They differ from Pillow's operations in
//! rounding, pixel positions and the treatment of edges.
//!
//! Source: torchvision 0.29.2's `functional/_color.py` and `_geometry.py`, PyTorch's `grid_sample`.

use image::{Rgb, RgbImage};

use super::operation::PolicyOp;
use crate::augment::affine::AffineMap;
use crate::augment::autocontrast::value_range;
use crate::augment::equalize::Equalize;
use crate::augment::invert::Invert;
use crate::augment::posterize::Posterize;
use crate::augment::solarize::Solarize;
use crate::transform::ImageOp;
use crate::transform::enhance::filter_3x3;
use crate::transform::lookup_table::{lookup_table, map_channels, map_values};
use crate::transform::rotate::quarter_turn;

/// Applies `operation` with `magnitude` (in the unit of the operation) as torchvision does on a tensor.
/// `AugMix` needs this; the other policies use [`PolicyOp::to_image_op`], which equals torchvision on PIL
/// images.
pub(super) fn apply(image: RgbImage, operation: PolicyOp, magnitude: f64) -> RgbImage {
    let factor = 1.0 + magnitude;
    match operation {
        PolicyOp::Identity => image,
        PolicyOp::ShearX | PolicyOp::ShearY | PolicyOp::TranslateX | PolicyOp::TranslateY => {
            match operation.affine_map(magnitude) {
                Some(map) => warp_bilinear(&image, &map),
                None => image,
            }
        }
        PolicyOp::Rotate => rotate(&image, magnitude),
        PolicyOp::Brightness => map_values(image, |value| (f32::from(value) * factor as f32) as u8),
        PolicyOp::Color => saturation(image, factor),
        PolicyOp::Contrast => contrast(image, factor),
        PolicyOp::Sharpness => sharpness(&image, factor),
        PolicyOp::AutoContrast => autocontrast(image),
        PolicyOp::Posterize => Posterize { bits: magnitude as u8 }.apply(image),
        PolicyOp::Solarize => Solarize { threshold: 255.0 * magnitude }.apply(image),
        PolicyOp::Equalize => Equalize.apply(image),
        PolicyOp::Invert => Invert.apply(image),
    }
}

/// torchvision's `_blend`: `value * factor + degenerate * (1 - factor)`, where `degenerate` is the value at
/// factor 0. The sum is rounded to single precision once, then truncated.
fn blend(value: u8, degenerate: f32, factor: f64) -> u8 {
    let scaled = f32::from(value) * factor as f32;
    (f64::from(scaled) + f64::from(degenerate) * f64::from((1.0 - factor) as f32)) as f32 as u8
}

/// The gray value of a pixel, rounded down as in torchvision.
fn luma([r, g, b]: [u8; 3]) -> f32 {
    let [r, g, b] = [r, g, b].map(f32::from);
    (r * 0.2989 + g * 0.587 + b * 0.114).floor()
}

/// torchvision's `adjust_saturation` on a tensor: blends between grayscale at factor 0 and the image at
/// factor 1.
fn saturation(mut image: RgbImage, factor: f64) -> RgbImage {
    for pixel in image.pixels_mut() {
        let gray = luma(pixel.0);
        pixel.0 = pixel.0.map(|value| blend(value, gray, factor));
    }
    image
}

/// torchvision's `adjust_contrast` on a tensor: blends between the mean gray at factor 0 and the image at
/// factor 1.
fn contrast(image: RgbImage, factor: f64) -> RgbImage {
    let sum: f64 = image.pixels().map(|pixel| f64::from(luma(pixel.0))).sum();
    let mean = (sum / (f64::from(image.width()) * f64::from(image.height())).max(1.0)) as f32;
    map_values(image, |value| blend(value, mean, factor))
}

/// torchvision's `adjust_sharpness` on a tensor, which `AugMix` applies: blends between the smoothed image at
/// factor 0 and the image at factor 1, and sharpens above. Rounds differently from the version for PIL
/// images. Edge pixels stay unchanged.
fn sharpness(image: &RgbImage, factor: f64) -> RgbImage {
    filter_3x3(image, |rows| {
        // The smoothing kernel has weight 5/13 at the center and 1/13 elsewhere.
        let sum: u16 = rows.iter().flatten().map(|&value| u16::from(value)).sum();
        let value = rows[1][1];
        let blurred = (f32::from(sum + 4 * u16::from(value)) / 13.0).round_ties_even();
        let difference = f64::from(blurred - f32::from(value)) * f64::from((1.0 - factor) as f32);
        (f64::from(value) + difference) as f32 as u8
    })
}

/// torchvision's `autocontrast` on a tensor, which `AugMix` applies: stretches the values of each channel,
/// from its darkest to its brightest, to the range from 0 to 255. A channel with a single value stays.
fn autocontrast(image: RgbImage) -> RgbImage {
    map_channels(image, |histogram| match value_range(histogram) {
        Some((darkest, brightest)) => {
            let scale = f32::from(brightest - darkest) * (1.0_f64 / 255.0) as f32;
            lookup_table(|value| ((f32::from(value) - f32::from(darkest)) / scale) as u8)
        }
        None => lookup_table(|value| value),
    })
}

/// torchvision's `rotate` on a tensor, which `AugMix` applies: rotates by `degrees` counterclockwise around
/// the center, to the same size.
fn rotate(image: &RgbImage, degrees: f64) -> RgbImage {
    let degrees = degrees.rem_euclid(360.0);
    quarter_turn(image, degrees).unwrap_or_else(|| {
        // `AffineMap` rotates clockwise.
        warp_bilinear(image, &AffineMap { degrees: -degrees, ..AffineMap::IDENTITY })
    })
}

/// Applies an affine map with bilinear interpolation, for `AugMix`: PyTorch's `affine_grid` and
/// `grid_sample`, in their order of single-precision operations. Pixels outside the image are black. Output
/// positions are in pixels from the center, source positions first in half widths and half heights from the
/// center (-1 to 1), then in pixels.
fn warp_bilinear(image: &RgbImage, map: &AffineMap) -> RgbImage {
    let (width, height) = image.dimensions();
    let half = [width, height].map(|size| size as f32 * 0.5);
    let center = match map.center {
        Some(center) => [center[0] - f64::from(width) * 0.5, center[1] - f64::from(height) * 0.5],
        None => [0.0; 2],
    };
    let [a, b, c, d, e, f] = map.inverse_matrix_about(center).map(|value| value as f32);
    // The factors of an output x, an output y and 1 in the source position, in half widths and half heights.
    let x_row = [a, b, c].map(|value| value / half[0]);
    let y_row = [d, e, f].map(|value| value / half[1]);
    let from_center = |coordinate: u32, half: f32| coordinate as f32 + 0.5 - half;
    // The pixel index of the source along one axis.
    let source_position = |[x_factor, y_factor, offset]: [f32; 3], x: f32, y: f32, half: f32| {
        (x * x_factor + y * y_factor + offset + 1.0) * half - 0.5
    };
    let pixel = |x: f32, y: f32| {
        let is_inside = x >= 0.0 && y >= 0.0 && x < width as f32 && y < height as f32;
        if is_inside { image.get_pixel(x as u32, y as u32).0.map(f32::from) } else { [0.0; 3] }
    };
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (from_center(x, half[0]), from_center(y, half[1]));
        let source_x = source_position(x_row, x, y, half[0]);
        let source_y = source_position(y_row, x, y, half[1]);
        let (left, top) = (source_x.floor(), source_y.floor());
        let (right_weight, bottom_weight) = (source_x - left, source_y - top);
        let (left_weight, top_weight) = (1.0 - right_weight, 1.0 - bottom_weight);
        let corners = [
            (left_weight * top_weight, pixel(left, top)),
            (right_weight * top_weight, pixel(left + 1.0, top)),
            (left_weight * bottom_weight, pixel(left, top + 1.0)),
            (right_weight * bottom_weight, pixel(left + 1.0, top + 1.0)),
        ];
        Rgb([0, 1, 2].map(|channel| {
            let terms = corners.map(|(weight, pixel)| weight * pixel[channel]);
            (terms[0] + terms[1] + terms[2] + terms[3]).round_ties_even() as u8
        }))
    })
}
