//! Pillow's resampling of 8-bit RGB images, bit for bit.
//!
//! Source: Pillow 13.0.0's `src/libImaging/Resample.c` (filters, fixed-point coefficients, two passes and
//! their order) and `Geometry.c` (`ImagingScaleAffine`, for nearest). Only a window of the result is
//! computed.

use std::ops::Range;

use image::RgbImage;
use pulp::{Arch, Simd, WithSimd};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Pillow's resampling filters. All except `Nearest` are antialiased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Resampling {
    /// The nearest pixel.
    Nearest,
    /// Triangle filter with support 1.
    Bilinear,
    /// Cubic filter with a = -0.5 and support 2.
    Bicubic,
    /// Windowed sinc with support 3.
    Lanczos,
}

impl Resampling {
    /// All filters.
    pub const ALL: [Self; 4] = [Self::Nearest, Self::Bilinear, Self::Bicubic, Self::Lanczos];
}

/// The weight of an input as a function of its distance in output pixels, and the largest distance that
/// counts.
#[derive(Clone, Copy)]
struct ResamplingFilter {
    weight: fn(f64) -> f64,
    support: f64,
}

impl ResamplingFilter {
    /// `None` for nearest, which copies single pixels.
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

/// A rectangle of the resized photo, in pixels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) x: u32,
    pub(crate) y: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

/// The inputs along one axis: a range of pixels, and the interval within it that is resized (Pillow's `box`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SourceAxis {
    /// The first pixel.
    first: u32,
    n_pixels: u32,
    /// Start of the interval, relative to `first`.
    start: f64,
    length: f64,
    /// The first pixel that was decoded; pixels that the window does not need may be missing.
    first_available: u32,
}

impl SourceAxis {
    /// The interval of `n_pixels` whole pixels from `first`.
    pub(crate) fn from_pixels(first: u32, n_pixels: u32) -> Self {
        Self { first, n_pixels, start: 0.0, length: f64::from(n_pixels), first_available: 0 }
    }

    /// The interval from `start` of `length` pixels, in an axis of `size` pixels.
    pub(crate) fn from_span(start: f64, length: f64, size: u32) -> Self {
        let first = (start.max(0.0) as u32).min(size - 1);
        let end = ((start + length).ceil() as u32).clamp(first + 1, size);
        Self { first, n_pixels: end - first, start: start - f64::from(first), length, first_available: 0 }
    }

    /// The same axis when the decoded pixels start at pixel `first`.
    pub(crate) fn with_first_available(self, first: u32) -> Self {
        Self { first_available: first, ..self }
    }

    /// The pixels that `outputs` (a range of `0..n_outputs`) need: the first pixel and their number.
    pub(crate) fn needed_pixels(
        self,
        interpolation: Resampling,
        n_outputs: u32,
        outputs: Range<u32>,
    ) -> (u32, u32) {
        let inputs = FilterTaps::new(interpolation, self, n_outputs, outputs).input_range();
        (inputs.start as u32, inputs.len() as u32)
    }

    /// Whether resizing to `n_outputs` copies the pixels.
    fn is_identity(self, n_outputs: u32) -> bool {
        self.start == 0.0 && self.length == f64::from(n_outputs)
    }
}

/// Resizes `photo` to `size` (width, height), as Pillow's `Image.resize`.
pub(crate) fn resize(image: &RgbImage, size: (u32, u32), interpolation: Resampling) -> RgbImage {
    let axes = (SourceAxis::from_pixels(0, image.width()), SourceAxis::from_pixels(0, image.height()));
    let window = Window { x: 0, y: 0, width: size.0, height: size.1 };
    resize_window(image, axes, size, window, interpolation)
}

/// Resizes the region `axes` (x, y) of `photo` to `size` (width, height), which must not be 0; returns
/// `window` of it.
pub(crate) fn resize_window(
    image: &RgbImage,
    axes: (SourceAxis, SourceAxis),
    size: (u32, u32),
    window: Window,
    interpolation: Resampling,
) -> RgbImage {
    resize_window_with(Arch::new(), image, axes, size, window, interpolation)
}

