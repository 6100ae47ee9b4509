//! Pillow's resampling of 8-bit RGB, to the bit.
//!
//! Source: Pillow 13.0.0's `src/libImaging/Resample.c` (filters, fixed-point coefficients, two passes and their order) and
//! `Geometry.c` (`ImagingScaleAffine`, for nearest). Only what a window keeps is computed.

use std::ops::Range;

use image::RgbImage;
use pulp::{Arch, Simd, WithSimd};
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

/// The inputs along one axis: which pixels of the photo, and what stretch of them is resized (Pillow's `box`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Axis {
    /// The first pixel.
    first: u32,
    pixels: u32,
    /// Where the stretch begins, counted from the first pixel, and how long it is.
    from: f64,
    length: f64,
    /// The first pixel that is at hand: some may be missing that no output in question needs.
    at_hand: u32,
}

impl Axis {
    /// Whole pixels.
    pub(crate) fn whole(first: u32, pixels: u32) -> Self {
        Self { first, pixels, from: 0.0, length: f64::from(pixels), at_hand: 0 }
    }

    /// From `from` on, `length` pixels of `size`.
    pub(crate) fn stretch(from: f64, length: f64, size: u32) -> Self {
        let first = (from.max(0.0) as u32).min(size - 1);
        let end = ((from + length).ceil() as u32).clamp(first + 1, size);
        Self { first, pixels: end - first, from: from - f64::from(first), length, at_hand: 0 }
    }

    /// The same where pixel `first` is the first one at hand.
    pub(crate) fn at_hand_from(self, first: u32) -> Self {
        Self { at_hand: first, ..self }
    }

    /// The pixels that the outputs `kept` of `output` need: the first and how many.
    pub(crate) fn needed(self, interpolation: Interpolation, output: u32, kept: Range<u32>) -> (u32, u32) {
        let inputs = Taps::new(interpolation, self, output, kept).inputs();
        (inputs.start as u32, inputs.len() as u32)
    }

    fn is_copied(self, output: u32) -> bool {
        self.from == 0.0 && self.length == f64::from(output)
    }
}

/// `photo` resized to `size` (width, height), as `Image.resize`.
pub(crate) fn resize(photo: &RgbImage, size: (u32, u32), interpolation: Interpolation) -> RgbImage {
    let axes = (Axis::whole(0, photo.width()), Axis::whole(0, photo.height()));
    let window = Window { x: 0, y: 0, width: size.0, height: size.1 };
    resize_window(photo, axes, size, window, interpolation)
}

/// What `axes` (across, down) take of `photo` is resized to `size` (width, height); the part `window` of that. No size is zero.
pub(crate) fn resize_window(
    photo: &RgbImage,
    axes: (Axis, Axis),
    size: (u32, u32),
    window: Window,
    interpolation: Interpolation,
) -> RgbImage {
    resize_window_on(Arch::new(), photo, axes, size, window, interpolation)
}

