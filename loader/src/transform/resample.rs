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
pub enum Resampling {
    /// The nearest pixel.
    Nearest,
    /// A triangle, support 1.
    Bilinear,
    /// A cubic with a = -0.5, support 2.
    Bicubic,
    /// A windowed sinc, support 3.
    Lanczos,
}

impl Resampling {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Nearest, Self::Bilinear, Self::Bicubic, Self::Lanczos];
}

/// How much an input counts by its distance, in output pixels, and how far that reaches.
#[derive(Clone, Copy)]
struct ResamplingFilter {
    weight: fn(f64) -> f64,
    support: f64,
}

impl ResamplingFilter {
    /// None for nearest, which takes single pixels.
    fn for_resampling(interpolation: Resampling) -> Option<Self> {
        let (weight, support): (fn(f64) -> f64, f64) = match interpolation {
            Resampling::Nearest => return None,
            Resampling::Bilinear => (triangle, 1.0),
            Resampling::Bicubic => (cubic, 2.0),
            Resampling::Lanczos => (lanczos, 3.0),
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
pub(crate) struct SourceAxis {
    /// The first pixel.
    first: u32,
    n_pixels: u32,
    /// Where the stretch begins, counted from the first pixel, and how long it is.
    start: f64,
    length: f64,
    /// The first pixel that is at hand: some may be missing that no output in question needs.
    first_available: u32,
}

impl SourceAxis {
    /// Whole pixels.
    pub(crate) fn from_pixels(first: u32, n_pixels: u32) -> Self {
        Self { first, n_pixels, start: 0.0, length: f64::from(n_pixels), first_available: 0 }
    }

    /// From `from` on, `length` pixels of `size`.
    pub(crate) fn from_span(start: f64, length: f64, size: u32) -> Self {
        let first = (start.max(0.0) as u32).min(size - 1);
        let end = ((start + length).ceil() as u32).clamp(first + 1, size);
        Self { first, n_pixels: end - first, start: start - f64::from(first), length, first_available: 0 }
    }

    /// The same where pixel `first` is the first one at hand.
    pub(crate) fn with_first_available(self, first: u32) -> Self {
        Self { first_available: first, ..self }
    }

    /// The pixels that the outputs `kept` of `output` need: the first and how many.
    pub(crate) fn needed_pixels(
        self,
        interpolation: Resampling,
        n_outputs: u32,
        outputs: Range<u32>,
    ) -> (u32, u32) {
        let inputs = FilterTaps::new(interpolation, self, n_outputs, outputs).input_range();
        (inputs.start as u32, inputs.len() as u32)
    }

    fn is_identity(self, n_outputs: u32) -> bool {
        self.start == 0.0 && self.length == f64::from(n_outputs)
    }
}

/// `photo` resized to `size` (width, height), as `Image.resize`.
pub(crate) fn resize(photo: &RgbImage, size: (u32, u32), interpolation: Resampling) -> RgbImage {
    let axes = (SourceAxis::from_pixels(0, photo.width()), SourceAxis::from_pixels(0, photo.height()));
    let window = Window { x: 0, y: 0, width: size.0, height: size.1 };
    resize_window(photo, axes, size, window, interpolation)
}

/// What `axes` (across, down) take of `photo` is resized to `size` (width, height); the part `window` of that. No size is zero.
pub(crate) fn resize_window(
    photo: &RgbImage,
    axes: (SourceAxis, SourceAxis),
    size: (u32, u32),
    window: Window,
    interpolation: Resampling,
) -> RgbImage {
    resize_window_with(Arch::new(), photo, axes, size, window, interpolation)
}

/// [`resize_window`], compiled for the vector instructions of `arch`. It holds whole numbers only: all of them give the same.
pub(super) fn resize_window_with(
    arch: Arch,
    photo: &RgbImage,
    (x_axis, y_axis): (SourceAxis, SourceAxis),
    size: (u32, u32),
    window: Window,
    interpolation: Resampling,
) -> RgbImage {
    if photo.is_empty() {
        return RgbImage::new(window.width, window.height);
    }
    if x_axis.is_identity(size.0) && y_axis.is_identity(size.1) {
        let first_pixel = |axis: SourceAxis, window: u32| axis.first + window - axis.first_available;
        let (x, y) = (first_pixel(x_axis, window.x), first_pixel(y_axis, window.y));
        return image::imageops::crop_imm(photo, x, y, window.width, window.height).to_image();
    }
    let mut x_taps = FilterTaps::new(interpolation, x_axis, size.0, window.x..window.x + window.width);
    let mut y_taps = FilterTaps::new(interpolation, y_axis, size.1, window.y..window.y + window.height);
    let source = ByteRows { bytes: photo.as_raw(), stride: photo.width() as usize * 3 };
    // Each pass rounds to 8 bits, so that their order shows.
    let pixels = if vertical_pass_first((x_axis.n_pixels, y_axis.n_pixels), size) {
        let columns = x_taps.rebase_inputs();
        let intermediate =
            arch.dispatch(VerticalPass { source, bytes: columns.start * 3..columns.end * 3, taps: &y_taps });
        let source = ByteRows { bytes: &intermediate, stride: columns.len() * 3 };
        arch.dispatch(HorizontalPass { source, rows: 0..y_taps.len(), taps: &x_taps })
    } else {
        let rows = y_taps.rebase_inputs();
        let intermediate = arch.dispatch(HorizontalPass { source, rows, taps: &x_taps });
        let stride = x_taps.len() * 3;
        arch.dispatch(VerticalPass {
            source: ByteRows { bytes: &intermediate, stride },
            bytes: 0..stride,
            taps: &y_taps,
        })
    };
    RgbImage::from_raw(window.width, window.height, pixels)
        .expect("a row of pixels for each row of the window")
}

/// Whether Pillow reduces the height before the width: where it takes away more than twice as many rows as columns.
/// Before version 13 it never did.
fn vertical_pass_first(source: (u32, u32), target: (u32, u32)) -> bool {
    let reduction = |source: u32, target: u32| i64::from(source) - i64::from(target);
    let (columns, rows) = (reduction(source.0, target.0), reduction(source.1, target.1));
    rows > 0 && rows > columns * 2
}

/// Bits behind the point of a weight: a value has 8 bits, and a sum may be twice as large with either sign.
const PRECISION_BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// For each output along one axis: where its inputs begin, and their weights in fixed point.
struct FilterTaps {
    starts: Vec<usize>,
    lengths: Vec<usize>,
    weights: Vec<i32>,
    stride: usize,
}

impl FilterTaps {
    /// Those of the outputs `kept`, of `output` in all, over the pixels of `axis` that are at hand.
    fn new(interpolation: Resampling, axis: SourceAxis, n_outputs: u32, outputs: Range<u32>) -> Self {
        let mut taps = match ResamplingFilter::for_resampling(interpolation) {
            _ if axis.is_identity(n_outputs) => {
                Self::from_single_inputs(outputs.map(|output| output as usize).collect())
            }
            Some(filter) => Self::from_filter(filter, axis, n_outputs, outputs),
            None => Self::from_single_inputs(nearest_inputs(axis, n_outputs, outputs)),
        };
        for start in &mut taps.starts {
            *start = *start + axis.first as usize - axis.first_available as usize;
        }
        taps
    }

    /// One input for each output, as it is.
    fn from_single_inputs(starts: Vec<usize>) -> Self {
        Self {
            lengths: vec![1; starts.len()],
            weights: vec![1 << PRECISION_BITS; starts.len()],
            starts,
            stride: 1,
        }
    }

    /// `precompute_coeffs` and `normalize_coeffs_8bpc`.
    fn from_filter(filter: ResamplingFilter, axis: SourceAxis, n_outputs: u32, outputs: Range<u32>) -> Self {
        let scale = axis.length / f64::from(n_outputs);
        let filter_scale = scale.max(1.0);
        let support = filter.support * filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let mut taps = Self {
            starts: Vec::with_capacity(outputs.len()),
            lengths: Vec::with_capacity(outputs.len()),
            weights: vec![0; stride * outputs.len()],
            stride,
        };
        let mut exact = Vec::with_capacity(stride);
        for (output, weights) in outputs.zip(taps.weights.chunks_exact_mut(stride)) {
            let center = axis.start + (f64::from(output) + 0.5) * scale;
            let start = ((center - support + 0.5).max(0.0)) as usize;
            let end = ((center + support + 0.5) as usize).min(axis.n_pixels as usize);
            exact.clear();
            exact.extend(
                (start..end).map(|x| (filter.weight)((x as f64 - center + 0.5) * (1.0 / filter_scale))),
            );
            let sum: f64 = exact.iter().sum();
            for (weight, &exact) in weights.iter_mut().zip(&exact) {
                let share = if sum == 0.0 { exact } else { exact / sum };
                *weight = (share * f64::from(1 << PRECISION_BITS) + 0.5f64.copysign(share)) as i32;
            }
            taps.starts.push(start);
            taps.lengths.push(end - start);
        }
        taps
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
    fn input_range(&self) -> Range<usize> {
        let first = self.starts.iter().copied().min().unwrap_or(0);
        let last = self.starts.iter().zip(&self.lengths).map(|(start, length)| start + length).max();
        first..last.unwrap_or(first)
    }

    /// Counts inputs from the first that is needed on; gives those that are needed.
    fn rebase_inputs(&mut self) -> Range<usize> {
        let inputs = self.input_range();
        for start in &mut self.starts {
            *start -= inputs.start;
        }
        inputs
    }
}

/// The inputs of the outputs `kept`, of `output` in all; Pillow adds the scale up from the first one on, rounding included.
fn nearest_inputs(axis: SourceAxis, n_outputs: u32, outputs: Range<u32>) -> Vec<usize> {
    let scale = axis.length / f64::from(n_outputs);
    let mut position = axis.start + scale * 0.5;
    for _ in 0..outputs.start {
        position += scale;
    }
    // Of a photo that is a line there may be four thousand million outputs.
    outputs
        .map(|_| {
            let input = (position as usize).min(axis.n_pixels as usize - 1);
            position += scale;
            input
        })
        .collect()
}

/// RGB bytes, a row every `stride` of them.
#[derive(Clone, Copy)]
struct ByteRows<'a> {
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> ByteRows<'a> {
    fn row(self, index: usize) -> &'a [u8] {
        &self.bytes[index * self.stride..][..self.stride]
    }
}

#[inline(always)]
fn to_u8(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Rows that [`HorizontalPass`] takes at a time: their pixels at one place make up a vector.
const ROWS_PER_STEP: usize = 4;

/// A pixel of each of the rows taken together, four bytes each.
type PixelColumn = [u8; ROWS_PER_STEP * 4];

/// Bytes of a row that [`VerticalPass`] takes at a time: as many sums as stay in registers.
const BYTES_PER_STEP: usize = 32;

/// The horizontal pass over the rows `kept`.
struct HorizontalPass<'a> {
    source: ByteRows<'a>,
    rows: Range<usize>,
    taps: &'a FilterTaps,
}

impl WithSimd for HorizontalPass<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<u8> {
        let Self { source, rows, taps } = self;
        let inputs = taps.input_range();
        let mut gathered: Vec<PixelColumn> = vec![[0; _]; inputs.len()];
        let mut resized: Vec<PixelColumn> = vec![[0; _]; taps.len()];
        let stride = taps.len() * 3;
        let mut out = vec![0; rows.len() * stride];
        for (first, out) in rows.step_by(ROWS_PER_STEP).zip(out.chunks_mut(ROWS_PER_STEP * stride)) {
            for row in 0..out.len() / stride {
                let pixels = &source.row(first + row).as_chunks::<3>().0[inputs.clone()];
                for (target, pixel) in gathered.iter_mut().zip(pixels) {
                    target[row * 4..][..3].copy_from_slice(pixel);
                }
            }
            for ((start, weights), pixels) in taps.outputs().zip(&mut resized) {
                let mut sums = [HALF; ROWS_PER_STEP * 4];
                for (values, &weight) in gathered[start - inputs.start..].iter().zip(weights) {
                    for (sum, &value) in sums.iter_mut().zip(values) {
                        *sum += i32::from(value) * weight;
                    }
                }
                *pixels = sums.map(to_u8);
            }
            for (row, out) in out.chunks_exact_mut(stride).enumerate() {
                for (pixel, column) in out.as_chunks_mut::<3>().0.iter_mut().zip(&resized) {
                    pixel.copy_from_slice(&column[row * 4..][..3]);
                }
            }
        }
        out
    }
}

/// The vertical pass over the bytes `kept` of each row.
struct VerticalPass<'a> {
    source: ByteRows<'a>,
    bytes: Range<usize>,
    taps: &'a FilterTaps,
}

