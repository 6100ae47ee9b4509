//! Samples of the components, and the pixels that they make.
//!
//! Source: libjpeg's `jdmaster.c` (how large each component comes), `jdsample.c` (triangle filters) and `jdcolor.c`, to the bit.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::frame::Frame;
use super::idct::BlockRow;
use super::scan::{Blocks, Wanted};

/// A part of a photo as it is stored, in pixels of what is decoded.
#[derive(Clone, Debug)]
pub(super) struct Area {
    pub(super) x: Range<usize>,
    pub(super) y: Range<usize>,
}

/// Samples of one component, those that an area needs.
pub(super) struct Plane {
    /// What a block becomes: this many samples, squared.
    side: usize,
    /// Samples that the whole photo has, across and down.
    size: (usize, usize),
    /// Pixels a sample, across and down.
    ratio: (usize, usize),
    smooth: bool,
    needed: Needed,
    samples: Vec<u8>,
}

/// The blocks that samples are needed of.
#[derive(Clone)]
pub(super) struct Needed {
    columns: Range<usize>,
    rows: Range<usize>,
    /// Whether of those only the first coefficient.
    pub(super) firsts: bool,
}

impl Needed {
    /// What is needed of a block.
    #[inline(always)]
    pub(super) fn of(&self, column: usize, row: usize) -> Wanted {
        let inside = self.columns.contains(&column) && self.rows.contains(&row);
        if inside && !self.firsts { Wanted::All } else { Wanted::First }
    }

    /// Whether of so many of all blocks only the first coefficient is needed that it pays to pass over the others.
    pub(super) fn is_little(&self, (across, down): (usize, usize)) -> bool {
        self.firsts || self.columns.len() * self.rows.len() * 10 < across * down * 9
    }
}

impl Plane {
    /// An empty one for `area` of a photo decoded at `side` eighths of its size.
    pub(super) fn new(frame: &Frame, component: usize, side: usize, area: &Area) -> Self {
        let (h, v) = frame.components[component].sampling;
        let (h_most, v_most) = frame.sampling;
        // A component that is stored smaller is reduced less.
        let mut own = side;
        while own < 8
            && (h_most * side).is_multiple_of(h * own * 2)
            && (v_most * side).is_multiple_of(v * own * 2)
        {
            own *= 2;
        }
        let ratio = (h_most * side / (h * own), v_most * side / (v * own));
        let size =
            ((frame.size.0 * h * own).div_ceil(h_most * 8), (frame.size.1 * v * own).div_ceil(v_most * 8));
        // A filter looks one sample further.
        let needed = |pixels: &Range<usize>, ratio: usize, size: usize| {
            let margin = usize::from(ratio > 1);
            let (start, end) =
                ((pixels.start / ratio).saturating_sub(margin), pixels.end.div_ceil(ratio) + margin);
            start / own..end.min(size).div_ceil(own)
        };
        let (columns, rows) = (needed(&area.x, ratio.0, size.0), needed(&area.y, ratio.1, size.1));
        let samples = vec![0; columns.len() * rows.len() * own * own];
        let needed = Needed { columns, rows, firsts: own == 1 };
        Self { side: own, size, ratio, smooth: side > 1, needed, samples }
    }

    /// The blocks that samples are needed of.
    pub(super) fn needed(&self) -> &Needed {
        &self.needed
    }

    /// Fills in what `blocks` hold of it: rows of blocks from `first` on.
    pub(super) fn fill(&mut self, arch: Arch, blocks: &Blocks, steps: &[i32; 64], first: usize) {
        let stride = self.stride();
        for (row, blocks) in (first..).zip(blocks.blocks.chunks_exact(blocks.columns)) {
            if self.needed.rows.contains(&row) {
                let out = &mut self.samples[(row - self.needed.rows.start) * self.side * stride..]
                    [..self.side * stride];
                let blocks = &blocks[self.needed.columns.clone()];
                BlockRow { blocks, steps, side: self.side, out, stride }.transform(arch);
            }
        }
    }

    #[inline(always)]
    fn stride(&self) -> usize {
        self.needed.columns.len() * self.side
    }

    /// Row `y` of the samples; beside the photo its last row goes on.
    #[inline(always)]
    fn row(&self, y: isize) -> &[u8] {
        let y = y.clamp(0, self.size.1 as isize - 1) as usize - self.needed.rows.start * self.side;
        let stride = self.stride();
        &self.samples[y * stride..][..stride]
    }

    /// Whether a pixel of it is a mean of samples, across and down.
    #[inline(always)]
    fn filters(&self) -> (bool, bool) {
        match self.ratio {
            _ if !self.smooth => (false, false),
            (2, 1) => (self.size.0 > 2, false),
            (2, 2) => (self.size.0 > 2, self.size.0 > 2),
            (1, 2) => (false, true),
            _ => (false, false),
        }
    }

