//! Pillow's resampling of 8-bit RGB images, bit for bit.
//!
//! Source: Pillow 13.0.0's `src/libImaging/Resample.c` (filters, fixed-point coefficients, two passes and
//! their order) and `Geometry.c` (`ImagingScaleAffine`, for nearest). Only a window of the result is
//! computed.
//!
//! Along one axis, an *input* is a pixel of the source and an *output* a pixel of the result. Positions are
//! in pixels: pixel `i` spans the interval from `i` to `i + 1`, and its center is at `i + 0.5`.

use std::ops::Range;

use headstock_split::Resampling;
use image::RgbImage;
use pulp::{Arch, Simd, WithSimd};

use crate::geometry::Crop;

/// A resampling filter along one axis: the weight of an input as a function of its distance, and the distance
/// from which on the weight is 0. Distances are from the center of an output to that of an input, in pixels of
/// the coarser of the two images.
type ResamplingFilter = (fn(f64) -> f64, f64);

/// Pillow's filter for `interpolation`; `None` for nearest, which copies single pixels without weights.
fn resampling_filter(interpolation: Resampling) -> Option<ResamplingFilter> {
    match interpolation {
        Resampling::Nearest => None,
        Resampling::Bilinear => Some((triangle, 1.0)),
        Resampling::Bicubic => Some((cubic, 2.0)),
        Resampling::Lanczos => Some((lanczos, 3.0)),
    }
}

/// Bilinear filter of a resize: the weight of an input pixel at distance `x` from the output pixel falls
/// linearly from 1 at 0 to 0 at 1.
fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Bicubic filter of a resize: the weight of an input pixel at distance `x` from the output pixel, by Keys'
/// cubic convolution with a = -0.5; 0 from distance 2 on. Same arithmetic as Pillow's `bicubic_filter`.
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

/// Lanczos filter of a resize: the weight of an input pixel at distance `x` from the output pixel,
/// `sinc(x) sinc(x / 3)` within a distance of 3 and 0 beyond. Same arithmetic as Pillow's `lanczos_filter`.
fn lanczos(x: f64) -> f64 {
    let sinc =
        |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

/// What is resized along one axis (x or y) of an image: a range of pixels, and the interval within it that
/// the outputs divide evenly (Pillow's `box`), whose ends need not be whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SourceAxis {
    /// The first pixel of the range.
    first: u32,
    /// The number of pixels in the range.
    n_pixels: u32,
    /// Start of the interval in pixels, relative to `first`.
    start: f64,
    /// Length of the interval in pixels.
    length: f64,
    /// The first pixel that was decoded; pixels that the window does not need may be missing.
    first_available: u32,
}

impl SourceAxis {
    /// The interval of `n_pixels` whole pixels from `first`.
    pub(crate) fn from_pixels(first: u32, n_pixels: u32) -> Self {
        Self { first, n_pixels, start: 0.0, length: f64::from(n_pixels), first_available: 0 }
    }

    /// The interval of `length` pixels from position `start`, both possibly fractional, in an image of `size`
    /// pixels along this axis. The range is all pixels that the interval touches. For images that the JPEG
    /// decoder reduced, in which a crop rarely starts and ends at whole pixels.
    pub(crate) fn from_span(start: f64, length: f64, size: u32) -> Self {
        let first = (start.max(0.0) as u32).min(size - 1);
        let end = ((start + length).ceil() as u32).clamp(first + 1, size);
        Self { first, n_pixels: end - first, start: start - f64::from(first), length, first_available: 0 }
    }

    /// The same axis for an image of which only the pixels from pixel `first` on were decoded.
    pub(crate) fn with_first_available(self, first: u32) -> Self {
        Self { first_available: first, ..self }
    }

    /// The inputs that `outputs` (a range of `0..n_outputs`) are computed from when this axis is resized to
    /// `n_outputs`: (index of the first, number). Only these pixels must be decoded.
    pub(crate) fn needed_pixels(
        self,
        interpolation: Resampling,
        n_outputs: u32,
        outputs: Range<u32>,
    ) -> (u32, u32) {
        let inputs = FilterTaps::for_axis(interpolation, self, n_outputs, outputs).input_range();
        (inputs.start as u32, inputs.len() as u32)
    }

