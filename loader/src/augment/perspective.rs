//! Perspective maps.
//!
//! Source: torchvision 0.29.2's `_get_perspective_coeffs`.

use headstock_split::KeyedRng;
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{AugmentError, check_interpolation, check_probability, require};
use super::step::{ImageOps, Step, half};
use crate::transform::{ImageOp, Resampling, warp};

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

impl Step for RandomPerspective {
    fn check(&self) -> Result<(), AugmentError> {
        require(
            (0.0..=1.0).contains(&self.distortion_scale),
            "perspective.distortion_scale",
            self.distortion_scale,
            "must be a fraction from 0 to 1",
        )?;
        check_probability("perspective.p", self.p)?;
        check_interpolation("perspective.interpolation", self.interpolation)
    }

    /// Each corner is moved inward by a random distance, as by torchvision's `RandomPerspective.make_params`.
    fn draw(&self, (width, height): (u32, u32), random: &mut KeyedRng) -> ImageOps {
        if !random.bernoulli(self.p) {
            return Vec::new();
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
        vec![Box::new(Perspective { corners, interpolation: self.interpolation })]
    }
}

/// Moves the corners of the image.
#[derive(Clone, Debug)]
pub(super) struct Perspective {
    /// The new positions of the corners, `[x, y]`, clockwise from the top left.
    pub(super) corners: [[u32; 2]; 4],
    pub(super) interpolation: Resampling,
}

impl ImageOp for Perspective {
    fn apply(&self, image: RgbImage) -> RgbImage {
        let coefficients = perspective_coefficients(image.dimensions(), &self.corners);
        warp::perspective(&image, coefficients, self.interpolation)
    }
}

/// The coefficients (see [`warp::perspective`](crate::transform::warp::perspective)) of the map from
/// `corners` (`[x, y]`, clockwise from the top left) to the corners of an image of `size` (width, height), so
/// that the image is drawn between `corners`. Rounded to single precision as in torchvision.
fn perspective_coefficients(size: (u32, u32), corners: &[[u32; 2]; 4]) -> [f64; 8] {
    const IDENTITY: [f64; 8] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
    let (right, bottom) = (f64::from(size.0) - 1.0, f64::from(size.1) - 1.0);
    let targets = [[0.0, 0.0], [right, 0.0], [right, bottom], [0.0, bottom]];
    let mut rows = [[0.0; 9]; 8];
    // Two linear equations per corner, with the coefficients a to h as unknowns.
    for (i, (&[x, y], [to_x, to_y])) in corners.iter().zip(targets).enumerate() {
        let (x, y) = (f64::from(x), f64::from(y));
        // to_x = (a x + b y + c) / w and to_y = (d x + e y + f) / w with w = g x + h y + 1, multiplied by w.
        rows[2 * i] = [x, y, 1.0, 0.0, 0.0, 0.0, -to_x * x, -to_x * y, to_x];
        rows[2 * i + 1] = [0.0, 0.0, 0.0, x, y, 1.0, -to_y * x, -to_y * y, to_y];
    }
    // No map exists if corners are collinear.
    solve_linear_system(rows).map_or(IDENTITY, |solution| solution.map(|value| f64::from(value as f32)))
}

/// Solves eight linear equations in eight unknowns (one equation per row, its right-hand side in the last
/// column) by Gaussian elimination with partial pivoting, for [`perspective_coefficients`]. Returns the
/// unknowns; `None` if the system is singular.
fn solve_linear_system(mut rows: [[f64; 9]; 8]) -> Option<[f64; 8]> {
    for column in 0..8 {
        let pivot = (column..8).max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()))?;
        rows.swap(column, pivot);
        let pivot_row = rows[column];
        if pivot_row[column].abs() < 1e-9 {
            return None;
        }
        for row in &mut rows[column + 1..] {
            let factor = row[column] / pivot_row[column];
            for (value, pivot_value) in row.iter_mut().zip(pivot_row) {
                *value -= factor * pivot_value;
            }
        }
    }
    let mut solution = [0.0; 8];
    for column in (0..8).rev() {
        let known: f64 = (column + 1..8).map(|i| rows[column][i] * solution[i]).sum();
        solution[column] = (rows[column][8] - known) / rows[column][column];
    }
    Some(solution)
}
