//! Pillow's resampling of 8-bit RGB, to the bit.
//!
//! Source: Pillow's `src/libImaging/Resample.c` (filters, fixed-point coefficients, two passes) and `Geometry.c`
//! (`ImagingScaleAffine`, for nearest). Only what a window keeps is computed.

use image::RgbImage;
use serde::{Deserialize, Serialize};

/// Pillow's resampling filters; those with a support are antialiased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// A triangle, support 1.
    Bilinear,
    /// A cubic with a = -0.5, support 2.
    Bicubic,
    /// A windowed sinc, support 3.
    Lanczos,
}

impl Interpolation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Nearest, Self::Bilinear, Self::Bicubic, Self::Lanczos];

    /// The filter and its support; none for nearest.
    fn filter(self) -> Option<(fn(f64) -> f64, f64)> {
        match self {
            Self::Nearest => None,
            Self::Bilinear => Some((triangle, 1.0)),
            Self::Bicubic => Some((cubic, 2.0)),
            Self::Lanczos => Some((lanczos, 3.0)),
        }
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn lanczos(x: f64) -> f64 {
    let sinc =
        |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

/// A part of a resized photo, in its pixels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) x: u32,
    pub(crate) y: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

/// `photo` resized to `size` (width, height), as `Image.resize`.
pub(crate) fn resize(photo: &RgbImage, size: (u32, u32), interpolation: Interpolation) -> RgbImage {
    resize_window(photo, size, Window { x: 0, y: 0, width: size.0, height: size.1 }, interpolation)
}

/// The part `window` of `photo` resized to `size` (width, height).
pub(crate) fn resize_window(
    photo: &RgbImage,
    size: (u32, u32),
    window: Window,
    interpolation: Interpolation,
) -> RgbImage {
    if photo.dimensions() == size {
        return image::imageops::crop_imm(photo, window.x, window.y, window.width, window.height).to_image();
    }
    let Some((filter, support)) = interpolation.filter() else {
        return nearest(photo, size, window);
    };
    let columns = Coefficients::new(filter, support, photo.width(), size.0, window.x, window.width);
    let rows = Coefficients::new(filter, support, photo.height(), size.1, window.y, window.height);
    let (first, last) = rows.reach();

    let wide = window.width as usize * 3;
    let between = if photo.width() == size.0 {
        let from = window.x as usize * 3;
        photo_rows(photo, first, last).flat_map(|row| row[from..from + wide].iter().copied()).collect()
    } else {
        let mut between = vec![0; (last - first) * wide];
        for (row, out) in photo_rows(photo, first, last).zip(between.chunks_exact_mut(wide)) {
            horizontal(row, out, &columns);
        }
        between
    };
    let pixels = if photo.height() == size.1 { between } else { vertical(&between, wide, first, &rows) };
    RgbImage::from_raw(window.width, window.height, pixels)
        .expect("a row of pixels for each row of the window")
}

fn photo_rows(photo: &RgbImage, first: usize, last: usize) -> impl Iterator<Item = &[u8]> {
    photo.as_raw().chunks_exact(photo.width() as usize * 3).skip(first).take(last - first)
}

const PRECISION: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION - 1);

/// For each output pixel along one axis: where its inputs begin, and their weights in fixed point.
struct Coefficients {
    starts: Vec<usize>,
    lengths: Vec<usize>,
    weights: Vec<i32>,
    stride: usize,
}

impl Coefficients {
    fn new(filter: fn(f64) -> f64, support: f64, input: u32, output: u32, first: u32, count: u32) -> Self {
        let scale = f64::from(input) / f64::from(output);
        let filter_scale = scale.max(1.0);
        let support = support * filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let mut this = Self {
            starts: Vec::with_capacity(count as usize),
            lengths: Vec::with_capacity(count as usize),
            weights: vec![0; stride * count as usize],
            stride,
        };
        let mut exact = Vec::with_capacity(stride);
        for (at, weights) in (first..first + count).zip(this.weights.chunks_exact_mut(stride)) {
            let centre = (f64::from(at) + 0.5) * scale;
            let start = ((centre - support + 0.5).max(0.0)) as usize;
            let end = ((centre + support + 0.5) as usize).min(input as usize);
            exact.clear();
            exact.extend((start..end).map(|x| filter((x as f64 - centre + 0.5) * (1.0 / filter_scale))));
            let sum: f64 = exact.iter().sum();
            for (weight, &exact) in weights.iter_mut().zip(&exact) {
                let share = if sum == 0.0 { exact } else { exact / sum };
                *weight = (share * f64::from(1 << PRECISION) + 0.5f64.copysign(share)) as i32;
            }
            this.starts.push(start);
            this.lengths.push(end - start);
        }
        this
    }

    fn weights(&self, at: usize) -> &[i32] {
        &self.weights[at * self.stride..][..self.lengths[at]]
    }

    /// The inputs that any output needs: first, and one past the last.
    fn reach(&self) -> (usize, usize) {
        let first = self.starts.first().copied().unwrap_or(0);
        let last = self.starts.iter().zip(&self.lengths).map(|(start, length)| start + length).max();
        (first, last.unwrap_or(first))
    }
}

fn to_u8(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

fn horizontal(row: &[u8], out: &mut [u8], columns: &Coefficients) {
    for (at, pixel) in out.chunks_exact_mut(3).enumerate() {
        let mut sums = [HALF; 3];
        for (input, &weight) in row[columns.starts[at] * 3..].chunks_exact(3).zip(columns.weights(at)) {
            for (sum, &value) in sums.iter_mut().zip(input) {
                *sum += i32::from(value) * weight;
            }
        }
        pixel.copy_from_slice(&sums.map(to_u8));
    }
}

fn vertical(between: &[u8], wide: usize, first: usize, rows: &Coefficients) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(wide * rows.starts.len());
    let mut sums = vec![0; wide];
    for at in 0..rows.starts.len() {
        sums.fill(HALF);
        let inputs = between[(rows.starts[at] - first) * wide..].chunks_exact(wide);
        for (input, &weight) in inputs.zip(rows.weights(at)) {
            for (sum, &value) in sums.iter_mut().zip(input) {
                *sum += i32::from(value) * weight;
            }
        }
        pixels.extend(sums.iter().map(|&sum| to_u8(sum)));
    }
    pixels
}

fn nearest(photo: &RgbImage, size: (u32, u32), window: Window) -> RgbImage {
    let xs = nearest_inputs(photo.width(), size.0);
    let ys = nearest_inputs(photo.height(), size.1);
    RgbImage::from_fn(window.width, window.height, |x, y| {
        *photo.get_pixel(xs[(window.x + x) as usize], ys[(window.y + y) as usize])
    })
}

/// The input of each output; Pillow adds the scale up, rounding included.
fn nearest_inputs(input: u32, output: u32) -> Vec<u32> {
    let scale = f64::from(input) / f64::from(output);
    let mut at = scale * 0.5;
    (0..output)
        .map(|_| {
            let here = (at as u32).min(input - 1);
            at += scale;
            here
        })
        .collect()
}
