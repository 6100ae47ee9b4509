//! Samples of the color components, upsampling and color conversion.
//!
//! Source: libjpeg's `jdmaster.c` (the scale of each component), `jdsample.c` (triangle filters) and
//! `jdcolor.c`, bit for bit.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::frame::Frame;
use super::idct::BlockRow;
use super::scan::BlockGrid;

/// The columns `x` and rows `y` of a region of the stored image, in pixels of the reduced image.
#[derive(Clone, Debug)]
pub(super) struct PixelArea {
    pub(super) x: Range<usize>,
    pub(super) y: Range<usize>,
}

/// The decoded samples of one component (such as luma) for a [`PixelArea`], before upsampling.
pub(super) struct ComponentPlane {
    /// A block becomes `side` x `side` samples.
    side: usize,
    /// Number of samples of the whole image (horizontal, vertical).
    size: (usize, usize),
    /// Pixels per sample (horizontal, vertical).
    ratio: (usize, usize),
    /// Whether upsampling may interpolate (libjpeg's "fancy upsampling") instead of repeating samples.
    fancy_upsampling: bool,
    pub(super) needed: NeededBlocks,
    /// The samples of the needed blocks, row by row.
    samples: Vec<u8>,
}

/// The blocks of a component whose samples are needed.
#[derive(Clone)]
pub(super) struct NeededBlocks {
    columns: Range<usize>,
    rows: Range<usize>,
    /// Whether only their DC coefficients are needed.
    pub(super) dc_only: bool,
}

impl NeededBlocks {
    /// Whether the AC coefficients of the block at `column` and `row` must be decoded. The DC coefficient
    /// always must, because the next block's is relative to it.
    #[inline(always)]
    pub(super) fn needs_ac(&self, column: usize, row: usize) -> bool {
        !self.dc_only && self.columns.contains(&column) && self.rows.contains(&row)
    }

    /// Whether skipping the AC coefficients that are not needed is faster than decoding all coefficients:
    /// more than a tenth of the component's blocks, `n_columns` x `n_rows`, need only their DC coefficient.
    pub(super) fn is_skipping_faster(&self, (n_columns, n_rows): (usize, usize)) -> bool {
        self.dc_only || self.columns.len() * self.rows.len() * 10 < n_columns * n_rows * 9
    }
}

impl ComponentPlane {
    /// Allocates the plane (gray samples) of the color component with this index, for a JPEG that is decoded
    /// to `eighths` / 8 of its size. It has only the blocks that `area`, in pixels of the reduced image,
    /// needs. The number of samples per block follows libjpeg, whose pixels this decoder reproduces.
    pub(super) fn new(frame: &Frame, component: usize, eighths: usize, area: &PixelArea) -> Self {
        let (width, height) = frame.size;
        // The sampling factors (horizontal, vertical) of this component, and the largest of all.
        let (h, v) = frame.components[component].sampling;
        let (h_max, v_max) = frame.max_sampling;
        // Each 8 x 8 block is decoded to `side` x `side` samples. Subsampled chroma has fewer samples than
        // luma, so its blocks are reduced less (a larger `side`), which saves upsampling.
        let mut side = eighths;
        while side < 8
            && (h_max * eighths).is_multiple_of(h * side * 2)
            && (v_max * eighths).is_multiple_of(v * side * 2)
        {
            side *= 2;
        }
        // Output pixels per sample, horizontally and vertically.
        let ratio = (h_max * eighths / (h * side), v_max * eighths / (v * side));
        let size = ((width * h * side).div_ceil(h_max * 8), (height * v * side).div_ceil(v_max * 8));
        // The upsampling filter reads one more sample on each side.
        let needed_blocks = |pixels: &Range<usize>, ratio: usize, n_samples: usize| {
            let margin = usize::from(ratio > 1);
            let start = (pixels.start / ratio).saturating_sub(margin);
            let end = (pixels.end.div_ceil(ratio) + margin).min(n_samples);
            start / side..end.div_ceil(side)
        };
        let columns = needed_blocks(&area.x, ratio.0, size.0);
        let rows = needed_blocks(&area.y, ratio.1, size.1);
        let samples = vec![128; columns.len() * rows.len() * side * side];
        let needed = NeededBlocks { columns, rows, dc_only: side == 1 };
        Self { side, size, ratio, fancy_upsampling: eighths > 1, needed, samples }
    }

