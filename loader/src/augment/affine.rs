//! Affine maps.
//!
//! Source: torchvision 0.29.2's `_get_inverse_affine_matrix`.

use headstock_split::KeyedRng;
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{AugmentError, check_interpolation, is_positive_range, is_range_within, require};
use super::number_or_list::NumberOrList;
use super::step::{ImageOps, Step};
use crate::transform::{ImageOp, Resampling, warp};

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

impl RandomAffine {
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
}

impl Step for RandomAffine {
    fn check(&self) -> Result<(), AugmentError> {
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

    /// As torchvision's `RandomAffine.make_params`.
    fn draw(&self, (width, height): (u32, u32), random: &mut KeyedRng) -> ImageOps {
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
        vec![Box::new(Affine { map, interpolation: self.interpolation })]
    }
}

/// Rotation, scaling, shear and translation.
#[derive(Clone, Debug)]
pub(super) struct Affine {
    pub(super) map: AffineMap,
    pub(super) interpolation: Resampling,
}

impl ImageOp for Affine {
    fn apply(&self, image: RgbImage) -> RgbImage {
        warp::affine(&image, self.map.inverse_matrix(image.dimensions()), self.interpolation)
    }
}

/// A rotation, scaling, shear and translation: the parameters of torchvision's `affine`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct AffineMap {
    /// Rotation, clockwise.
    pub(super) degrees: f64,
    /// Translation (x, y) in pixels.
    pub(super) translate: [f64; 2],
    pub(super) scale: f64,
    /// Shear (x, y) in degrees.
    pub(super) shear: [f64; 2],
    /// Center of rotation and shear in pixels; the center of the image if `None`.
    pub(super) center: Option<[f64; 2]>,
}

impl AffineMap {
    /// The map that leaves an image unchanged.
    pub(super) const IDENTITY: Self =
        Self { degrees: 0.0, translate: [0.0; 2], scale: 1.0, shear: [0.0; 2], center: None };

    /// The matrix `[a, b, c, d, e, f]` from output to source positions, for an image of `size` (width,
    /// height); see [`warp::affine`](crate::transform::warp::affine).
    pub(super) fn inverse_matrix(&self, size: (u32, u32)) -> [f64; 6] {
        let center = self.center.unwrap_or([f64::from(size.0) * 0.5, f64::from(size.1) * 0.5]);
        self.inverse_matrix_about(center)
    }

    /// The matrix `[a, b, c, d, e, f]` that maps the output position (x, y) to the source position
    /// (a x + b y + c, d x + e y + f), with rotation and shear about (`center_x`, `center_y`) in place of
    /// [`center`](Self::center): a caller may measure positions from elsewhere than the top left corner.
    pub(super) fn inverse_matrix_about(&self, [center_x, center_y]: [f64; 2]) -> [f64; 6] {
        let angle = self.degrees.to_radians();
        let [shear_x, shear_y] = self.shear.map(f64::to_radians);
        let (to_x, to_y) = (center_x + self.translate[0], center_y + self.translate[1]);
        // Rotation and shear are the matrix [xx xy; yx yy]; its determinant is 1, so its inverse is
        // [yy -xy; -yx xx].
        let xx = (angle - shear_y).cos() / shear_y.cos();
        let xy = -(xx * shear_x.tan() + angle.sin());
        let yx = (angle - shear_y).sin() / shear_y.cos();
        let yy = angle.cos() - yx * shear_x.tan();
        let [a, b, d, e] = [yy / self.scale, -xy / self.scale, -yx / self.scale, xx / self.scale];
        [a, b, center_x - a * to_x - b * to_y, d, e, center_y - d * to_x - e * to_y]
    }
}
