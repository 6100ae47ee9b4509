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
    /// The name of the format in the config (`cache_dtype`), in messages and in file names.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Rounds activations (outputs of the backbone's `layer`) to this half-precision format, to the nearest
    /// and ties to even, because the cache stores two bytes per value. Returns the bits of each value, in
    /// little-endian byte order for the file.
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
        // Values beyond the range became infinite. Infinities and NaN have all exponent bits set.
        if bits.iter().fold(false, |any, value| any | (value & exponent_mask == exponent_mask)) {
            let advice = match self {
                Self::F16 => "set `cache_dtype = \"bf16\"`",
                Self::Bf16 => "check that the model weights are not damaged",
            };
            let name = self.as_str();
            return Err(TrainError::Usage(format!(
                "activations (outputs of {layer}) exceed the range of the number format {name}: {advice}"
            )));
        }
        for value_bits in &mut bits {
            *value_bits = value_bits.to_le();
        }
        Ok(bits)
    }

    /// Converts activations back from this half-precision format of the cache to `f32`, as training needs
    /// them; this is exact. `bits` are those of [`to_half`](Self::to_half), in little-endian byte order, and
    /// are overwritten. `values` has the length of `bits` and gets the result.
    pub(super) fn to_f32(self, bits: &mut [u16], values: &mut [f32]) {
        for value_bits in bits.iter_mut() {
            *value_bits = u16::from_le(*value_bits);
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
        assert_eq!(
            error,
            "activations (outputs of layer2) exceed the range of the number format f16: set \
             `cache_dtype = \"bf16\"`"
        );
        assert!(CacheDtype::F16.to_half(&[65_504.0], FeatureLayer::Layer2).is_ok());
        assert!(CacheDtype::Bf16.to_half(&[70_000.0], FeatureLayer::Layer2).is_ok());
        assert!(CacheDtype::Bf16.to_half(&[f32::NAN], FeatureLayer::Layer2).is_err());
    }
}
