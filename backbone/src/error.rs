//! What can go wrong in the backbone.

use headstock_engine::EngineError;
use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::device::DeviceError;
use crate::hub::HubError;
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
            Self::Hub(HubError::Name { .. })
            | Self::Engine(EngineError::NoBf16 | EngineError::Forced { .. } | EngineError::Isa { .. }) => {
                ErrorKind::Config
            }
            Self::Hub(_) => ErrorKind::Hub,
            Self::Engine(_) | Self::Pixels(_) | Self::Candle(_) => ErrorKind::Failed,
        }
    }
}
