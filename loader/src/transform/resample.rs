//! Pillow's resampling of 8-bit RGB, to the bit.
//!
//! Source: Pillow 13.0.0's `src/libImaging/Resample.c` (filters, fixed-point coefficients, two passes and their order) and
//! `Geometry.c` (`ImagingScaleAffine`, for nearest). Only what a window keeps is computed.

use std::ops::Range;

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
}

/// How much an input counts by its distance, in output pixels, and how far that reaches.
#[derive(Clone, Copy)]
struct Filter {
    weight: fn(f64) -> f64,
    support: f64,
}

impl Filter {
    /// None for nearest, which takes single pixels.
    fn of(interpolation: Interpolation) -> Option<Self> {
        let (weight, support): (fn(f64) -> f64, f64) = match interpolation {
            Interpolation::Nearest => return None,
            Interpolation::Bilinear => (triangle, 1.0),
            Interpolation::Bicubic => (cubic, 2.0),
            Interpolation::Lanczos => (lanczos, 3.0),
        };
        Some(Self { weight, support })
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

/// The part `window` of `photo` resized to `size` (width, height). No size is zero.
pub(crate) fn resize_window(
    photo: &RgbImage,
    size: (u32, u32),
    window: Window,
    interpolation: Interpolation,
) -> RgbImage {
    if photo.is_empty() {
        return RgbImage::new(window.width, window.height);
    }
    if photo.dimensions() == size {
        return image::imageops::crop_imm(photo, window.x, window.y, window.width, window.height).to_image();
    }
    let mut columns = Taps::new(interpolation, photo.width(), size.0, window.x..window.x + window.width);
    let mut rows = Taps::new(interpolation, photo.height(), size.1, window.y..window.y + window.height);
    let source = Rows { bytes: photo.as_raw(), stride: photo.width() as usize * 3 };
    // Each pass rounds to 8 bits, so that their order shows.
    let pixels = if rows_go_first(photo.dimensions(), size) {
        let kept = columns.shift_to_zero();
        let between = down(source, kept.start * 3..kept.end * 3, &rows);
        across(Rows { bytes: &between, stride: kept.len() * 3 }, 0..rows.len(), &columns)
    } else {
        let kept = rows.shift_to_zero();
        let between = across(source, kept, &columns);
        let stride = columns.len() * 3;
        down(Rows { bytes: &between, stride }, 0..stride, &rows)
    };
    RgbImage::from_raw(window.width, window.height, pixels)
        .expect("a row of pixels for each row of the window")
}

/// Whether Pillow reduces the height before the width: where it takes away more than twice as many rows as columns.
/// Before version 13 it never did.
fn rows_go_first(from: (u32, u32), to: (u32, u32)) -> bool {
    let taken_away = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let (columns, rows) = (taken_away(from.0, to.0), taken_away(from.1, to.1));
    rows > 0 && rows > columns * 2
}

/// Bits behind the point of a weight: a value has 8 bits, and a sum may be twice as large with either sign.
const PRECISION: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION - 1);

/// For each output along one axis: where its inputs begin, and their weights in fixed point.
struct Taps {
    starts: Vec<usize>,
    lengths: Vec<usize>,
    weights: Vec<i32>,
    stride: usize,
}

impl Taps {
    /// Those of the outputs `kept`, of `output` in all, over `input` inputs.
    fn new(interpolation: Interpolation, input: u32, output: u32, kept: Range<u32>) -> Self {
        match Filter::of(interpolation) {
            _ if input == output => Self::single(kept.map(|at| at as usize).collect()),
            Some(filter) => Self::filtered(filter, input, output, kept),
            None => {
                let inputs = nearest_inputs(input, output);
                Self::single(inputs[kept.start as usize..kept.end as usize].to_vec())
            }
        }
    }

    /// One input for each output, as it is.
    fn single(starts: Vec<usize>) -> Self {
        Self {
            lengths: vec![1; starts.len()],
            weights: vec![1 << PRECISION; starts.len()],
            starts,
            stride: 1,
        }
    }

