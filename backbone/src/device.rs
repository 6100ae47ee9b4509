//! The device and the precision of the backbone.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The device that runs the backbone: `"auto"`, `"cpu"`, `"cuda"` (the first GPU), `"cuda:1"` and so on.
///
/// A GPU needs a version of the program that was built with CUDA (`--features cuda`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The first GPU, if the program was built with CUDA and the GPU can be used; otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this ordinal.
    Cuda(usize),
}

/// The number format of weights and activations.
///
/// `"bf16"` needs CUDA, or a CPU with AVX512-BF16 or AMX-BF16; on any other CPU it is an error. Features are
/// `f32` numbers in either case, and the cache keeps the features of both precisions apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    F32,
    /// bfloat16 weights and activations, with sums in `f32`. On the CPU the stem and the first block, where
    /// rounding errors matter most, are computed in `f32`.
    Bf16,
}

/// The device cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The program was built without CUDA.
    #[error(
        "the device \"{0}\" needs a headstock that is built with CUDA (the feature `cuda`): use that one, or \
         the device \"cpu\" or \"auto\""
    )]
    CudaNotBuilt(DeviceChoice),
    /// The CUDA device cannot be opened.
    #[error(
        "failed to open the GPU of the device \"{choice}\": check with `nvidia-smi` that this GPU exists (the \
         first one is cuda:0) and that its driver works, or use the device \"cpu\" or \"auto\""
    )]
    Cuda {
        /// The requested device.
        choice: DeviceChoice,
        /// candle's error.
        source: candle_core::Error,
    },
}

impl DeviceChoice {
    /// Opens the device for candle. `Auto` always succeeds: without a usable GPU it logs the reason and opens
    /// the CPU.
    ///
    /// # Errors
    /// [`DeviceError`] if the requested device is not available.
    pub fn open(self) -> Result<Device, DeviceError> {
        let device = match self {
            Self::Cpu => Device::Cpu,
            Self::Cuda(_) if !cfg!(feature = "cuda") => return Err(DeviceError::CudaNotBuilt(self)),
            Self::Cuda(number) => {
                Device::new_cuda(number).map_err(|source| DeviceError::Cuda { choice: self, source })?
            }
            Self::Auto if !cfg!(feature = "cuda") => Device::Cpu,
            Self::Auto => Device::new_cuda(0).unwrap_or_else(|error| {
                // candle's backtrace follows after the first line.
                let reason = error.to_string();
                tracing::info!(
                    "no GPU can be used ({}): the pretrained model runs on the CPU, which is slower",
                    reason.lines().next().unwrap_or_default()
                );
                Device::Cpu
            }),
        };
        Ok(device)
    }
}

impl Precision {
    /// The name of this precision in config files, which [`from_str`](Self::from_str) reads.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        ["f32", "bf16"][self as usize]
    }

    /// candle's number type for this precision, for weights and activations on CUDA.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl From<Precision> for headstock_engine::DType {
    /// The engine's number type for a precision, for weights and activations on the CPU.
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Precision {
    type Err = String;

    /// Parses the name of a precision in a config file; the error is a message for the user.
    fn from_str(name: &str) -> Result<Self, String> {
        [Self::F32, Self::Bf16]
            .into_iter()
            .find(|precision| precision.as_str() == name)
            .ok_or_else(|| format!("there is no precision `{name}`: use f32 or bf16"))
    }
}