/// [`resize_window`] with the SIMD instructions of `arch`. All arithmetic is on integers, so results are
/// identical.
pub(super) fn resize_window_with(
    arch: Arch,
    image: &RgbImage,
    (x_axis, y_axis): (SourceAxis, SourceAxis),
    size: (u32, u32),
    window: Window,
    interpolation: Resampling,
) -> RgbImage {
    if image.is_empty() {
        return RgbImage::new(window.width, window.height);
    }
    if x_axis.is_identity(size.0) && y_axis.is_identity(size.1) {
        let first_pixel = |axis: SourceAxis, window: u32| axis.first + window - axis.first_available;
        let (x, y) = (first_pixel(x_axis, window.x), first_pixel(y_axis, window.y));
        return image::imageops::crop_imm(image, x, y, window.width, window.height).to_image();
    }
    let mut x_taps = FilterTaps::new(interpolation, x_axis, size.0, window.x..window.x + window.width);
    let mut y_taps = FilterTaps::new(interpolation, y_axis, size.1, window.y..window.y + window.height);
    let source = ByteRows { bytes: image.as_raw(), stride: image.width() as usize * 3 };
    // Each pass rounds to 8 bits, so the order of the passes matters.
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
        .expect("the passes compute all pixels of the window")
}

/// Whether Pillow runs the vertical pass first: if it removes more than twice as many rows as columns. Before
/// version 13 it never did.
fn vertical_pass_first(source: (u32, u32), target: (u32, u32)) -> bool {
    let reduction = |source: u32, target: u32| i64::from(source) - i64::from(target);
    let (columns, rows) = (reduction(source.0, target.0), reduction(source.1, target.1));
    rows > 0 && rows > columns * 2
}

/// Fractional bits of a weight. A value has 8 bits, and a sum may be twice as large, with either sign.
const PRECISION_BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// For each output along one axis: the range of its inputs, and their fixed-point weights.
struct FilterTaps {
    starts: Vec<usize>,
    lengths: Vec<usize>,
    weights: Vec<i32>,
    stride: usize,
}

impl FilterTaps {
    /// The taps of `outputs` (a range of `0..n_outputs`). Inputs are counted from the first decoded pixel of
    /// `axis`.
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

    /// Copies one input to each output.
    fn from_single_inputs(starts: Vec<usize>) -> Self {
        Self {
            lengths: vec![1; starts.len()],
            weights: vec![1 << PRECISION_BITS; starts.len()],
            starts,
            stride: 1,
        }
    }

    /// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`.
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

    /// For each output, the first input and the weights of the inputs from there on.
    #[inline(always)]
    fn outputs(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.weights.chunks_exact(self.stride).zip(&self.lengths);
        self.starts.iter().zip(weights).map(|(&start, (weights, &length))| (start, &weights[..length]))
    }

    /// The range of all inputs.
    fn input_range(&self) -> Range<usize> {
        let first = self.starts.iter().copied().min().unwrap_or(0);
        let last = self.starts.iter().zip(&self.lengths).map(|(start, length)| start + length).max();
        first..last.unwrap_or(first)
    }

    /// Renumbers the inputs so that the first one is 0; returns their previous range.
    fn rebase_inputs(&mut self) -> Range<usize> {
        let inputs = self.input_range();
        for start in &mut self.starts {
            *start -= inputs.start;
        }
        inputs
    }
}

/// The nearest input of each of `outputs`. Like Pillow, this adds up the scale from output 0, with its
/// rounding errors.
fn nearest_inputs(axis: SourceAxis, n_outputs: u32, outputs: Range<u32>) -> Vec<usize> {
    let scale = axis.length / f64::from(n_outputs);
    let mut position = axis.start + scale * 0.5;
    for _ in 0..outputs.start {
        position += scale;
    }
    // Map lazily: a photo one pixel wide can have 4 billion outputs.
    outputs
        .map(|_| {
            let input = (position as usize).min(axis.n_pixels as usize - 1);
            position += scale;
            input
        })
        .collect()
}

/// RGB bytes in rows of `stride` bytes.
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

/// Rows that [`HorizontalPass`] processes together: their pixels of one column form a vector.
const ROWS_PER_STEP: usize = 4;

/// The pixels of one column in the rows processed together, 4 bytes each.
type PixelColumn = [u8; ROWS_PER_STEP * 4];

/// Bytes of a row that [`VerticalPass`] processes together: their sums fit into registers.
const BYTES_PER_STEP: usize = 32;

/// The horizontal pass over `rows` of `source`.
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

/// The vertical pass over `bytes` of each row of `source`.
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

/// Weighted sums of `N` adjacent bytes over inputs that are `stride` bytes apart.
#[inline(always)]
fn weighted_sums<const N: usize>(inputs: &[u8], stride: usize, weights: &[i32]) -> [u8; N] {
    let mut sums = [HALF; N];
    for (row, &weight) in weights.iter().enumerate() {
        let values: &[u8; N] =
            inputs[row * stride..].first_chunk().expect("the window lies within the photo");
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += i32::from(value) * weight;
        }
    }
    sums.map(to_u8)
}
