//! Conversion of activations to and from the half-precision formats of the cache.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::vec::HalfFloatVecExt;
use half::{bf16, f16};
use headstock_backbone::FeatureLayer;

use crate::config::CacheDtype;
use crate::error::TrainError;

/// Size of a cached value.
pub(super) const BYTES_PER_VALUE: u64 = 2;

impl CacheDtype {
    /// The name in the config.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Rounds to the nearest value, ties to even; the result has little-endian byte order for the file.
    ///
    /// # Errors
    /// [`TrainError::Usage`] if an activation of `layer` exceeds the range of the format.
    pub(super) fn to_half(self, values: &[f32], layer: FeatureLayer) -> Result<Vec<u16>, TrainError> {
        let (mut bits, exponent_mask) = match self {
            Self::F16 => {
                let mut half = vec![f16::ZERO; values.len()];
                half.convert_from_f32_slice(values);
                (half.reinterpret_into(), f16::INFINITY.to_bits())
            }
            Self::Bf16 => {
                let mut half = vec![bf16::ZERO; values.len()];
                half.convert_from_f32_slice(values);
                (half.reinterpret_into(), bf16::INFINITY.to_bits())
            }
        };
        // Infinities and NaN have all exponent bits set.
        if bits.iter().fold(false, |any, bits| any | (bits & exponent_mask == exponent_mask)) {
            let advice = if self == Self::F16 { ": set `tune.cache_dtype = \"bf16\"`" } else { "" };
            let name = self.as_str();
            return Err(TrainError::Usage(format!(
                "activations at {layer} exceed the range of {name}{advice}"
            )));
        }
        for bits in &mut bits {
            *bits = bits.to_le();
        }
        Ok(bits)
    }

    /// Converts the result of [`to_half`](Self::to_half) to `f32`, exactly. Overwrites `bits`.
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
        // With 11 and 8 significant bits, the spacing in 1..2 is 2^-10 and 2^-7.
        for (dtype, step) in [(CacheDtype::F16, 0.000_976_562_5_f32), (CacheDtype::Bf16, 0.007_812_5)] {
            let exact = [0.0, -0.0, 1.0, 1.0 + step * 0.5, 1.0 + step * 1.5, 1.0 + step * 0.51, -3.25];
            let expected = [0.0, -0.0, 1.0, 1.0, 1.0 + step * 2.0, 1.0 + step, -3.25];
            let mut values = [0.0; 7];
            dtype.to_f32(&mut dtype.to_half(&exact, FeatureLayer::Stem).unwrap(), &mut values);
            assert_eq!(values.map(f32::to_bits), expected.map(f32::to_bits), "{dtype:?}");
        }
    }

    #[test]
    fn a_value_beyond_the_range_is_rejected_with_advice() {
        let error = CacheDtype::F16.to_half(&[1.0, 70_000.0], FeatureLayer::Layer2).unwrap_err().to_string();
        assert_eq!(error, "activations at layer2 exceed the range of f16: set `tune.cache_dtype = \"bf16\"`");
        assert!(CacheDtype::F16.to_half(&[65_504.0], FeatureLayer::Layer2).is_ok());
        assert!(CacheDtype::Bf16.to_half(&[70_000.0], FeatureLayer::Layer2).is_ok());
        assert!(CacheDtype::Bf16.to_half(&[f32::NAN], FeatureLayer::Layer2).is_err());
    }
}