    /// Pixels `x` of row `y`.
    #[inline(always)]
    fn pixels<'a>(
        &'a self,
        y: usize,
        x: &Range<usize>,
        sums: &mut Vec<u16>,
        out: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        let from = self.needed.columns.start * self.side;
        let own = y / self.ratio.1;
        let near = self.row(own as isize);
        let (across, down) = self.filters();
        if self.ratio == (1, 1) {
            return &near[x.start - from..x.end - from];
        }
        if !across && !down {
            out.clear();
            out.extend(x.clone().map(|x| near[x / self.ratio.0 - from]));
            return out;
        }
        let first = x.start / self.ratio.0;
        let samples = first..x.end.div_ceil(self.ratio.0);
        sums.clear();
        let far = if y.is_multiple_of(2) { own as isize - 1 } else { own as isize + 1 };
        let far = if down { self.row(far) } else { near };
        // With a sample before and behind, which at the photo's edges are the last ones again.
        let (before, behind) = (first.saturating_sub(1), samples.end.min(self.size.0 - 1));
        let sum = |at: usize| {
            let (near, far) = (u16::from(near[at - from]), u16::from(far[at - from]));
            if down { 3 * near + far } else { near }
        };
        if !across {
            let bias = if y.is_multiple_of(2) { 1 } else { 2 };
            out.clear();
            out.extend(samples.map(|at| ((sum(at) + bias) >> 2) as u8));
            return out;
        }
        sums.push(sum(before));
        let (near, far) = (&near[first - from..samples.end - from], &far[first - from..samples.end - from]);
        if down {
            sums.extend(near.iter().zip(far).map(|(&near, &far)| 3 * u16::from(near) + u16::from(far)));
        } else {
            sums.extend(near.iter().map(|&near| u16::from(near)));
        }
        sums.push(sum(behind));
        out.clear();
        out.resize(2 * samples.len(), 0);
        if down {
            between::<8, 7, 4>(sums, out);
        } else {
            between::<1, 2, 2>(sums, out);
        }
        let skipped = x.start - 2 * first;
        &out[skipped..][..x.len()]
    }
}

/// Two pixels for each sample, each nearer to it than to its neighbour on that side.
#[inline(always)]
fn between<const LEFT: u16, const RIGHT: u16, const SHIFT: u32>(sums: &[u16], out: &mut [u8]) {
    let (before, here, behind) = (sums, &sums[1..], &sums[2..]);
    for (((out, &before), &here), &behind) in
        out.as_chunks_mut::<2>().0.iter_mut().zip(before).zip(here).zip(behind)
    {
        *out = [((3 * here + before + LEFT) >> SHIFT) as u8, ((3 * here + behind + RIGHT) >> SHIFT) as u8];
    }
}

/// What components mean.
#[derive(Clone, Copy)]
pub(super) enum Colours {
    Grey,
    Rgb,
    YCbCr,
}

/// The pixels of an area.
pub(super) struct Render<'a> {
    pub(super) planes: &'a [Plane],
    pub(super) colours: Colours,
    pub(super) area: &'a Area,
}

impl Render<'_> {
    /// RGB, row by row.
    pub(super) fn run(self, arch: Arch) -> Vec<u8> {
        arch.dispatch(self)
    }
}

impl WithSimd for Render<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<u8> {
        let Area { x, y } = self.area;
        let stride = 3 * x.len();
        let mut out = vec![0; stride * y.len()];
        if out.is_empty() {
            return out;
        }
        let (mut sums, mut buffers) = (Vec::new(), [Vec::new(), Vec::new(), Vec::new()]);
        for (y, out) in y.clone().zip(out.chunks_exact_mut(stride)) {
            let pixels = out.as_chunks_mut::<3>().0;
            let [a, b, c] = &mut buffers;
            let first = self.planes[0].pixels(y, x, &mut sums, a);
            let [_, second, third] = self.planes else {
                for (pixel, &grey) in pixels.iter_mut().zip(first) {
                    *pixel = [grey; 3];
                }
                continue;
            };
            let (second, third) = (second.pixels(y, x, &mut sums, b), third.pixels(y, x, &mut sums, c));
            let components = first.iter().zip(second).zip(third);
            if matches!(self.colours, Colours::Rgb) {
                for (pixel, ((&red, &green), &blue)) in pixels.iter_mut().zip(components) {
                    *pixel = [red, green, blue];
                }
            } else {
                for (pixel, ((&y, &cb), &cr)) in pixels.iter_mut().zip(components) {
                    *pixel = rgb(y.into(), i32::from(cb) - 128, i32::from(cr) - 128);
                }
            }
        }
        out
    }
}

/// 16 bits behind the point.
#[inline(always)]
fn rgb(y: i32, cb: i32, cr: i32) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}
