//! Augmented views of a photo: torchvision's random transforms, version 2, on PIL images.
//!
//! What happens to a view happens in this order: a random resized crop (or the plain view), the flips left and right and up and
//! down, the policy, rotation, affine map, perspective, colour jitter, greyscale, Gaussian blur, sharpness, posterizing,
//! solarizing, equalizing, autocontrast, inversion, erasing.
//!
//! First all parameters are drawn, then they are applied. The draws depend on the seed, the rendering and the photo; each step
//! has a stream of its own, so that one does not move the draws of another. (The crop, the flip left and right and the
//! rotation share the first.) Parameters are distributed as torchvision's.
//!
//! With given parameters a view is torchvision's:
//!
//! - to the bit: flips, rotation, affine map, brightness, contrast, saturation, hue, greyscale, sharpness, posterizing,
//!   solarizing, equalizing, autocontrast, inversion, erasing in a colour, and `RandAugment`, `TrivialAugmentWide` and
//!   `AutoAugment`, which are made of these;
//! - to 1 of 255: the crop and the plain view (their filters); Gaussian blur, whose sums are of single precision in another
//!   order; perspective, which cuts values where they may be whole but for the last digits of coefficients that torchvision
//!   finds by least squares;
//! - `AugMix`: each operation to 1 of 255. torchvision does them on tensors in single precision, in an order that depends on the
//!   processor, and a value that is off by 1 can be further off after a later operation of its chain stretched the histogram
//!   or cut it into levels. Of 180 mixes of 224 x 160, three had such values, of 107,520 at most 81.
//!
//! Noise in an erased rectangle is ours: ImageNet's mean and deviation, which is what torchvision's is when it erases after
//! normalising.

mod check;
mod crop;
mod number_or_list;
mod ops;
mod policy;
mod sheet;
mod steps;

use image::RgbImage;
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
use crate::random::KeyedRandom;
use crate::transform::{EvalTransform, RenderSpec, Resampling};

/// The table `[augment]`: what may happen to a view, in the [module's](self) order. Only what is there happens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// A crop of random area and aspect ratio, resized (`RandomResizedCrop`). Without it a view starts from the plain one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_resized_crop: Option<RandomResizedCrop>,
    /// The probability of mirroring left and right (`RandomHorizontalFlip`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub horizontal_flip: Option<f64>,
    /// Degrees; turned by a uniform angle from minus this to this, nearest pixel, black outside (`RandomRotation`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<f64>,
    /// The probability of mirroring up and down (`RandomVerticalFlip`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vertical_flip: Option<f64>,
    /// Operations chosen at random (`RandAugment`, `TrivialAugmentWide`, `AugMix`, `AutoAugment`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Turned, moved, sized and sheared (`RandomAffine`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affine: Option<RandomAffine>,
    /// Seen at a slant (`RandomPerspective`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perspective: Option<RandomPerspective>,
    /// Brightness, contrast, saturation and hue (`ColorJitter`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color_jitter: Option<ColorJitter>,
    /// The probability of grey (`RandomGrayscale`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grayscale: Option<f64>,
    /// Blurred (`GaussianBlur`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gaussian_blur: Option<GaussianBlur>,
    /// Blurred or sharpened (`RandomAdjustSharpness`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharpness: Option<RandomAdjustSharpness>,
    /// Fewer levels (`RandomPosterize`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub posterize: Option<RandomPosterize>,
    /// Bright values inverted (`RandomSolarize`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solarize: Option<RandomSolarize>,
    /// The probability of a level histogram (`RandomEqualize`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equalize: Option<f64>,
    /// The probability of values stretched from 0 to 255 (`RandomAutocontrast`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autocontrast: Option<f64>,
    /// The probability of inverted values (`RandomInvert`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invert: Option<f64>,
    /// A rectangle painted over (`RandomErasing`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erasing: Option<RandomErasing>,
    /// What is drawn depends on this, the view's number and the photo.
    pub seed: u64,
}

/// The rendering that is epoch 0's: no view has a number as high.
const FIRST_EPOCH_VIEW: u64 = 1 << 32;

