//! Convolution on the CPU, channels last, and its derivatives.
//!
//! All three are matrix products of what lies under the kernel at each position: `col` `[N H' W', K K C]`, made a few photos
//! at a time. Work is split along results and never along a sum, so the bits do not depend on the threads.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::storage::{values, with_values};
use crate::blueprint::Geometry;

/// Positions that a thread takes at a time, at least: whole photos.
const POSITIONS: usize = 196;
/// Rows of the weights whose derivatives a thread sums at a time.
const WEIGHT_ROWS: usize = 256;

/// `[N, H, W, C]` and weights `[K, K, C, O]` to `[N, H', W', O]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Convolution {
    pub(super) geometry: Geometry,
}

/// Sizes of a convolution.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    photos: usize,
    height: usize,
    width: usize,
    inputs: usize,
    kernel: usize,
    outputs: usize,
    stride: usize,
    padding: usize,
    /// `H'` and `W'`
    out: [usize; 2],
}

impl Sizes {
    fn new(input: &Shape, weight: &Shape, Geometry { stride, padding }: Geometry) -> Result<Self> {
        let (photos, height, width, inputs) = input.dims4()?;
        let (kernel, _, of_weight, outputs) = weight.dims4()?;
        if of_weight != inputs || height + 2 * padding < kernel || width + 2 * padding < kernel {
            candle_core::bail!("no convolution of {input:?} with {weight:?}");
        }
        let out = [height, width].map(|side| (side + 2 * padding - kernel) / stride + 1);
        Ok(Self { photos, height, width, inputs, kernel, outputs, stride, padding, out })
    }

    /// Values of a photo that goes in.
    fn input(&self) -> usize {
        self.height * self.width * self.inputs
    }

    /// Positions of a photo that comes out.
    fn positions(&self) -> usize {
        self.out[0] * self.out[1]
    }

    /// Rows of the weights, `K K C`.
    fn rows(&self) -> usize {
        self.kernel * self.kernel * self.inputs
    }

    /// Photos that a thread takes at a time.
    fn group(&self) -> usize {
        POSITIONS.div_ceil(self.positions())
    }

