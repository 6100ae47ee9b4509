//! Convolutions of a checkpoint with their BatchNorm folded in, for inference.

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::resnet_spec::{BATCH_NORM_EPS, ConvBn};

/// A convolution with its BatchNorm folded into weights and bias.
pub(crate) struct FoldedConv {
    /// The weights, row-major, `[O, C, K, K]`: output channels, input channels, kernel height and width.
    pub(crate) weight: Vec<f32>,
    /// `[O, C, K, K]`.
    pub(crate) shape: [usize; 4],
    /// `[O]`.
    pub(crate) bias: Vec<f32>,
}

impl FoldedConv {
    /// Reads a convolution and its BatchNorm, and folds the BatchNorm into the weights, so that inference
    /// needs only a convolution with a bias. For each output channel, with `s = γ / sqrt(variance + eps)`,
    /// the weights `w` become `w · s` and the bias `β - mean · s`, computed in `f64`.
    ///
    /// # Errors
    /// [`CheckpointError::Invalid`] for a NaN or infinite weight, and for a BatchNorm that cannot be folded.
    pub(crate) fn load(checkpoint: &Checkpoint, conv_bn: &ConvBn) -> Result<Self, CheckpointError> {
        let ConvBn { conv, bn, .. } = conv_bn;
        // Reads a parameter of the BatchNorm.
        let vector = |leaf: &str| -> Result<Vec<f32>, CheckpointError> {
            Ok(checkpoint.tensor(&format!("{bn}.{leaf}"))?.to_vec1()?)
        };
        let (gamma, beta) = (vector("weight")?, vector("bias")?);
        let (mean, variance) = (vector("running_mean")?, vector("running_var")?);
        let weight = checkpoint.tensor(&format!("{conv}.weight"))?;
        let shape = weight.dims4()?.into();
        let mut weight = weight.flatten_all()?.to_vec1::<f32>()?;
        let mut bias = Vec::with_capacity(gamma.len());
        let weights_per_output = weight.len() / gamma.len();
        for (o, output_weights) in weight.chunks_exact_mut(weights_per_output).enumerate() {
            let scale = f64::from(gamma[o]) / (f64::from(variance[o]) + BATCH_NORM_EPS).sqrt();
            output_weights.iter_mut().for_each(|w| *w = (f64::from(*w) * scale) as f32);
            bias.push((f64::from(beta[o]) - f64::from(mean[o]) * scale) as f32);
        }
        // A negative variance results in NaN.
        if !weight.iter().chain(&bias).all(|value| value.is_finite()) {
            return Err(checkpoint.invalid(format!(
                "BatchNorm `{bn}` cannot be used, because its running variance is negative or its scale \
                 exceeds the range of f32: download or copy the file again, or choose different weights"
            )));
        }
        Ok(Self { weight, shape, bias })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::resnet_spec::stem_conv;
    use crate::support::{StateDict, golden_json};

    /// The first channels of the stem have the inputs of the reference, whose variances include 0 and values
    /// below `eps`.
    #[test]
    fn folded_batch_norm_matches_pytorch_for_variances_of_any_size() {
        type Golden = BTreeMap<String, BTreeMap<String, Vec<f64>>>;
        let golden = golden_json::<Golden>("batchnorm.json").remove("running").unwrap();
        let mut state = StateDict::from_formula("resnet18").without_classifier();
        for (leaf, name) in
            [("weight", "gamma"), ("bias", "beta"), ("running_mean", "mean"), ("running_var", "variance")]
        {
            let bytes = &mut state.0.get_mut(&format!("bn1.{leaf}")).unwrap().2;
            for (to, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&golden[name]) {
                *to = (*value as f32).to_le_bytes();
            }
        }
        let checkpoint = state.to_dir().open().unwrap();
        let raw: Vec<f32> =
            checkpoint.tensor("conv1.weight").unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let folded = FoldedConv::load(&checkpoint, &stem_conv()).unwrap();
        assert_eq!(folded.shape, [64, 3, 7, 7]);
        for (channel, y) in golden["y"].iter().enumerate() {
            let weights = 147 * channel..147 * (channel + 1);
            // All weights of a channel are scaled by the same factor.
            let pairs = folded.weight[weights.clone()].iter().zip(&raw[weights]);
            for scale in pairs.map(|(folded, raw)| f64::from(*folded) / f64::from(*raw)) {
                let ours = golden["x"][channel] * scale + f64::from(folded.bias[channel]);
                let std = (golden["variance"][channel] + 1e-5).sqrt();
                let size = (golden["gamma"][channel] / std).abs().max(1.0);
                assert!((ours - y).abs() <= 1e-6 * size, "{channel}: {ours}, not {y}");
            }
        }
    }
}
