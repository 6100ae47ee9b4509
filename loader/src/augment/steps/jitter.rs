//! Color jitter.

use headstock_split::KeyedRng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::augment::NumberOrList;
use crate::augment::check::{AugmentError, is_range_within, require};
use crate::augment::ops::ImageOp;

/// The parameters of torchvision's `ColorJitter`. The changes are applied in random order; changes that are
/// left out do not happen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ColorJitter {
    /// Brightness factor: one number `x` for the range from 1 - x (at least 0) to 1 + x, or the range `[low,
    /// high]`. 0 is black, 1 leaves the photo unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brightness: Option<NumberOrList>,
    /// Contrast factor: one number or a range, as for `brightness`. 0 is the mean gray.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contrast: Option<NumberOrList>,
    /// Saturation factor: one number or a range, as for `brightness`. 0 is grayscale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saturation: Option<NumberOrList>,
    /// Hue shift in turns of the color wheel, at most 0.5: one number `x` for the range from -x to x, or the
    /// range `[low, high]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hue: Option<NumberOrList>,
}

impl ColorJitter {
    /// Checks the config of this step; the error names the first value that is out of range.
    pub(in crate::augment) fn check(&self) -> Result<(), AugmentError> {
        for (key, factor) in [
            ("color_jitter.brightness", &self.brightness),
            ("color_jitter.contrast", &self.contrast),
            ("color_jitter.saturation", &self.saturation),
        ] {
            if let Some(factor) = factor {
                require(
                    factor_range(factor).is_some_and(|range| is_range_within(range, &(0.0..=f64::MAX))),
                    key,
                    factor,
                    "must be a number of at least 0, or two such numbers in ascending order",
                )?;
            }
        }
        match &self.hue {
            Some(hue) => require(
                hue.range_around(0.0).is_some_and(|range| is_range_within(range, &(-0.5..=0.5))),
                "color_jitter.hue",
                hue,
                "must be a number from 0 to 0.5, or two numbers from -0.5 to 0.5 in ascending order",
            ),
            None => Ok(()),
        }
    }

    /// Draws the factors and the hue shift, and the order of the changes, as torchvision's
    /// `ColorJitter.make_params`. Returns the changes that are set, in the order in which they are applied.
    pub(in crate::augment) fn draw(&self, random: &mut KeyedRng) -> Vec<ImageOp> {
        let mut order = [0, 1, 2, 3];
        random.shuffle(&mut order);
        let mut draw_uniform =
            |range: Option<[f64; 2]>| range.map(|[low, high]| random.uniform_between(low, high));
        let drawn = [
            draw_uniform(self.brightness.as_ref().and_then(factor_range)).map(ImageOp::Brightness),
            draw_uniform(self.contrast.as_ref().and_then(factor_range)).map(ImageOp::Contrast),
            draw_uniform(self.saturation.as_ref().and_then(factor_range)).map(ImageOp::Saturation),
            draw_uniform(self.hue.as_ref().and_then(|hue| hue.range_around(0.0))).map(ImageOp::Hue),
        ];
        order.into_iter().filter_map(|index: usize| drawn[index].clone()).collect()
    }
}

/// The range of a factor around 1; the low end for a single number is clamped to 0. `None` for a list that
/// does not have two numbers.
fn factor_range(factor: &NumberOrList) -> Option<[f64; 2]> {
    let [low, high] = factor.range_around(1.0)?;
    Some([if matches!(factor, NumberOrList::Number(_)) { low.max(0.0) } else { low }, high])
}
