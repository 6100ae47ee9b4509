//! Checkpoints: a `.safetensors` file, checked against the architecture before anything is computed.

mod config;
mod error;
mod lookalike;
mod names;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use crate::architecture::Architecture;
use crate::error::BackboneError;
use crate::preprocessing::Preprocessing;
use crate::source::{SourceError, WeightFiles};

pub use error::CheckpointError;

/// The weights of a ResNet, read and checked: every tensor that the architecture needs is there, in its shape.
///
/// torchvision's and timm's names are known, and transformers'; the classifier and BatchNorm's counters are passed over.
/// The weights are one file: none of these networks is so large that it would be cut into shards.
pub struct Checkpoint {
    bytes: Vec<u8>,
    /// By torchvision's name.
    tensors: BTreeMap<String, StoredTensor>,
    architecture: Architecture,
    sha256: String,
    /// The SHA-256 of the file and of the tensors that have taken the place of its own.
    fingerprint: String,
    preprocessing: Preprocessing,
    path: PathBuf,
    origin: String,
}

/// Where a tensor lies in the file.
struct StoredTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl Checkpoint {
    /// Reads `files`. The weights are read into memory once, without `mmap`.
    ///
    /// # Errors
    /// [`CheckpointError`] for a file that cannot be read or is no safetensors, for look-alikes of a ResNet (by name, with
    /// what gave them away), and for tensors that are missing, misshapen, unknown or not of floating point; and for a
    /// config file beside the weights that contradicts them or cannot be followed. [`SourceError::Pickled`] for PyTorch's own
    /// format under the name of the other.
    pub fn open(files: &WeightFiles) -> Result<Self, BackboneError> {
        Self::read_files(files, None)
    }

    /// As [`open`](Self::open), with a record of preprocessing that is known from elsewhere, from a run for example: what
    /// lies beside the weights does not count.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(files: &WeightFiles, preprocessing: &Preprocessing) -> Result<Self, BackboneError> {
        Self::read_files(files, Some(preprocessing))
    }

    fn read_files(files: &WeightFiles, known: Option<&Preprocessing>) -> Result<Self, BackboneError> {
        let path = files.weights.as_path();
        let bytes = fs::read(path).map_err(|source| CheckpointError::Read { path: path.into(), source })?;
        let mut stored = read_header(path, &bytes)?;
        let names = names::torchvision_names(path, stored.keys())?;
        let shapes: BTreeMap<&str, &[usize]> =
            names.iter().map(|(name, original)| (name.as_str(), stored[original].shape.as_slice())).collect();
        lookalike::refuse(path, &shapes)?;
        let architecture = names::detect_architecture(path, &shapes)?;
        names::check_tensors(path, architecture, &shapes)?;
        let metadata = config::read_metadata(files, known)?;
        metadata.check_architecture(architecture)?;

        let tensors: BTreeMap<String, StoredTensor> = names
            .into_iter()
            .filter_map(|(name, original)| Some((name, stored.remove(&original)?)))
            .collect();
        if let Some((name, tensor)) =
            tensors.iter().find(|(_, tensor)| !matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16))
        {
            return Err(CheckpointError::Dtype {
                path: path.into(),
                name: name.clone(),
                dtype: format!("{:?}", tensor.dtype),
            }
            .into());
        }
        let sha256 = hex(&Sha256::digest(&bytes));
        Ok(Self {
            fingerprint: sha256.clone(),
            sha256,
            tensors,
            architecture,
            preprocessing: metadata.preprocessing,
            path: path.into(),
            origin: files.origin.clone(),
            bytes,
        })
    }

    /// The same with other values of some tensors, by torchvision's names: those of stages that were tuned.
    ///
    /// # Errors
    /// [`CheckpointError`] for a tensor that the network does not have, or has in another shape.
    pub fn with_tensors(mut self, tensors: &BTreeMap<String, Tensor>) -> Result<Self, BackboneError> {
        let mut hash = Sha256::new_with_prefix(&self.fingerprint);
        for (name, tensor) in tensors {
            let found = tensor.dims();
            let stored = self.tensors.get_mut(name).filter(|stored| stored.shape == found);
            let Some(stored) = stored else {
                let (path, name, found) = (self.path.clone(), name.clone(), found.to_vec());
                return Err(CheckpointError::UnknownTensor { path, name, found }.into());
            };
            let start = self.bytes.len();
            let values = tensor.flatten_all()?.to_vec1::<f32>()?;
            self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            hash.update(name);
            hash.update(&self.bytes[start..]);
            (stored.dtype, stored.bytes) = (Dtype::F32, start..self.bytes.len());
        }
        if !tensors.is_empty() {
            self.fingerprint = hex(&hash.finalize());
        }
        Ok(self)
    }

    /// Which ResNet it is.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The SHA-256 of the weights' file, in hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What stands for all of its values: the SHA-256 of the file, or of that and the tensors that have taken the place of its
    /// own, in hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How photos are prepared for these weights.
    #[must_use]
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// Where it came from, for messages and the run's metadata.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The `.safetensors` file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The tensor with torchvision's name `name`, in `f32` on the CPU.
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor, BackboneError> {
        let StoredTensor { dtype, shape, bytes } = &self.tensors[name];
        let data = &self.bytes[bytes.clone()];
        let values: Vec<f32> = match dtype {
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => {
                data.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()
            }
            _ => data.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
        };
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            let (path, name) = (self.path.clone(), name.into());
            return Err(CheckpointError::NotFinite { path, name, value: *value }.into());
        }
        Ok(Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?)
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("architecture", &self.architecture)
            .field("origin", &self.origin)
            .field("sha256", &self.sha256)
            .field("preprocessing", &self.preprocessing)
            .finish_non_exhaustive()
    }
}

/// The tensors that the file says it has; that they fill it exactly is checked.
fn read_header(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, StoredTensor>, BackboneError> {
    // PyTorch's own formats: a zip, or before version 1.6 a bare pickle.
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80\x02") {
        return Err(SourceError::Pickled(path.into()).into());
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(CheckpointError::LfsPointer(path.into()).into());
    }
    let (header, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|source| CheckpointError::NotSafetensors { path: path.into(), source })?;
    // The length of the header is eight bytes of its own.
    let data = header + size_of::<u64>();
    let to_stored = |info: &TensorInfo| StoredTensor {
        dtype: info.dtype,
        shape: info.shape.clone(),
        bytes: data + info.data_offsets.0..data + info.data_offsets.1,
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, to_stored(info))).collect())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}
