//! Errors of checkpoints.

use std::io;
use std::path::PathBuf;

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
    /// The file is a Git LFS pointer instead of the weights.
    #[error(
        "{} is a Git LFS pointer, a small file in place of the model weights: run `git lfs pull` in its \
         folder to download the weights", .0.display()
    )]
    LfsPointer(PathBuf),
    /// A network that resembles a ResNet but has a different architecture.
    #[error("{} is not a plain ResNet but {network}: {evidence}; {SUPPORTED_HINT}", path.display())]
    LookAlike {
        /// The file.
        path: PathBuf,
        /// The actual network, with an article: "a Wide ResNet".
        network: String,
        /// The tensor or the key of the config that shows it, as a clause of the message.
        evidence: String,
    },
    /// The network is not a ResNet.
    #[error("{} is not a ResNet: {evidence}; {SUPPORTED_HINT}", path.display())]
    NotAResNet {
        /// The file.
        path: PathBuf,
        /// What shows it, the names of tensors or the numbers of blocks, as a clause of the message.
        evidence: String,
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
    /// A fine-tuned tensor cannot replace a pretrained one: the network does not have a tensor of its name,
    /// or has it in another shape.
    #[error(
        "{} has no tensor `{name}` of shape {shape:?}: the run was fine-tuned from different weights; use \
         the weights that the run was trained with", path.display()
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
    #[error(
        "{} has the same tensor twice, as `{}` and as `{}`: save the model again with only one of the two \
         names",
        path.display(), names[0], names[1]
    )]
    DuplicateTensor {
        /// The file.
        path: PathBuf,
        /// Both names of the tensor in the file.
        names: [String; 2],
    },
    /// A tensor does not have a floating-point type.
    #[error(
        "{}: tensor `{name}` has type {dtype}, but only F32, F16 and BF16 are supported: save the model in \
         one of these types", path.display()
    )]
    Dtype {
        /// The file.
        path: PathBuf,
        /// torchvision's name of the tensor.
        name: String,
        /// The type of its values in the file, `I64` for example.
        dtype: String,
    },
    /// A weight is NaN or infinite.
    #[error(
        "{}: tensor `{name}` contains {value}, so the weights cannot be used: download or copy the file \
         again, or choose different weights",
        path.display()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// torchvision's name of the tensor.
        name: String,
        /// The first such value: NaN or infinite.
        value: f32,
    },
    /// A BatchNorm cannot be folded into its convolution: its running variance is negative, or the resulting
    /// weights exceed the range of `f32`.
    #[error(
        "{}: BatchNorm `{name}` cannot be used, because its running variance is negative or its scale \
         exceeds the range of f32: download or copy the file again, or choose different weights", path.display()
    )]
    BatchNorm {
        /// The file.
        path: PathBuf,
        /// torchvision's name of the BatchNorm, `layer1.0.bn1` for example.
        name: String,
    },
    /// The file is in PyTorch's pickle format: [`SourceError::Pickled`].
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A candle operation on a tensor of the checkpoint failed.
    #[error("a tensor operation on the model weights (library candle) failed")]
    Candle(#[from] candle_core::Error),
    /// A config file of the weights is invalid or not supported.
    #[error("{}: {message}", path.display())]
    Config {
        /// The config file: `config.json` or `preprocessor_config.json`.
        path: PathBuf,
        /// The problem, with the key, and what to do.
        message: String,
    },
}
