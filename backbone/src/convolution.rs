//! Convolution with BatchNorm folded in.
//!
//! On the CPU a convolution is a matrix product: the weights `[O, C * K * K]` by the columns `[N, C * K * K, H' * W']`. A
//! 1 x 1 convolution of stride 1, most of a deep ResNet, needs no columns at all. On CUDA it is candle's own.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::error::BackboneError;

/// The epsilon of every BatchNorm in torchvision's ResNets.
const EPSILON: f64 = 1e-5;

/// A convolution and the BatchNorm after it, as one: `[N, C, H, W]` to `[N, O, H', W']`.
#[derive(Debug)]
pub(crate) struct Convolution {
    /// `[O, C, K, K]`.
    weight: Tensor,
    /// `[1, O, 1, 1]`.
    bias: Tensor,
    geometry: Geometry,
}

/// Kernel, stride and padding, the same along both axes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

impl Geometry {
    fn output(self, size: usize) -> usize {
        (size + 2 * self.padding - self.kernel) / self.stride + 1
    }
}

impl Convolution {
    /// Folds BatchNorm `bn` into convolution `conv` (torchvision's names), in `f64`.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        (conv, bn): (&str, &str),
        geometry: Geometry,
        like: &Tensor,
    ) -> std::result::Result<Self, BackboneError> {
        let vector = |leaf: &str| -> std::result::Result<Vec<f32>, BackboneError> {
            Ok(checkpoint.tensor(&format!("{bn}.{leaf}"))?.to_vec1()?)
        };
        let (gamma, beta) = (vector("weight")?, vector("bias")?);
        let (mean, variance) = (vector("running_mean")?, vector("running_var")?);
        let weight = checkpoint.tensor(&format!("{conv}.weight"))?;
        let dims = weight.dims().to_vec();
        let mut weight = weight.flatten_all()?.to_vec1::<f32>()?;
        let mut bias = Vec::with_capacity(gamma.len());
        let each = weight.len() / gamma.len();
        for (o, kernel) in weight.chunks_exact_mut(each).enumerate() {
            let scale = f64::from(gamma[o]) / (f64::from(variance[o]) + EPSILON).sqrt();
            kernel.iter_mut().for_each(|w| *w = (f64::from(*w) * scale) as f32);
            bias.push((f64::from(beta[o]) - f64::from(mean[o]) * scale) as f32);
        }
        let place = |tensor: Tensor| tensor.to_dtype(like.dtype())?.to_device(like.device());
        let bias = Tensor::from_vec(bias, (1, dims[0], 1, 1), &Device::Cpu)?;
        Ok(Self {
            weight: place(Tensor::from_vec(weight, dims, &Device::Cpu)?)?,
            bias: place(bias)?,
            geometry,
        })
    }

    pub(crate) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let Geometry { kernel, stride, padding } = self.geometry;
        let product = if xs.device().is_cpu() {
            let (n, _, height, width) = xs.dims4()?;
            let (height, width) = (self.geometry.output(height), self.geometry.output(width));
            let columns = if (kernel, stride) == (1, 1) {
                xs.flatten_from(2)?
            } else {
                xs.apply_op1_no_bwd(&Columns(self.geometry))?
            };
            let weight = self.weight.flatten_from(1)?;
            let outputs = weight.dim(0)?;
            let weight = weight.broadcast_left(n)?;
            weight.matmul(&columns)?.reshape((n, outputs, height, width))?
        } else {
            xs.conv2d(&self.weight, padding, stride, 1, 1)?
        };
        product.broadcast_add(&self.bias)
    }
}

/// The patches under the kernel as columns: `[N, C, H, W]` to `[N, C * K * K, H' * W']`, zeros outside.
struct Columns(Geometry);

impl CustomOp1 for Columns {
    fn name(&self) -> &'static str {
        "columns"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Geometry { kernel, stride, padding } = self.0;
        let (n, channels, height, width) = layout.shape().dims4()?;
        let Some((from, to)) = layout.contiguous_offsets() else {
            candle_core::bail!("columns are taken from a contiguous tensor only");
        };
        let xs = &storage.as_slice::<f32>()?[from..to];
        let (rows, columns) = (self.0.output(height), self.0.output(width));
        let mut out = vec![0f32; n * channels * kernel * kernel * rows * columns];
        let per_channel = kernel * kernel * rows * columns;
        out.par_chunks_exact_mut(per_channel).zip(xs.par_chunks_exact(height * width)).for_each(
            |(out, plane)| {
                for (tap, out) in out.chunks_exact_mut(rows * columns).enumerate() {
                    let (dy, dx) = (tap / kernel, tap % kernel);
                    // The outputs whose input column lies within the photo.
                    let first = padding.saturating_sub(dx).div_ceil(stride);
                    let last = (width + padding).saturating_sub(dx).div_ceil(stride).min(columns);
                    for (row, out) in out.chunks_exact_mut(columns).enumerate() {
                        let Some(y) = (row * stride + dy).checked_sub(padding).filter(|&y| y < height) else {
                            continue;
                        };
                        let line = &plane[y * width..(y + 1) * width];
                        if first >= last {
                            continue;
                        }
                        let start = first * stride + dx - padding;
                        if stride == 1 {
                            out[first..last].copy_from_slice(&line[start..start + last - first]);
                        } else {
                            for (to, from) in
                                out[first..last].iter_mut().zip(line[start..].iter().step_by(stride))
                            {
                                *to = *from;
                            }
                        }
                    }
                }
            },
        );
        Ok((CpuStorage::F32(out), (n, channels * kernel * kernel, rows * columns).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// candle's own convolution is the oracle.
    #[test]
    fn columns_by_matrix_product_are_a_convolution() -> Result<()> {
        for (kernel, stride, padding) in [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (7, 2, 3)] {
            for (height, width) in [(9, 9), (8, 8), (7, 12), (12, 5), (1, 3)] {
                let geometry = Geometry { kernel, stride, padding };
                let ramp = |count: usize, step: f32| -> Vec<f32> {
                    (0..count).map(|i| (i as f32 * step).sin()).collect()
                };
                let xs =
                    Tensor::from_vec(ramp(2 * 3 * height * width, 0.7), (2, 3, height, width), &Device::Cpu)?;
                let shape = (4, 3, kernel, kernel);
                let weight = Tensor::from_vec(ramp(12 * kernel * kernel, 1.3), shape, &Device::Cpu)?;
                let bias = Tensor::zeros((1, 4, 1, 1), candle_core::DType::F32, &Device::Cpu)?;
                let ours = Convolution { weight: weight.clone(), bias, geometry }.forward(&xs)?;
                let theirs = xs.conv2d(&weight, padding, stride, 1, 1)?;
                assert_eq!(ours.dims(), theirs.dims());
                let gap = (ours - theirs)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(gap < 1e-5, "{kernel} {stride} {padding} {height} {width}: {gap}");
            }
        }
        Ok(())
    }
}