    /// Whether resizing to `n_outputs` pixels only copies pixels: the interval starts at a pixel and has this
    /// length.
    fn is_identity(self, n_outputs: u32) -> bool {
        self.start == 0.0 && self.length == f64::from(n_outputs)
    }
}

/// Resizes the whole `image` to `size` (width, height), neither of which may be 0. The pixels equal those of
/// Pillow's `Image.resize(size, interpolation)`.
pub(crate) fn resize(image: &RgbImage, size: (u32, u32), interpolation: Resampling) -> RgbImage {
    let axes = (SourceAxis::from_pixels(0, image.width()), SourceAxis::from_pixels(0, image.height()));
    resize_window(Arch::new(), image, axes, size, Crop::whole(size), interpolation)
}

/// Resizes a region of `image` to `size` (width, height), neither of which may be 0, and returns only the
/// rectangle `window` of the result; other pixels are not computed. `axes` (x, y) are the columns and rows of
/// the region. Uses the SIMD instructions of `arch`; pixels are summed as integers, so all instructions give
/// identical results.
pub(crate) fn resize_window(
    arch: Arch,
    image: &RgbImage,
    (x_axis, y_axis): (SourceAxis, SourceAxis),
    size: (u32, u32),
    window: Crop,
    interpolation: Resampling,
) -> RgbImage {
    if image.is_empty() {
        return RgbImage::new(window.width, window.height);
    }
    if x_axis.is_identity(size.0) && y_axis.is_identity(size.1) {
        // Nothing to filter: copy the window. `image` starts at the first decoded pixel.
        let first_pixel = |axis: SourceAxis, offset: u32| axis.first + offset - axis.first_available;
        let (x, y) = (first_pixel(x_axis, window.left), first_pixel(y_axis, window.top));
        return image::imageops::crop_imm(image, x, y, window.width, window.height).to_image();
    }
    let (columns, rows) = (window.left..window.left + window.width, window.top..window.top + window.height);
    let mut x_taps = FilterTaps::for_axis(interpolation, x_axis, size.0, columns);
    let mut y_taps = FilterTaps::for_axis(interpolation, y_axis, size.1, rows);
    let source = ByteRows { bytes: image.as_raw(), stride: image.width() as usize * 3 };
    // Each pass rounds to 8 bits, so the order of the passes matters. The first pass computes only the
    // columns or rows that the second one reads.
    let pixels = if is_vertical_pass_first((x_axis.n_pixels, y_axis.n_pixels), size) {
        let columns = x_taps.rebase_inputs();
        let intermediate =
            arch.dispatch(VerticalPass { source, bytes: columns.start * 3..columns.end * 3, taps: &y_taps });
        let source = ByteRows { bytes: &intermediate, stride: columns.len() * 3 };
        arch.dispatch(HorizontalPass { source, rows: 0..y_taps.inputs.len(), taps: &x_taps })
    } else {
        let rows = y_taps.rebase_inputs();
        let intermediate = arch.dispatch(HorizontalPass { source, rows, taps: &x_taps });
        let stride = x_taps.inputs.len() * 3;
        let source = ByteRows { bytes: &intermediate, stride };
        arch.dispatch(VerticalPass { source, bytes: 0..stride, taps: &y_taps })
    };
    RgbImage::from_raw(window.width, window.height, pixels)
        .expect("the passes compute all pixels of the window")
}

/// Whether Pillow runs the vertical pass first when it resizes an image of size `source` to size `target`
/// (width, height): if it removes more than twice as many rows as columns. The order changes how values are
/// rounded. Before version 13 Pillow always ran the horizontal pass first.
fn is_vertical_pass_first(source: (u32, u32), target: (u32, u32)) -> bool {
    let n_removed = |source: u32, target: u32| i64::from(source) - i64::from(target);
    let removed_columns = n_removed(source.0, target.0);
    let removed_rows = n_removed(source.1, target.1);
    removed_rows > 0 && removed_rows > removed_columns * 2
}

