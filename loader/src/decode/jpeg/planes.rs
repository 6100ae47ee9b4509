//! Samples of the color components, upsampling and color conversion.
//!
//! Source: libjpeg's `jdmaster.c` (the scale of each component), `jdsample.c` (triangle filters) and
//! `jdcolor.c`, bit for bit.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::frame::Frame;
use super::idct::BlockRow;
use super::scan::{BlockGrid, NeededCoefficients};

/// A region of the stored photo, in pixels of the reduced photo.
#[derive(Clone, Debug)]
pub(super) struct PixelArea {
    pub(super) x: Range<usize>,
    pub(super) y: Range<usize>,
}

/// The samples of one component that a [`PixelArea`] needs.
pub(super) struct ComponentPlane {
    /// A block becomes `side` x `side` samples.
    side: usize,
    /// Number of samples of the whole photo (horizontal, vertical).
    size: (usize, usize),
    /// Pixels per sample (horizontal, vertical).
    ratio: (usize, usize),
    /// Whether upsampling may interpolate (libjpeg's "fancy upsampling") instead of repeating samples.
    fancy_upsampling: bool,
    needed: NeededBlocks,
    samples: Vec<u8>,
}

/// The blocks whose samples are needed.
#[derive(Clone)]
pub(super) struct NeededBlocks {
    columns: Range<usize>,
    rows: Range<usize>,
    /// Whether only their DC coefficients are needed.
    pub(super) dc_only: bool,
}

impl NeededBlocks {
    /// The coefficients that a block needs to be decoded to.
    #[inline(always)]
    pub(super) fn coefficients(&self, column: usize, row: usize) -> NeededCoefficients {
        let is_needed = self.columns.contains(&column) && self.rows.contains(&row);
        if is_needed && !self.dc_only { NeededCoefficients::All } else { NeededCoefficients::DcOnly }
    }

    /// Whether enough blocks need only their DC coefficient for skipping the others to be faster.
    pub(super) fn skipping_pays(&self, (across, down): (usize, usize)) -> bool {
        self.dc_only || self.columns.len() * self.rows.len() * 10 < across * down * 9
    }
}

impl ComponentPlane {
    /// An empty plane for `area` of a photo that is reduced to `eighths` / 8 of its size.
    pub(super) fn new(frame: &Frame, component: usize, eighths: usize, area: &PixelArea) -> Self {
        let (h, v) = frame.components[component].sampling;
        let (h_max, v_max) = frame.max_sampling;
        // A subsampled component is reduced less.
        let mut side = eighths;
        while side < 8
            && (h_max * eighths).is_multiple_of(h * side * 2)
            && (v_max * eighths).is_multiple_of(v * side * 2)
        {
            side *= 2;
        }
        let ratio = (h_max * eighths / (h * side), v_max * eighths / (v * side));
        let size =
            ((frame.size.0 * h * side).div_ceil(h_max * 8), (frame.size.1 * v * side).div_ceil(v_max * 8));
        // The upsampling filter reads one more sample on each side.
        let needed_blocks = |pixels: &Range<usize>, ratio: usize, size: usize| {
            let margin = usize::from(ratio > 1);
            let (start, end) =
                ((pixels.start / ratio).saturating_sub(margin), pixels.end.div_ceil(ratio) + margin);
            start / side..end.min(size).div_ceil(side)
        };
        let (columns, rows) =
            (needed_blocks(&area.x, ratio.0, size.0), needed_blocks(&area.y, ratio.1, size.1));
        let samples = vec![0; columns.len() * rows.len() * side * side];
        let needed = NeededBlocks { columns, rows, dc_only: side == 1 };
        Self { side, size, ratio, fancy_upsampling: eighths > 1, needed, samples }
    }

    pub(super) fn needed(&self) -> &NeededBlocks {
        &self.needed
    }

