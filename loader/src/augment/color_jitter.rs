//! Color jitter.
//!
//! Source: Pillow 13.0.0's `Convert.c` (`rgb2hsv_row`, `hsv2rgb`) and `ImageEnhance.py`.

use headstock_split::KeyedRng;
use image::{Rgb, RgbImage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{AugmentError, is_range_within, require};
use super::number_or_list::NumberOrList;
use super::step::{ImageOps, Step};
use crate::transform::ImageOp;
use crate::transform::enhance::{blend, luma};
use crate::transform::lookup_table::map_values;

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

impl Step for ColorJitter {
    fn check(&self) -> Result<(), AugmentError> {
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

    /// The order of the changes is random too, as in torchvision's `ColorJitter.make_params`.
    fn draw(&self, _: (u32, u32), random: &mut KeyedRng) -> ImageOps {
        let mut order: [usize; 4] = [0, 1, 2, 3];
        random.shuffle(&mut order);
        let mut draw_uniform =
            |range: Option<[f64; 2]>| range.map(|[low, high]| random.uniform_between(low, high));
        let brightness = draw_uniform(self.brightness.as_ref().and_then(factor_range));
        let contrast = draw_uniform(self.contrast.as_ref().and_then(factor_range));
        let saturation = draw_uniform(self.saturation.as_ref().and_then(factor_range));
        let hue = draw_uniform(self.hue.as_ref().and_then(|hue| hue.range_around(0.0)));
        let mut drawn = [
            boxed(brightness.map(Brightness)),
            boxed(contrast.map(Contrast)),
            boxed(saturation.map(Saturation)),
            boxed(hue.map(Hue)),
        ];
        order.into_iter().filter_map(|index| drawn[index].take()).collect()
    }
}

/// `op` with its type hidden.
fn boxed(op: Option<impl ImageOp>) -> Option<Box<dyn ImageOp>> {
    Some(Box::new(op?))
}

/// The range of a factor around 1; the low end for a single number is clamped to 0. `None` for a list that
/// does not have two numbers.
fn factor_range(factor: &NumberOrList) -> Option<[f64; 2]> {
    let [low, high] = factor.range_around(1.0)?;
    Some([if matches!(factor, NumberOrList::Number(_)) { low.max(0.0) } else { low }, high])
}

/// Blends between black at factor 0 and the image at factor 1 (`ImageEnhance.Brightness`).
#[derive(Clone, Debug)]
pub(super) struct Brightness(pub(super) f64);

impl ImageOp for Brightness {
    fn apply(&self, image: RgbImage) -> RgbImage {
        map_values(image, |value| blend(0, value, self.0 as f32))
    }
}

/// Blends between the mean gray at factor 0 and the image at factor 1, and strengthens the contrast above
/// (`ImageEnhance.Contrast`).
#[derive(Clone, Debug)]
pub(super) struct Contrast(pub(super) f64);

impl ImageOp for Contrast {
    fn apply(&self, image: RgbImage) -> RgbImage {
        let sum: u64 = image.pixels().map(|pixel| u64::from(luma(pixel.0))).sum();
        let count = u64::from(image.width()) * u64::from(image.height());
        let mean = (sum as f64 / count.max(1) as f64 + 0.5) as u8;
        map_values(image, |value| blend(mean, value, self.0 as f32))
    }
}

/// Blends between grayscale at factor 0 and the image at factor 1 (`ImageEnhance.Color`).
#[derive(Clone, Debug)]
pub(super) struct Saturation(pub(super) f64);

impl ImageOp for Saturation {
    fn apply(&self, mut image: RgbImage) -> RgbImage {
        for pixel in image.pixels_mut() {
            let gray = luma(pixel.0);
            pixel.0 = pixel.0.map(|value| blend(gray, value, self.0 as f32));
        }
        image
    }
}

/// Shifts the hue of all pixels by turns of the color wheel, from -0.5 to 0.5: torchvision's `adjust_hue` on
/// a PIL image.
#[derive(Clone, Debug)]
pub(super) struct Hue(pub(super) f64);

impl ImageOp for Hue {
    fn apply(&self, mut image: RgbImage) -> RgbImage {
        // Hues are `u8`, which wraps around as the color wheel does; a negative shift wraps too. The factor
        // 255 is torchvision's.
        let shift = (self.0 * 255.0) as i32 as u8;
        for pixel in image.pixels_mut() {
            let [h, s, v] = rgb_to_hsv(*pixel);
            *pixel = hsv_to_rgb([h.wrapping_add(shift), s, v]);
        }
        image
    }
}

/// Converts a pixel to `[hue, saturation, value]`, each from 0 to 255, to shift its hue: Pillow's
/// `rgb2hsv_row`, with the same float precision. The value is the largest channel.
fn rgb_to_hsv(Rgb([r, g, b]): Rgb<u8>) -> [u8; 3] {
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    if max == min {
        return [0, 0, max];
    }
    let range = f32::from(max - min);
    let saturation = range / f32::from(max);
    let [r_distance, g_distance, b_distance] = [r, g, b].map(|value| f32::from(max - value) / range);
    // The hue in sixths of the color wheel: red is 0, green 2, blue 4.
    let sixths = if r == max {
        b_distance - g_distance
    } else if g == max {
        (2.0 + f64::from(r_distance) - f64::from(b_distance)) as f32
    } else {
        (4.0 + f64::from(g_distance) - f64::from(r_distance)) as f32
    };
    let hue = ((f64::from(sixths) / 6.0 + 1.0) % 1.0) as f32;
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, max]
}

/// Converts `[hue, saturation, value]`, each from 0 to 255, back to an RGB pixel after the hue was shifted:
/// Pillow's `hsv2rgb`, with the same float precision. The value is the largest channel.
fn hsv_to_rgb([h, s, v]: [u8; 3]) -> Rgb<u8> {
    if s == 0 {
        return Rgb([v; 3]);
    }
    // The hue in sixths of the color wheel: red is 0, green 2, blue 4. Each channel is the highest or the
    // lowest value, or it rises or falls between them.
    let sixths = f64::from(h) * 6.0 / 255.0;
    let sector = sixths.floor();
    let fraction = f64::from((sixths - sector) as f32);
    let saturation = f64::from((f64::from(s) / 255.0) as f32);
    let reduced = |decrease: f64| (f64::from(v) * (1.0 - decrease)).round() as u8;
    let low = reduced(saturation);
    let falling = reduced(f64::from((saturation * fraction) as f32));
    let rising = reduced(saturation * (1.0 - fraction));
    Rgb(match sector as u8 % 6 {
        0 => [v, rising, low],
        1 => [falling, v, low],
        2 => [low, v, rising],
        3 => [low, falling, v],
        4 => [rising, low, v],
        _ => [v, low, falling],
    })
}
