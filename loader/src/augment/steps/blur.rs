//! What makes a view less sharp, or more.

use serde::{Deserialize, Serialize};

use super::half;
use crate::augment::Numbers;
use crate::augment::check::{AugmentError, positive, probability, require};
use crate::augment::ops::Op;
use crate::random::KeyedRandom;

/// The parameters of torchvision's `GaussianBlur`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GaussianBlur {
    /// Pixels across and down, odd: one number or two.
    pub kernel_size: Numbers,
    /// The deviation in pixels, or its range.
    #[serde(default = "sigma")]
    pub sigma: Numbers,
    /// The probability.
    #[serde(default = "always")]
    pub p: f64,
}

fn sigma() -> Numbers {
    [0.1, 2.0].into()
}

fn always() -> f64 {
    1.0
}

/// The largest kernel, in pixels.
const KERNEL: f64 = 255.0;

impl GaussianBlur {
    pub(in crate::augment) fn check(&self) -> Result<(), AugmentError> {
        let odd = |size: &f64| (1.0..=KERNEL).contains(size) && size % 2.0 == 1.0;
        require(
            self.kernel_size.each::<2>().is_some_and(|sizes| sizes.iter().all(odd)),
            "gaussian_blur.kernel_size",
            &self.kernel_size,
            "must be one or two odd numbers of pixels, from 1 to 255",
        )?;
        require(
            self.sigma.each::<2>().is_some_and(positive),
            "gaussian_blur.sigma",
            &self.sigma,
            "must be one number above 0, or two in order",
        )?;
        probability("gaussian_blur.p", self.p)
    }

    pub(in crate::augment) fn draw(&self, random: &mut KeyedRandom) -> Option<Op> {
        if !random.chance(self.p) {
            return None;
        }
        let kernel = self.kernel_size.each::<2>()?.map(|size| size.clamp(1.0, KERNEL) as u32 | 1);
        let [low, high] = self.sigma.each::<2>()?;
        Some(Op::GaussianBlur { kernel, sigma: random.uniform(low, high) })
    }
}

/// The parameters of torchvision's `RandomAdjustSharpness`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sharpness {
    /// 0 is blurred, 1 the photo, 2 twice as sharp.
    pub factor: f64,
    /// The probability.
    #[serde(default = "half")]
    pub p: f64,
}

impl Sharpness {
    pub(in crate::augment) fn check(&self) -> Result<(), AugmentError> {
        let good = self.factor >= 0.0 && self.factor.is_finite();
        require(good, "sharpness.factor", self.factor, "must be a factor that is not negative")?;
        probability("sharpness.p", self.p)
    }

    pub(in crate::augment) fn draw(&self, random: &mut KeyedRandom) -> Option<Op> {
        random.chance(self.p).then_some(Op::Sharpness(self.factor))
    }
}
