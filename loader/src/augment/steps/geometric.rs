//! Affine and perspective maps.

use headstock_split::KeyedRng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::half;
use crate::augment::NumberOrList;
use crate::augment::check::{AugmentError, check_probability, is_positive_range, is_range_within, require};
use crate::augment::ops::{ImageOp, geometry::AffineMap};
use crate::transform::Resampling;

/// The parameters of torchvision's `RandomAffine`: rotation, translation, scaling and shear. Pixels outside
/// the photo are black. Only `degrees` is required.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomAffine {
    /// Rotation in degrees, up to 360: one number `d` for the range from -d to d, or the range `[low, high]`.
    /// Positive is clockwise.
    pub degrees: NumberOrList,
    /// Largest horizontal and vertical translation, as fractions of width and height from 0 to 1. No
    /// translation by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translate: Option<[f64; 2]>,
    /// Range of the scale factor `[low, high]`, above 0. No scaling by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<[f64; 2]>,
    /// Shear in degrees, up to 89: one number `d` for the horizontal range from -d to d, or the horizontal
    /// range `[low, high]`, or four numbers for the horizontal and the vertical range. No shear by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shear: Option<NumberOrList>,
    /// Interpolation between pixels: `nearest` (the default), `bilinear` or `bicubic`.
    #[serde(default = "nearest")]
    pub interpolation: Resampling,
}

/// torchvision's default interpolation of affine maps.
fn nearest() -> Resampling {
    Resampling::Nearest
}

/// An error for `lanczos`, which geometric maps do not support, as in torchvision.
pub(in crate::augment) fn check_interpolation(
    key: &'static str,
    interpolation: Resampling,
) -> Result<(), AugmentError> {
    require(interpolation != Resampling::Lanczos, key, "lanczos", "must be nearest, bilinear or bicubic")
}

impl RandomAffine {
    /// Checks the config of this step; the error names the first value that is out of range.
    pub(in crate::augment) fn check(&self) -> Result<(), AugmentError> {
        let bounds = -360.0..=360.0;
        require(
            self.degrees.range_around(0.0).is_some_and(|range| is_range_within(range, &bounds)),
            "affine.degrees",
            &self.degrees,
            "must be an angle in degrees from 0 to 360, or two angles from -360 to 360 in ascending order",
        )?;
        if let Some(translate) = self.translate {
            require(
                translate.iter().all(|fraction| (0.0..=1.0).contains(fraction)),
                "affine.translate",
                format_args!("{translate:?}"),
                "must be two fractions (of width and height) from 0 to 1",
            )?;
        }
        if let Some(scale) = self.scale {
            require(
                is_positive_range(scale),
                "affine.scale",
                format_args!("{scale:?}"),
                "must be two factors above 0, in ascending order",
            )?;
        }
        if let Some(shear) = &self.shear {
            // A shear of 90 degrees leaves nothing of the image.
            let bounds = -89.0..=89.0;
            require(
                self.shear_ranges().iter().flatten().count() > 0
                    && self.shear_ranges().iter().flatten().all(|&range| is_range_within(range, &bounds)),
                "affine.shear",
                shear,
                "must be an angle in degrees from 0 to 89, or one or two ranges: two or four angles from -89 \
                 to 89, each range in ascending order",
            )?;
        }
        check_interpolation("affine.interpolation", self.interpolation)
    }

    /// The ranges `[low, high]` from which the horizontal and the vertical shear are drawn, in degrees;
    /// `None` for no shear along an axis. One or two numbers in the config are the horizontal range, four are
    /// both.
    fn shear_ranges(&self) -> [Option<[f64; 2]>; 2] {
        match &self.shear {
            Some(NumberOrList::List(ends)) if ends.len() == 4 => {
                [Some([ends[0], ends[1]]), Some([ends[2], ends[3]])]
            }
            Some(shear) => [shear.range_around(0.0), None],
            None => [None; 2],
        }
    }

    /// Draws a random rotation, translation, scale and shear from the ranges of the config, as torchvision's
    /// `RandomAffine.make_params`, and returns them as the operation on a view of (width, height).
    pub(in crate::augment) fn draw(&self, (width, height): (u32, u32), random: &mut KeyedRng) -> ImageOp {
        let mut draw_uniform = |range: Option<[f64; 2]>, default| {
            range.map_or(default, |[low, high]| random.uniform_between(low, high))
        };
        let degrees = draw_uniform(self.degrees.range_around(0.0), 0.0);
        let translate = match self.translate {
            Some([max_x, max_y]) => [max_x * f64::from(width), max_y * f64::from(height)]
                .map(|max| draw_uniform(Some([-max, max]), 0.0).round_ties_even()),
            None => [0.0; 2],
        };
        let scale = draw_uniform(self.scale, 1.0);
        let shear = self.shear_ranges().map(|range| draw_uniform(range, 0.0));
        let map = AffineMap { degrees, translate, scale, shear, center: /* of the image */ None };
        ImageOp::Affine { map, interpolation: self.interpolation }
    }
}

/// The parameters of torchvision's `RandomPerspective`. Pixels outside the photo are black.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RandomPerspective {
    /// Largest displacement of the corners, as a fraction of half the width and height, from 0 to 1. Default
    /// 0.5.
    pub distortion_scale: f64,
    /// Probability of the step. Default 0.5.
    pub p: f64,
    /// Interpolation between pixels: `nearest`, `bilinear` (the default) or `bicubic`.
    pub interpolation: Resampling,
}

impl Default for RandomPerspective {
    fn default() -> Self {
        Self { distortion_scale: 0.5, p: half(), interpolation: Resampling::Bilinear }
    }
}

impl RandomPerspective {
    /// Checks the config of this step; the error names the first value that is out of range.
    pub(in crate::augment) fn check(&self) -> Result<(), AugmentError> {
        require(
            (0.0..=1.0).contains(&self.distortion_scale),
            "perspective.distortion_scale",
            self.distortion_scale,
            "must be a fraction from 0 to 1",
        )?;
        check_probability("perspective.p", self.p)?;
        check_interpolation("perspective.interpolation", self.interpolation)
    }

    /// Draws the new corners for a view of (width, height), clockwise from the top left, each moved inward by
    /// a random distance, as torchvision's `RandomPerspective.make_params`. `None` if the step does not
    /// happen.
    pub(in crate::augment) fn draw(
        &self,
        (width, height): (u32, u32),
        random: &mut KeyedRng,
    ) -> Option<ImageOp> {
        if !random.bernoulli(self.p) {
            return None;
        }
        let max_inward = |size: u32| (self.distortion_scale.clamp(0.0, 1.0) * f64::from(size / 2)) as u32;
        let (max_x, max_y) = (max_inward(width), max_inward(height));
        let (right, bottom) = (width.saturating_sub(1), height.saturating_sub(1));
        // For each corner: whether it is on the right, and whether it is at the bottom.
        let corners = [(false, false), (true, false), (true, true), (false, true)].map(|(far_x, far_y)| {
            let mut draw_coordinate = |is_far, max, end: u32| {
                let inward = random.up_to(max);
                if is_far { end.saturating_sub(inward) } else { inward }
            };
            [draw_coordinate(far_x, max_x, right), draw_coordinate(far_y, max_y, bottom)]
        });
        Some(ImageOp::Perspective { corners, interpolation: self.interpolation })
    }
}