/// Fractional bits of a fixed-point weight, so that a weighted sum fits into an `i32`: a pixel value has 8
/// bits, and a sum may be twice as large, with either sign.
const PRECISION_BITS: u32 = 32 - 8 - 2;
/// Start value of a weighted sum, so that [`to_u8`] rounds.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// How the outputs along one axis are computed: each is the weighted sum of a range of inputs. A *tap* is one
/// input with its fixed-point weight (the weight times 2 to the power of [`PRECISION_BITS`]).
struct FilterTaps {
    /// The inputs of each output.
    inputs: Vec<Range<usize>>,
    /// `stride` weights for each output, of which the first ones are used, one for each input.
    weights: Vec<i32>,
    /// Number of weights stored for each output.
    stride: usize,
}

impl FilterTaps {
    /// Computes which input pixels, with which weights, make up each output pixel when `axis` is resized to
    /// `n_outputs` pixels. Only for the output pixels in `outputs`, a range of `0..n_outputs`. Inputs are
    /// counted from the first decoded pixel of `axis`.
    fn for_axis(interpolation: Resampling, axis: SourceAxis, n_outputs: u32, outputs: Range<u32>) -> Self {
        let mut taps = match resampling_filter(interpolation) {
            _ if axis.is_identity(n_outputs) => {
                Self::from_single_inputs(outputs.map(|output| output as usize))
            }
            Some(filter) => Self::from_filter(filter, axis, n_outputs, outputs),
            None => Self::from_single_inputs(nearest_inputs(axis, n_outputs, outputs)),
        };
        // So far inputs are counted from `axis.first`.
        taps.renumber_inputs(|input| input + axis.first as usize - axis.first_available as usize);
        taps
    }

    /// Replaces the numbers of the inputs by `new_number` of them.
    fn renumber_inputs(&mut self, new_number: impl Fn(usize) -> usize) {
        for inputs in &mut self.inputs {
            *inputs = new_number(inputs.start)..new_number(inputs.end);
        }
    }

    /// The weights by which each output pixel is a copy of one of the input pixels `inputs`: one input per
    /// output, with weight 1. For nearest, and for an axis that keeps its size.
    fn from_single_inputs(inputs: impl Iterator<Item = usize>) -> Self {
        let inputs: Vec<Range<usize>> = inputs.map(|input| input..input + 1).collect();
        Self { weights: vec![1 << PRECISION_BITS; inputs.len()], inputs, stride: 1 }
    }

    /// Computes which input pixels, with which weights, make up each output pixel in `outputs` when `axis` is
    /// resized to `n_outputs` pixels with `filter`; inputs are counted from `axis.first`. The weights of an
    /// output sum to 1, in fixed point. When an axis is reduced, the filter is widened by the scale, so that
    /// all inputs count (antialiasing). Same arithmetic as Pillow's `precompute_coeffs` and
    /// `normalize_coeffs_8bpc`.
    fn from_filter(
        (filter_weight, filter_support): ResamplingFilter,
        axis: SourceAxis,
        n_outputs: u32,
        outputs: Range<u32>,
    ) -> Self {
        // Inputs per output.
        let scale = axis.length / f64::from(n_outputs);
        let filter_scale = scale.max(1.0);
        let support = filter_support * filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let mut taps = Self {
            inputs: Vec::with_capacity(outputs.len()),
            weights: vec![0; stride * outputs.len()],
            stride,
        };
        let mut exact_weights = Vec::with_capacity(stride);
        for (output, weights) in outputs.zip(taps.weights.chunks_exact_mut(stride)) {
            let center = axis.start + (f64::from(output) + 0.5) * scale;
            let start = ((center - support + 0.5).max(0.0)) as usize;
            let end = ((center + support + 0.5) as usize).min(axis.n_pixels as usize);
            exact_weights.clear();
            exact_weights.extend(
                (start..end).map(|x| filter_weight((x as f64 - center + 0.5) * (1.0 / filter_scale))),
            );
            let sum: f64 = exact_weights.iter().sum();
            for (weight, &exact) in weights.iter_mut().zip(&exact_weights) {
                let normalized = if sum == 0.0 { exact } else { exact / sum };
                // Adding half with the same sign rounds to nearest.
                *weight = (normalized * f64::from(1 << PRECISION_BITS) + 0.5f64.copysign(normalized)) as i32;
            }
            taps.inputs.push(start..end);
        }
        taps
    }

