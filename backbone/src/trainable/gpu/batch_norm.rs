//! BatchNorm, channels last, computed in the type of its parameters.

use candle_core::{DType, Result, Tensor};

use super::convolution::to_rows;
use crate::resnet_spec::BATCH_NORM_EPS;

/// What values `[.., C]` are normalised by.
#[derive(Debug)]
pub(super) struct GpuBatchNorm {
    /// `[C]`
    mean: Tensor,
    /// `1 / sqrt(variance + ε)`, `[C]`.
    inverse_std: Tensor,
    /// Whether these are the statistics of the values themselves, and change with them.
    uses_batch_stats: bool,
}

/// The derivatives by all that a BatchNorm is made of.
pub(super) struct BatchNormGradients {
    /// By `γ` and by `β`, `[C]`.
    pub(super) gamma: Tensor,
    pub(super) beta: Tensor,
    /// In the type of what came in.
    pub(super) input: Tensor,
}

impl GpuBatchNorm {
    pub(super) fn new(mean: Tensor, variance: &Tensor, of_batch: bool) -> Result<Self> {
        Ok(Self {
            mean,
            inverse_std: (variance + BATCH_NORM_EPS)?.sqrt()?.recip()?,
            uses_batch_stats: of_batch,
        })
    }

    /// `(x - mean) · inverse · γ + β`, in the type of `xs`.
    pub(super) fn forward(&self, xs: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<Tensor> {
        self.normalize(xs)?.broadcast_mul(gamma)?.broadcast_add(beta)?.to_dtype(xs.dtype())
    }

    fn normalize(&self, xs: &Tensor) -> Result<Tensor> {
        xs.to_dtype(self.mean.dtype())?.broadcast_sub(&self.mean)?.broadcast_mul(&self.inverse_std)
    }

    pub(super) fn backward(
        &self,
        xs: &Tensor,
        gamma: &Tensor,
        gradient: &Tensor,
    ) -> Result<BatchNormGradients> {
        let normal = self.normalize(xs)?;
        let gradient = gradient.to_dtype(normal.dtype())?;
        let by_beta = channel_sums(&gradient)?;
        let by_gamma = channel_sums(&(&gradient * &normal)?)?;
        let mut grad_normalized = gradient;
        if self.uses_batch_stats {
            let count = (xs.elem_count() / gamma.elem_count()) as f64;
            let shared = normal.broadcast_mul(&(&by_gamma / count)?)?.broadcast_add(&(&by_beta / count)?)?;
            grad_normalized = (grad_normalized - shared)?;
        }
        let input = grad_normalized.broadcast_mul(&(gamma * &self.inverse_std)?)?.to_dtype(xs.dtype())?;
        Ok(BatchNormGradients { gamma: by_gamma, beta: by_beta, input })
    }
}

/// Mean and variance (of all there is) of each channel, `[C]`, computed in `dtype`.
pub(super) fn batch_statistics(xs: &Tensor, dtype: DType) -> Result<[Tensor; 2]> {
    let xs = to_rows(&xs.to_dtype(dtype)?)?;
    let count = xs.dim(0)? as f64;
    let mean = (channel_sums(&xs)? / count)?;
    let variance = (channel_sums(&xs.broadcast_sub(&mean)?.sqr()?)? / count)?;
    Ok([mean, variance])
}

/// As a product with ones: candle's own sum reads a channel's values one by one, each from another line of memory.
fn channel_sums(xs: &Tensor) -> Result<Tensor> {
    let xs = to_rows(xs)?;
    Tensor::ones((1, xs.dim(0)?), xs.dtype(), xs.device())?.matmul(&xs)?.squeeze(0)
}
