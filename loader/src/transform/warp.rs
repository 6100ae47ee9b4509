//! Pillow's `Image.transform`: a map gives the source position of every output pixel. Output pixels whose
//! source is outside the image are black.
//!
//! Source: Pillow 13.0.0's `Geometry.c`. An affine map with nearest uses fixed-point arithmetic or, without
//! rotation and shear, tables of columns and rows (`ImagingScaleAffine`); everything else is
//! `ImagingGenericTransform`.

use image::{Rgb, RgbImage};

use super::Resampling;

/// Applies an affine map to `image`, such as a shear or a translation, as an augmentation; the size stays.
/// The matrix `[a, b, c, d, e, f]` maps the output position (x, y) to the position
/// (a x + b y + c, d x + e y + f) in `image`. Same pixels as Pillow's
/// `Image.transform(size, AFFINE, matrix, interpolation)`, which has a way of rounding for each of these
/// cases.
pub(crate) fn affine(image: &RgbImage, matrix: [f64; 6], interpolation: Resampling) -> RgbImage {
    let [a, b, c, d, e, f] = matrix;
    match interpolation {
        Resampling::Nearest if b == 0.0 && d == 0.0 => transform_axis_aligned(image, matrix),
        Resampling::Nearest if fits_fixed_point(image, matrix) => transform_fixed_point(image, matrix),
        _ => transform_generic(image, interpolation, |x, y| (a * x + b * y + c, d * x + e * y + f)),
    }
}

/// Applies a perspective map to `image`, as an augmentation; the size stays. The coefficients `[a, ..., h]`
/// map the output position (x, y) to ((a x + b y + c) / w, (d x + e y + f) / w) in `image`, with w = g x + h
/// y + 1. Same pixels as Pillow's `Image.transform(size, PERSPECTIVE, coefficients, interpolation)`.
pub(crate) fn perspective(image: &RgbImage, coefficients: [f64; 8], interpolation: Resampling) -> RgbImage {
    let [a, b, c, d, e, f, g, h] = coefficients;
    transform_generic(image, interpolation, |x, y| {
        let denominator = g * x + h * y + 1.0;
        ((a * x + b * y + c) / denominator, (d * x + e * y + f) / denominator)
    })
}

/// Along an axis of `size` pixels: the index of the pixel at `position`; `None` outside the image.
fn pixel_index(position: f64, size: u32) -> Option<u32> {
    (position >= 0.0 && position < f64::from(size)).then_some(position as u32)
}

