//! The half precisions that activations are kept in.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::vec::HalfFloatVecExt;
use half::{bf16, f16};
use headstock_backbone::FeatureLayer;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// What activations are kept in: two bytes a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HalfPrecision {
    /// 11 significant bits, up to 65,504.
    #[default]
    F16,
    /// 8 significant bits, the range of `f32`. What a backbone that computes in `bf16` gives loses nothing.
    Bf16,
}

/// Bytes of a value.
pub(super) const BYTES_PER_VALUE: u64 = 2;

impl HalfPrecision {
    /// Its name in configs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// The nearest values, ties to even, as their bits lie in a file (the low byte first).
    ///
    /// # Errors
    /// [`TrainError::Usage`] when a value of `layer` is beyond what can be kept.
    pub(super) fn to_half(self, values: &[f32], layer: FeatureLayer) -> Result<Vec<u16>, TrainError> {
        let (mut bits, infinite) = match self {
            Self::F16 => {
                let mut narrow = vec![f16::ZERO; values.len()];
                narrow.convert_from_f32_slice(values);
                (narrow.reinterpret_into(), f16::INFINITY.to_bits())
            }
            Self::Bf16 => {
                let mut narrow = vec![bf16::ZERO; values.len()];
                narrow.convert_from_f32_slice(values);
                (narrow.reinterpret_into(), bf16::INFINITY.to_bits())
            }
        };
        // Infinities and NaN have all bits of the exponent.
        if bits.iter().fold(false, |any, bits| any | (bits & infinite == infinite)) {
            let instead = if self == Self::F16 { ": keep them in bf16" } else { "" };
            let name = self.as_str();
            return Err(TrainError::Usage(format!(
                "the activations at {layer} are beyond the range of {name}{instead}"
            )));
        }
        for bits in &mut bits {
            *bits = bits.to_le();
        }
        Ok(bits)
    }

    /// What [`narrow`](Self::narrow) made, as `f32`: exact. `bits` are used up.
    pub(super) fn to_f32(self, bits: &mut [u16], values: &mut [f32]) {
        for bits in bits.iter_mut() {
            *bits = u16::from_le(*bits);
        }
        match self {
            Self::F16 => bits.reinterpret_cast::<f16>().convert_to_f32_slice(values),
            Self::Bf16 => bits.reinterpret_cast::<bf16>().convert_to_f32_slice(values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_to_the_nearest_and_ties_to_even() {
        // 11 and 8 significant bits: in 1..2 a step is 2^-10 and 2^-7.
        for (kept, step) in [(HalfPrecision::F16, 0.000_976_562_5_f32), (HalfPrecision::Bf16, 0.007_812_5)] {
            let given = [0.0, -0.0, 1.0, 1.0 + step * 0.5, 1.0 + step * 1.5, 1.0 + step * 0.51, -3.25];
            let expected = [0.0, -0.0, 1.0, 1.0, 1.0 + step * 2.0, 1.0 + step, -3.25];
            let mut values = [0.0; 7];
            kept.to_f32(&mut kept.to_half(&given, FeatureLayer::Stem).unwrap(), &mut values);
            assert_eq!(values.map(f32::to_bits), expected.map(f32::to_bits), "{kept:?}");
        }
    }

    #[test]
    fn a_value_beyond_the_range_is_refused_with_what_to_do() {
        let error =
            HalfPrecision::F16.to_half(&[1.0, 70_000.0], FeatureLayer::Layer2).unwrap_err().to_string();
        assert_eq!(error, "the activations at layer2 are beyond the range of f16: keep them in bf16");
        assert!(HalfPrecision::F16.to_half(&[65_504.0], FeatureLayer::Layer2).is_ok());
        assert!(HalfPrecision::Bf16.to_half(&[70_000.0], FeatureLayer::Layer2).is_ok());
        assert!(HalfPrecision::Bf16.to_half(&[f32::NAN], FeatureLayer::Layer2).is_err());
    }
}
