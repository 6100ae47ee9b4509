//! What can be wrong with a checkpoint.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::architecture::Architecture;

/// Why a checkpoint is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no safetensors, or cut short.
    #[error("{} is not a complete .safetensors file: fetch or copy it again", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: safetensors::SafeTensorError,
    },
    /// The file is what Git keeps in place of a large file.
    #[error("{} is a Git LFS pointer, not the weights: run `git lfs pull`", .0.display())]
    LfsPointer(PathBuf),
    /// A network that looks like a ResNet but computes something else.
    #[error("{} is no plain ResNet but {network}: {evidence}", path.display())]
    LookAlike {
        /// The file.
        path: PathBuf,
        /// What it is, with its article.
        network: String,
        /// What gave it away.
        evidence: String,
    },
    /// Not a ResNet at all.
    #[error("{} holds no ResNet: {evidence}", path.display())]
    NotAResNet {
        /// The file.
        path: PathBuf,
        /// What is there or lacks.
        evidence: String,
    },
    /// Tensors are missing, misshapen or too many.
    #[error("{} is no complete {architecture}: {}", path.display(), faults.join("; "))]
    TensorMismatch {
        /// The file.
        path: PathBuf,
        /// The architecture that it was taken for.
        architecture: Architecture,
        /// Each fault, with the tensor's name.
        faults: Vec<String>,
    },
    /// A tensor that is to take the place of one that is not there.
    #[error("{} has no tensor `{name}` of shape {found:?}, which was tuned: these are other weights", path.display())]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// torchvision's name of the tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// Two tensors have the same meaning, under different names.
    #[error("{} has the same tensor twice, as `{}` and as `{}`", path.display(), names[0], names[1])]
    DuplicateTensor {
        /// The file.
        path: PathBuf,
        /// The tensors' names.
        names: [String; 2],
    },
    /// A tensor is not of floating point.
    #[error("{}: tensor `{name}` is {dtype}; known are F32, F16 and BF16", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// torchvision's name of the tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A weight is NaN or infinite.
    #[error("{}: tensor `{name}` holds {value}: the file is damaged", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// torchvision's name of the tensor.
        name: String,
        /// The value.
        value: f32,
    },
    /// A BatchNorm whose variance is negative, or that scales beyond what `f32` holds.
    #[error("{}: BatchNorm `{name}` cannot be computed: its variance is negative or its scale too large", path.display())]
    BatchNorm {
        /// The file.
        path: PathBuf,
        /// torchvision's name of the layer.
        name: String,
    },
    /// The config beside the weights cannot be read or followed.
    #[error("{}: {message}", path.display())]
    Config {
        /// `config.json` or `preprocessor_config.json`.
        path: PathBuf,
        /// What is wrong, with the key.
        message: String,
    },
}
