//! What can be done to the pixels of a view, with all parameters given.

pub(super) mod blur;
pub(super) mod colour;
pub(super) mod erase;
pub(super) mod geometry;
pub(super) mod tone;

use image::{RgbImage, imageops};

use self::erase::Erasure;
use self::geometry::AffineMap;
use super::policy::Mix;
use crate::transform::{Interpolation, rotate::rotate, warp};

/// One change of a photo.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    FlipHorizontal,
    FlipVertical,
    /// Counter-clockwise.
    Rotate {
        degrees: f64,
        interpolation: Interpolation,
    },
    Affine {
        map: AffineMap,
        interpolation: Interpolation,
    },
    /// Where the corners go, `[x, y]`, clockwise from the top left.
    Perspective {
        corners: [[u32; 2]; 4],
        interpolation: Interpolation,
    },
    Brightness(f64),
    Contrast(f64),
    Saturation(f64),
    /// Turns of the colour wheel, from -0.5 to 0.5.
    Hue(f64),
    Sharpness(f64),
    Grayscale,
    /// Sizes across and down, odd, in pixels.
    GaussianBlur {
        kernel: [u32; 2],
        sigma: f64,
    },
    Posterize {
        bits: u8,
    },
    /// What is as bright as this is inverted.
    Solarize {
        threshold: f64,
    },
    Equalize,
    Autocontrast,
    Invert,
    Erase(Erasure),
    Mix(Mix),
}

impl Op {
    pub(crate) fn apply(&self, mut photo: RgbImage) -> RgbImage {
        match self {
            Self::FlipHorizontal => imageops::flip_horizontal_in_place(&mut photo),
            Self::FlipVertical => imageops::flip_vertical_in_place(&mut photo),
            &Self::Rotate { degrees, interpolation } => return rotate(&photo, degrees, interpolation),
            Self::Affine { map, interpolation } => {
                return warp::affine(&photo, map.inverse(photo.dimensions()), *interpolation);
            }
            Self::Perspective { corners, interpolation } => {
                let coefficients = geometry::perspective_coefficients(photo.dimensions(), corners);
                return warp::perspective(&photo, coefficients, *interpolation);
            }
            &Self::Brightness(factor) => colour::brightness(&mut photo, factor),
            &Self::Contrast(factor) => colour::contrast(&mut photo, factor),
            &Self::Saturation(factor) => colour::saturation(&mut photo, factor),
            &Self::Hue(turns) => colour::hue(&mut photo, turns),
            &Self::Sharpness(factor) => return colour::sharpness(&photo, factor),
            Self::Grayscale => colour::grayscale(&mut photo),
            &Self::GaussianBlur { kernel, sigma } => return blur::gaussian(&photo, kernel, sigma),
            &Self::Posterize { bits } => tone::posterize(&mut photo, bits),
            &Self::Solarize { threshold } => tone::solarize(&mut photo, threshold),
            Self::Equalize => tone::equalize(&mut photo),
            Self::Autocontrast => tone::autocontrast(&mut photo),
            Self::Invert => tone::invert(&mut photo),
            Self::Erase(erasure) => erasure.apply(&mut photo),
            Self::Mix(mix) => return mix.apply(&photo),
        }
        photo
    }
}
