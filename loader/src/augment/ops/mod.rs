//! Operations on the pixels of a view, with all parameters given.

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

/// An operation on the pixels of an image, with drawn parameters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ImageOp {
    FlipHorizontal,
    FlipVertical,
    /// Rotation around the center, counterclockwise.
    Rotate {
        degrees: f64,
        interpolation: Resampling,
    },
    /// Rotation, scaling, shear and translation.
    Affine {
        map: AffineMap,
        interpolation: Resampling,
    },
    /// The new positions of the corners, `[x, y]`, clockwise from the top left.
    Perspective {
        corners: [[u32; 2]; 4],
        interpolation: Resampling,
    },
    /// Factor: 0 is black, 1 leaves the image unchanged.
    Brightness(f64),
    /// Factor: 0 is the mean gray, 1 leaves the image unchanged.
    Contrast(f64),
    /// Factor: 0 is grayscale, 1 leaves the image unchanged.
    Saturation(f64),
    /// Turns of the color wheel, from -0.5 to 0.5.
    Hue(f64),
    /// Factor: 0 smooths, 1 leaves the image unchanged, more sharpens.
    Sharpness(f64),
    Grayscale,
    /// Kernel width and height in pixels, both odd, and standard deviation in pixels.
    GaussianBlur {
        kernel_size: [u32; 2],
        sigma: f64,
    },
    /// Keeps the highest bits of each value.
    Posterize {
        bits: u8,
    },
    /// Inverts the values at or above the threshold.
    Solarize {
        threshold: f64,
    },
    Equalize,
    Autocontrast,
    Invert,
    Erase(Erasure),
    /// The weighted mix of an image and its augmentations by `AugMix`.
    Mix(AugMixDraw),
}

impl ImageOp {
    /// Applies this operation to `image`, a view during its rendering, and returns the result.
    pub(crate) fn apply(&self, mut image: RgbImage) -> RgbImage {
        match self {
            Self::FlipHorizontal => imageops::flip_horizontal_in_place(&mut image),
            Self::FlipVertical => imageops::flip_vertical_in_place(&mut image),
            &Self::Rotate { degrees, interpolation } => return rotate(&image, degrees, interpolation),
            Self::Affine { map, interpolation } => {
                return warp::affine(&image, map.inverse_matrix(image.dimensions()), *interpolation);
            }
            Self::Perspective { corners, interpolation } => {
                let coefficients = geometry::perspective_coefficients(image.dimensions(), corners);
                return warp::perspective(&image, coefficients, *interpolation);
            }
            &Self::Brightness(factor) => color::brightness(&mut image, factor),
            &Self::Contrast(factor) => color::contrast(&mut image, factor),
            &Self::Saturation(factor) => color::saturation(&mut image, factor),
            &Self::Hue(turns) => color::hue(&mut image, turns),
            &Self::Sharpness(factor) => return color::sharpness(&image, factor),
            Self::Grayscale => color::grayscale(&mut image),
            &Self::GaussianBlur { kernel_size, sigma } => {
                return blur::gaussian_blur(&image, kernel_size, sigma);
            }
            &Self::Posterize { bits } => tone::posterize(&mut image, bits),
            &Self::Solarize { threshold } => tone::solarize(&mut image, threshold),
            Self::Equalize => tone::equalize(&mut image),
            Self::Autocontrast => tone::autocontrast(&mut image),
            Self::Invert => tone::invert(&mut image),
            Self::Erase(erasure) => erasure.apply(&mut image),
            Self::Mix(mix) => return mix.apply(&image),
        }
        image
    }
}
