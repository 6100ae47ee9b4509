//! Random erasing of a rectangle.

use headstock_split::KeyedRng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::half;
use crate::augment::check::{AugmentError, check_probability, is_positive_range, is_range_within, require};
use crate::augment::ops::{
    ImageOp,
    erase::{EraseFill, Erasure},
};
use crate::augment::{ErasingValue, NumberOrList};
use crate::decode::Crop;

/// The parameters of torchvision's `RandomErasing`: a random rectangle is filled with a color or noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RandomErasing {
    /// Probability of the step. Default 0.5.
    pub p: f64,
    /// Smallest and largest area of the rectangle, as fractions of the view's area from 0 to 1. Default
    /// `[0.02, 0.33]`.
    pub scale: [f64; 2],
    /// Smallest and largest aspect ratio (height / width) of the rectangle; above 0. Default `[0.3, 3.3]`.
    pub ratio: [f64; 2],
    /// What fills the rectangle: a value or a list of three, from 0 to 255, or `"random"` for noise. Default
    /// 0, black.
    pub value: ErasingValue,
}

impl Default for RandomErasing {
    fn default() -> Self {
        let value = ErasingValue::Color(NumberOrList::Number(0.0));
        Self { p: half(), scale: [0.02, 0.33], ratio: [0.3, 3.3], value }
    }
}

impl RandomErasing {
    /// Checks the config of this step; the error names the first value that is out of range.
    pub(in crate::augment) fn check(&self) -> Result<(), AugmentError> {
        let Self { p, scale, ratio, value } = self;
        check_probability("erasing.p", *p)?;
        require(
            is_range_within(*scale, &(0.0..=1.0)),
            "erasing.scale",
            format_args!("{scale:?}"),
            "must be two fractions of the view's area from 0 to 1, in ascending order",
        )?;
        require(
            is_positive_range(*ratio),
            "erasing.ratio",
            format_args!("{ratio:?}"),
            "must be two aspect ratios above 0, in ascending order",
        )?;
        match value {
            ErasingValue::Random => Ok(()),
            ErasingValue::Color(numbers) => require(
                numbers
                    .to_array::<3>()
                    .is_some_and(|channels| channels.iter().all(|value| (0.0..=255.0).contains(value))),
                "erasing.value",
                numbers,
                "must be one or three values from 0 to 255, or \"random\"",
            ),
        }
    }

    /// Draws the rectangle to erase from a view of (width, height), as torchvision's
    /// `RandomErasing.make_params`: ten attempts at a random area and aspect ratio. `None` if the step does
    /// not happen, or if none of the ten rectangles fits into the view.
    pub(in crate::augment) fn draw(
        &self,
        (width, height): (u32, u32),
        random: &mut KeyedRng,
    ) -> Option<ImageOp> {
        if !random.bernoulli(self.p) {
            return None;
        }
        let fill = match &self.value {
            ErasingValue::Random => EraseFill::Noise(random.next_u64()),
            ErasingValue::Color(numbers) => EraseFill::Color(numbers.to_array()?.map(|value| value as u8)),
        };
        let area = f64::from(width) * f64::from(height);
        for _ in 0..10 {
            let target_area = area * random.uniform_between(self.scale[0], self.scale[1]);
            // Uniform in its logarithm: twice as high is as likely as twice as wide.
            let aspect = random.uniform_between(self.ratio[0].ln(), self.ratio[1].ln()).exp();
            let h = (target_area * aspect).sqrt().round_ties_even() as u32;
            let w = (target_area / aspect).sqrt().round_ties_even() as u32;
            if h < height && w < width {
                let (top, left) = (random.up_to(height - h), random.up_to(width - w));
                let area = Crop { top, left, height: h, width: w };
                return Some(ImageOp::Erase(Erasure { area, fill }));
            }
        }
        None
    }
}