    /// For each output: (index of its first input, weights of the inputs from there on).
    #[inline(always)]
    fn outputs(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.weights.chunks_exact(self.stride);
        self.inputs.iter().zip(weights).map(|(inputs, weights)| (inputs.start, &weights[..inputs.len()]))
    }

    /// The smallest range of inputs that contains the inputs of all outputs, as `first..end`: the pixels that
    /// are read.
    fn input_range(&self) -> Range<usize> {
        let first = self.inputs.iter().map(|inputs| inputs.start).min().unwrap_or(0);
        first..self.inputs.iter().map(|inputs| inputs.end).max().unwrap_or(first)
    }

    /// Prepares these weights for the second pass of a resize, whose input is the result of the first pass:
    /// renumbers the inputs so that the first one that is read is 0. Returns the range of inputs by their
    /// previous numbers, to which the first pass can be limited.
    fn rebase_inputs(&mut self) -> Range<usize> {
        let range = self.input_range();
        self.renumber_inputs(|input| input - range.start);
        range
    }
}

/// For nearest: the input pixel at the center of each output pixel in `outputs` (a range of `0..n_outputs`)
/// when `axis` is resized to `n_outputs` pixels, counted from `axis.first`. The scale is added up from output
/// 0, so that rounding errors accumulate in the same way as in Pillow.
fn nearest_inputs(axis: SourceAxis, n_outputs: u32, outputs: Range<u32>) -> impl Iterator<Item = usize> {
    let scale = axis.length / f64::from(n_outputs);
    let mut position = axis.start + scale * 0.5;
    for _ in 0..outputs.start {
        position += scale;
    }
    outputs.map(move |_| {
        let input = (position as usize).min(axis.n_pixels as usize - 1);
        position += scale;
        input
    })
}

/// The RGB bytes of an image.
#[derive(Clone, Copy)]
struct ByteRows<'a> {
    /// 3 bytes per pixel, row by row.
    bytes: &'a [u8],
    /// Number of bytes per row.
    stride: usize,
}

impl<'a> ByteRows<'a> {
    /// The bytes of row `index`.
    fn row(self, index: usize) -> &'a [u8] {
        &self.bytes[index * self.stride..][..self.stride]
    }
}

/// The 8-bit pixel value of a fixed-point weighted sum that started from [`HALF`]: rounded to nearest and
/// clamped, because negative weights can lead outside `0..=255`.
#[inline(always)]
fn to_u8(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Number of rows that [`HorizontalPass`] processes together: their pixels of one column form a SIMD vector.
const ROWS_PER_STEP: usize = 4;

/// The pixels of one column in the rows that are processed together: 3 color bytes and an unused one for
/// each.
type PixelColumn = [u8; ROWS_PER_STEP * 4];

/// Number of bytes of a row that [`VerticalPass`] processes together: their sums fit into registers.
const BYTES_PER_STEP: usize = 32;

/// The arguments of the horizontal pass over `rows` of `source`: each row is resized to one pixel per output
/// of `taps`. Returns the RGB bytes of the resized rows.
struct HorizontalPass<'a> {
    source: ByteRows<'a>,
    rows: Range<usize>,
    taps: &'a FilterTaps,
}

