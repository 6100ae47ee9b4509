//! Samples of the components, and the pixels that they make.
//!
//! Source: libjpeg's `jdmaster.c` (how large each component comes), `jdsample.c` (triangle filters) and `jdcolor.c`, to the bit.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::frame::Frame;
use super::idct::BlockRow;
use super::scan::{BlockGrid, NeededCoefficients};

/// A part of a photo as it is stored, in pixels of what is decoded.
#[derive(Clone, Debug)]
pub(super) struct PixelArea {
    pub(super) x: Range<usize>,
    pub(super) y: Range<usize>,
}

/// Samples of one component, those that an area needs.
pub(super) struct ComponentPlane {
    /// What a block becomes: this many samples, squared.
    block_side: usize,
    /// Samples that the whole photo has, across and down.
    size: (usize, usize),
    /// Pixels a sample, across and down.
    ratio: (usize, usize),
    fancy_upsampling: bool,
    needed: NeededBlocks,
    samples: Vec<u8>,
}

/// The blocks that samples are needed of.
#[derive(Clone)]
pub(super) struct NeededBlocks {
    columns: Range<usize>,
    rows: Range<usize>,
    /// Whether of those only the first coefficient.
    pub(super) dc_only: bool,
}

impl NeededBlocks {
    /// What is needed of a block.
    #[inline(always)]
    pub(super) fn coefficients(&self, column: usize, row: usize) -> NeededCoefficients {
        let is_needed = self.columns.contains(&column) && self.rows.contains(&row);
        if is_needed && !self.dc_only { NeededCoefficients::All } else { NeededCoefficients::DcOnly }
    }

    /// Whether of so many of all blocks only the first coefficient is needed that it pays to pass over the others.
    pub(super) fn skipping_pays(&self, (across, down): (usize, usize)) -> bool {
        self.dc_only || self.columns.len() * self.rows.len() * 10 < across * down * 9
    }
}

impl ComponentPlane {
    /// An empty one for `area` of a photo decoded at `side` eighths of its size.
    pub(super) fn new(frame: &Frame, component: usize, eighths: usize, area: &PixelArea) -> Self {
        let (h, v) = frame.components[component].sampling;
        let (h_max, v_max) = frame.max_sampling;
        // A component that is stored smaller is reduced less.
        let mut block_side = eighths;
        while block_side < 8
            && (h_max * eighths).is_multiple_of(h * block_side * 2)
            && (v_max * eighths).is_multiple_of(v * block_side * 2)
        {
            block_side *= 2;
        }
        let ratio = (h_max * eighths / (h * block_side), v_max * eighths / (v * block_side));
        let size = (
            (frame.size.0 * h * block_side).div_ceil(h_max * 8),
            (frame.size.1 * v * block_side).div_ceil(v_max * 8),
        );
        // A filter looks one sample further.
        let needed_blocks = |pixels: &Range<usize>, ratio: usize, size: usize| {
            let margin = usize::from(ratio > 1);
            let (start, end) =
                ((pixels.start / ratio).saturating_sub(margin), pixels.end.div_ceil(ratio) + margin);
            start / block_side..end.min(size).div_ceil(block_side)
        };
        let (columns, rows) =
            (needed_blocks(&area.x, ratio.0, size.0), needed_blocks(&area.y, ratio.1, size.1));
        let samples = vec![0; columns.len() * rows.len() * block_side * block_side];
        let needed = NeededBlocks { columns, rows, dc_only: block_side == 1 };
        Self { block_side, size, ratio, fancy_upsampling: eighths > 1, needed, samples }
    }

    /// The blocks that samples are needed of.
    pub(super) fn needed(&self) -> &NeededBlocks {
        &self.needed
    }

    /// Fills in what `blocks` hold of it: rows of blocks from `first` on.
    pub(super) fn fill_from_blocks(
        &mut self,
        arch: Arch,
        blocks: &BlockGrid,
        quant_table: &[i32; 64],
        first_row: usize,
    ) {
        let stride = self.stride();
        for (row, blocks) in (first_row..).zip(blocks.blocks.chunks_exact(blocks.columns)) {
            if self.needed.rows.contains(&row) {
                let out = &mut self.samples[(row - self.needed.rows.start) * self.block_side * stride..]
                    [..self.block_side * stride];
                let blocks = &blocks[self.needed.columns.clone()];
                BlockRow { blocks, quant_table, side: self.block_side, out, stride }.transform(arch);
            }
        }
    }

    #[inline(always)]
    fn stride(&self) -> usize {
        self.needed.columns.len() * self.block_side
    }

    /// Row `y` of the samples; beside the photo its last row goes on.
    #[inline(always)]
    fn row(&self, y: isize) -> &[u8] {
        let y = y.clamp(0, self.size.1 as isize - 1) as usize - self.needed.rows.start * self.block_side;
        let stride = self.stride();
        &self.samples[y * stride..][..stride]
    }

    /// Whether a pixel of it is a mean of samples, across and down.
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

