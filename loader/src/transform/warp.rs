//! Pillow's `Image.transform`: every pixel of the result is looked up where a map says; outside it is black.
//!
//! Source: Pillow 13.0.0's `Geometry.c`. Nearest under an affine map is its fixed point or, without shear, its table of
//! columns; everything else is `ImagingGenericTransform`.

use image::{Rgb, RgbImage};

use super::Interpolation;

/// `Image.transform(size, AFFINE, matrix, interpolation)`: from a place in the result to one in `photo`.
pub(crate) fn affine(photo: &RgbImage, matrix: [f64; 6], interpolation: Interpolation) -> RgbImage {
    let [a, b, c, d, e, f] = matrix;
    match interpolation {
        Interpolation::Nearest if b == 0.0 && d == 0.0 => scaled(photo, matrix),
        Interpolation::Nearest if fits_fixed_point(photo, matrix) => fixed_point(photo, matrix),
        _ => generic(photo, interpolation, |x, y| (a * x + b * y + c, d * x + e * y + f)),
    }
}

/// `Image.transform(size, PERSPECTIVE, coefficients, interpolation)`.
pub(crate) fn perspective(
    photo: &RgbImage,
    coefficients: [f64; 8],
    interpolation: Interpolation,
) -> RgbImage {
    let [a, b, c, d, e, f, g, h] = coefficients;
    generic(photo, interpolation, |x, y| {
        let below = g * x + h * y + 1.0;
        ((a * x + b * y + c) / below, (d * x + e * y + f) / below)
    })
}

/// Along an axis: the pixel at `at`, where there is one.
fn pixel_at(at: f64, size: u32) -> Option<u32> {
    (at >= 0.0 && at < f64::from(size)).then_some(at as u32)
}

/// Steps are added up, as Pillow does: their rounding shows at the edges of pixels.
fn scaled(photo: &RgbImage, [a, _, c, _, e, f]: [f64; 6]) -> RgbImage {
    let (width, height) = photo.dimensions();
    let places = |from: f64, step: f64, size: u32| {
        let mut at = from + step * 0.5;
        let mut places = Vec::with_capacity(size as usize);
        for _ in 0..size {
            places.push(pixel_at(at, size));
            at += step;
        }
        places
    };
    let (columns, rows) = (places(c, a, width), places(f, e, height));
    let mut out = RgbImage::new(width, height);
    for (row, y) in out.rows_mut().zip(rows) {
        let Some(y) = y else { continue };
        for (pixel, x) in row.zip(&columns) {
            if let Some(x) = *x {
                *pixel = *photo.get_pixel(x, y);
            }
        }
    }
    out
}

fn fits_fixed_point(photo: &RgbImage, [a, b, c, d, e, f]: [f64; 6]) -> bool {
    let (width, height) = (f64::from(photo.width()), f64::from(photo.height()));
    [(0.0, 0.0), (width, 0.0), (0.0, height), (width, height)]
        .into_iter()
        .all(|(x, y)| (x * a + y * b + c).abs() < 32768.0 && (x * d + y * e + f).abs() < 32768.0)
}

fn fixed_point(photo: &RgbImage, [a, b, c, d, e, f]: [f64; 6]) -> RgbImage {
    let (width, height) = photo.dimensions();
    let fixed = |value: f64| (value * 65536.0 + 0.5).floor() as i64;
    let (across_x, across_y, down_x, down_y) = (fixed(a), fixed(d), fixed(b), fixed(e));
    let mut row_x = fixed(c + a * 0.5 + b * 0.5);
    let mut row_y = fixed(f + d * 0.5 + e * 0.5);
    let mut out = RgbImage::new(width, height);
    for row in out.rows_mut() {
        let (mut x, mut y) = (row_x, row_y);
        for pixel in row {
            let inside = |at: i64, size: u32| u32::try_from(at >> 16).ok().filter(|&at| at < size);
            if let (Some(x), Some(y)) = (inside(x, width), inside(y, height)) {
                *pixel = *photo.get_pixel(x, y);
            }
            x += across_x;
            y += across_y;
        }
        row_x += down_x;
        row_y += down_y;
    }
    out
}

fn generic(
    photo: &RgbImage,
    interpolation: Interpolation,
    place: impl Fn(f64, f64) -> (f64, f64),
) -> RgbImage {
    let (width, height) = photo.dimensions();
    let mut out = RgbImage::new(width, height);
    for (x, y, pixel) in out.enumerate_pixels_mut() {
        let (x, y) = place(f64::from(x) + 0.5, f64::from(y) + 0.5);
        let (Some(column), Some(row)) = (pixel_at(x, width), pixel_at(y, height)) else { continue };
        *pixel = match interpolation {
            Interpolation::Nearest => *photo.get_pixel(column, row),
            Interpolation::Bilinear => between(photo, x, y, 0, |[a, b], d| a + (b - a) * d),
            Interpolation::Bicubic | Interpolation::Lanczos => between(photo, x, y, 1, cubic),
        };
    }
    out
}

/// The value between the `N` nearest pixels of the `N` nearest rows; those beyond the edge repeat it. The first lies `before`
/// pixels before the one at the place.
fn between<const N: usize>(
    photo: &RgbImage,
    x: f64,
    y: f64,
    before: i64,
    curve: impl Fn([f64; N], f64) -> f64,
) -> Rgb<u8> {
    let (x, y) = (x - 0.5, y - 0.5);
    let (left, top) = (x.floor(), y.floor());
    let (across, down) = (x - left, y - top);
    let near = |from: f64, size: u32| {
        std::array::from_fn::<u32, N, _>(|i| {
            (from as i64 - before + i as i64).clamp(0, i64::from(size) - 1) as u32
        })
    };
    let (columns, rows) = (near(left, photo.width()), near(top, photo.height()));
    Rgb([0, 1, 2].map(|channel| {
        let row = |y: u32| curve(columns.map(|x| f64::from(photo.get_pixel(x, y).0[channel])), across);
        // Cut, not rounded, as Pillow does.
        curve(rows.map(row), down) as u8
    }))
}

/// A cubic through the middle two of four, with a = -1.
fn cubic([a, b, c, d]: [f64; 4], at: f64) -> f64 {
    let (p2, p3, p4) = (-a + c, 2.0 * (a - b) + c - d, -a + b - c + d);
    b + at * (p2 + at * (p3 + at * p4))
}
