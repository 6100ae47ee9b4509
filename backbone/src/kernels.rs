//! What the CPU does between matrix products. Tensors here are `[C, N, H, W]`, channels before photos: then one product
//! serves a group of photos, and what belongs to a channel is one stretch of memory.

use candle_core::{CpuStorage, CustomOp1, InplaceOp2, InplaceOp3, Layout, Result, Shape, bail};
use rayon::prelude::*;

/// Kernel, stride and padding, the same along both axes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

impl Geometry {
    pub(crate) fn output(self, size: usize) -> usize {
        (size + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// The outputs `first..last` for which tap `d` of the kernel lies within an input of `size`, and the input position
    /// of the first of them.
    fn within(self, d: usize, size: usize) -> (usize, usize, usize) {
        let Self { stride, padding, .. } = self;
        let first = padding.saturating_sub(d).div_ceil(stride);
        let last = (size + padding).saturating_sub(d).div_ceil(stride).min(self.output(size));
        if first < last { (first, last, first * stride + d - padding) } else { (0, 0, 0) }
    }
}

/// The patches under the kernel as columns: `[C, N, H, W]` to `[C * K * K, N * H' * W']`, zeros outside.
pub(crate) struct Columns(pub(crate) Geometry);

impl CustomOp1 for Columns {
    fn name(&self) -> &'static str {
        "columns"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Geometry { kernel, stride, .. } = self.0;
        let (channels, photos, height, width) = layout.shape().dims4()?;
        let xs = contiguous(storage, layout)?;
        let (rows, columns) = (self.0.output(height), self.0.output(width));
        let taps = kernel * kernel;
        let mut out = vec![0f32; channels * taps * photos * rows * columns];
        let by_channel = out
            .par_chunks_exact_mut(taps * photos * rows * columns)
            .zip(xs.par_chunks_exact(photos * height * width));
        by_channel.for_each(|(out, xs)| {
            for (tap, out) in out.chunks_exact_mut(photos * rows * columns).enumerate() {
                let (top, bottom, y) = self.0.within(tap / kernel, height);
                let (left, right, x) = self.0.within(tap % kernel, width);
                for (out, plane) in out.chunks_exact_mut(rows * columns).zip(xs.chunks_exact(height * width))
                {
                    for (row, out) in (top..bottom).zip(out[top * columns..].chunks_exact_mut(columns)) {
                        let line = &plane[(y + (row - top) * stride) * width..][x..];
                        let out = &mut out[left..right];
                        if stride == 1 {
                            out.copy_from_slice(&line[..right - left]);
                        } else {
                            out.iter_mut()
                                .zip(line.iter().step_by(stride))
                                .for_each(|(to, from)| *to = *from);
                        }
                    }
                }
            }
        });
        Ok((CpuStorage::F32(out), (channels * taps, photos * rows * columns).into()))
    }
}

/// The largest value under each 3 x 3 window, stride 2, padding 1: `[C, N, H, W]` to `[C, N, H', W']`.
pub(crate) struct MaxPool;

impl MaxPool {
    const GEOMETRY: Geometry = Geometry { kernel: 3, stride: 2, padding: 1 };
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (channels, photos, height, width) = layout.shape().dims4()?;
        let xs = contiguous(storage, layout)?;
        let Geometry { kernel, stride, .. } = Self::GEOMETRY;
        let (rows, columns) = (Self::GEOMETRY.output(height), Self::GEOMETRY.output(width));
        let mut out = vec![f32::NEG_INFINITY; channels * photos * rows * columns];
        out.par_chunks_exact_mut(rows * columns).zip(xs.par_chunks_exact(height * width)).for_each(
            |(out, plane)| {
                let mut tallest = vec![0f32; width];
                for (row, out) in out.chunks_exact_mut(columns).enumerate() {
                    let lines = (row * stride).saturating_sub(1)..(row * stride + 2).min(height);
                    tallest.fill(f32::NEG_INFINITY);
                    for line in plane[lines.start * width..lines.end * width].chunks_exact(width) {
                        tallest.iter_mut().zip(line).for_each(|(max, x)| *max = max.max(*x));
                    }
                    for tap in 0..kernel {
                        let (left, right, x) = Self::GEOMETRY.within(tap, width);
                        let from = tallest[x..].iter().step_by(stride);
                        out[left..right].iter_mut().zip(from).for_each(|(max, x)| *max = max.max(*x));
                    }
                }
            },
        );
        Ok((CpuStorage::F32(out), (channels, photos, rows, columns).into()))
    }
}

/// Adds the bias of each channel, `C` values, and the shortcut where there is one; then ReLU. In place.
pub(crate) struct Finish {
    pub(crate) relu: bool,
}

impl Finish {
    fn apply(&self, xs: &mut [f32], bias: &[f32], shortcut: Option<&[f32]>) {
        let floor = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        let each = xs.len() / bias.len();
        let channels = xs.par_chunks_exact_mut(each).zip(bias);
        match shortcut {
            None => channels.for_each(|(xs, b)| xs.iter_mut().for_each(|x| *x = (*x + b).max(floor))),
            Some(shortcut) => {
                channels.zip(shortcut.par_chunks_exact(each)).for_each(|((xs, b), shortcut)| {
                    xs.iter_mut().zip(shortcut).for_each(|(x, s)| *x = (*x + b + s).max(floor));
                });
            }
        }
    }
}

impl InplaceOp2 for Finish {
    fn name(&self) -> &'static str {
        "finish"
    }

    fn cpu_fwd(
        &self,
        xs: &mut CpuStorage,
        xs_at: &Layout,
        bias: &CpuStorage,
        bias_at: &Layout,
    ) -> Result<()> {
        self.apply(contiguous_mut(xs, xs_at)?, contiguous(bias, bias_at)?, None);
        Ok(())
    }
}

impl InplaceOp3 for Finish {
    fn name(&self) -> &'static str {
        "finish"
    }

    fn cpu_fwd(
        &self,
        xs: &mut CpuStorage,
        xs_at: &Layout,
        bias: &CpuStorage,
        bias_at: &Layout,
        shortcut: &CpuStorage,
        shortcut_at: &Layout,
    ) -> Result<()> {
        let shortcut = contiguous(shortcut, shortcut_at)?;
        self.apply(contiguous_mut(xs, xs_at)?, contiguous(bias, bias_at)?, Some(shortcut));
        Ok(())
    }
}

fn contiguous_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let (from, to) = bounds(layout)?;
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[from..to]),
        _ => bail!("the backbone computes in f32 on the CPU"),
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (from, to) = bounds(layout)?;
    Ok(&storage.as_slice::<f32>()?[from..to])
}

fn bounds(layout: &Layout) -> Result<(usize, usize)> {
    match layout.contiguous_offsets() {
        Some(bounds) => Ok(bounds),
        None => bail!("the backbone's kernels take contiguous tensors only"),
    }
}