    /// Pixels `x` of row `y`.
    #[inline(always)]
    fn upsampled_row<'a>(
        &'a self,
        y: usize,
        x: &Range<usize>,
        sums: &mut Vec<u16>,
        out: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        let stored_start = self.needed.columns.start * self.block_side;
        let sample_row = y / self.ratio.1;
        let near = self.row(sample_row as isize);
        let (filters_across, filters_down) = self.fancy_upsampling_axes();
        if self.ratio == (1, 1) {
            return &near[x.start - stored_start..x.end - stored_start];
        }
        if !filters_across && !filters_down {
            out.clear();
            out.extend(x.clone().map(|x| near[x / self.ratio.0 - stored_start]));
            return out;
        }
        let first = x.start / self.ratio.0;
        let samples = first..x.end.div_ceil(self.ratio.0);
        sums.clear();
        let far = if y.is_multiple_of(2) { sample_row as isize - 1 } else { sample_row as isize + 1 };
        let far = if filters_down { self.row(far) } else { near };
        // With a sample before and behind, which at the photo's edges are the last ones again.
        let (left_neighbor, right_neighbor) = (first.saturating_sub(1), samples.end.min(self.size.0 - 1));
        let sum = |index: usize| {
            let (near, far) = (u16::from(near[index - stored_start]), u16::from(far[index - stored_start]));
            if filters_down { 3 * near + far } else { near }
        };
        if !filters_across {
            let bias = if y.is_multiple_of(2) { 1 } else { 2 };
            out.clear();
            out.extend(samples.map(|index| ((sum(index) + bias) >> 2) as u8));
            return out;
        }
        sums.push(sum(left_neighbor));
        let (near, far) = (
            &near[first - stored_start..samples.end - stored_start],
            &far[first - stored_start..samples.end - stored_start],
        );
        if filters_down {
            sums.extend(near.iter().zip(far).map(|(&near, &far)| 3 * u16::from(near) + u16::from(far)));
        } else {
            sums.extend(near.iter().map(|&near| u16::from(near)));
        }
        sums.push(sum(right_neighbor));
        out.clear();
        out.resize(2 * samples.len(), 0);
        if filters_down {
            upsample_pairs::<8, 7, 4>(sums, out);
        } else {
            upsample_pairs::<1, 2, 2>(sums, out);
        }
        let skipped = x.start - 2 * first;
        &out[skipped..][..x.len()]
    }
}

/// Two pixels for each sample, each nearer to it than to its neighbour on that side.
#[inline(always)]
fn upsample_pairs<const LEFT_BIAS: u16, const RIGHT_BIAS: u16, const SHIFT: u32>(
    sums: &[u16],
    out: &mut [u8],
) {
    let (left, here, right) = (sums, &sums[1..], &sums[2..]);
    for (((out, &left), &here), &right) in
        out.as_chunks_mut::<2>().0.iter_mut().zip(left).zip(here).zip(right)
    {
        *out = [
            ((3 * here + left + LEFT_BIAS) >> SHIFT) as u8,
            ((3 * here + right + RIGHT_BIAS) >> SHIFT) as u8,
        ];
    }
}

/// What components mean.
#[derive(Clone, Copy)]
pub(super) enum JpegColorModel {
    Gray,
    Rgb,
    YCbCr,
}

/// The pixels of an area.
pub(super) struct UpsampleAndConvert<'a> {
    pub(super) planes: &'a [ComponentPlane],
    pub(super) color_model: JpegColorModel,
    pub(super) area: &'a PixelArea,
}

impl UpsampleAndConvert<'_> {
    /// RGB, row by row.
    pub(super) fn run(self, arch: Arch) -> Vec<u8> {
        arch.dispatch(self)
    }
}

impl WithSimd for UpsampleAndConvert<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<u8> {
        let PixelArea { x, y } = self.area;
        let stride = 3 * x.len();
        let mut out = vec![0; stride * y.len()];
        if out.is_empty() {
            return out;
        }
        let (mut sums, mut buffers) = (Vec::new(), [Vec::new(), Vec::new(), Vec::new()]);
        for (y, out) in y.clone().zip(out.chunks_exact_mut(stride)) {
            let pixels = out.as_chunks_mut::<3>().0;
            let [a, b, c] = &mut buffers;
            let first = self.planes[0].upsampled_row(y, x, &mut sums, a);
            let [_, second, third] = self.planes else {
                for (pixel, &gray) in pixels.iter_mut().zip(first) {
                    *pixel = [gray; 3];
                }
                continue;
            };
            let (second, third) =
                (second.upsampled_row(y, x, &mut sums, b), third.upsampled_row(y, x, &mut sums, c));
            let components = first.iter().zip(second).zip(third);
            if matches!(self.color_model, JpegColorModel::Rgb) {
                for (pixel, ((&red, &green), &blue)) in pixels.iter_mut().zip(components) {
                    *pixel = [red, green, blue];
                }
            } else {
                for (pixel, ((&y, &cb), &cr)) in pixels.iter_mut().zip(components) {
                    *pixel = ycbcr_to_rgb(y.into(), i32::from(cb) - 128, i32::from(cr) - 128);
                }
            }
        }
        out
    }
}

/// 16 bits behind the point.
#[inline(always)]
fn ycbcr_to_rgb(y: i32, cb: i32, cr: i32) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}
