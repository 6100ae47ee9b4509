//! Checkpoints: a `.safetensors` file, checked against the architecture before anything is computed.

mod config;
mod error;
mod lookalike;
mod names;

use std::collections::BTreeMap;
use std::fs;

use candle_core::{Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use crate::architecture::Architecture;
use crate::error::BackboneError;
use crate::preprocessing::Preprocessing;
use crate::source::WeightFiles;

pub use error::CheckpointError;

/// The weights of a ResNet, read and checked: every tensor that the architecture needs is there, in its shape.
///
/// torchvision's and timm's names are known, and transformers'; the classifier and BatchNorm's counters are passed over.
#[derive(Debug)]
pub struct Checkpoint {
    bytes: Vec<u8>,
    /// torchvision's name to the name in the file.
    names: BTreeMap<String, String>,
    architecture: Architecture,
    sha256: String,
    preprocessing: Preprocessing,
    origin: String,
}

impl Checkpoint {
    /// Reads `files`. The weights are read into memory once, without `mmap`.
    ///
    /// # Errors
    /// [`CheckpointError`] for a file that cannot be read or is no safetensors, for look-alikes of a ResNet (by name, with
    /// what gave them away), and for tensors that are missing, misshapen or not of floating point; and for a
    /// config file beside the weights that contradicts them or cannot be followed.
    pub fn open(files: &WeightFiles) -> Result<Self, BackboneError> {
        let path = files.weights.as_path();
        let bytes = fs::read(path).map_err(|source| CheckpointError::Read { path: path.into(), source })?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|source| CheckpointError::NotSafetensors { path: path.into(), source })?;
        let shapes: BTreeMap<String, (Vec<usize>, Dtype)> = tensors
            .iter()
            .map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), view.dtype())))
            .collect();

        let names = names::to_torchvision(shapes.keys());
        let canonical: BTreeMap<&str, &[usize]> =
            names.iter().map(|(name, original)| (name.as_str(), shapes[original].0.as_slice())).collect();
        lookalike::refuse(path, &canonical)?;
        let architecture = names::architecture(path, &canonical)?;
        names::check(path, architecture, &canonical)?;
        for (name, original) in &names {
            let dtype = shapes[original].1;
            if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                return Err(CheckpointError::Dtype {
                    path: path.into(),
                    name: name.clone(),
                    dtype: format!("{dtype:?}"),
                }
                .into());
            }
        }
        let described = config::read(files)?;
        described.check(architecture)?;
        Ok(Self {
            sha256: hex(&Sha256::digest(&bytes)),
            names,
            architecture,
            preprocessing: described.preprocessing,
            origin: files.origin.clone(),
            bytes,
        })
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

    /// The tensor with torchvision's name `name`, in `f32` on the CPU.
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor, BackboneError> {
        let tensors =
            SafeTensors::deserialize(&self.bytes).expect("it was read when the checkpoint was opened");
        let view = tensors.tensor(&self.names[name]).expect("it was there when the checkpoint was opened");
        let data = view.data();
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => {
                data.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()
            }
            _ => data.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
        };
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(CheckpointError::NotFinite { name: name.into(), value: *value }.into());
        }
        Ok(Tensor::from_vec(values, view.shape(), &Device::Cpu)?)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}