impl Augment {
    /// Whether nothing would change a photo.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self { seed: self.seed, ..Self::default() }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`AugmentError`], which names the key.
    pub fn check(&self) -> Result<(), AugmentError> {
        self.random_resized_crop.as_ref().map_or(Ok(()), RandomResizedCrop::check)?;
        check_optional_probability("horizontal_flip", self.horizontal_flip)?;
        if let Some(degrees) = self.rotation {
            let good = (0.0..=180.0).contains(&degrees);
            require(good, "rotation", degrees, "must be degrees, from 0 to 180")?;
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

    /// View `view` of `photo`, as large as `plain`'s crop. It depends on the seed, the view's number, the photo's key
    /// (the hash of its bytes) and the settings, and on nothing else. Settings that [`Augment::check_not_past_end`] refuses give some
    /// view, without a panic.
    ///
    /// ```
    /// use headstock_loader::augment::{Augment, ColorJitter, Policy, RandomResizedCrop, TrivialAugmentWide};
    /// use headstock_loader::{EvalTransform, Interpolation};
    ///
    /// let augment = Augment {
    ///     random_resized_crop: Some(RandomResizedCrop::default()),
    ///     horizontal_flip: Some(0.5),
    ///     policy: Some(Policy::TrivialAugmentWide(TrivialAugmentWide::default())),
    ///     color_jitter: Some(ColorJitter { hue: Some(0.1.into()), ..ColorJitter::default() }),
    ///     ..Augment::default()
    /// };
    /// augment.check()?;
    /// let plain = EvalTransform { resize: 32, crop: (28, 28), interpolation: Interpolation::Bilinear };
    /// let photo = image::RgbImage::new(60, 40);
    /// let first = augment.view(&photo, &plain, 1, &[7; 32]);
    /// assert_eq!(first, augment.view(&photo, &plain, 1, &[7; 32]));
    /// assert_eq!(first.dimensions(), (28, 28));
    /// # Ok::<(), headstock_loader::AugmentError>(())
    /// ```
    #[must_use]
    pub fn view(&self, photo: &RgbImage, eval: &EvalTransform, view: u32, image_hash: &[u8; 32]) -> RgbImage {
        self.render_spec(photo.dimensions(), eval, view, image_hash).render(photo)
    }

    /// A view of `photo` for epoch `epoch` of a training that has each photo another way every time. It is as
    /// [`output_size`](Self::output_size) says, with the epoch in place of the view's number, and drawn apart from all numbered views.
    #[must_use]
    pub fn epoch_view(
        &self,
        photo: &RgbImage,
        eval: &EvalTransform,
        epoch: u64,
        image_hash: &[u8; 32],
    ) -> RgbImage {
        self.epoch_render_spec(photo.dimensions(), eval, epoch, image_hash).render(photo)
    }

    /// [`output_size`](Self::output_size), for a photo of `size` (width, height) that is not decoded yet.
    #[must_use]
    pub fn render_spec(
        &self,
        size: (u32, u32),
        eval: &EvalTransform,
        view: u32,
        image_hash: &[u8; 32],
    ) -> RenderSpec {
        self.draw(size, eval, view.into(), image_hash)
    }

    /// [`epoch_view`](Self::epoch_view), for a photo of `size` (width, height) that is not decoded yet.
    #[must_use]
    pub fn epoch_render_spec(
        &self,
        size: (u32, u32),
        eval: &EvalTransform,
        epoch: u64,
        image_hash: &[u8; 32],
    ) -> RenderSpec {
        self.draw(size, eval, epoch.wrapping_add(FIRST_EPOCH_VIEW), image_hash)
    }

    /// Draws rendering `rendering` of a photo of `size` (width, height): numbered views come first, then epochs.
    fn draw(
        &self,
        size: (u32, u32),
        eval: &EvalTransform,
        view_index: u64,
        image_hash: &[u8; 32],
    ) -> RenderSpec {
        let mut random = KeyedRandom::new(self.seed, view_index, image_hash);
        let crop = self.random_resized_crop.map(|crop| crop.draw(size, &mut random));
        let flips = self.horizontal_flip.is_some_and(|p| random.bernoulli(p));
        let degrees = self.rotation.map(|max_degrees| random.uniform(-max_degrees, max_degrees));

        let random_for = |step: &str| KeyedRandom::for_step(self.seed, view_index, image_hash, step);
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

/// Width and height of a view.
fn view_size(eval: &EvalTransform) -> (u32, u32) {
    (eval.crop.1.max(1), eval.crop.0.max(1))
}

#[cfg(test)]
mod tests;