/// Applies an affine map without rotation and shear, with nearest interpolation: output position (x, y) comes
/// from (a x + c, e y + f), so the source columns and rows are computed once. They are computed by adding up
/// steps as in Pillow, because rounding errors matter at pixel edges.
fn transform_axis_aligned(image: &RgbImage, [a, _, c, _, e, f]: [f64; 6]) -> RgbImage {
    let (width, height) = image.dimensions();
    // The source column (or row) of each output column (or row); `None` outside the image.
    let source_pixels = |offset: f64, step: f64, size: u32| {
        let positions =
            std::iter::successors(Some(offset + step * 0.5), move |position| Some(position + step));
        positions.take(size as usize).map(|position| pixel_index(position, size)).collect::<Vec<_>>()
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

/// Whether all source positions (a x + b y + c, d x + e y + f) of an affine map, for the positions (x, y) in
/// `image`, fit into fixed point with 16 bits before and 16 after the point. Pillow then uses such
/// arithmetic, which rounds differently.
fn fits_fixed_point(image: &RgbImage, [a, b, c, d, e, f]: [f64; 6]) -> bool {
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    // The corners of the image have the extreme positions. 16 bits with a sign hold less than 32768.
    [(0.0, 0.0), (width, 0.0), (0.0, height), (width, height)]
        .into_iter()
        .all(|(x, y)| (x * a + y * b + c).abs() < 32768.0 && (x * d + y * e + f).abs() < 32768.0)
}

/// Applies an affine map with nearest interpolation: output position (x, y) comes from
/// (a x + b y + c, d x + e y + f). Positions are in fixed point with 16 bits after the point, as in Pillow if
/// they fit.
fn transform_fixed_point(image: &RgbImage, [a, b, c, d, e, f]: [f64; 6]) -> RgbImage {
    let (width, height) = image.dimensions();
    // 65536 is 2 to the power of 16.
    let to_fixed = |value: f64| (value * 65536.0 + 0.5).floor() as i64;
    // The change of the source position per output column and per output row.
    let (column_dx, column_dy) = (to_fixed(a), to_fixed(d));
    let (row_dx, row_dy) = (to_fixed(b), to_fixed(e));
    // The source position of the center (0.5, 0.5) of the first pixel of a row.
    let mut row_x = to_fixed(c + a * 0.5 + b * 0.5);
    let mut row_y = to_fixed(f + d * 0.5 + e * 0.5);
    let mut out = RgbImage::new(width, height);
    for row in out.rows_mut() {
        let (mut x, mut y) = (row_x, row_y);
        for pixel in row {
            // The index of the pixel at a position; `None` outside the image.
            let source_pixel =
                |fixed: i64, size: u32| u32::try_from(fixed >> 16).ok().filter(|&index| index < size);
            if let (Some(column), Some(row)) = (source_pixel(x, width), source_pixel(y, height)) {
                *pixel = *image.get_pixel(column, row);
            }
            x += column_dx;
            y += column_dy;
        }
        row_x += row_dx;
        row_y += row_dy;
    }
    out
}

/// Applies any map from output to source positions, with any interpolation: `map` takes the center (x, y) of
/// an output pixel and returns its source position in `image`. Output pixels whose source is outside are
/// black. Same arithmetic as Pillow's `ImagingGenericTransform`.
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
            // The number is how many of the pixels come before the position's own: 0 of 2, or 1 of 4.
            Resampling::Bilinear => interpolate(image, x, y, 0, |[a, b], d| a + (b - a) * d),
            // Pillow has no transform with Lanczos, so bicubic takes its place.
            Resampling::Bicubic | Resampling::Lanczos => interpolate(image, x, y, 1, cubic),
        };
    }
    out
}

/// The color at position (x, y) of `image`, interpolated between the `N` x `N` pixels around it; edge pixels
/// are repeated. `curve` interpolates along one axis: it takes the values of `N` adjacent pixels, and how far
/// the position is from the center of pixel `n_before` of them to that of the next one, from 0 to 1.
fn interpolate<const N: usize>(
    image: &RgbImage,
    x: f64,
    y: f64,
    n_before: i64,
    curve: impl Fn([f64; N], f64) -> f64,
) -> Rgb<u8> {
    let (x, y) = (x - 0.5, y - 0.5);
    let (left, top) = (x.floor(), y.floor());
    let (x_fraction, y_fraction) = (x - left, y - top);
    let neighbors = |start: f64, size: u32| {
        std::array::from_fn::<u32, N, _>(|i| {
            (start as i64 - n_before + i as i64).clamp(0, i64::from(size) - 1) as u32
        })
    };
    let (columns, rows) = (neighbors(left, image.width()), neighbors(top, image.height()));
    Rgb([0, 1, 2].map(|channel| {
        let row = |y: u32| curve(columns.map(|x| f64::from(image.get_pixel(x, y).0[channel])), x_fraction);
        // Truncated, not rounded, as in Pillow.
        curve(rows.map(row), y_fraction) as u8
    }))
}

/// Cubic interpolation: the value at fraction `t` (0 to 1) of the way from `b` to `c`, where `a` is the value
/// before `b` and `d` the value after `c`. Pillow's `BICUBIC` macro, the cubic filter with -1 as its
/// parameter.
fn cubic([a, b, c, d]: [f64; 4], t: f64) -> f64 {
    let (p2, p3, p4) = (-a + c, 2.0 * (a - b) + c - d, -a + b - c + d);
    b + t * (p2 + t * (p3 + t * p4))
}
