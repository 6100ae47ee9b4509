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
mod numbers;
mod ops;
mod policy;
mod sheet;
mod steps;

use image::RgbImage;
use serde::{Deserialize, Serialize};

pub use check::AugmentError;
pub use crop::RandomResizedCrop;
pub use numbers::{ErasingValue, Numbers};
pub use policy::{AugMix, AutoAugment, Policy, RandAugment, TrivialAugmentWide};
pub use sheet::contact_sheet;
pub use steps::{Affine, ColorJitter, Erasing, GaussianBlur, Perspective, Posterize, Sharpness, Solarize};

use self::check::{possible, require};
pub(crate) use self::ops::Op;
use crate::random::KeyedRandom;
use crate::transform::{EvalTransform, Interpolation, Rendering};

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
    pub affine: Option<Affine>,
    /// Seen at a slant (`RandomPerspective`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perspective: Option<Perspective>,
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
    pub sharpness: Option<Sharpness>,
    /// Fewer levels (`RandomPosterize`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub posterize: Option<Posterize>,
    /// Bright values inverted (`RandomSolarize`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solarize: Option<Solarize>,
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
    pub erasing: Option<Erasing>,
    /// What is drawn depends on this, the view's number and the photo.
    pub seed: u64,
}

/// The rendering that is epoch 0's: no view has a number as high.
const FIRST_EPOCH: u64 = 1 << 32;

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
        possible("horizontal_flip", self.horizontal_flip)?;
        if let Some(degrees) = self.rotation {
            let good = (0.0..=180.0).contains(&degrees);
            require(good, "rotation", degrees, "must be degrees, from 0 to 180")?;
        }
        possible("vertical_flip", self.vertical_flip)?;
        self.policy.as_ref().map_or(Ok(()), Policy::check)?;
        self.affine.as_ref().map_or(Ok(()), Affine::check)?;
        self.perspective.as_ref().map_or(Ok(()), Perspective::check)?;
        self.color_jitter.as_ref().map_or(Ok(()), ColorJitter::check)?;
        possible("grayscale", self.grayscale)?;
        self.gaussian_blur.as_ref().map_or(Ok(()), GaussianBlur::check)?;
        self.sharpness.as_ref().map_or(Ok(()), Sharpness::check)?;
        self.posterize.as_ref().map_or(Ok(()), Posterize::check)?;
        self.solarize.as_ref().map_or(Ok(()), Solarize::check)?;
        possible("equalize", self.equalize)?;
        possible("autocontrast", self.autocontrast)?;
        possible("invert", self.invert)?;
        self.erasing.as_ref().map_or(Ok(()), Erasing::check)
    }

    /// View `view` of `photo`, as large as `plain`'s crop. It depends on the seed, the view's number, the photo's key
    /// (the hash of its bytes) and the settings, and on nothing else. Settings that [`Augment::check`] refuses give some
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
    pub fn view(&self, photo: &RgbImage, plain: &EvalTransform, view: u32, key: &[u8; 32]) -> RgbImage {
        self.rendering(photo.dimensions(), plain, view, key).of(photo)
    }

    /// A view of `photo` for epoch `epoch` of a training that has each photo another way every time. It is as
    /// [`view`](Self::view) says, with the epoch in place of the view's number, and drawn apart from all numbered views.
    #[must_use]
    pub fn fresh(&self, photo: &RgbImage, plain: &EvalTransform, epoch: u64, key: &[u8; 32]) -> RgbImage {
        self.fresh_rendering(photo.dimensions(), plain, epoch, key).of(photo)
    }

    /// [`view`](Self::view), for a photo of `size` (width, height) that is not decoded yet.
    #[must_use]
    pub fn rendering(&self, size: (u32, u32), plain: &EvalTransform, view: u32, key: &[u8; 32]) -> Rendering {
        self.draw(size, plain, view.into(), key)
    }

    /// [`fresh`](Self::fresh), for a photo of `size` (width, height) that is not decoded yet.
    #[must_use]
    pub fn fresh_rendering(
        &self,
        size: (u32, u32),
        plain: &EvalTransform,
        epoch: u64,
        key: &[u8; 32],
    ) -> Rendering {
        self.draw(size, plain, epoch.wrapping_add(FIRST_EPOCH), key)
    }

    /// Draws rendering `rendering` of a photo of `size` (width, height): numbered views come first, then epochs.
    fn draw(&self, size: (u32, u32), plain: &EvalTransform, rendering: u64, key: &[u8; 32]) -> Rendering {
        let mut random = KeyedRandom::new(self.seed, rendering, key);
        let crop = self.random_resized_crop.map(|crop| crop.draw(size, &mut random));
        let mirrored = self.horizontal_flip.is_some_and(|p| random.chance(p));
        let degrees = self.rotation.map(|most| random.uniform(-most, most));

        let stream = |step: &str| KeyedRandom::of_step(self.seed, rendering, key, step);
        let happens = |step: &str, p: Option<f64>| p.is_some_and(|p| stream(step).chance(p));
        let view = view_size(plain);
        let mut ops = Vec::new();
        ops.extend(mirrored.then_some(Op::FlipHorizontal));
        ops.extend(happens("vertical_flip", self.vertical_flip).then_some(Op::FlipVertical));
        if let Some(policy) = &self.policy {
            ops.extend(policy.draw(view, &mut stream("policy")));
        }
        ops.extend(degrees.map(|degrees| Op::Rotate { degrees, interpolation: Interpolation::Nearest }));
        ops.extend(self.affine.as_ref().map(|step| step.draw(view, &mut stream("affine"))));
        ops.extend(self.perspective.and_then(|step| step.draw(view, &mut stream("perspective"))));
        if let Some(step) = &self.color_jitter {
            ops.extend(step.draw(&mut stream("color_jitter")));
        }
        ops.extend(happens("grayscale", self.grayscale).then_some(Op::Grayscale));
        ops.extend(self.gaussian_blur.as_ref().and_then(|step| step.draw(&mut stream("gaussian_blur"))));
        ops.extend(self.sharpness.and_then(|step| step.draw(&mut stream("sharpness"))));
        ops.extend(self.posterize.and_then(|step| step.draw(&mut stream("posterize"))));
        ops.extend(self.solarize.and_then(|step| step.draw(&mut stream("solarize"))));
        ops.extend(happens("equalize", self.equalize).then_some(Op::Equalize));
        ops.extend(happens("autocontrast", self.autocontrast).then_some(Op::Autocontrast));
        ops.extend(happens("invert", self.invert).then_some(Op::Invert));
        ops.extend(self.erasing.as_ref().and_then(|step| step.draw(view, &mut stream("erasing"))));
        Rendering { plain: *plain, crop, ops }
    }
}

/// Width and height of a view.
fn view_size(plain: &EvalTransform) -> (u32, u32) {
    (plain.crop.1.max(1), plain.crop.0.max(1))
}

#[cfg(test)]
mod tests;
