//! Convolution with BatchNorm folded in.
//!
//! On the CPU a convolution is a matrix product: the weights `[O, C * K * K]` by the columns `[C * K * K, N * H' * W']`. A
//! 1 x 1 convolution of stride 1, most of a deep ResNet, needs no columns at all. On CUDA it is candle's own.

use candle_core::{Device, Result, Tensor};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::error::BackboneError;
use crate::kernels::{Columns, Finish, Geometry};

/// The epsilon of every BatchNorm in torchvision's ResNets.
const EPSILON: f64 = 1e-5;

/// A convolution and the BatchNorm after it, as one: `[N, C, H, W]` to `[N, O, H', W']` on CUDA, `[C, N, H, W]` to
/// `[O, N, H', W']` on the CPU.
#[derive(Debug)]
pub(crate) struct Convolution {
    /// `[O, C, K, K]`.
    weight: Tensor,
    /// `[1, O, 1, 1]`.
    bias: Tensor,
    geometry: Geometry,
}

impl Convolution {
    /// Folds BatchNorm `bn` into convolution `conv` (torchvision's names), in `f64`; on the device and in the type of `like`.
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
        // A negative variance gives NaN.
        if !weight.iter().chain(&bias).all(|value| value.is_finite()) {
            let (path, name) = (checkpoint.path().into(), bn.into());
            return Err(CheckpointError::BatchNorm { path, name }.into());
        }
        let place = |tensor: Tensor| tensor.to_dtype(like.dtype())?.to_device(like.device());
        let bias = Tensor::from_vec(bias, (1, dims[0], 1, 1), &Device::Cpu)?;
        Ok(Self {
            weight: place(Tensor::from_vec(weight, dims, &Device::Cpu)?)?,
            bias: place(bias)?,
            geometry,
        })
    }

    /// The convolution, the shortcut's output where there is one added, and ReLU if asked for.
    pub(crate) fn forward(&self, xs: &Tensor, shortcut: Option<&Tensor>, relu: bool) -> Result<Tensor> {
        self.finish(&self.product(xs)?, shortcut, relu)
    }

    /// The convolution alone: [`finish`](Self::finish) is to follow.
    pub(crate) fn product(&self, xs: &Tensor) -> Result<Tensor> {
        let Geometry { kernel, stride, padding } = self.geometry;
        if !xs.device().is_cpu() {
            return xs.conv2d(&self.weight, padding, stride, 1, 1);
        }
        let (_, photos, height, width) = xs.dims4()?;
        let columns = if (kernel, stride) == (1, 1) {
            xs.flatten_from(1)?
        } else {
            xs.apply_op1_no_bwd(&Columns(self.geometry))?
        };
        let weight = self.weight.flatten_from(1)?;
        let shape = (weight.dim(0)?, photos, self.geometry.output(height), self.geometry.output(width));
        weight.matmul(&columns)?.reshape(shape)
    }

    /// Adds the bias and the shortcut to a product, and applies ReLU. On the CPU in place.
    pub(crate) fn finish(&self, product: &Tensor, shortcut: Option<&Tensor>, relu: bool) -> Result<Tensor> {
        if !product.device().is_cpu() {
            let mut ys = product.broadcast_add(&self.bias)?;
            if let Some(shortcut) = shortcut {
                ys = (ys + shortcut)?;
            }
            return if relu { ys.relu() } else { Ok(ys) };
        }
        match shortcut {
            Some(shortcut) => product.inplace_op3(&self.bias, shortcut, &Finish { relu })?,
            None => product.inplace_op2(&self.bias, &Finish { relu })?,
        }
        Ok(product.clone())
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
                let wave = |shape: (usize, usize, usize, usize), step: f32| {
                    let count = shape.0 * shape.1 * shape.2 * shape.3;
                    Tensor::from_iter((0..count).map(|i| (i as f32 * step).sin()), &Device::Cpu)?
                        .reshape(shape)
                };
                let xs = wave((2, 3, height, width), 0.7)?;
                let weight = wave((4, 3, kernel, kernel), 1.3)?;
                let bias = wave((1, 4, 1, 1), 2.1)?;
                let theirs = xs.conv2d(&weight, padding, stride, 1, 1)?.broadcast_add(&bias)?;
                let shortcut = wave(theirs.dims4()?, 0.3)?;
                let across = |xs: &Tensor| xs.transpose(0, 1)?.contiguous();
                let convolution = Convolution { weight, bias, geometry };
                for (shortcut, relu) in [(None, false), (None, true), (Some(&shortcut), true)] {
                    let ours = across(&convolution.forward(
                        &across(&xs)?,
                        shortcut.map(across).transpose()?.as_ref(),
                        relu,
                    )?)?;
                    let mut theirs = theirs.clone();
                    if let Some(shortcut) = shortcut {
                        theirs = (theirs + shortcut)?;
                    }
                    if relu {
                        theirs = theirs.relu()?;
                    }
                    assert_eq!(ours.dims(), theirs.dims());
                    let gap = (ours - theirs)?.abs()?.max_all()?.to_scalar::<f32>()?;
                    assert!(gap < 1e-5, "{geometry:?} on {height} x {width}: {gap}");
                }
            }
        }
        Ok(())
    }
}
