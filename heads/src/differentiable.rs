//! Heads that gradients can pass through.

use candle_core::Tensor;

use crate::error::HeadError;
use crate::head::Tensors;

/// A head whose logits are differentiable by its parameters and by its features: it can be fitted by
/// gradients, and can sit on a backbone that is tuned together with it.
///
/// The parameters are `f32` tensors under the names that [`Head::tensors`](crate::Head::tensors) has, so that
/// [`HeadConfig::load`](crate::HeadConfig::load) takes them.
pub trait Differentiable: Send + Sync {
    /// Parameters to start from, for `F = width` and `C = classes`. They depend on the configuration alone.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    fn initial_parameters(&self, width: usize, classes: usize) -> Result<Tensors, HeadError>;

    /// Features `[N, F]` to logits `[N, C]`, through operations that candle can differentiate.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    fn forward(
        &self,
        parameters: &Tensors,
        features: &Tensor,
        mode: ForwardMode,
    ) -> Result<Tensor, HeadError>;
}

/// What a pass through a differentiable head is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardMode {
    /// Learning: what is random, such as dropout, is drawn from the configuration's seed and the number of
    /// the step.
    Train {
        /// Steps of the optimiser done.
        step: u64,
    },
    /// Using the head: nothing is random.
    Evaluate,
}