    /// `precompute_coeffs` and `normalize_coeffs_8bpc`.
    fn filtered(filter: Filter, input: u32, output: u32, kept: Range<u32>) -> Self {
        let scale = f64::from(input) / f64::from(output);
        let filter_scale = scale.max(1.0);
        let support = filter.support * filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let mut this = Self {
            starts: Vec::with_capacity(kept.len()),
            lengths: Vec::with_capacity(kept.len()),
            weights: vec![0; stride * kept.len()],
            stride,
        };
        let mut exact = Vec::with_capacity(stride);
        for (at, weights) in kept.zip(this.weights.chunks_exact_mut(stride)) {
            let centre = (f64::from(at) + 0.5) * scale;
            let start = ((centre - support + 0.5).max(0.0)) as usize;
            let end = ((centre + support + 0.5) as usize).min(input as usize);
            exact.clear();
            exact.extend(
                (start..end).map(|x| (filter.weight)((x as f64 - centre + 0.5) * (1.0 / filter_scale))),
            );
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

    /// Number of outputs.
    fn len(&self) -> usize {
        self.starts.len()
    }

    fn weights(&self, at: usize) -> &[i32] {
        &self.weights[at * self.stride..][..self.lengths[at]]
    }

    /// Counts inputs from the first that is needed on; gives those that are needed.
    fn shift_to_zero(&mut self) -> Range<usize> {
        let first = self.starts.iter().copied().min().unwrap_or(0);
        let last = self.starts.iter().zip(&self.lengths).map(|(start, length)| start + length).max();
        for start in &mut self.starts {
            *start -= first;
        }
        first..last.unwrap_or(first)
    }
}

/// The input of each output; Pillow adds the scale up, rounding included.
fn nearest_inputs(input: u32, output: u32) -> Vec<usize> {
    let scale = f64::from(input) / f64::from(output);
    let mut at = scale * 0.5;
    (0..output)
        .map(|_| {
            let here = (at as usize).min(input as usize - 1);
            at += scale;
            here
        })
        .collect()
}

/// RGB bytes, a row every `stride` of them.
#[derive(Clone, Copy)]
struct Rows<'a> {
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> Rows<'a> {
    fn from(self, first: usize) -> impl Iterator<Item = &'a [u8]> {
        self.bytes[first * self.stride..].chunks_exact(self.stride)
    }
}

fn to_u8(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// The horizontal pass over the rows `kept`.
fn across(source: Rows<'_>, kept: Range<usize>, columns: &Taps) -> Vec<u8> {
    let mut out = vec![0; kept.len() * columns.len() * 3];
    for (row, out) in source.from(kept.start).zip(out.chunks_exact_mut(columns.len() * 3)) {
        let (inputs, _) = row.as_chunks::<3>();
        for (at, pixel) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let [mut red, mut green, mut blue] = [HALF; 3];
            for (&[r, g, b], &weight) in inputs[columns.starts[at]..].iter().zip(columns.weights(at)) {
                red += i32::from(r) * weight;
                green += i32::from(g) * weight;
                blue += i32::from(b) * weight;
            }
            *pixel = [red, green, blue].map(to_u8);
        }
    }
    out
}

/// The vertical pass over the bytes `kept` of each row.
fn down(source: Rows<'_>, kept: Range<usize>, rows: &Taps) -> Vec<u8> {
    let mut out = Vec::with_capacity(kept.len() * rows.len());
    let mut sums = vec![0; kept.len()];
    for at in 0..rows.len() {
        sums.fill(HALF);
        for (input, &weight) in source.from(rows.starts[at]).zip(rows.weights(at)) {
            for (sum, &value) in sums.iter_mut().zip(&input[kept.clone()]) {
                *sum += i32::from(value) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| to_u8(sum)));
    }
    out
}
