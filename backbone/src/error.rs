//! What can go wrong in the backbone.

use headstock_engine::EngineError;
use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::device::DeviceError;
use crate::hub::HubError;
use crate::layer::FeatureLayer;
use crate::source::SourceError;

/// An error of the backbone.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackboneError {
    /// `backbone.weights` does not say where weights are.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The hub, or the network.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The weights are not those of a ResNet that is known, or damaged.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device is not there, or cannot compute in that precision.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The engine cannot run the network: no arithmetic in `bf16`, or an instruction set that is not to be had.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Pixels of another size than they are said to have, or too small.
    #[error("{0}")]
    Pixels(String),
    /// What comes into a network that is trained is of another size than it takes, or than it is said to be.
    #[error(
        "{values} values of shape {shape:?} do not go into `{from}`, which takes [N, H, W, {expected}] with a value at least"
    )]
    Activations {
        /// The first stage of the network.
        from: FeatureLayer,
        /// Channels that it takes.
        expected: usize,
        /// What the values are said to be, `[N, H, W, C]`.
        shape: [usize; 4],
        /// How many there are.
        values: usize,
    },
    /// A BatchNorm that goes by the batch's statistics sees one value of each channel.
    #[error(
        "{name}: one value of each channel has no variance; train with more photos at a time, or with \
         `batch_norm = \"frozen\"`"
    )]
    SingleValuePerChannel {
        /// Its name in the checkpoint.
        name: String,
    },
    /// The derivative by the features does not belong to a forward step.
    #[error(
        "the derivative by the features has {found} values, not {expected}, which is how many features the forward step before \
         had; 0 where there was none since the last way back"
    )]
    GradientLength {
        /// Features of the step before.
        expected: usize,
        /// Values that were given.
        found: usize,
    },
    /// A candle operation failed.
    #[error("the backbone failed to compute")]
    Candle(#[from] candle_core::Error),
}

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A setting cannot be followed.
    Config,
    /// The hub or the network.
    Hub,
    /// Anything else.
    Failed,
}

impl BackboneError {
    /// What kind of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Source(_) | Self::Device(_) | Self::Checkpoint(_) => ErrorKind::Config,
            Self::Engine(
                EngineError::NoBf16 | EngineError::ForcedIsa { .. } | EngineError::UnavailableIsa { .. },
            ) => ErrorKind::Config,
            Self::Hub(error) => error.kind(),
            Self::Engine(_)
            | Self::Pixels(_)
            | Self::Activations { .. }
            | Self::SingleValuePerChannel { .. }
            | Self::GradientLength { .. }
            | Self::Candle(_) => ErrorKind::Failed,
        }
    }
}