    /// Transforms `blocks` to samples. Their first row is row `first_row` of the component's blocks.
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
                let out = &mut self.samples[(row - self.needed.rows.start) * self.side * stride..]
                    [..self.side * stride];
                let blocks = &blocks[self.needed.columns.clone()];
                BlockRow { blocks, quant_table, side: self.side, out, stride }.transform(arch);
            }
        }
    }

    #[inline(always)]
    fn stride(&self) -> usize {
        self.needed.columns.len() * self.side
    }

    /// Row `y` of the samples, clamped to the photo.
    #[inline(always)]
    fn row(&self, y: isize) -> &[u8] {
        let y = y.clamp(0, self.size.1 as isize - 1) as usize - self.needed.rows.start * self.side;
        let stride = self.stride();
        &self.samples[y * stride..][..stride]
    }

    /// Whether upsampling interpolates horizontally and vertically.
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

    /// Pixels `x` of row `y`, upsampled. `sums` and `out` are buffers.
    #[inline(always)]
    fn upsampled_row<'a>(
        &'a self,
        y: usize,
        x: &Range<usize>,
        sums: &mut Vec<u16>,
        out: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        let start = self.needed.columns.start * self.side;
        let sample_row = y / self.ratio.1;
        let near = self.row(sample_row as isize);
        let (filter_x, filter_y) = self.fancy_upsampling_axes();
        if self.ratio == (1, 1) {
            return &near[x.start - start..x.end - start];
        }
        if !filter_x && !filter_y {
            out.clear();
            out.extend(x.clone().map(|x| near[x / self.ratio.0 - start]));
            return out;
        }
        let first = x.start / self.ratio.0;
        let samples = first..x.end.div_ceil(self.ratio.0);
        sums.clear();
        let far = if y.is_multiple_of(2) { sample_row as isize - 1 } else { sample_row as isize + 1 };
        let far = if filter_y { self.row(far) } else { near };
        // The neighbors on both sides; at the edges of the photo the last sample is repeated.
        let (left, right) = (first.saturating_sub(1), samples.end.min(self.size.0 - 1));
        let sum = |index: usize| {
            let (near, far) = (u16::from(near[index - start]), u16::from(far[index - start]));
            if filter_y { 3 * near + far } else { near }
        };
        if !filter_x {
            let bias = if y.is_multiple_of(2) { 1 } else { 2 };
            out.clear();
            out.extend(samples.map(|index| ((sum(index) + bias) >> 2) as u8));
            return out;
        }
        sums.push(sum(left));
        let (near, far) =
            (&near[first - start..samples.end - start], &far[first - start..samples.end - start]);
        if filter_y {
            sums.extend(near.iter().zip(far).map(|(&near, &far)| 3 * u16::from(near) + u16::from(far)));
        } else {
            sums.extend(near.iter().map(|&near| u16::from(near)));
        }
        sums.push(sum(right));
        out.clear();
        out.resize(2 * samples.len(), 0);
        if filter_y {
            upsample_pairs::<8, 7, 4>(sums, out);
        } else {
            upsample_pairs::<1, 2, 2>(sums, out);
        }
        let skipped = x.start - 2 * first;
        &out[skipped..][..x.len()]
    }
}

/// Two pixels per sample, 3/4 of the sample and 1/4 of its neighbor on that side. `sums` has a neighbor at
/// both ends; `LEFT` and `RIGHT` are libjpeg's rounding terms.
#[inline(always)]
fn upsample_pairs<const LEFT: u16, const RIGHT: u16, const SHIFT: u32>(sums: &[u16], out: &mut [u8]) {
    let (left, here, right) = (sums, &sums[1..], &sums[2..]);
    for (((out, &left), &here), &right) in
        out.as_chunks_mut::<2>().0.iter_mut().zip(left).zip(here).zip(right)
    {
        *out = [((3 * here + left + LEFT) >> SHIFT) as u8, ((3 * here + right + RIGHT) >> SHIFT) as u8];
    }
}

/// The color model of the components.
#[derive(Clone, Copy)]
pub(super) enum JpegColorModel {
    Gray,
    Rgb,
    YCbCr,
}

/// The job of upsampling the planes and converting them to RGB pixels of `area`.
pub(super) struct UpsampleAndConvert<'a> {
    pub(super) planes: &'a [ComponentPlane],
    pub(super) color_model: JpegColorModel,
    pub(super) area: &'a PixelArea,
}

impl UpsampleAndConvert<'_> {
    /// Returns the RGB bytes, row by row.
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

/// Fixed-point conversion with 16 fractional bits; `cb` and `cr` are centered on 0.
#[inline(always)]
fn ycbcr_to_rgb(y: i32, cb: i32, cr: i32) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}
