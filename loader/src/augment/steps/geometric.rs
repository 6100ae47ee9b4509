//! Affine and perspective maps.

use serde::{Deserialize, Serialize};

use super::half;
use crate::augment::Numbers;
use crate::augment::check::{AugmentError, ordered, positive, probability, require};
use crate::augment::ops::{Op, geometry::AffineMap};
use crate::random::KeyedRandom;
use crate::transform::Interpolation;

/// The parameters of torchvision's `RandomAffine`; black outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Affine {
    /// Turned clockwise by so much at most, either way, or by the range.
    pub degrees: Numbers,
    /// Moved across and down by at most so much of width and height.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translate: Option<[f64; 2]>,
    /// The range of the size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<[f64; 2]>,
    /// Degrees: sheared across by so much at most, either way, or by the range; of four numbers, the last two are that down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shear: Option<Numbers>,
    /// What is between pixels: `nearest`, `bilinear` or `bicubic`.
    #[serde(default = "nearest")]
    pub interpolation: Interpolation,
}

fn nearest() -> Interpolation {
    Interpolation::Nearest
}

pub(in crate::augment) fn check_interpolation(
    key: &'static str,
    interpolation: Interpolation,
) -> Result<(), AugmentError> {
    require(interpolation != Interpolation::Lanczos, key, "lanczos", "must be nearest, bilinear or bicubic")
}

impl Affine {
    pub(in crate::augment) fn check(&self) -> Result<(), AugmentError> {
        let within = -360.0..=360.0;
        require(
            self.degrees.around(0.0).is_some_and(|range| ordered(range, &within)),
            "affine.degrees",
            &self.degrees,
            "must be degrees up to 360, one number that is not negative or two in order",
        )?;
        if let Some(translate) = self.translate {
            require(
                translate.iter().all(|share| (0.0..=1.0).contains(share)),
                "affine.translate",
                format_args!("{translate:?}"),
                "must be two shares of width and height, from 0 to 1",
            )?;
        }
        if let Some(scale) = self.scale {
            require(
                positive(scale),
                "affine.scale",
                format_args!("{scale:?}"),
                "must be two factors in order, above 0",
            )?;
        }
        if let Some(shear) = &self.shear {
            // At 90 degrees nothing is left of a photo.
            let within = -89.0..=89.0;
            require(
                self.shears().iter().flatten().count() > 0
                    && self.shears().iter().flatten().all(|&range| ordered(range, &within)),
                "affine.shear",
                shear,
                "must be degrees up to 89, one number that is not negative or two or four in order",
            )?;
        }
        check_interpolation("affine.interpolation", self.interpolation)
    }

    /// The ranges of the shear across and down.
    fn shears(&self) -> [Option<[f64; 2]>; 2] {
        match &self.shear {
            Some(Numbers::List(ends)) if ends.len() == 4 => {
                [Some([ends[0], ends[1]]), Some([ends[2], ends[3]])]
            }
            Some(shear) => [shear.around(0.0), None],
            None => [None; 2],
        }
    }

    /// For a view of (width, height).
    pub(in crate::augment) fn draw(&self, size: (u32, u32), random: &mut KeyedRandom) -> Op {
        let mut within = |range: Option<[f64; 2]>, otherwise| {
            range.map_or(otherwise, |[low, high]| random.uniform(low, high))
        };
        let degrees = within(self.degrees.around(0.0), 0.0);
        let translate = match self.translate {
            Some([across, down]) => [across * f64::from(size.0), down * f64::from(size.1)]
                .map(|most| within(Some([-most, most]), 0.0).round_ties_even()),
            None => [0.0; 2],
        };
        let scale = within(self.scale, 1.0);
        let shear = self.shears().map(|range| within(range, 0.0));
        let map = AffineMap { degrees, translate, scale, shear, centre: None };
        Op::Affine { map, interpolation: self.interpolation }
    }
}

/// The parameters of torchvision's `RandomPerspective`; black outside.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Perspective {
    /// How far corners may go, of half the width and height.
    pub distortion_scale: f64,
    /// The probability.
    pub p: f64,
    /// What is between pixels: `nearest`, `bilinear` or `bicubic`.
    pub interpolation: Interpolation,
}

impl Default for Perspective {
    fn default() -> Self {
        Self { distortion_scale: 0.5, p: half(), interpolation: Interpolation::Bilinear }
    }
}

impl Perspective {
    pub(in crate::augment) fn check(&self) -> Result<(), AugmentError> {
        require(
            (0.0..=1.0).contains(&self.distortion_scale),
            "perspective.distortion_scale",
            self.distortion_scale,
            "must be a share, from 0 to 1",
        )?;
        probability("perspective.p", self.p)?;
        check_interpolation("perspective.interpolation", self.interpolation)
    }

    /// For a view of (width, height).
    pub(in crate::augment) fn draw(
        &self,
        (width, height): (u32, u32),
        random: &mut KeyedRandom,
    ) -> Option<Op> {
        if !random.chance(self.p) {
            return None;
        }
        let most = |size: u32| (self.distortion_scale.clamp(0.0, 1.0) * f64::from(size / 2)) as u32;
        let (across, down) = (most(width), most(height));
        let (right, bottom) = (width.saturating_sub(1), height.saturating_sub(1));
        let corners = [(false, false), (true, false), (true, true), (false, true)].map(|(far_x, far_y)| {
            let mut place = |far, most, end: u32| {
                let inward = random.up_to(most);
                if far { end.saturating_sub(inward) } else { inward }
            };
            [place(far_x, across, right), place(far_y, down, bottom)]
        });
        Some(Op::Perspective { corners, interpolation: self.interpolation })
    }
}
