//! A random rectangle that is painted over.

use serde::{Deserialize, Serialize};

use super::half;
use crate::augment::check::{AugmentError, ordered, positive, probability, require};
use crate::augment::ops::{
    Op,
    erase::{Erasure, Fill},
};
use crate::augment::{ErasingValue, Numbers};
use crate::decode::Crop;
use crate::random::KeyedRandom;

/// The parameters of torchvision's `RandomErasing`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Erasing {
    /// The probability.
    pub p: f64,
    /// Least and greatest share of the view's area.
    pub scale: [f64; 2],
    /// Least and greatest height over width.
    pub ratio: [f64; 2],
    /// What is there instead.
    pub value: ErasingValue,
}

impl Default for Erasing {
    fn default() -> Self {
        let value = ErasingValue::Colour(Numbers::One(0.0));
        Self { p: half(), scale: [0.02, 0.33], ratio: [0.3, 3.3], value }
    }
}

impl Erasing {
    pub(in crate::augment) fn check(&self) -> Result<(), AugmentError> {
        let Self { p, scale, ratio, value } = self;
        probability("erasing.p", *p)?;
        require(
            ordered(*scale, &(0.0..=1.0)),
            "erasing.scale",
            format_args!("{scale:?}"),
            "must be two shares of the area in order, from 0 to 1",
        )?;
        require(
            positive(*ratio),
            "erasing.ratio",
            format_args!("{ratio:?}"),
            "must be two ratios in order, above 0",
        )?;
        match value {
            ErasingValue::Random => Ok(()),
            ErasingValue::Colour(numbers) => require(
                numbers
                    .each::<3>()
                    .is_some_and(|channels| channels.iter().all(|value| (0.0..=255.0).contains(value))),
                "erasing.value",
                numbers,
                "must be a value from 0 to 255, or three, or \"random\"",
            ),
        }
    }

    /// torchvision's `RandomErasing.make_params`, for a view of (width, height).
    pub(in crate::augment) fn draw(
        &self,
        (width, height): (u32, u32),
        random: &mut KeyedRandom,
    ) -> Option<Op> {
        if !random.chance(self.p) {
            return None;
        }
        let fill = match &self.value {
            ErasingValue::Random => Fill::Noise(random.next_u64()),
            ErasingValue::Colour(numbers) => Fill::Colour(numbers.each()?.map(|value| value as u8)),
        };
        let area = f64::from(width) * f64::from(height);
        for _ in 0..10 {
            let target = area * random.uniform(self.scale[0], self.scale[1]);
            let aspect = random.uniform(self.ratio[0].ln(), self.ratio[1].ln()).exp();
            let h = (target * aspect).sqrt().round_ties_even() as u32;
            let w = (target / aspect).sqrt().round_ties_even() as u32;
            if h < height && w < width {
                let (top, left) = (random.up_to(height - h), random.up_to(width - w));
                let area = Crop { top, left, height: h, width: w };
                return Some(Op::Erase(Erasure { area, fill }));
            }
        }
        None
    }
}
