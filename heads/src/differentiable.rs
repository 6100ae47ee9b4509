//! Heads that support gradients.

use candle_core::Tensor;

use crate::error::HeadError;
use crate::tensors::Tensors;

/// A head whose logits are differentiable with respect to its parameters and its features: it can be fitted
/// by gradient descent, and fine-tuned together with a backbone.
///
/// The parameters are `f32` tensors under the names of [`Head::tensors`](crate::Head::tensors), so that
/// [`HeadConfig::load`](crate::HeadConfig::load) accepts them.
pub trait Differentiable: Send + Sync {
    /// The parameters (named tensors) from which gradient descent starts, for `F = width` features and
    /// `C = classes`. They depend on the configuration only, so every fit without a warm start
    /// begins at the same ones.
    ///
    /// # Errors
    /// When a tensor cannot be created.
    fn initial_parameters(&self, width: usize, classes: usize) -> Result<Tensors, HeadError>;

    /// Computes the logits `[N, C]` of features `[N, F]` with these parameters, in operations that candle can
    /// differentiate: for gradient descent on the head, or on a backbone before it.
    ///
    /// # Errors
    /// When a parameter is missing or has a wrong shape.
    fn forward(
        &self,
        parameters: &Tensors,
        features: &Tensor,
        mode: ForwardMode,
    ) -> Result<Tensor, HeadError>;
}

/// The purpose of a forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardMode {
    /// Training: random numbers, as for dropout, are derived from the configuration's seed and the step.
    Train {
        /// Number of optimizer steps taken before.
        step: u64,
    },
    /// Inference: nothing is random.
    Evaluate,
}
