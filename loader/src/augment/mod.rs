//! Augmented views of an image: torchvision's random transforms (`transforms.v2`) on PIL images.
//!
//! The steps are applied in this order: random resized crop (or the evaluation transform), horizontal flip,
//! vertical flip, policy, rotation, affine map, perspective, color jitter, grayscale, Gaussian blur,
//! sharpness, posterize, solarize, equalize, autocontrast, invert, erasing.
//!
//! All parameters are drawn first and then applied. The draws depend on the seed, the view's index and the
//! image. Each step has its own random stream, so adding a step does not change the draws of the other steps.
//! (The crop, the horizontal flip and the rotation share one stream.) Parameters have the same distributions
//! as in torchvision.
//!
//! For given parameters, a view equals torchvision's:
//!
//! - exactly: flips, rotation, affine map, brightness, contrast, saturation, hue, grayscale, sharpness,
//!   posterize, solarize, equalize, autocontrast, invert, erasing with a color, and `RandAugment`,
//!   `TrivialAugmentWide` and `AutoAugment`, which consist of these;
//! - within 1 of 255: the crop and the evaluation transform; Gaussian blur, which adds single-precision
//!   numbers in a different order; perspective, which truncates values that may be just below an integer
//!   because of the last digits of the coefficients (torchvision solves for them by least squares);
//! - `AugMix`: each operation within 1 of 255. torchvision applies them to tensors in single precision, in an
//!   order that depends on the processor; a difference of 1 can grow when a later operation of the chain
//!   stretches the histogram or reduces the levels. Of 180 mixes of 224 x 160, three had such values: at most
//!   81 of 107,520.
//!
//! Noise in an erased rectangle is drawn by our own generator, with ImageNet's mean and standard deviation.
//! torchvision's noise has the same distribution when it erases after normalizing.

mod affine;
mod autocontrast;
mod check;
mod color_jitter;
mod crop;
mod equalize;
mod erasing;
mod flip;
mod gaussian_blur;
mod grayscale;
mod invert;
mod number_or_list;
mod perspective;
mod policy;
mod posterize;
mod rotation;
mod sharpness;
mod solarize;
mod step;
mod view_rng;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::affine::RandomAffine;
pub use self::check::AugmentError;
pub use self::color_jitter::ColorJitter;
pub use self::crop::RandomResizedCrop;
pub use self::erasing::RandomErasing;
pub use self::gaussian_blur::GaussianBlur;
pub use self::number_or_list::{ErasingValue, NumberOrList};
pub use self::perspective::RandomPerspective;
pub use self::policy::{AugMix, AutoAugment, Policy, RandAugment, TrivialAugmentWide};
pub use self::posterize::RandomPosterize;
pub use self::sharpness::RandomAdjustSharpness;
pub use self::solarize::RandomSolarize;

use self::autocontrast::Autocontrast;
use self::equalize::Equalize;
use self::flip::{FlipHorizontal, FlipVertical};
use self::grayscale::Grayscale;
use self::invert::Invert;
use self::rotation::RandomRotation;
pub(crate) use self::step::ImageOps;
use self::step::{KeyedStep, chance, keyed};
use self::view_rng::{step_rng, view_rng};
use crate::geometry::Crop;

