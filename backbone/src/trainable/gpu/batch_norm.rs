//! BatchNorm with candle's operations, in NHWC layout, computed in the type of its parameters.

use candle_core::{DType, Result, Tensor};

use super::convolution::to_rows;
use crate::resnet_spec::BATCH_NORM_EPS;
use crate::trainable::BatchNormMode;

/// The statistics that normalize activations `[..., C]`.
#[derive(Debug)]
pub(super) struct GpuBatchNorm {
    /// `[C]`
    mean: Tensor,
    /// `1 / sqrt(variance + eps)`, `[C]`.
    inverse_std: Tensor,
    /// With statistics of the batch (`Train`), the gradient of the input has terms for their dependence on
    /// it.
    mode: BatchNormMode,
}

impl GpuBatchNorm {
    /// BatchNorm with the given mean and variance, `[C]`, which are statistics of the input in mode `Train`.
    pub(super) fn new(mean: Tensor, variance: &Tensor, mode: BatchNormMode) -> Result<Self> {
        Ok(Self { mean, inverse_std: (variance + BATCH_NORM_EPS)?.sqrt()?.recip()?, mode })
    }

    /// The forward pass: `(x - mean) · inverse_std · γ + β` of activations `xs`, `[..., C]`, in their type.
    /// `gamma` (`γ`) and `beta` (`β`) are `[C]`.
    pub(super) fn forward(&self, xs: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<Tensor> {
        self.normalize(xs)?.broadcast_mul(gamma)?.broadcast_add(beta)?.to_dtype(xs.dtype())
    }

    /// The normalized activations `(x - mean) · inverse_std`, `[..., C]`, in the type of the parameters.
    fn normalize(&self, xs: &Tensor) -> Result<Tensor> {
        xs.to_dtype(self.mean.dtype())?.broadcast_sub(&self.mean)?.broadcast_mul(&self.inverse_std)
    }

    /// The backward pass: the gradients of the loss by the input `xs` and the parameters `γ` and `β`, given
    /// `grad_output` (`g`), the gradient of the output, `[..., C]`. With `x̂`, the normalized input:
    /// `∂γ = Σ g · x̂`, `∂β = Σ g` and, in mode `Frozen`, `∂x = γ · inverse_std · g`. In mode `Train`, `g` is
    /// replaced by `g - mean(g) - x̂ · mean(g · x̂)` in `∂x`, with means per channel. Returns `∂γ` and `∂β`,
    /// `[C]`, and `∂x`, `[..., C]` in the type of `xs`.
    pub(super) fn backward(&self, xs: &Tensor, gamma: &Tensor, grad_output: &Tensor) -> Result<[Tensor; 3]> {
        let normalized = self.normalize(xs)?;
        let grad_output = grad_output.to_dtype(normalized.dtype())?;
        let grad_beta = channel_sums(&grad_output)?;
        let grad_gamma = channel_sums(&(&grad_output * &normalized)?)?;
        let mut centered = grad_output;
        if self.mode == BatchNormMode::Train {
            let count = (xs.elem_count() / gamma.elem_count()) as f64;
            let slope = (&grad_gamma / count)?;
            let mean = (&grad_beta / count)?;
            centered = (centered - normalized.broadcast_mul(&slope)?.broadcast_add(&mean)?)?;
        }
        let input = centered.broadcast_mul(&(gamma * &self.inverse_std)?)?.to_dtype(xs.dtype())?;
        Ok([grad_gamma, grad_beta, input])
    }
}

/// Mean and biased variance of each channel of the activations `xs`, `[..., C]`, in this order, `[C]` each:
/// the statistics with which BatchNorm normalizes a batch in mode `Train`. They are computed in `dtype`.
pub(super) fn batch_statistics(xs: &Tensor, dtype: DType) -> Result<[Tensor; 2]> {
    let xs = to_rows(&xs.to_dtype(dtype)?)?;
    let count = xs.dim(0)? as f64;
    let mean = (channel_sums(&xs)? / count)?;
    let variance = (channel_sums(&xs.broadcast_sub(&mean)?.sqr()?)? / count)?;
    Ok([mean, variance])
}

/// The sum of each channel, `[C]`, as a product with ones: candle's `sum` is slow because it strides through
/// memory.
fn channel_sums(xs: &Tensor) -> Result<Tensor> {
    let xs = to_rows(xs)?;
    Tensor::ones((1, xs.dim(0)?), xs.dtype(), xs.device())?.matmul(&xs)?.squeeze(0)
}