impl WithSimd for HorizontalPass<'_> {
    type Output = Vec<u8>;

    /// Resizes the rows to the width of the result; returns their RGB bytes, row by row. `taps` has the
    /// inputs and weights of each output column. `pulp` calls this compiled for the CPU's SIMD instructions.
    /// A few rows are done at a time: the pixels of a column are gathered from these rows into one vector (4
    /// bytes per pixel), summed with the weights, and scattered to the output rows.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<u8> {
        let Self { source, rows, taps } = self;
        let inputs = taps.input_range();
        let mut gathered: Vec<PixelColumn> = vec![[0; _]; inputs.len()];
        let mut resized: Vec<PixelColumn> = vec![[0; _]; taps.inputs.len()];
        let stride = taps.inputs.len() * 3;
        let mut out = vec![0; rows.len() * stride];
        for (first, out_rows) in rows.step_by(ROWS_PER_STEP).zip(out.chunks_mut(ROWS_PER_STEP * stride)) {
            for row in 0..out_rows.len() / stride {
                let pixels = &source.row(first + row).as_chunks::<3>().0[inputs.clone()];
                for (column, pixel) in gathered.iter_mut().zip(pixels) {
                    column[row * 4..][..3].copy_from_slice(pixel);
                }
            }
            for ((start, weights), column) in taps.outputs().zip(&mut resized) {
                let mut sums = [HALF; ROWS_PER_STEP * 4];
                for (values, &weight) in gathered[start - inputs.start..].iter().zip(weights) {
                    for (sum, &value) in sums.iter_mut().zip(values) {
                        *sum += i32::from(value) * weight;
                    }
                }
                *column = sums.map(to_u8);
            }
            for (row, out_row) in out_rows.chunks_exact_mut(stride).enumerate() {
                for (pixel, column) in out_row.as_chunks_mut::<3>().0.iter_mut().zip(&resized) {
                    pixel.copy_from_slice(&column[row * 4..][..3]);
                }
            }
        }
        out
    }
}

/// The arguments of the vertical pass over `bytes` of each row of `source`: each column of bytes is resized
/// to one byte per output of `taps`. Returns the rows of resized bytes.
struct VerticalPass<'a> {
    source: ByteRows<'a>,
    bytes: Range<usize>,
    taps: &'a FilterTaps,
}

impl WithSimd for VerticalPass<'_> {
    type Output = Vec<u8>;

    /// Resizes the columns to the height of the result; returns the bytes, row by row. `taps` has the inputs
    /// and weights of each output row. `pulp` calls this compiled for the CPU's SIMD instructions. Each
    /// output row is a weighted sum of source rows, computed for a block of adjacent bytes at a time and then
    /// byte by byte for the rest of the row.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<u8> {
        let Self { source, bytes, taps } = self;
        let mut out = vec![0; bytes.len() * taps.inputs.len()];
        for ((start, weights), out_row) in taps.outputs().zip(out.chunks_exact_mut(bytes.len())) {
            let inputs = &source.bytes[start * source.stride + bytes.start..];
            let (blocks, last_bytes) = out_row.as_chunks_mut::<BYTES_PER_STEP>();
            let n_block_bytes = blocks.len() * BYTES_PER_STEP;
            for (index, block) in blocks.iter_mut().enumerate() {
                *block = weighted_sums(&inputs[index * BYTES_PER_STEP..], source.stride, weights);
            }
            for (index, byte) in last_bytes.iter_mut().enumerate() {
                [*byte] = weighted_sums(&inputs[n_block_bytes + index..], source.stride, weights);
            }
        }
        out
    }
}

/// For each of the first `N` bytes of `inputs`, the weighted sum of this byte and those below it, which are
/// `stride` bytes apart, rounded to 8 bits: `N` bytes of one output row of a vertical pass. `weights` has the
/// fixed-point weight of each row.
#[inline(always)]
fn weighted_sums<const N: usize>(inputs: &[u8], stride: usize, weights: &[i32]) -> [u8; N] {
    let mut sums = [HALF; N]; // so that `to_u8` rounds
    for (row, &weight) in weights.iter().enumerate() {
        let values: &[u8; N] =
            inputs[row * stride..].first_chunk().expect("the window lies within the image");
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += i32::from(value) * weight;
        }
    }
    sums.map(to_u8)
}
