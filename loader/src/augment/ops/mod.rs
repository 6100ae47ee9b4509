//! What can be done to the pixels of a view, with all parameters given.

pub(super) mod blur;
pub(super) mod color;
pub(super) mod erase;
pub(super) mod geometry;
pub(super) mod tone;

use image::{RgbImage, imageops};

use self::erase::Erasure;
use self::geometry::AffineMap;
use super::policy::AugMixDraw;
use crate::transform::{Resampling, rotate::rotate, warp};

/// One change of a photo.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ImageOp {
    FlipHorizontal,
    FlipVertical,
    /// Counter-clockwise.
    Rotate {
        degrees: f64,
        interpolation: Resampling,
    },
    Affine {
        map: AffineMap,
        interpolation: Resampling,
    },
    /// Where the corners go, `[x, y]`, clockwise from the top left.
    Perspective {
        corners: [[u32; 2]; 4],
        interpolation: Resampling,
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
        kernel_size: [u32; 2],
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
    Mix(AugMixDraw),
}

impl ImageOp {
    pub(crate) fn apply(&self, mut photo: RgbImage) -> RgbImage {
        match self {
            Self::FlipHorizontal => imageops::flip_horizontal_in_place(&mut photo),
            Self::FlipVertical => imageops::flip_vertical_in_place(&mut photo),
            &Self::Rotate { degrees, interpolation } => return rotate(&photo, degrees, interpolation),
            Self::Affine { map, interpolation } => {
                return warp::affine(&photo, map.inverse_matrix(photo.dimensions()), *interpolation);
            }
            Self::Perspective { corners, interpolation } => {
                let coefficients = geometry::perspective_coefficients(photo.dimensions(), corners);
                return warp::perspective(&photo, coefficients, *interpolation);
            }
            &Self::Brightness(factor) => color::brightness(&mut photo, factor),
            &Self::Contrast(factor) => color::contrast(&mut photo, factor),
            &Self::Saturation(factor) => color::saturation(&mut photo, factor),
            &Self::Hue(turns) => color::hue(&mut photo, turns),
            &Self::Sharpness(factor) => return color::sharpness(&photo, factor),
            Self::Grayscale => color::grayscale(&mut photo),
            &Self::GaussianBlur { kernel_size, sigma } => {
                return blur::gaussian_blur(&photo, kernel_size, sigma);
            }
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