/// [`resize_window`], compiled for the vector instructions of `arch`. It holds whole numbers only: all of them give the same.
pub(super) fn resize_window_on(
    arch: Arch,
    photo: &RgbImage,
    (across, down): (Axis, Axis),
    size: (u32, u32),
    window: Window,
    interpolation: Interpolation,
) -> RgbImage {
    if photo.is_empty() {
        return RgbImage::new(window.width, window.height);
    }
    if across.is_copied(size.0) && down.is_copied(size.1) {
        let start = |axis: Axis, window: u32| axis.first + window - axis.at_hand;
        let (x, y) = (start(across, window.x), start(down, window.y));
        return image::imageops::crop_imm(photo, x, y, window.width, window.height).to_image();
    }
    let mut columns = Taps::new(interpolation, across, size.0, window.x..window.x + window.width);
    let mut rows = Taps::new(interpolation, down, size.1, window.y..window.y + window.height);
    let source = Rows { bytes: photo.as_raw(), stride: photo.width() as usize * 3 };
    // Each pass rounds to 8 bits, so that their order shows.
    let pixels = if rows_go_first((across.pixels, down.pixels), size) {
        let kept = columns.shift_to_zero();
        let between = arch.dispatch(Down { source, kept: kept.start * 3..kept.end * 3, rows: &rows });
        let source = Rows { bytes: &between, stride: kept.len() * 3 };
        arch.dispatch(Across { source, kept: 0..rows.len(), columns: &columns })
    } else {
        let kept = rows.shift_to_zero();
        let between = arch.dispatch(Across { source, kept, columns: &columns });
        let stride = columns.len() * 3;
        arch.dispatch(Down { source: Rows { bytes: &between, stride }, kept: 0..stride, rows: &rows })
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
    /// Those of the outputs `kept`, of `output` in all, over the pixels of `axis` that are at hand.
    fn new(interpolation: Interpolation, axis: Axis, output: u32, kept: Range<u32>) -> Self {
        let mut taps = match Filter::of(interpolation) {
            _ if axis.is_copied(output) => Self::single(kept.map(|at| at as usize).collect()),
            Some(filter) => Self::filtered(filter, axis, output, kept),
            None => Self::single(nearest_inputs(axis, output, kept)),
        };
        for start in &mut taps.starts {
            *start = *start + axis.first as usize - axis.at_hand as usize;
        }
        taps
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
    fn filtered(filter: Filter, axis: Axis, output: u32, kept: Range<u32>) -> Self {
        let scale = axis.length / f64::from(output);
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
            let centre = axis.from + (f64::from(at) + 0.5) * scale;
            let start = ((centre - support + 0.5).max(0.0)) as usize;
            let end = ((centre + support + 0.5) as usize).min(axis.pixels as usize);
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

    /// Of each output the first input and the weights from there on.
    #[inline(always)]
    fn outputs(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.weights.chunks_exact(self.stride).zip(&self.lengths);
        self.starts.iter().zip(weights).map(|(&start, (weights, &length))| (start, &weights[..length]))
    }

    /// The inputs that are needed.
    fn inputs(&self) -> Range<usize> {
        let first = self.starts.iter().copied().min().unwrap_or(0);
        let last = self.starts.iter().zip(&self.lengths).map(|(start, length)| start + length).max();
        first..last.unwrap_or(first)
    }

    /// Counts inputs from the first that is needed on; gives those that are needed.
    fn shift_to_zero(&mut self) -> Range<usize> {
        let inputs = self.inputs();
        for start in &mut self.starts {
            *start -= inputs.start;
        }
        inputs
    }
}

/// The inputs of the outputs `kept`, of `output` in all; Pillow adds the scale up from the first one on, rounding included.
fn nearest_inputs(axis: Axis, output: u32, kept: Range<u32>) -> Vec<usize> {
    let scale = axis.length / f64::from(output);
    let mut at = axis.from + scale * 0.5;
    for _ in 0..kept.start {
        at += scale;
    }
    // Of a photo that is a line there may be four thousand million outputs.
    kept.map(|_| {
        let here = (at as usize).min(axis.pixels as usize - 1);
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
    fn row(self, at: usize) -> &'a [u8] {
        &self.bytes[at * self.stride..][..self.stride]
    }
}

#[inline(always)]
fn to_u8(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Rows that [`Across`] takes at a time: their pixels at one place make up a vector.
const TOGETHER: usize = 4;

/// A pixel of each of the rows taken together, four bytes each.
type Pixels = [u8; TOGETHER * 4];

/// Bytes of a row that [`Down`] takes at a time: as many sums as stay in registers.
const BLOCK: usize = 32;

/// The horizontal pass over the rows `kept`.
struct Across<'a> {
    source: Rows<'a>,
    kept: Range<usize>,
    columns: &'a Taps,
}

impl WithSimd for Across<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<u8> {
        let Self { source, kept, columns } = self;
        let inputs = columns.inputs();
        let mut wide: Vec<Pixels> = vec![[0; _]; inputs.len()];
        let mut narrow: Vec<Pixels> = vec![[0; _]; columns.len()];
        let stride = columns.len() * 3;
        let mut out = vec![0; kept.len() * stride];
        for (first, out) in kept.step_by(TOGETHER).zip(out.chunks_mut(TOGETHER * stride)) {
            for row in 0..out.len() / stride {
                let pixels = &source.row(first + row).as_chunks::<3>().0[inputs.clone()];
                for (wide, pixel) in wide.iter_mut().zip(pixels) {
                    wide[row * 4..][..3].copy_from_slice(pixel);
                }
            }
            for ((start, weights), pixels) in columns.outputs().zip(&mut narrow) {
                let mut sums = [HALF; TOGETHER * 4];
                for (values, &weight) in wide[start - inputs.start..].iter().zip(weights) {
                    for (sum, &value) in sums.iter_mut().zip(values) {
                        *sum += i32::from(value) * weight;
                    }
                }
                *pixels = sums.map(to_u8);
            }
            for (row, out) in out.chunks_exact_mut(stride).enumerate() {
                for (pixel, narrow) in out.as_chunks_mut::<3>().0.iter_mut().zip(&narrow) {
                    pixel.copy_from_slice(&narrow[row * 4..][..3]);
                }
            }
        }
        out
    }
}

/// The vertical pass over the bytes `kept` of each row.
struct Down<'a> {
    source: Rows<'a>,
    kept: Range<usize>,
    rows: &'a Taps,
}

impl WithSimd for Down<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<u8> {
        let Self { source, kept, rows } = self;
        let mut out = vec![0; kept.len() * rows.len()];
        for ((start, weights), out) in rows.outputs().zip(out.chunks_exact_mut(kept.len())) {
            let inputs = &source.bytes[start * source.stride + kept.start..];
            let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
            let blocked = blocks.len() * BLOCK;
            for (block, out) in blocks.iter_mut().enumerate() {
                *out = weighted(&inputs[block * BLOCK..], source.stride, weights);
            }
            for (byte, out) in rest.iter_mut().enumerate() {
                [*out] = weighted(&inputs[blocked + byte..], source.stride, weights);
            }
        }
        out
    }
}

/// The sums over inputs that lie `stride` bytes apart, each `N` bytes wide, by their weights.
#[inline(always)]
fn weighted<const N: usize>(inputs: &[u8], stride: usize, weights: &[i32]) -> [u8; N] {
    let mut sums = [HALF; N];
    for (at, &weight) in weights.iter().enumerate() {
        let values: &[u8; N] = inputs[at * stride..].first_chunk().expect("a window lies within the photo");
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += i32::from(value) * weight;
        }
    }
    sums.map(to_u8)
}
