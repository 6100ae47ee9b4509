//! Activation statistics of a network, by which the weights of its layers are rounded to `bf16` (see
//! [`gptq`](crate::gptq)).

use crate::gptq::Gram;

/// Gram matrices of the inputs of each convolution, by layer name: one for a GEMM, 36 (one per transform
/// component) for a Winograd convolution.
///
/// Rounding each weight to nearest gives correlated errors where the activations are correlated, e.g. on a
/// uniform background; [`NetworkBuilder::calibrate`](crate::NetworkBuilder::calibrate) rounds weights so that
/// they cancel.
pub struct ActivationStats {
    /// Name and Gram matrices of each layer that has any.
    pub(crate) layers: Vec<(String, Vec<Gram>)>,
}

impl ActivationStats {
    /// The Gram matrices of the inputs of the layer named `name`; `None` for a layer without statistics.
    pub(crate) fn for_layer(&self, name: &str) -> Option<&[Gram]> {
        self.layers.iter().find(|(layer, _)| layer == name).map(|(_, grams)| grams.as_slice())
    }
}
