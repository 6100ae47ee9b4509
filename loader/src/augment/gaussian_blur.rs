//! Gaussian blur.

use headstock_split::KeyedRng;
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{AugmentError, check_probability, is_positive_range, require};
use super::number_or_list::NumberOrList;
use super::step::{ImageOps, Step};
use crate::transform::ImageOp;

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

impl Step for GaussianBlur {
    fn check(&self) -> Result<(), AugmentError> {
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

    fn draw(&self, _: (u32, u32), random: &mut KeyedRng) -> ImageOps {
        if !random.bernoulli(self.p) {
            return Vec::new();
        }
        let (Some(sizes), Some([low, high])) = (self.kernel_size.to_array::<2>(), self.sigma.to_array())
        else {
            return Vec::new();
        };
        // Sizes that `check` rejects become valid here (`| 1` makes them odd), so that nothing panics.
        let kernel_size = sizes.map(|size| size.clamp(1.0, MAX_KERNEL_SIZE) as u32 | 1);
        vec![Box::new(Blur { kernel_size, sigma: random.uniform_between(low, high) })]
    }
}

/// Blurs with a Gaussian kernel, with reflected edges. torchvision rejects an image that is not larger than
/// half the kernel; here such an image is reflected repeatedly.
///
/// Source: torchvision 0.29.2's `gaussian_blur_image`, which sums over both axes at once and not in two
/// passes.
#[derive(Clone, Debug)]
pub(super) struct Blur {
    /// Width and height of the kernel in pixels, both odd.
    pub(super) kernel_size: [u32; 2],
    /// Standard deviation in pixels.
    pub(super) sigma: f64,
}

impl ImageOp for Blur {
    fn apply(&self, image: RgbImage) -> RgbImage {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let [x_weights, y_weights] = self.kernel_size.map(|size| gaussian_weights(size, self.sigma));
        let stride = width * 3;
        let columns = reflected_axis(width, x_weights.len());
        let mut blurred = vec![0.0_f32; stride * height];
        // Blurred horizontally, then vertically. `max(1)` is for an image without pixels.
        for (row, out) in
            image.as_raw().chunks_exact(stride.max(1)).zip(blurred.chunks_exact_mut(stride.max(1)))
        {
            for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
                for (weight, &source_x) in x_weights.iter().zip(&columns[x..]) {
                    for (value, &source) in pixel.iter_mut().zip(&row[source_x * 3..]) {
                        *value += weight * f32::from(source);
                    }
                }
            }
        }
        let rows = reflected_axis(height, y_weights.len());
        let mut out = RgbImage::new(image.width(), image.height());
        let mut sums = vec![0.0_f32; stride];
        for (y, out_row) in out.chunks_exact_mut(stride.max(1)).enumerate() {
            sums.fill(0.0);
            for (weight, &source_y) in y_weights.iter().zip(&rows[y..]) {
                for (sum, value) in sums.iter_mut().zip(&blurred[source_y * stride..]) {
                    *sum += weight * value;
                }
            }
            for (value, sum) in out_row.iter_mut().zip(&sums) {
                *value = sum.round_ties_even() as u8;
            }
        }
        out
    }
}

/// The weights of a Gaussian kernel of `size` pixels with standard deviation `sigma`; their sum is 1.
fn gaussian_weights(size: u32, sigma: f64) -> Vec<f32> {
    let center = f64::from(size / 2);
    let weight = |i: u32| (-((f64::from(i) - center) / sigma).powi(2) / 2.0).exp();
    let sum: f64 = (0..size).map(weight).sum();
    (0..size).map(|i| (weight(i) / sum) as f32).collect()
}

/// The columns or rows of an axis of `size` pixels, extended by half of a kernel of `kernel_size` pixels at both
/// ends, so that a blur finds a pixel at every position of the kernel: with the kernel's center at pixel `i`, its
/// pixels are those from index `i` of the result on. Positions outside are reflected without repeating the edge
/// pixel: position -1 is pixel 1.
fn reflected_axis(size: usize, kernel_size: usize) -> Vec<usize> {
    let last = size.saturating_sub(1) as i64;
    let radius = (kernel_size / 2) as i64;
    // A triangle wave with the period 2 `last`.
    let reflect = |index: i64| match last {
        0 => 0,
        _ => (last - (index.rem_euclid(2 * last) - last).abs()) as usize,
    };
    (-radius..=last + radius).map(reflect).collect()
}
