//! Random erasing of a rectangle.

use headstock_split::KeyedRng;
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{AugmentError, check_probability, is_positive_range, is_range_within, require};
use super::crop::draw_sides;
use super::number_or_list::{ErasingValue, NumberOrList};
use super::step::{ImageOps, Step, half};
use crate::geometry::Crop;
use crate::transform::ImageOp;

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

impl Step for RandomErasing {
    fn check(&self) -> Result<(), AugmentError> {
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

    /// Ten attempts at a random area and aspect ratio, as in torchvision's `RandomErasing.make_params`;
    /// nothing is erased if none of the ten rectangles fits into the view.
    fn draw(&self, (width, height): (u32, u32), random: &mut KeyedRng) -> ImageOps {
        if !random.bernoulli(self.p) {
            return Vec::new();
        }
        let fill = match &self.value {
            ErasingValue::Random => EraseFill::Noise(random.next_u64()),
            ErasingValue::Color(numbers) => match numbers.to_array() {
                Some(color) => EraseFill::Color(color.map(|value| value as u8)),
                None => return Vec::new(),
            },
        };
        let area = f64::from(width) * f64::from(height);
        for _ in 0..10 {
            let [h, w] = draw_sides(area, self.scale, self.ratio, random);
            if h < height && w < width {
                let (top, left) = (random.up_to(height - h), random.up_to(width - w));
                let area = Crop { top, left, height: h, width: w };
                return vec![Box::new(Erase { area, fill })];
            }
        }
        Vec::new()
    }
}

/// A rectangle to erase from an image, and what it is filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Erase {
    pub(super) area: Crop,
    pub(super) fill: EraseFill,
}

/// What an erased rectangle is filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum EraseFill {
    Color([u8; 3]),
    /// Normal noise from the random stream with this state.
    Noise(u64),
}

/// ImageNet's mean and standard deviation per channel: noise in these units is standard normal after
/// normalization, as in torchvision, which erases normalized images.
const NOISE: [(f64, f64); 3] = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];

impl ImageOp for Erase {
    /// The part of the rectangle outside the image is ignored.
    fn apply(&self, mut image: RgbImage) -> RgbImage {
        let Crop { top, left, height, width } = self.area;
        let rows = image.rows_mut().skip(top as usize).take(height as usize);
        let area = rows.flat_map(|row| row.skip(left as usize).take(width as usize));
        match self.fill {
            EraseFill::Color(color) => area.for_each(|pixel| pixel.0 = color),
            EraseFill::Noise(state) => {
                let mut random = KeyedRng::from_state(state);
                let mut value = |(mean, deviation)| mean + deviation * random.normal();
                area.for_each(|pixel| pixel.0 = NOISE.map(|channel| (value(channel) * 255.0).round() as u8));
            }
        }
        image
    }
}
