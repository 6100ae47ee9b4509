//! Pillow's `Image.transform`: a map gives the source position of every output pixel; outside the photo it is
//! black.
//!
//! Source: Pillow 13.0.0's `Geometry.c`. An affine map with nearest uses fixed-point arithmetic or, without
//! rotation and shear, tables of columns and rows (`ImagingScaleAffine`); everything else is
//! `ImagingGenericTransform`.

use image::{Rgb, RgbImage};

use super::Resampling;

/// `Image.transform(size, AFFINE, matrix, interpolation)`; `matrix` maps an output position to one in
/// `photo`.
pub(crate) fn affine(image: &RgbImage, matrix: [f64; 6], interpolation: Resampling) -> RgbImage {
    let [a, b, c, d, e, f] = matrix;
    match interpolation {
        Resampling::Nearest if b == 0.0 && d == 0.0 => axis_aligned(image, matrix),
        Resampling::Nearest if fits_fixed_point(image, matrix) => fixed_point(image, matrix),
        _ => transform_generic(image, interpolation, |x, y| (a * x + b * y + c, d * x + e * y + f)),
    }
}

/// `Image.transform(size, PERSPECTIVE, coefficients, interpolation)`.
pub(crate) fn perspective(image: &RgbImage, coefficients: [f64; 8], interpolation: Resampling) -> RgbImage {
    let [a, b, c, d, e, f, g, h] = coefficients;
    transform_generic(image, interpolation, |x, y| {
        let denominator = g * x + h * y + 1.0;
        ((a * x + b * y + c) / denominator, (d * x + e * y + f) / denominator)
    })
}

/// Along an axis: the index of the pixel at `position`, if it lies within the photo.
fn pixel_index(position: f64, size: u32) -> Option<u32> {
    (position >= 0.0 && position < f64::from(size)).then_some(position as u32)
}

/// A map without rotation and shear. Like Pillow, this adds up steps, whose rounding errors matter at pixel
/// edges.
fn axis_aligned(image: &RgbImage, [a, _, c, _, e, f]: [f64; 6]) -> RgbImage {
    let (width, height) = image.dimensions();
    let source_pixels = |offset: f64, step: f64, size: u32| {
        let mut position = offset + step * 0.5;
        let mut pixels = Vec::with_capacity(size as usize);
        for _ in 0..size {
            pixels.push(pixel_index(position, size));
            position += step;
        }
        pixels
    };
    let (columns, rows) = (source_pixels(c, a, width), source_pixels(f, e, height));
    let mut out = RgbImage::new(width, height);
    for (row, y) in out.rows_mut().zip(rows) {
        let Some(y) = y else { continue };
        for (pixel, x) in row.zip(&columns) {
            if let Some(x) = *x {
                *pixel = *image.get_pixel(x, y);
            }
        }
    }
    out
}

/// Whether all source positions fit into 16.16 fixed point.
fn fits_fixed_point(image: &RgbImage, [a, b, c, d, e, f]: [f64; 6]) -> bool {
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    [(0.0, 0.0), (width, 0.0), (0.0, height), (width, height)]
        .into_iter()
        .all(|(x, y)| (x * a + y * b + c).abs() < 32768.0 && (x * d + y * e + f).abs() < 32768.0)
}

/// An affine map in 16.16 fixed point.
fn fixed_point(image: &RgbImage, [a, b, c, d, e, f]: [f64; 6]) -> RgbImage {
    let (width, height) = image.dimensions();
    let to_fixed = |value: f64| (value * 65536.0 + 0.5).floor() as i64;
    let (across_x, across_y, down_x, down_y) = (to_fixed(a), to_fixed(d), to_fixed(b), to_fixed(e));
    let mut row_x = to_fixed(c + a * 0.5 + b * 0.5);
    let mut row_y = to_fixed(f + d * 0.5 + e * 0.5);
    let mut out = RgbImage::new(width, height);
    for row in out.rows_mut() {
        let (mut x, mut y) = (row_x, row_y);
        for pixel in row {
            let inside =
                |coordinate: i64, size: u32| u32::try_from(coordinate >> 16).ok().filter(|&at| at < size);
            if let (Some(x), Some(y)) = (inside(x, width), inside(y, height)) {
                *pixel = *image.get_pixel(x, y);
            }
            x += across_x;
            y += across_y;
        }
        row_x += down_x;
        row_y += down_y;
    }
    out
}

/// `map` gives the source position of the center of an output pixel.
fn transform_generic(
    image: &RgbImage,
    interpolation: Resampling,
    map: impl Fn(f64, f64) -> (f64, f64),
) -> RgbImage {
    let (width, height) = image.dimensions();
    let mut out = RgbImage::new(width, height);
    for (x, y, pixel) in out.enumerate_pixels_mut() {
        let (x, y) = map(f64::from(x) + 0.5, f64::from(y) + 0.5);
        let (Some(column), Some(row)) = (pixel_index(x, width), pixel_index(y, height)) else { continue };
        *pixel = match interpolation {
            Resampling::Nearest => *image.get_pixel(column, row),
            Resampling::Bilinear => interpolate(image, x, y, 0, |[a, b], d| a + (b - a) * d),
            Resampling::Bicubic | Resampling::Lanczos => interpolate(image, x, y, 1, cubic),
        };
    }
    out
}

/// Interpolates between `N` x `N` neighbors of position (x, y); edge pixels are repeated. `n_before`
/// neighbors come before the pixel at the position, along each axis.
fn interpolate<const N: usize>(
    image: &RgbImage,
    x: f64,
    y: f64,
    n_before: i64,
    curve: impl Fn([f64; N], f64) -> f64,
) -> Rgb<u8> {
    let (x, y) = (x - 0.5, y - 0.5);
    let (left, top) = (x.floor(), y.floor());
    let (across, down) = (x - left, y - top);
    let neighbors = |start: f64, size: u32| {
        std::array::from_fn::<u32, N, _>(|i| {
            (start as i64 - n_before + i as i64).clamp(0, i64::from(size) - 1) as u32
        })
    };
    let (columns, rows) = (neighbors(left, image.width()), neighbors(top, image.height()));
    Rgb([0, 1, 2].map(|channel| {
        let row = |y: u32| curve(columns.map(|x| f64::from(image.get_pixel(x, y).0[channel])), across);
        // Truncated, not rounded, as in Pillow.
        curve(rows.map(row), down) as u8
    }))
}

/// Pillow's cubic interpolation between `b` and `c`, with a = -1.
fn cubic([a, b, c, d]: [f64; 4], t: f64) -> f64 {
    let (p2, p3, p4) = (-a + c, 2.0 * (a - b) + c - d, -a + b - c + d);
    b + t * (p2 + t * (p3 + t * p4))
}