    /// Turns the coefficients of the needed blocks of `grid` into samples: multiplies them by `quant_table`
    /// and applies the inverse DCT. The first row of `grid` is row `first_row` of the component's blocks,
    /// because a grid may hold one row of MCUs only.
    pub(super) fn fill_from_blocks(
        &mut self,
        arch: Arch,
        grid: &BlockGrid,
        quant_table: &[i32; 64],
        first_row: usize,
    ) {
        let stride = self.stride();
        for (row, row_blocks) in (first_row..).zip(grid.blocks.chunks_exact(grid.columns)) {
            if self.needed.rows.contains(&row) {
                let out = &mut self.samples[(row - self.needed.rows.start) * self.side * stride..]
                    [..self.side * stride];
                let blocks = &row_blocks[self.needed.columns.clone()];
                arch.dispatch(BlockRow { blocks, quant_table, side: self.side, out, stride });
            }
        }
    }

    /// Number of samples in a stored row.
    #[inline(always)]
    fn stride(&self) -> usize {
        self.needed.columns.len() * self.side
    }

    /// The stored samples of row `y` of the component; beyond the edges of the image the first or last row.
    #[inline(always)]
    fn stored_row(&self, y: isize) -> &[u8] {
        let y = y.clamp(0, self.size.1 as isize - 1) as usize - self.needed.rows.start * self.side;
        let stride = self.stride();
        &self.samples[y * stride..][..stride]
    }

    /// Whether upsampling to the size of the image interpolates (horizontally, vertically) between samples
    /// instead of repeating them. As in libjpeg, this depends on the ratio of pixels to samples and on the
    /// width in samples.
    #[inline(always)]
    fn fancy_upsampling_axes(&self) -> (bool, bool) {
        match self.ratio {
            _ if !self.fancy_upsampling => (false, false),
            (2, 1) => (self.size.0 > 2, false),
            (2, 2) => (self.size.0 > 2, self.size.0 > 2),
            (1, 2) => (false, true),
            _ => (false, false),
        }
    }

    /// Upsamples the samples to the pixels with columns `x` of row `y` and returns these pixels of the
    /// component. Where libjpeg interpolates, a pixel is 3/4 of its sample and 1/4 of the next sample on its
    /// side, along each axis; elsewhere samples are repeated. `sums` and `out` are buffers that are reused
    /// for each row.
    #[inline(always)]
    fn upsampled_row<'a>(
        &'a self,
        y: usize,
        x: &Range<usize>,
        sums: &mut Vec<u16>,
        out: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        let (x_ratio, y_ratio) = self.ratio;
        let (filter_x, filter_y) = self.fancy_upsampling_axes();
        // The column of the first stored sample.
        let first_stored = self.needed.columns.start * self.side;
        let near_index = (y / y_ratio) as isize;
        let near_row = self.stored_row(near_index);
        if self.ratio == (1, 1) {
            return &near_row[x.start - first_stored..x.end - first_stored];
        }
        if !filter_x && !filter_y {
            out.clear();
            out.extend(x.clone().map(|x| near_row[x / x_ratio - first_stored]));
            return out;
        }
        // The columns of the samples that belong to the pixels.
        let first = x.start / x_ratio;
        let samples = first..x.end.div_ceil(x_ratio);
        sums.clear();
        let far_index = if y.is_multiple_of(2) { near_index - 1 } else { near_index + 1 };
        let far_row = if filter_y { self.stored_row(far_index) } else { near_row };
        // The neighbors on both sides; at the edges of the image the last sample is repeated.
        let (left, right) = (first.saturating_sub(1), samples.end.min(self.size.0 - 1));
        // Four times the vertically interpolated sample, or the sample itself.
        let vertical_sum = |index: usize| {
            let near = u16::from(near_row[index - first_stored]);
            let far = u16::from(far_row[index - first_stored]);
            if filter_y { 3 * near + far } else { near }
        };
        if !filter_x {
            // The rounding term alternates between rows, as in libjpeg.
            let bias = if y.is_multiple_of(2) { 1 } else { 2 };
            out.clear();
            out.extend(samples.map(|index| ((vertical_sum(index) + bias) >> 2) as u8));
            return out;
        }
        sums.push(vertical_sum(left));
        let near_samples = &near_row[first - first_stored..samples.end - first_stored];
        let far_samples = &far_row[first - first_stored..samples.end - first_stored];
        if filter_y {
            let pairs = near_samples.iter().zip(far_samples);
            sums.extend(pairs.map(|(&near, &far)| 3 * u16::from(near) + u16::from(far)));
        } else {
            sums.extend(near_samples.iter().map(|&near| u16::from(near)));
        }
        sums.push(vertical_sum(right));
        out.clear();
        out.resize(2 * samples.len(), 0);
        // libjpeg's rounding terms and shift; vertical sums are four times a sample.
        if filter_y {
            upsample_pairs::<8, 7, 4>(sums, out);
        } else {
            upsample_pairs::<1, 2, 2>(sums, out);
        }
        // Each sample gave two pixels; the first one may be outside `x`.
        let skipped = x.start - 2 * first;
        &out[skipped..][..x.len()]
    }
}

