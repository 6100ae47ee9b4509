//! Augmented views of a photo: torchvision's random transforms on PIL images.

use image::RgbImage;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::decode::Crop;
use crate::random::KeyedRandom;
use crate::transform::{EvalTransform, Rendering};

/// The table `[augment]`: what may happen to a view, in the order in which it happens.
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
    /// What is drawn depends on this, the view's number and the photo.
    pub seed: u64,
}

/// The parameters of torchvision's `RandomResizedCrop`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandomResizedCrop {
    /// Least and greatest share of the photo's area.
    pub scale: [f64; 2],
    /// Least and greatest width over height.
    pub ratio: [f64; 2],
}

impl Default for RandomResizedCrop {
    fn default() -> Self {
        Self { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
    }
}

/// A key of `[augment]` with a value out of its range.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("`augment.{key}` is {value}: {expected}")]
pub struct AugmentError {
    /// The key within `[augment]`.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What is accepted.
    pub expected: &'static str,
}

/// The rendering that is epoch 0's: no view has a number as high.
const FIRST_EPOCH: u64 = 1 << 32;

impl Augment {
    /// Whether nothing would change a photo.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.random_resized_crop.is_none() && self.horizontal_flip.is_none() && self.rotation.is_none()
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`AugmentError`], which names the key.
    pub fn check(&self) -> Result<(), AugmentError> {
        let fault = |key, value, expected| Err(AugmentError { key, value, expected });
        let ordered = |[low, high]: [f64; 2]| low > 0.0 && low <= high && high.is_finite();
        if let Some(RandomResizedCrop { scale, ratio }) = self.random_resized_crop {
            if !ordered(scale) || scale[1] > 1.0 {
                return fault(
                    "random_resized_crop.scale",
                    format!("{scale:?}"),
                    "must be two shares of the area in order, above 0 and up to 1",
                );
            }
            if !ordered(ratio) {
                return fault(
                    "random_resized_crop.ratio",
                    format!("{ratio:?}"),
                    "must be two ratios in order, above 0",
                );
            }
        }
        match self.horizontal_flip {
            Some(p) if !(0.0..=1.0).contains(&p) => {
                return fault("horizontal_flip", p.to_string(), "must be a probability, from 0 to 1");
            }
            _ => {}
        }
        match self.rotation {
            Some(degrees) if !(0.0..=180.0).contains(&degrees) => {
                fault("rotation", degrees.to_string(), "must be degrees, from 0 to 180")
            }
            _ => Ok(()),
        }
    }

    /// View `view` of `photo`, as large as `plain`'s crop. It depends on the seed, the view's number, the photo's key
    /// (the hash of its bytes) and the settings, and on nothing else. Settings that [`Augment::check`] refuses give some
    /// view, without a panic.
    ///
    /// ```
    /// use headstock_loader::{Augment, EvalTransform, Interpolation, RandomResizedCrop};
    ///
    /// let augment = Augment {
    ///     random_resized_crop: Some(RandomResizedCrop::default()),
    ///     horizontal_flip: Some(0.5),
    ///     rotation: Some(30.0),
    ///     seed: 0,
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

    /// Draws rendering `rendering`: numbered views come first, then epochs.
    fn draw(&self, size: (u32, u32), plain: &EvalTransform, rendering: u64, key: &[u8; 32]) -> Rendering {
        let mut random = KeyedRandom::new(self.seed, rendering, key);
        Rendering {
            plain: *plain,
            crop: self.random_resized_crop.map(|crop| crop.draw(size, &mut random)),
            mirrored: self.horizontal_flip.is_some_and(|p| random.chance(p)),
            degrees: self.rotation.map(|most| random.uniform(-most, most)),
        }
    }
}

impl RandomResizedCrop {
    /// torchvision's `RandomResizedCrop.get_params`.
    fn draw(&self, (width, height): (u32, u32), random: &mut KeyedRandom) -> Crop {
        let area = f64::from(width) * f64::from(height);
        for _ in 0..10 {
            let target = area * random.uniform(self.scale[0], self.scale[1]);
            let aspect = random.uniform(self.ratio[0].ln(), self.ratio[1].ln()).exp();
            let w = (target * aspect).sqrt().round_ties_even() as u32;
            let h = (target / aspect).sqrt().round_ties_even() as u32;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let (top, left) = (random.up_to(height - h), random.up_to(width - w));
                return Crop { top, left, height: h, width: w };
            }
        }
        let ratio = f64::from(width) / f64::from(height);
        let rounded = |value: f64| (value.round_ties_even() as u32).max(1);
        let (w, h) = if ratio < self.ratio[0] {
            (width, rounded(f64::from(width) / self.ratio[0]))
        } else if ratio > self.ratio[1] {
            (rounded(f64::from(height) * self.ratio[1]), height)
        } else {
            (width, height)
        };
        Crop { top: (height - h) / 2, left: (width - w) / 2, height: h, width: w }
    }
}

#[cfg(test)]
mod tests;
