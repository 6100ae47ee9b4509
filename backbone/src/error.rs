//! Errors of this crate.

use headstock_engine::EngineError;
use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::device::DeviceError;
use crate::layer::FeatureLayer;
use crate::source::SourceError;

/// An error of the backbone.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackboneError {
    /// There is no `.safetensors` file in the place of the weights, or the hub failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The weights are damaged or do not belong to a supported ResNet.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device is not available.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The engine cannot run the network: this CPU lacks `bf16` arithmetic or the requested instruction set.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The pixels do not match their shape, or the images are too small.
    #[error("{0}")]
    Pixels(String),
    /// The input of a trainable backbone is empty, or does not match its stated shape or the channels of the
    /// first stage.
    #[error(
        "the stage `{first_stage}` of the backbone takes a non-empty input of shape [N, H, W, \
         {expected_channels}], not {n_values} values of shape {shape:?}"
    )]
    Activations {
        /// The first stage of the trainable backbone.
        first_stage: FeatureLayer,
        /// Input channels of that stage.
        expected_channels: usize,
        /// The stated shape of the values, `[N, H, W, C]`.
        shape: [usize; 4],
        /// The number of values.
        n_values: usize,
    },
    /// A BatchNorm that normalizes by batch statistics sees one value per channel.
    #[error(
        "BatchNorm {layer} cannot normalize a batch that has a single value per channel, because the \
         variance of one value is undefined: use a larger batch, or frozen statistics"
    )]
    SingleValuePerChannel {
        /// The name of the BatchNorm in the checkpoint.
        layer: String,
    },
    /// There was no training forward pass since the last backward pass.
    #[error(
        "there was no training forward pass since the last backward pass: run a training forward pass before \
         each backward pass"
    )]
    NoForwardPass,
    /// The gradient of the features does not match the last training forward pass.
    #[error(
        "the gradient of the features has {found} values, but the last training forward pass computed \
         {expected} features: give one value per feature"
    )]
    GradientLength {
        /// Features of the last training forward pass.
        expected: usize,
        /// Values of the gradient.
        found: usize,
    },
    /// A candle operation failed.
    #[error(
        "a tensor operation of the backbone (library candle) failed (if the GPU ran out of memory: use a \
         smaller batch, or the CPU)"
    )]
    Candle(#[from] candle_core::Error),
}

/// The category of an error, from which the program chooses its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A setting is invalid.
    Config,
    /// The hub or the network connection failed.
    Hub,
    /// Any other failure.
    Failed,
}

impl BackboneError {
    /// The category of this error, from which the program chooses its exit code: a setting that the user can
    /// correct, the hub, or any other failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Source(SourceError::Hub(error)) if !error.is_name_error() => ErrorKind::Hub,
            Self::Checkpoint(CheckpointError::Candle(_)) => ErrorKind::Failed,
            Self::Source(_) | Self::Device(_) | Self::Checkpoint(_) => ErrorKind::Config,
            Self::Engine(
                EngineError::NoBf16 | EngineError::ForcedIsa { .. } | EngineError::UnavailableIsa { .. },
            ) => ErrorKind::Config,
            _ => ErrorKind::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use headstock_hub::HubError;

    use super::*;
    use crate::WeightsSource;

    #[test]
    fn only_a_malformed_name_on_the_hub_is_a_config_error() {
        let kind = |error: SourceError| BackboneError::from(error).kind();
        assert_eq!(
            kind(WeightsSource::parse("hf://resnet50", Path::new("")).unwrap_err()),
            ErrorKind::Config
        );
        let unavailable =
            HubError::Unavailable { name: "a/b".into(), host: "hub".into(), status: 503, retry_after: None };
        assert_eq!(kind(unavailable.into()), ErrorKind::Hub);
    }
}
