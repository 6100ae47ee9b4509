//! The operations of policies and their scales of strengths.
//!
//! Source: torchvision 0.29.2's `_auto_augment.py`.

use crate::augment::ops::{Op, geometry::AffineMap};
use crate::transform::Interpolation;

/// By torchvision's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub(super) enum Operation {
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

impl Operation {
    pub(super) fn is_signed(self) -> bool {
        match self {
            Self::ShearX
            | Self::ShearY
            | Self::TranslateX
            | Self::TranslateY
            | Self::Rotate
            | Self::Brightness
            | Self::Color
            | Self::Contrast
            | Self::Sharpness => true,
            Self::Identity
            | Self::Posterize
            | Self::Solarize
            | Self::AutoContrast
            | Self::Equalize
            | Self::Invert => false,
        }
    }

    /// The map of an operation that moves pixels, but for the rotation.
    pub(super) fn affine(self, magnitude: f64) -> Option<AffineMap> {
        let slant = magnitude.atan().to_degrees();
        let corner = Some([0.0; 2]);
        let identity = AffineMap::IDENTITY;
        match self {
            Self::ShearX => Some(AffineMap { shear: [slant, 0.0], centre: corner, ..identity }),
            Self::ShearY => Some(AffineMap { shear: [0.0, slant], centre: corner, ..identity }),
            Self::TranslateX => Some(AffineMap { translate: [magnitude.trunc(), 0.0], ..identity }),
            Self::TranslateY => Some(AffineMap { translate: [0.0, magnitude.trunc()], ..identity }),
            _ => None,
        }
    }

    /// What is done to a PIL image, if anything.
    pub(super) fn op(self, magnitude: f64, interpolation: Interpolation) -> Option<Op> {
        Some(match self {
            Self::Identity => return None,
            Self::ShearX | Self::ShearY | Self::TranslateX | Self::TranslateY => {
                Op::Affine { map: self.affine(magnitude)?, interpolation }
            }
            Self::Rotate => Op::Rotate { degrees: magnitude, interpolation },
            Self::Brightness => Op::Brightness(1.0 + magnitude),
            Self::Color => Op::Saturation(1.0 + magnitude),
            Self::Contrast => Op::Contrast(1.0 + magnitude),
            Self::Sharpness => Op::Sharpness(1.0 + magnitude),
            Self::Posterize => Op::Posterize { bits: magnitude as u8 },
            Self::Solarize => Op::Solarize { threshold: 255.0 * magnitude },
            Self::AutoContrast => Op::Autocontrast,
            Self::Equalize => Op::Equalize,
            Self::Invert => Op::Invert,
        })
    }
}

/// How strong each step of a policy's scale is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    bins: u32,
    /// Tangent of the angle.
    shear: f64,
    /// In pixels, across and down.
    translate: [f64; 2],
    /// In degrees.
    rotate: f64,
    /// How far a factor is from 1.
    factor: f64,
    /// Bits that are kept at first, and how many fewer at last.
    bits: [f32; 2],
}

impl Scale {
    /// `AutoAugment`'s and `RandAugment`'s, for a view of (width, height).
    pub(super) fn searched((width, height): (u32, u32), bins: u32) -> Self {
        let translate = [width, height].map(|size| 150.0 / 331.0 * f64::from(size));
        Self { bins, shear: 0.3, translate, rotate: 30.0, factor: 0.9, bits: [8.0, 4.0] }
    }

    /// `TrivialAugmentWide`'s.
    pub(super) fn wide(bins: u32) -> Self {
        Self { bins, shear: 0.99, translate: [32.0; 2], rotate: 135.0, factor: 0.99, bits: [8.0, 6.0] }
    }

    /// `AugMix`'s, for a view of (width, height).
    pub(super) fn mixed((width, height): (u32, u32), bins: u32) -> Self {
        let translate = [width, height].map(|size| f64::from(size) / 3.0);
        Self { bins, shear: 0.3, translate, rotate: 30.0, factor: 0.9, bits: [4.0, 4.0] }
    }

    /// Step `bin` of the scale of `operation`; 0 where it has none.
    pub(super) fn magnitude(&self, operation: Operation, bin: u32) -> f64 {
        match operation {
            Operation::ShearX | Operation::ShearY => self.step(0.0, self.shear, bin),
            Operation::TranslateX => self.step(0.0, self.translate[0], bin),
            Operation::TranslateY => self.step(0.0, self.translate[1], bin),
            Operation::Rotate => self.step(0.0, self.rotate, bin),
            Operation::Brightness | Operation::Color | Operation::Contrast | Operation::Sharpness => {
                self.step(0.0, self.factor, bin)
            }
            Operation::Posterize => {
                let [first, fewer] = self.bits;
                let a_bit = (f64::from(self.bins.saturating_sub(1)) / f64::from(fewer)) as f32;
                f64::from((first - bin as f32 / a_bit).round_ties_even())
            }
            Operation::Solarize => self.step(1.0, 0.0, bin),
            Operation::Identity | Operation::AutoContrast | Operation::Equalize | Operation::Invert => 0.0,
        }
    }

    /// `torch.linspace(start, end, bins)[bin]`, in single precision, rounded once: the second half is counted from the end.
    fn step(&self, start: f64, end: f64, bin: u32) -> f64 {
        let (start, end, last) = (start as f32, end as f32, self.bins.saturating_sub(1));
        let step = f64::from((end - start) / last as f32);
        let value = if bin < self.bins / 2 {
            f64::from(start) + step * f64::from(bin)
        } else {
            f64::from(end) - step * f64::from(last.saturating_sub(bin))
        };
        f64::from(value as f32)
    }
}