impl fmt::Display for DeviceChoice {
    /// Writes the name of the device in config files, which [`from_str`](Self::from_str) reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(0) => f.write_str("cuda"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    /// Parses the name of a device in a config file; the error is a message for the user.
    fn from_str(name: &str) -> Result<Self, String> {
        // `parse` alone would also accept "cuda:+1".
        let ordinal = name.strip_prefix("cuda:").filter(|number| number.bytes().all(|b| b.is_ascii_digit()));
        let cuda_device = || ordinal?.parse().ok().map(Self::Cuda);
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => cuda_device().ok_or_else(|| {
                format!(
                    "there is no device `{name}`: use \"auto\", \"cpu\", \"cuda\" (the first GPU), \
                     \"cuda:1\" (the second) and so on"
                )
            }),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_through_strings_and_configs() {
        for (name, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(0)),
            ("cuda:3", DeviceChoice::Cuda(3)),
        ] {
            let json = format!("\"{name}\"");
            assert_eq!(name.parse(), Ok(choice));
            assert_eq!(serde_json::from_str::<DeviceChoice>(&json).unwrap(), choice);
            assert_eq!(serde_json::to_string(&choice).unwrap(), json);
        }
        assert_eq!("cuda:0".parse(), Ok(DeviceChoice::Cuda(0)));
        for (name, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
            let json = format!("\"{name}\"");
            assert_eq!(name.parse(), Ok(precision));
            assert_eq!(serde_json::from_str::<Precision>(&json).unwrap(), precision);
            assert_eq!(serde_json::to_string(&precision).unwrap(), json);
        }
    }

    #[test]
    fn unknown_names_are_rejected_with_the_known_names() {
        for name in
            ["gpu", "", "CPU", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "cuda:99999999999999999999", "cuda 1"]
        {
            let error = name.parse::<DeviceChoice>().unwrap_err();
            assert!(
                error.contains(&format!("there is no device `{name}`: use \"auto\", \"cpu\", \"cuda\"")),
                "{error}"
            );
            let json = serde_json::to_string(name).unwrap();
            assert!(serde_json::from_str::<DeviceChoice>(&json).unwrap_err().to_string().contains(&error));
        }
        assert_eq!("fp16".parse::<Precision>().unwrap_err(), "there is no precision `fp16`: use f32 or bf16");
    }

    #[test]
    fn defaults_are_auto_and_f32() {
        assert_eq!(DeviceChoice::default(), DeviceChoice::Auto);
        assert_eq!(Precision::default(), Precision::F32);
        for (choice, name) in [
            (DeviceChoice::Auto, "auto"),
            (DeviceChoice::Cpu, "cpu"),
            (DeviceChoice::Cuda(0), "cuda"),
            (DeviceChoice::Cuda(2), "cuda:2"),
        ] {
            assert_eq!(choice.to_string(), name);
        }
        assert_eq!([Precision::F32, Precision::Bf16].map(|precision| precision.to_string()), ["f32", "bf16"]);
    }

    #[test]
    fn precisions_map_to_the_same_types_of_the_engine_and_candle() {
        assert_eq!(headstock_engine::DType::from(Precision::F32), headstock_engine::DType::F32);
        assert_eq!(headstock_engine::DType::from(Precision::Bf16), headstock_engine::DType::Bf16);
        assert_eq!([Precision::F32, Precision::Bf16].map(Precision::dtype), [DType::F32, DType::BF16]);
    }

    // effect: backbone.device
    #[test]
    fn without_a_gpu_auto_selects_the_cpu_and_cuda_fails() {
        assert!(DeviceChoice::Cpu.open().unwrap().is_cpu());
        let has_gpu = Device::new_cuda(0).is_ok();
        assert!(cfg!(feature = "cuda") || !has_gpu, "candle was built without CUDA");
        assert_eq!(DeviceChoice::Auto.open().unwrap().is_cpu(), !has_gpu);
        for choice in [DeviceChoice::Cuda(0), DeviceChoice::Cuda(1)].into_iter().filter(|_| !has_gpu) {
            let error = choice.open().unwrap_err().to_string();
            let expected = if cfg!(feature = "cuda") {
                format!(
                    "failed to open the GPU of the device \"{choice}\": check with `nvidia-smi` that this GPU \
                     exists (the first one is cuda:0) and that its driver works, or use the device \"cpu\" \
                     or \"auto\""
                )
            } else {
                format!(
                    "the device \"{choice}\" needs a headstock that is built with CUDA (the feature `cuda`): \
                     use that one, or the device \"cpu\" or \"auto\""
                )
            };
            assert_eq!(error, expected);
        }
    }
}
