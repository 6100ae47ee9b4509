//! The operations of policies and their magnitude scales.
//!
//! Source: torchvision 0.29.2's `_auto_augment.py`.

use crate::augment::affine::{Affine, AffineMap};
use crate::augment::autocontrast::Autocontrast;
use crate::augment::color_jitter::{Brightness, Contrast, Saturation};
use crate::augment::equalize::Equalize;
use crate::augment::invert::Invert;
use crate::augment::posterize::Posterize;
use crate::augment::rotation::Rotate;
use crate::augment::sharpness::Sharpness;
use crate::augment::solarize::Solarize;
use crate::transform::{ImageOp, Resampling};

/// An operation of a policy, with torchvision's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub(super) enum PolicyOp {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
    Invert,
}

impl PolicyOp {
    /// Whether the magnitude can be negative; policies then draw its sign.
    pub(super) fn is_signed(self) -> bool {
        use PolicyOp::{AutoContrast, Equalize, Identity, Invert, Posterize, Solarize};
        !matches!(self, Identity | Posterize | Solarize | AutoContrast | Equalize | Invert)
    }

    /// The affine map of a shear (`magnitude` is the tangent of its angle) or a translation (`magnitude` is
    /// in pixels), as in torchvision's policies; `None` for other operations.
    pub(super) fn affine_map(self, magnitude: f64) -> Option<AffineMap> {
        let shear_degrees = magnitude.atan().to_degrees();
        let top_left = Some([0.0; 2]); // the center of torchvision's shears
        let identity = AffineMap::IDENTITY;
        match self {
            Self::ShearX => Some(AffineMap { shear: [shear_degrees, 0.0], center: top_left, ..identity }),
            Self::ShearY => Some(AffineMap { shear: [0.0, shear_degrees], center: top_left, ..identity }),
            Self::TranslateX => Some(AffineMap { translate: [magnitude.trunc(), 0.0], ..identity }),
            Self::TranslateY => Some(AffineMap { translate: [0.0, magnitude.trunc()], ..identity }),
            _ => None,
        }
    }

    /// The operation on the pixels of a view that equals torchvision's on a PIL image; `None` for the
    /// identity. `magnitude` is in the unit of the operation, from [`MagnitudeScale::magnitude`]: for a color
    /// factor it is the distance from 1.
    pub(super) fn to_image_op(self, magnitude: f64, interpolation: Resampling) -> Option<Box<dyn ImageOp>> {
        Some(match self {
            Self::Identity => return None,
            Self::ShearX | Self::ShearY | Self::TranslateX | Self::TranslateY => {
                Box::new(Affine { map: self.affine_map(magnitude)?, interpolation })
            }
            Self::Rotate => Box::new(Rotate { degrees: magnitude, interpolation }),
            Self::Brightness => Box::new(Brightness(1.0 + magnitude)),
            Self::Color => Box::new(Saturation(1.0 + magnitude)),
            Self::Contrast => Box::new(Contrast(1.0 + magnitude)),
            Self::Sharpness => Box::new(Sharpness(1.0 + magnitude)),
            Self::Posterize => Box::new(Posterize { bits: magnitude as u8 }),
            Self::Solarize => Box::new(Solarize { threshold: 255.0 * magnitude }),
            Self::AutoContrast => Box::new(Autocontrast),
            Self::Equalize => Box::new(Equalize),
            Self::Invert => Box::new(Invert),
        })
    }
}

/// The magnitude scale of a policy: the magnitude of each operation at the strongest of `n_bins` bins, from
/// which those of the other bins follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct MagnitudeScale {
    n_bins: u32,
    /// Tangent of the shear angle.
    shear: f64,
    /// In pixels (horizontal, vertical).
    translate: [f64; 2],
    /// In degrees.
    rotate: f64,
    /// Distance of a color factor from 1.
    factor: f64,
    /// Bits that posterize keeps at the weakest bin, and how many fewer it keeps at the strongest bin.
    bits: [f32; 2],
}

impl MagnitudeScale {
    /// The scale of `AutoAugment` and `RandAugment`, for a view of (width, height).
    pub(super) fn for_rand_augment((width, height): (u32, u32), n_bins: u32) -> Self {
        let translate = [width, height].map(|size| 150.0 / 331.0 * f64::from(size));
        Self { n_bins, shear: 0.3, translate, rotate: 30.0, factor: 0.9, bits: [8.0, 4.0] }
    }

    /// The scale of `TrivialAugmentWide`.
    pub(super) fn for_trivial_augment(n_bins: u32) -> Self {
        Self { n_bins, shear: 0.99, translate: [32.0; 2], rotate: 135.0, factor: 0.99, bits: [8.0, 6.0] }
    }

    /// The scale of `AugMix`, for a view of (width, height).
    pub(super) fn for_aug_mix((width, height): (u32, u32), n_bins: u32) -> Self {
        let translate = [width, height].map(|size| f64::from(size) / 3.0);
        Self { n_bins, shear: 0.3, translate, rotate: 30.0, factor: 0.9, bits: [4.0, 4.0] }
    }

    /// The magnitude of `operation` at `bin`, from 0 (weakest) to `n_bins` - 1 (strongest), in the unit of
    /// the operation: the tangent of a shear angle, pixels, degrees, the distance of a color factor from 1,
    /// bits that posterize keeps, or solarize's threshold as a fraction of 255. 0 for operations without a
    /// magnitude.
    pub(super) fn magnitude(&self, operation: PolicyOp, bin: u32) -> f64 {
        match operation {
            PolicyOp::ShearX | PolicyOp::ShearY => self.linspace(0.0, self.shear, bin),
            PolicyOp::TranslateX => self.linspace(0.0, self.translate[0], bin),
            PolicyOp::TranslateY => self.linspace(0.0, self.translate[1], bin),
            PolicyOp::Rotate => self.linspace(0.0, self.rotate, bin),
            PolicyOp::Brightness | PolicyOp::Color | PolicyOp::Contrast | PolicyOp::Sharpness => {
                self.linspace(0.0, self.factor, bin)
            }
            PolicyOp::Posterize => {
                // One bit fewer for every `bins_per_bit` bins.
                let [max_bits, max_reduction] = self.bits;
                let bins_per_bit =
                    (f64::from(self.n_bins.saturating_sub(1)) / f64::from(max_reduction)) as f32;
                f64::from((max_bits - bin as f32 / bins_per_bit).round_ties_even())
            }
            PolicyOp::Solarize => self.linspace(1.0, 0.0, bin),
            PolicyOp::Identity | PolicyOp::AutoContrast | PolicyOp::Equalize | PolicyOp::Invert => 0.0,
        }
    }

    /// The magnitude at `bin` when the `n_bins` magnitudes are spaced evenly from `start` to `end`. It equals
    /// PyTorch's `torch.linspace(start, end, n_bins)[bin]` to the bit: rounded to single precision once, with
    /// the second half computed from the end.
    fn linspace(&self, start: f64, end: f64, bin: u32) -> f64 {
        let (start, end, last) = (start as f32, end as f32, self.n_bins.saturating_sub(1));
        let step = f64::from((end - start) / last as f32);
        let value = if bin < self.n_bins / 2 {
            f64::from(start) + step * f64::from(bin)
        } else {
            f64::from(end) - step * f64::from(last.saturating_sub(bin))
        };
        f64::from(value as f32)
    }
}