/// The table `[augment]`: random transforms of the augmented views of training photos.
///
/// Only the steps that are set happen. They are torchvision's transforms (version 2) on PIL images, with the
/// same parameter names, meanings and defaults; a `p` is the probability of a step. Steps are applied in this
/// order: `random_resized_crop`, `horizontal_flip`, `vertical_flip`, `policy`, `rotation`, `affine`,
/// `perspective`, `color_jitter`, `grayscale`, `gaussian_blur`, `sharpness`, `posterize`, `solarize`,
/// `equalize`, `autocontrast`, `invert`, `erasing`. Each step has its own random stream: adding a step does
/// not change what the other steps do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// A crop of random area and aspect ratio, resized to the input size of the backbone
    /// (`RandomResizedCrop`). Without this step, views start from the photo as it is resized and cropped for
    /// evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_resized_crop: Option<RandomResizedCrop>,
    /// Probability of a horizontal flip, left to right (`RandomHorizontalFlip`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub horizontal_flip: Option<f64>,
    /// Largest rotation in degrees, from 0 to 180: with `rotation = 30`, the angle is uniform
    /// between -30 and 30. Pixels outside the photo are black (`RandomRotation`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<f64>,
    /// Probability of a vertical flip, top to bottom (`RandomVerticalFlip`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vertical_flip: Option<f64>,
    /// An automatic augmentation policy: `rand-augment`, `trivial-augment-wide`, `aug-mix` or `auto-augment`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Random rotation, translation, scaling and shear (`RandomAffine`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affine: Option<RandomAffine>,
    /// Random perspective distortion (`RandomPerspective`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perspective: Option<RandomPerspective>,
    /// Random changes of brightness, contrast, saturation and hue, in random order (`ColorJitter`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color_jitter: Option<ColorJitter>,
    /// Probability of conversion to grayscale (`RandomGrayscale`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grayscale: Option<f64>,
    /// Gaussian blur (`GaussianBlur`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gaussian_blur: Option<GaussianBlur>,
    /// Blurring or sharpening by a factor (`RandomAdjustSharpness`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharpness: Option<RandomAdjustSharpness>,
    /// Fewer bits per channel (`RandomPosterize`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub posterize: Option<RandomPosterize>,
    /// Inversion of bright values (`RandomSolarize`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solarize: Option<RandomSolarize>,
    /// Probability of histogram equalization (`RandomEqualize`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equalize: Option<f64>,
    /// Probability of stretching each channel to the range 0 to 255 (`RandomAutocontrast`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autocontrast: Option<f64>,
    /// Probability of inverting all values (`RandomInvert`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invert: Option<f64>,
    /// Erasing of a random rectangle (`RandomErasing`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erasing: Option<RandomErasing>,
    /// Random seed, 0 by default. A view depends on the seed, the view's number, the photo and these
    /// settings, and on nothing else.
    pub seed: u64,
}

/// What the steps have drawn for a view.
#[derive(Debug)]
pub(crate) struct DrawnParameters {
    /// The region of the image that the view shows; `None` without a random resized crop.
    pub(crate) crop: Option<Crop>,
    /// The operations on the resized view, in the order in which they are applied.
    pub(crate) ops: ImageOps,
}

/// The steps that share the random stream of the crop. Each of the others has its own.
const STEPS_WITH_SHARED_STREAM: [&str; 2] = ["horizontal_flip", "rotation"];

impl Augment {
    /// Whether no step is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self { seed: self.seed, ..Self::default() }
    }

    /// Checks that all values of `[augment]` are in range, before training starts.
    ///
    /// # Errors
    /// [`AugmentError`] names the first key whose value is out of range.
    pub fn check(&self) -> Result<(), AugmentError> {
        self.random_resized_crop.as_ref().map_or(Ok(()), RandomResizedCrop::check)?;
        self.steps().try_for_each(|(_, step)| step.check())
    }

    /// The steps after the crop that are set, in the order in which they are applied.
    fn steps(&self) -> impl Iterator<Item = KeyedStep> {
        let steps = [
            chance("horizontal_flip", self.horizontal_flip, FlipHorizontal),
            chance("vertical_flip", self.vertical_flip, FlipVertical),
            keyed("policy", self.policy.clone()),
            keyed("rotation", self.rotation.map(RandomRotation)),
            keyed("affine", self.affine.clone()),
            keyed("perspective", self.perspective),
            keyed("color_jitter", self.color_jitter.clone()),
            chance("grayscale", self.grayscale, Grayscale),
            keyed("gaussian_blur", self.gaussian_blur.clone()),
            keyed("sharpness", self.sharpness),
            keyed("posterize", self.posterize),
            keyed("solarize", self.solarize),
            chance("equalize", self.equalize, Equalize),
            chance("autocontrast", self.autocontrast, Autocontrast),
            chance("invert", self.invert, Invert),
            keyed("erasing", self.erasing.clone()),
        ];
        steps.into_iter().flatten()
    }

    /// Draws the parameters of all configured steps for a view of `view_size` of an image of `size`, both
    /// (width, height). The draws depend only on the seed, `view_index` and `hash`, the hash of the image
    /// file's bytes.
    pub(crate) fn draw(
        &self,
        size: (u32, u32),
        view_size: (u32, u32),
        view_index: u64,
        hash: &[u8; 32],
    ) -> DrawnParameters {
        let mut shared = view_rng(self.seed, view_index, hash);
        let crop = self.random_resized_crop.map(|crop| crop.draw(size, &mut shared));
        let mut ops = Vec::new();
        for (key, step) in self.steps() {
            let is_shared = STEPS_WITH_SHARED_STREAM.contains(&key);
            let own = &mut step_rng(self.seed, view_index, hash, key);
            ops.extend(step.draw(view_size, if is_shared { &mut shared } else { own }));
        }
        DrawnParameters { crop, ops }
    }
}

#[cfg(test)]
mod tests;