impl WithSimd for VerticalPass<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<u8> {
        let Self { source, bytes, taps } = self;
        let mut out = vec![0; bytes.len() * taps.len()];
        for ((start, weights), out) in taps.outputs().zip(out.chunks_exact_mut(bytes.len())) {
            let inputs = &source.bytes[start * source.stride + bytes.start..];
            let (blocks, rest) = out.as_chunks_mut::<BYTES_PER_STEP>();
            let blocked = blocks.len() * BYTES_PER_STEP;
            for (block, out) in blocks.iter_mut().enumerate() {
                *out = weighted_sums(&inputs[block * BYTES_PER_STEP..], source.stride, weights);
            }
            for (byte, out) in rest.iter_mut().enumerate() {
                [*out] = weighted_sums(&inputs[blocked + byte..], source.stride, weights);
            }
        }
        out
    }
}

/// The sums over inputs that lie `stride` bytes apart, each `N` bytes wide, by their weights.
#[inline(always)]
fn weighted_sums<const N: usize>(inputs: &[u8], stride: usize, weights: &[i32]) -> [u8; N] {
    let mut sums = [HALF; N];
    for (row, &weight) in weights.iter().enumerate() {
        let values: &[u8; N] = inputs[row * stride..].first_chunk().expect("a window lies within the photo");
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += i32::from(value) * weight;
        }
    }
    sums.map(to_u8)
}
