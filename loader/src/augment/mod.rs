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

mod check;
mod crop;
mod number_or_list;
mod ops;
mod policy;
mod sheet;
mod steps;

use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use check::AugmentError;
pub use crop::RandomResizedCrop;
pub use number_or_list::{ErasingValue, NumberOrList};
pub use policy::{AugMix, AutoAugment, Policy, RandAugment, TrivialAugmentWide};
pub use sheet::contact_sheet;
pub use steps::{
    ColorJitter, GaussianBlur, RandomAdjustSharpness, RandomAffine, RandomErasing, RandomPerspective,
    RandomPosterize, RandomSolarize,
};

use self::check::{check_optional_probability, require};
pub(crate) use self::ops::ImageOp;
use self::view_rng::{step_rng, view_rng};
use crate::transform::{EvalTransform, RenderSpec, Resampling};

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

/// The view index of epoch 0. Cached views have lower indices, so that their random streams differ.
const FIRST_EPOCH_VIEW: u64 = 1 << 32;

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
        check_optional_probability("horizontal_flip", self.horizontal_flip)?;
        if let Some(degrees) = self.rotation {
            let is_valid = (0.0..=180.0).contains(&degrees);
            require(is_valid, "rotation", degrees, "must be an angle in degrees from 0 to 180")?;
        }
        check_optional_probability("vertical_flip", self.vertical_flip)?;
        self.policy.as_ref().map_or(Ok(()), Policy::check)?;
        self.affine.as_ref().map_or(Ok(()), RandomAffine::check)?;
        self.perspective.as_ref().map_or(Ok(()), RandomPerspective::check)?;
        self.color_jitter.as_ref().map_or(Ok(()), ColorJitter::check)?;
        check_optional_probability("grayscale", self.grayscale)?;
        self.gaussian_blur.as_ref().map_or(Ok(()), GaussianBlur::check)?;
        self.sharpness.as_ref().map_or(Ok(()), RandomAdjustSharpness::check)?;
        self.posterize.as_ref().map_or(Ok(()), RandomPosterize::check)?;
        self.solarize.as_ref().map_or(Ok(()), RandomSolarize::check)?;
        check_optional_probability("equalize", self.equalize)?;
        check_optional_probability("autocontrast", self.autocontrast)?;
        check_optional_probability("invert", self.invert)?;
        self.erasing.as_ref().map_or(Ok(()), RandomErasing::check)
    }

    /// Renders the augmented view with index `view` of `image`, of the size of `eval`'s crop. The view
    /// depends on the seed, its index, `hash` (the hash of the image file's bytes) and the settings, and on
    /// nothing else. Settings that [`Augment::check`] rejects give an arbitrary view and do not panic.
    ///
    /// ```
    /// use headstock_loader::augment::{Augment, ColorJitter, Policy, RandomResizedCrop, TrivialAugmentWide};
    /// use headstock_loader::{EvalTransform, Resampling};
    ///
    /// let augment = Augment {
    ///     random_resized_crop: Some(RandomResizedCrop::default()),
    ///     horizontal_flip: Some(0.5),
    ///     policy: Some(Policy::TrivialAugmentWide(TrivialAugmentWide::default())),
    ///     color_jitter: Some(ColorJitter { hue: Some(0.1.into()), ..ColorJitter::default() }),
    ///     ..Augment::default()
    /// };
    /// augment.check()?;
    /// let eval = EvalTransform { resize: 32, crop: (28, 28), interpolation: Resampling::Bilinear };
    /// let image = image::RgbImage::new(60, 40);
    /// let first = augment.view(&image, &eval, 1, &[7; 32]);
    /// assert_eq!(first, augment.view(&image, &eval, 1, &[7; 32]));
    /// assert_eq!(first.dimensions(), (28, 28));
    /// # Ok::<(), headstock_loader::AugmentError>(())
    /// ```
    #[must_use]
    pub fn view(&self, image: &RgbImage, eval: &EvalTransform, view: u32, hash: &[u8; 32]) -> RgbImage {
        self.render_spec(image.dimensions(), eval, view, hash).render(image)
    }

    /// Renders the augmented view of `image` for the training epoch `epoch`, of the size of `eval`'s crop,
    /// for a training that draws a new view in each epoch instead of caching a few. Its random numbers differ
    /// from those of every cached [`view`](Self::view). `hash` is the hash of the image file's bytes.
    #[must_use]
    pub fn epoch_view(
        &self,
        image: &RgbImage,
        eval: &EvalTransform,
        epoch: u64,
        hash: &[u8; 32],
    ) -> RgbImage {
        self.epoch_render_spec(image.dimensions(), eval, epoch, hash).render(image)
    }

    /// Draws the random parameters of the cached [`view`](Self::view) with index `view`, for an image of
    /// `size` (width, height) that is not decoded yet, so that only the region that the view needs is
    /// decoded. `hash` is the hash of the image file's bytes.
    #[must_use]
    pub fn render_spec(
        &self,
        size: (u32, u32),
        eval: &EvalTransform,
        view: u32,
        hash: &[u8; 32],
    ) -> RenderSpec {
        self.draw(size, eval, view.into(), hash)
    }

    /// Draws the random parameters of the [`epoch_view`](Self::epoch_view) for `epoch`, for an image of
    /// `size` (width, height) that is not decoded yet, so that only the region that the view needs is
    /// decoded. `hash` is the hash of the image file's bytes.
    #[must_use]
    pub fn epoch_render_spec(
        &self,
        size: (u32, u32),
        eval: &EvalTransform,
        epoch: u64,
        hash: &[u8; 32],
    ) -> RenderSpec {
        self.draw(size, eval, epoch.wrapping_add(FIRST_EPOCH_VIEW), hash)
    }

    /// Draws the random parameters of all configured steps for a view of an image of `size` (width, height).
    /// The draws depend only on the seed, `view_index` (a cached view's number, or [`FIRST_EPOCH_VIEW`] plus
    /// the epoch) and `hash`, the hash of the image file's bytes. In the result, the operations are in the
    /// order in which they are applied; `eval` gives the size of the view.
    fn draw(&self, size: (u32, u32), eval: &EvalTransform, view_index: u64, hash: &[u8; 32]) -> RenderSpec {
        // The stream that the crop, the horizontal flip and the rotation share.
        let mut random = view_rng(self.seed, view_index, hash);
        let crop = self.random_resized_crop.map(|crop| crop.draw(size, &mut random));
        let flips = self.horizontal_flip.is_some_and(|p| random.bernoulli(p));
        let degrees = self.rotation.map(|max_degrees| random.uniform_between(-max_degrees, max_degrees));

        // Each of the other steps has its own stream.
        let random_for = |step: &str| step_rng(self.seed, view_index, hash, step);
        let occurs = |step: &str, p: Option<f64>| p.is_some_and(|p| random_for(step).bernoulli(p));
        let output_size = view_size(eval);
        let mut ops = Vec::new();
        ops.extend(flips.then_some(ImageOp::FlipHorizontal));
        ops.extend(occurs("vertical_flip", self.vertical_flip).then_some(ImageOp::FlipVertical));
        if let Some(policy) = &self.policy {
            ops.extend(policy.draw(output_size, &mut random_for("policy")));
        }
        ops.extend(degrees.map(|degrees| ImageOp::Rotate { degrees, interpolation: Resampling::Nearest }));
        ops.extend(self.affine.as_ref().map(|step| step.draw(output_size, &mut random_for("affine"))));
        ops.extend(self.perspective.and_then(|step| step.draw(output_size, &mut random_for("perspective"))));
        if let Some(step) = &self.color_jitter {
            ops.extend(step.draw(&mut random_for("color_jitter")));
        }
        ops.extend(occurs("grayscale", self.grayscale).then_some(ImageOp::Grayscale));
        ops.extend(self.gaussian_blur.as_ref().and_then(|step| step.draw(&mut random_for("gaussian_blur"))));
        ops.extend(self.sharpness.and_then(|step| step.draw(&mut random_for("sharpness"))));
        ops.extend(self.posterize.and_then(|step| step.draw(&mut random_for("posterize"))));
        ops.extend(self.solarize.and_then(|step| step.draw(&mut random_for("solarize"))));
        ops.extend(occurs("equalize", self.equalize).then_some(ImageOp::Equalize));
        ops.extend(occurs("autocontrast", self.autocontrast).then_some(ImageOp::Autocontrast));
        ops.extend(occurs("invert", self.invert).then_some(ImageOp::Invert));
        ops.extend(self.erasing.as_ref().and_then(|step| step.draw(output_size, &mut random_for("erasing"))));
        RenderSpec { eval: *eval, crop, ops }
    }
}

/// Width and height of a view: those of the evaluation crop, whose size is (height, width).
fn view_size(eval: &EvalTransform) -> (u32, u32) {
    (eval.crop.1.max(1), eval.crop.0.max(1))
}

#[cfg(test)]
mod tests;
mod view_rng;
