//! Errors of checkpoints.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::architecture::Architecture;
use crate::source::SourceError;

/// What the user can do about weights of a network that is not supported; the end of an error message.
const SUPPORTED_HINT: &str = "choose the weights of a resnet18, resnet34, resnet50, resnet101 or resnet152";

/// Why a checkpoint (a file of pretrained weights) or the config file next to it is rejected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error(
        "failed to read {}, a file of the model weights: check that the file exists and that you are allowed \
         to read it", path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// The file is not in safetensors format, or truncated.
    #[error("{} is not a complete .safetensors file: download or copy the file again", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// The error of the parser.
        source: safetensors::SafeTensorError,
    },
    /// The network is not a ResNet, or it resembles one but has a different architecture.
    #[error("{} is not a {problem}; {SUPPORTED_HINT}", path.display())]
    NotAResNet {
        /// The file.
        path: PathBuf,
        /// The rest of the sentence: what the network is, if it is known, and the tensors or keys that show it.
        problem: String,
    },
    /// Tensors of the network are missing or have the wrong shape, or the file has other tensors.
    #[error(
        "{} is not a complete {architecture} model: {}; download or save the model again, or choose \
         different weights",
        path.display(), faults.join("; ")
    )]
    TensorMismatch {
        /// The file.
        path: PathBuf,
        /// The architecture that the file seems to have.
        architecture: Architecture,
        /// A clause for each missing, misshapen or additional tensor; after the first ones, their number.
        faults: Vec<String>,
    },
    /// The file is in PyTorch's pickle format: [`SourceError::Pickled`].
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A candle operation on a tensor of the checkpoint failed.
    #[error("a tensor operation on the model weights (library candle) failed")]
    Candle(#[from] candle_core::Error),
    /// The weights or the config file next to them cannot be used: a Git LFS pointer instead of the weights, a
    /// tensor that is there twice, is not a floating-point one or has a NaN or an infinity, a BatchNorm that
    /// cannot be folded into its convolution, a fine-tuned tensor of another network, or a config that is not
    /// supported.
    #[error("{}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The problem, with the tensor or the key, and what to do.
        problem: String,
    },
}

impl CheckpointError {
    /// [`Self::Invalid`] for the file `path`.
    pub(crate) fn invalid(path: &Path, problem: impl Into<String>) -> Self {
        Self::Invalid { path: path.into(), problem: problem.into() }
    }

    /// [`Self::NotAResNet`] for the file `path`.
    pub(super) fn not_a_resnet(path: &Path, problem: &str) -> Self {
        Self::NotAResNet { path: path.into(), problem: problem.into() }
    }
}
