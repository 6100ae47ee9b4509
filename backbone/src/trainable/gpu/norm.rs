//! BatchNorm, channels last, computed in the type of its parameters.

use candle_core::{DType, Result, Tensor};

use super::convolution::rows;
use crate::blueprint::EPSILON;

/// What values `[.., C]` are normalised by.
#[derive(Debug)]
pub(super) struct Norm {
    /// `[C]`
    mean: Tensor,
    /// `1 / sqrt(variance + ε)`, `[C]`.
    inverse: Tensor,
    /// Whether these are the statistics of the values themselves, and change with them.
    of_batch: bool,
}

/// The derivatives by all that a BatchNorm is made of.
pub(super) struct Derivatives {
    /// By `γ` and by `β`, `[C]`.
    pub(super) gamma: Tensor,
    pub(super) beta: Tensor,
    /// In the type of what came in.
    pub(super) input: Tensor,
}

impl Norm {
    pub(super) fn new(mean: Tensor, variance: &Tensor, of_batch: bool) -> Result<Self> {
        Ok(Self { mean, inverse: (variance + EPSILON)?.sqrt()?.recip()?, of_batch })
    }

    /// `(x - mean) · inverse · γ + β`, in the type of `xs`.
    pub(super) fn forward(&self, xs: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<Tensor> {
        self.normal(xs)?.broadcast_mul(gamma)?.broadcast_add(beta)?.to_dtype(xs.dtype())
    }

    fn normal(&self, xs: &Tensor) -> Result<Tensor> {
        xs.to_dtype(self.mean.dtype())?.broadcast_sub(&self.mean)?.broadcast_mul(&self.inverse)
    }

    pub(super) fn backward(&self, xs: &Tensor, gamma: &Tensor, gradient: &Tensor) -> Result<Derivatives> {
        let normal = self.normal(xs)?;
        let gradient = gradient.to_dtype(normal.dtype())?;
        let by_beta = channel_sums(&gradient)?;
        let by_gamma = channel_sums(&(&gradient * &normal)?)?;
        let mut own = gradient;
        if self.of_batch {
            let count = (xs.elem_count() / gamma.elem_count()) as f64;
            let shared = normal.broadcast_mul(&(&by_gamma / count)?)?.broadcast_add(&(&by_beta / count)?)?;
            own = (own - shared)?;
        }
        let input = own.broadcast_mul(&(gamma * &self.inverse)?)?.to_dtype(xs.dtype())?;
        Ok(Derivatives { gamma: by_gamma, beta: by_beta, input })
    }
}

/// Mean and variance (of all there is) of each channel, `[C]`, computed in `dtype`.
pub(super) fn statistics(xs: &Tensor, dtype: DType) -> Result<[Tensor; 2]> {
    let xs = rows(&xs.to_dtype(dtype)?)?;
    let count = xs.dim(0)? as f64;
    let mean = (channel_sums(&xs)? / count)?;
    let variance = (channel_sums(&xs.broadcast_sub(&mean)?.sqr()?)? / count)?;
    Ok([mean, variance])
}

/// As a product with ones: candle's own sum reads a channel's values one by one, each from another line of memory.
fn channel_sums(xs: &Tensor) -> Result<Tensor> {
    let xs = rows(xs)?;
    Tensor::ones((1, xs.dim(0)?), xs.dtype(), xs.device())?.matmul(&xs)?.squeeze(0)
}