    /// Whether `col` is the input itself.
    fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == 0
    }

    /// Calls `act` with each run of `col` that the input has, for the columns of a range: where it starts in a row-major `col` of
    /// those columns, where in the photo, and how long it is.
    fn runs(&self, columns: &Range<usize>, mut act: impl FnMut(usize, usize, usize)) {
        let inside = |at: usize, tap: usize, side: usize| {
            (at * self.stride + tap).checked_sub(self.padding).filter(|&at| at < side)
        };
        let taps = columns.start / self.inputs..columns.end.div_ceil(self.inputs);
        for tap in taps {
            let first = columns.start.max(tap * self.inputs);
            let last = columns.end.min((tap + 1) * self.inputs);
            let (tap_y, tap_x) = (tap / self.kernel, tap % self.kernel);
            for y in 0..self.out[0] {
                let Some(from_y) = inside(y, tap_y, self.height) else { continue };
                for x in 0..self.out[1] {
                    let Some(from_x) = inside(x, tap_x, self.width) else { continue };
                    let to = (y * self.out[1] + x) * columns.len() + first - columns.start;
                    let from = (from_y * self.width + from_x) * self.inputs + first - tap * self.inputs;
                    act(to, from, last - first);
                }
            }
        }
    }

    /// Some columns of `col` for some photos.
    fn gather(&self, photos: &[f32], columns: &Range<usize>, col: &mut Vec<f32>) {
        let each = self.positions() * columns.len();
        col.clear();
        col.resize(photos.len() / self.input() * each, 0.0);
        for (photo, col) in photos.chunks_exact(self.input()).zip(col.chunks_exact_mut(each)) {
            self.runs(columns, |to, from, length| {
                col[to..to + length].copy_from_slice(&photo[from..from + length]);
            });
        }
    }

    /// Adds `col` for some photos to where it comes from.
    fn scatter(&self, col: &[f32], photos: &mut [f32]) {
        let columns = 0..self.rows();
        let each = self.positions() * columns.len();
        for (photo, col) in photos.chunks_exact_mut(self.input()).zip(col.chunks_exact(each)) {
            self.runs(&columns, |to, from, length| {
                for (sum, value) in photo[from..from + length].iter_mut().zip(&col[to..to + length]) {
                    *sum += value;
                }
            });
        }
    }

    fn forward(&self, input: &[f32], weight: &[f32]) -> Vec<f32> {
        let (group, rows) = (self.group(), self.rows());
        let mut out = vec![0.0; self.photos * self.positions() * self.outputs];
        out.par_chunks_mut(group * self.positions() * self.outputs)
            .zip(input.par_chunks(group * self.input()))
            .for_each_init(Vec::new, |scratch, (out, photos)| {
                let positions = out.len() / self.outputs;
                let col = if self.is_pointwise() {
                    photos
                } else {
                    self.gather(photos, &(0..rows), scratch);
                    scratch
                };
                let out = MatMut::from_column_major_slice_mut(out, self.outputs, positions);
                let weight = MatRef::from_column_major_slice(weight, self.outputs, rows);
                let col = MatRef::from_column_major_slice(col, rows, positions);
                matmul(out, Accum::Replace, weight, col, 1.0, Par::Seq);
            });
        out
    }

    /// The derivative by the input.
    fn by_input(&self, weight: &[f32], gradient: &[f32]) -> Vec<f32> {
        let (group, rows) = (self.group(), self.rows());
        let mut out = vec![0.0; self.photos * self.input()];
        out.par_chunks_mut(group * self.input())
            .zip(gradient.par_chunks(group * self.positions() * self.outputs))
            .for_each_init(Vec::new, |scratch, (out, gradient)| {
                let positions = gradient.len() / self.outputs;
                let weight = MatRef::from_column_major_slice(weight, self.outputs, rows).transpose();
                let gradient = MatRef::from_column_major_slice(gradient, self.outputs, positions);
                let col = if self.is_pointwise() {
                    &mut *out
                } else {
                    scratch.resize(rows * positions, 0.0);
                    scratch.as_mut_slice()
                };
                let col = MatMut::from_column_major_slice_mut(col, rows, positions);
                matmul(col, Accum::Replace, weight, gradient, 1.0, Par::Seq);
                if !self.is_pointwise() {
                    self.scatter(scratch, out);
                }
            });
        out
    }

    /// The derivative by the weights.
    fn by_weight(&self, input: &[f32], gradient: &[f32]) -> Vec<f32> {
        let group = self.group();
        let mut out = vec![0.0; self.rows() * self.outputs];
        out.par_chunks_mut(WEIGHT_ROWS * self.outputs).enumerate().for_each_init(
            Vec::new,
            |col, (chunk, out)| {
                let first = chunk * WEIGHT_ROWS;
                let columns = first..first + out.len() / self.outputs;
                let mut out = MatMut::from_column_major_slice_mut(out, self.outputs, columns.len());
                let gradients = gradient.chunks(group * self.positions() * self.outputs);
                for (photos, gradient) in input.chunks(group * self.input()).zip(gradients) {
                    let positions = gradient.len() / self.outputs;
                    let gradient = MatRef::from_column_major_slice(gradient, self.outputs, positions);
                    self.gather(photos, &columns, col);
                    let col = MatRef::from_row_major_slice(col, positions, columns.len());
                    matmul(out.as_mut(), Accum::Add, gradient, col, 1.0, Par::Seq);
                }
            },
        );
        out
    }
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::new(input_layout.shape(), weight_layout.shape(), self.geometry)?;
        let out = sizes.forward(values(input, input_layout)?, values(weight, weight_layout)?);
        let [height, width] = sizes.out;
        Ok((CpuStorage::F32(out), (sizes.photos, height, width, sizes.outputs).into()))
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let sizes = Sizes::new(input.shape(), weight.shape(), self.geometry)?;
        with_values([input, weight, gradient], |[xs, ws, gs]| {
            let make = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
            let by_input = input.track_op().then(|| make(sizes.by_input(ws, gs), input)).transpose()?;
            let by_weight = weight.track_op().then(|| make(sizes.by_weight(xs, gs), weight)).transpose()?;
            Ok((by_input, by_weight))
        })
    }
}
