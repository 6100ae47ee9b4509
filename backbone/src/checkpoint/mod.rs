//! Checkpoints: `.safetensors` files, validated against the architecture when they are opened.

mod config;
mod error;
mod lookalike;
mod names;
mod prefix;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use headstock_hub::WeightFiles;
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use crate::architecture::Architecture;
use crate::preprocessing::Preprocessing;
use crate::source::SourceError;

pub use error::CheckpointError;

/// The validated weights of a ResNet, in memory: every tensor of the architecture is present, in its shape.
///
/// The tensors may have the names of torchvision and timm, or of transformers, after a prefix that all of them
/// have, such as `module.`. The classifier and the counters of BatchNorm (`num_batches_tracked`) are ignored,
/// and tensors without the prefix. The weights must be a single file; shards are
/// not supported.
pub struct Checkpoint {
    /// The file, followed by the values of replaced tensors.
    bytes: Vec<u8>,
    /// The key is torchvision's name.
    tensors: BTreeMap<String, StoredTensor>,
    architecture: Architecture,
    /// The SHA-256 of the file, in hexadecimal.
    sha256: String,
    /// `sha256` or, with replaced tensors, a SHA-256 of it and of these tensors, in hexadecimal.
    fingerprint: String,
    preprocessing: Preprocessing,
    path: PathBuf,
    origin: String,
}

/// A tensor, with the range of its values in [`Checkpoint::bytes`].
struct StoredTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl Checkpoint {
    /// Reads and validates `files`. The weights are read into memory, without `mmap`.
    ///
    /// # Errors
    /// [`CheckpointError`] for a file that cannot be read or is not in safetensors format, for other networks
    /// than a plain ResNet, for tensors that are missing, misshapen, unexpected or not floating point, and
    /// for a config file that contradicts the weights or is not supported. [`SourceError::Pickled`] for
    /// PyTorch's pickle format.
    pub fn open(files: &WeightFiles) -> Result<Self, CheckpointError> {
        Self::open_with(files, None)
    }