/// Interpolates a row horizontally: fills `out` with two pixels per sample, 3/4 of the sample and 1/4 of its
/// left or right neighbor. `sums` has the samples and one neighbor at both ends; a pixel is
/// `(3 sample + neighbor + bias) >> SHIFT`, with libjpeg's rounding terms as biases. `SHIFT` is 4 instead of
/// 2 if the samples in `sums` are multiplied by 4.
#[inline(always)]
fn upsample_pairs<const LEFT_BIAS: u16, const RIGHT_BIAS: u16, const SHIFT: u32>(
    sums: &[u16],
    out: &mut [u8],
) {
    let (left, center, right) = (sums, &sums[1..], &sums[2..]);
    let neighbors = left.iter().zip(center).zip(right);
    for (out, ((&left, &center), &right)) in out.as_chunks_mut::<2>().0.iter_mut().zip(neighbors) {
        *out = [
            ((3 * center + left + LEFT_BIAS) >> SHIFT) as u8,
            ((3 * center + right + RIGHT_BIAS) >> SHIFT) as u8,
        ];
    }
}

/// The arguments of upsampling the planes and converting them to RGB pixels of `area`; [`Arch::dispatch`] runs
/// it with the SIMD instructions of the processor.
pub(super) struct UpsampleAndConvert<'a> {
    pub(super) planes: &'a [ComponentPlane],
    /// Whether three components are RGB and not YCbCr.
    pub(super) is_rgb: bool,
    pub(super) area: &'a PixelArea,
}

impl WithSimd for UpsampleAndConvert<'_> {
    type Output = Vec<u8>;

    /// Upsamples each row of the planes and converts it to RGB; returns the bytes `[H, W, 3]` of `area`.
    /// `pulp` inlines this into a function that it compiles for the instruction set `S`.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<u8> {
        let PixelArea { x: columns, y: rows } = self.area;
        let stride = 3 * columns.len();
        let mut out = vec![0; stride * rows.len()];
        if out.is_empty() {
            return out;
        }
        let mut sums = Vec::new();
        let [mut first_row, mut second_row, mut third_row] = [Vec::new(), Vec::new(), Vec::new()];
        for (y, out) in rows.clone().zip(out.chunks_exact_mut(stride)) {
            let pixels = out.as_chunks_mut::<3>().0;
            let first = self.planes[0].upsampled_row(y, columns, &mut sums, &mut first_row);
            // A gray image has only one plane.
            let [_, second, third] = self.planes else {
                for (pixel, &gray) in pixels.iter_mut().zip(first) {
                    *pixel = [gray; 3];
                }
                continue;
            };
            let second = second.upsampled_row(y, columns, &mut sums, &mut second_row);
            let third = third.upsampled_row(y, columns, &mut sums, &mut third_row);
            let components = first.iter().zip(second).zip(third);
            if self.is_rgb {
                for (pixel, ((&red, &green), &blue)) in pixels.iter_mut().zip(components) {
                    *pixel = [red, green, blue];
                }
            } else {
                for (pixel, ((&luma, &cb), &cr)) in pixels.iter_mut().zip(components) {
                    *pixel = ycbcr_to_rgb(luma.into(), i32::from(cb) - 128, i32::from(cr) - 128);
                }
            }
        }
        out
    }
}

/// Converts a YCbCr pixel to RGB, where `cb` and `cr` are centered on 0: `R = Y + 1.402 Cr`,
/// `G = Y - 0.34414 Cb - 0.71414 Cr`, `B = Y + 1.772 Cb`. The factors are multiplied by 2^16, as in libjpeg.
#[inline(always)]
fn ycbcr_to_rgb(luma: i32, cb: i32, cr: i32) -> [u8; 3] {
    const HALF: i32 = 1 << 15; // for rounding
    let red = luma + ((91_881 * cr + HALF) >> 16);
    let green = luma + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let blue = luma + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}
