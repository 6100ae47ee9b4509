//! Errors of checkpoints.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::architecture::Architecture;

/// Why a checkpoint is rejected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// The file is not in safetensors format, or truncated.
    #[error("{} is not a complete .safetensors file: download or copy it again", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// The error of the parser.
        source: safetensors::SafeTensorError,
    },
    /// The file is a Git LFS pointer instead of the weights.
    #[error("{} is a Git LFS pointer, not the weights: run `git lfs pull`", .0.display())]
    LfsPointer(PathBuf),
    /// A network that resembles a ResNet but has a different architecture.
    #[error("{} is not a plain ResNet but {network}: {evidence}", path.display())]
    LookAlike {
        /// The file.
        path: PathBuf,
        /// The actual network, with an article.
        network: String,
        /// The evidence for it.
        evidence: String,
    },
    /// The network is not a ResNet.
    #[error("{} is not a ResNet: {evidence}", path.display())]
    NotAResNet {
        /// The file.
        path: PathBuf,
        /// The evidence for it.
        evidence: String,
    },
    /// Tensors are missing, misshapen or unexpected.
    #[error("{} is not a complete {architecture}: {}", path.display(), faults.join("; "))]
    TensorMismatch {
        /// The file.
        path: PathBuf,
        /// The detected architecture.
        architecture: Architecture,
        /// Each fault, with the name of the tensor.
        faults: Vec<String>,
    },
    /// A fine-tuned tensor that the network does not have, or has in another shape.
    #[error(
        "{} has no tensor `{name}` of shape {shape:?} to replace with the fine-tuned one: these are other weights",
        path.display()
    )]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// torchvision's name of the tensor.
        name: String,
        /// The shape of the fine-tuned tensor.
        shape: Vec<usize>,
    },
    /// A tensor is present twice, under different names.
    #[error("{} has the same tensor twice, as `{}` and as `{}`", path.display(), names[0], names[1])]
    DuplicateTensor {
        /// The file.
        path: PathBuf,
        /// The names of the tensors.
        names: [String; 2],
    },
    /// A tensor does not have a floating-point type.
    #[error("{}: tensor `{name}` has type {dtype}; supported types are F32, F16 and BF16", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// torchvision's name of the tensor.
        name: String,
        /// The type of the tensor.
        dtype: String,
    },
    /// A weight is NaN or infinite.
    #[error("{}: tensor `{name}` contains {value}: the file is damaged", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// torchvision's name of the tensor.
        name: String,
        /// The value.
        value: f32,
    },
    /// A BatchNorm whose variance is negative, or whose scale exceeds the range of `f32`.
    #[error("{}: BatchNorm `{name}` cannot be computed: its variance is negative or its scale too large", path.display())]
    BatchNorm {
        /// The file.
        path: PathBuf,
        /// torchvision's name of the layer.
        name: String,
    },
    /// A config file of the weights is invalid or not supported.
    #[error("{}: {message}", path.display())]
    Config {
        /// `config.json` or `preprocessor_config.json`.
        path: PathBuf,
        /// The problem, with the key.
        message: String,
    },
}
