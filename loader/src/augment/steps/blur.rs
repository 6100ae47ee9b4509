//! Gaussian blur and sharpness.

use headstock_split::KeyedRng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::half;
use crate::augment::NumberOrList;
use crate::augment::check::{AugmentError, check_probability, is_positive_range, require};
use crate::augment::ops::ImageOp;

/// The parameters of torchvision's `GaussianBlur`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GaussianBlur {
    /// Kernel width and height in pixels: one odd number for both, or two, from 1 to 255. Required.
    pub kernel_size: NumberOrList,
    /// Standard deviation in pixels, above 0: one number or the range `[low, high]`. Default `[0.1, 2.0]`.
    #[serde(default = "sigma")]
    pub sigma: NumberOrList,
    /// Probability of the step. Default 1.
    #[serde(default = "always")]
    pub p: f64,
}

/// torchvision's default range of the standard deviation.
fn sigma() -> NumberOrList {
    [0.1, 2.0].into()
}

/// The default probability of the blur, which torchvision always applies.
fn always() -> f64 {
    1.0
}

/// The largest kernel size in pixels.
const MAX_KERNEL_SIZE: f64 = 255.0;

impl GaussianBlur {
    /// Checks the config of this step; the error names the first value that is out of range.
    pub(in crate::augment) fn check(&self) -> Result<(), AugmentError> {
        let is_odd_size = |size: &f64| (1.0..=MAX_KERNEL_SIZE).contains(size) && size % 2.0 == 1.0;
        require(
            self.kernel_size.to_array::<2>().is_some_and(|sizes| sizes.iter().all(is_odd_size)),
            "gaussian_blur.kernel_size",
            &self.kernel_size,
            "must be one or two odd numbers of pixels from 1 to 255",
        )?;
        require(
            self.sigma.to_array::<2>().is_some_and(is_positive_range),
            "gaussian_blur.sigma",
            &self.sigma,
            "must be a number above 0, or two such numbers in ascending order",
        )?;
        check_probability("gaussian_blur.p", self.p)
    }

    /// Draws whether the blur happens and its standard deviation, uniform in the range `sigma`; `None` if it
    /// does not happen.
    pub(in crate::augment) fn draw(&self, random: &mut KeyedRng) -> Option<ImageOp> {
        if !random.bernoulli(self.p) {
            return None;
        }
        // Sizes that `check` rejects become valid here (`| 1` makes them odd), so that nothing panics.
        let kernel_size =
            self.kernel_size.to_array::<2>()?.map(|size| size.clamp(1.0, MAX_KERNEL_SIZE) as u32 | 1);
        let [low, high] = self.sigma.to_array::<2>()?;
        Some(ImageOp::GaussianBlur { kernel_size, sigma: random.uniform_between(low, high) })
    }
}

/// The parameters of torchvision's `RandomAdjustSharpness`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomAdjustSharpness {
    /// Sharpness factor, at least 0: 0 blurs, 1 leaves the photo unchanged, 2 is twice as sharp. Required.
    pub factor: f64,
    /// Probability of the step. Default 0.5.
    #[serde(default = "half")]
    pub p: f64,
}

impl RandomAdjustSharpness {
    /// Checks the config of this step; the error names the first value that is out of range.
    pub(in crate::augment) fn check(&self) -> Result<(), AugmentError> {
        let is_valid = self.factor >= 0.0 && self.factor.is_finite();
        require(is_valid, "sharpness.factor", self.factor, "must be a finite factor of at least 0")?;
        check_probability("sharpness.p", self.p)
    }

    /// The change of sharpness with probability `p`, otherwise `None`.
    pub(in crate::augment) fn draw(&self, random: &mut KeyedRng) -> Option<ImageOp> {
        random.bernoulli(self.p).then_some(ImageOp::Sharpness(self.factor))
    }
}