    /// Reads and validates `files`. Unlike [`open`](Self::open), it takes the preprocessing from the caller, if
    /// there is one, for example that of a run, and ignores the preprocessing in the config files.
    ///
    /// # Errors
    /// The errors of [`open`](Self::open).
    pub fn open_with(
        files: &WeightFiles,
        preprocessing: Option<&Preprocessing>,
    ) -> Result<Self, CheckpointError> {
        let path = files.weights.as_path();
        let bytes = fs::read(path).map_err(|source| CheckpointError::Read { path: path.into(), source })?;
        let mut stored = read_header(path, &bytes)?;
        let prefix = prefix::find_prefix(path, stored.keys())?;
        let names = names::torchvision_names(path, prefix, stored.keys())?;
        let shapes: BTreeMap<&str, &[usize]> =
            names.iter().map(|(name, original)| (name.as_str(), stored[original].shape.as_slice())).collect();
        lookalike::reject_lookalikes(path, &shapes)?;
        let architecture = names::detect_architecture(path, &shapes)?;
        names::check_tensors(path, architecture, &shapes)?;
        let preprocessing = config::read_preprocessing(files, preprocessing, architecture)?;

        // From here on tensors have torchvision's names.
        let tensors: BTreeMap<String, StoredTensor> = names
            .into_iter()
            .filter_map(|(name, original)| Some((name, stored.remove(&original)?)))
            .collect();
        if let Some((name, tensor)) =
            tensors.iter().find(|(_, tensor)| !matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16))
        {
            return Err(CheckpointError::invalid(
                path,
                format!(
                    "tensor `{name}` has type {:?}, but only F32, F16 and BF16 are supported: save the model \
                     in one of these types",
                    tensor.dtype
                ),
            ));
        }
        let sha256 = hex::encode(Sha256::digest(&bytes));
        Ok(Self {
            fingerprint: sha256.clone(),
            sha256,
            tensors,
            architecture,
            preprocessing,
            path: path.into(),
            origin: files.origin.clone(),
            bytes,
        })
    }

    /// Replaces the values of some tensors with `tensors`, the weights of fine-tuned stages: `f32`, by
    /// torchvision's names. This also changes the [`fingerprint`](Self::fingerprint), so that caches do not
    /// take the fine-tuned network for the original one.
    ///
    /// # Errors
    /// [`CheckpointError::Invalid`] for a tensor that the network does not have in this shape.
    pub fn with_tensors(mut self, tensors: &BTreeMap<String, Tensor>) -> Result<Self, CheckpointError> {
        let mut hash = Sha256::new_with_prefix(&self.fingerprint);
        for (name, tensor) in tensors {
            let stored = self.tensors.get_mut(name).filter(|stored| stored.shape == tensor.dims());
            let Some(stored) = stored else {
                return Err(self.invalid(format!(
                    "there is no tensor `{name}` of shape {:?}: the run was fine-tuned from different weights; \
                     use the weights that the run was trained with",
                    tensor.dims()
                )));
            };
            // The new values are appended; the old ones stay in `bytes`, but nothing refers to them.
            let start = self.bytes.len();
            let values = tensor.flatten_all()?.to_vec1::<f32>()?;
            self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            hash.update(name);
            hash.update(&self.bytes[start..]);
            (stored.dtype, stored.bytes) = (Dtype::F32, start..self.bytes.len());
        }
        if !tensors.is_empty() {
            self.fingerprint = hex::encode(hash.finalize());
        }
        Ok(self)
    }

    /// The detected architecture.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The SHA-256 of the weights file, in hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// A hash of all values, in hexadecimal, by which caches recognize the weights: the SHA-256 of the file
    /// or, with replaced tensors, of that hash and the names and values of these tensors.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The preprocessing that these weights expect.
    #[must_use]
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// The file of the weights.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path or `hf://` name of the weights, for messages and run records.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The error that these weights cannot be used because of `problem`.
    pub(crate) fn invalid(&self, problem: String) -> CheckpointError {
        CheckpointError::invalid(&self.path, problem)
    }

    /// The tensor with the torchvision name `name`, converted to `f32`, on the CPU, for building a network. A
    /// NaN or an infinity in it is an error.
    ///
    /// # Panics
    /// If the architecture has no tensor of that name.
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor, CheckpointError> {
        let StoredTensor { dtype, shape, bytes } = &self.tensors[name];
        let data = &self.bytes[bytes.clone()];
        let values: Vec<f32> = match dtype {
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => {
                data.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()
            }
            // BF16: `open_with` rejects every other type.
            _ => data.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
        };
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(self.invalid(format!(
                "tensor `{name}` contains {value}, so the weights cannot be used: download or copy the file \
                 again, or choose different weights"
            )));
        }
        Ok(Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?)
    }
}

impl fmt::Debug for Checkpoint {
    /// Leaves out the bytes of the weights, which would make the output huge.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("architecture", &self.architecture)
            .field("origin", &self.origin)
            .field("sha256", &self.sha256)
            .field("preprocessing", &self.preprocessing)
            .finish_non_exhaustive()
    }
}

/// The tensors of a safetensors file with the contents `bytes`, by their names in the file, from its header,
/// which is validated. Each has its type, its shape and the range of its values in `bytes`. The error names
/// the file `path`; files in other known formats have an error of their own.
fn read_header(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, StoredTensor>, CheckpointError> {
    // PyTorch's formats: a zip archive or, before version 1.6, a bare pickle.
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80\x02") {
        return Err(SourceError::Pickled(path.into()).into());
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(CheckpointError::invalid(
            path,
            "this is a Git LFS pointer, a small file in place of the model weights: run `git lfs pull` in its \
             folder to download the weights",
        ));
    }
    let (header_length, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|source| CheckpointError::NotSafetensors { path: path.into(), source })?;
    // Eight bytes with the length of the header precede it.
    let data_start = header_length + size_of::<u64>();
    let to_stored = |info: &TensorInfo| StoredTensor {
        dtype: info.dtype,
        shape: info.shape.clone(),
        bytes: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, to_stored(info))).collect())
}
