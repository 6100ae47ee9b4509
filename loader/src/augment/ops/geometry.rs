//! Maps from a position in the output to a position in the image.
//!
//! Source: torchvision 0.29.2's `_get_inverse_affine_matrix` and `_get_perspective_coeffs`.

/// A rotation, scaling, shear and translation: the parameters of torchvision's `affine`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AffineMap {
    /// Rotation, clockwise.
    pub(crate) degrees: f64,
    /// Translation (x, y) in pixels.
    pub(crate) translate: [f64; 2],
    pub(crate) scale: f64,
    /// Shear (x, y) in degrees.
    pub(crate) shear: [f64; 2],
    /// Center of rotation and shear in pixels; the center of the image if `None`.
    pub(crate) center: Option<[f64; 2]>,
}

impl AffineMap {
    /// The map that leaves an image unchanged.
    pub(crate) const IDENTITY: Self =
        Self { degrees: 0.0, translate: [0.0; 2], scale: 1.0, shear: [0.0; 2], center: None };

    /// The matrix `[a, b, c, d, e, f]` from output to source positions, for an image of `size` (width,
    /// height); see [`warp::affine`](crate::transform::warp::affine).
    pub(crate) fn inverse_matrix(&self, size: (u32, u32)) -> [f64; 6] {
        let center = self.center.unwrap_or([f64::from(size.0) * 0.5, f64::from(size.1) * 0.5]);
        self.inverse_matrix_about(center)
    }

    /// The matrix `[a, b, c, d, e, f]` that maps the output position (x, y) to the source position
    /// (a x + b y + c, d x + e y + f), with rotation and shear about (`center_x`, `center_y`) in place of
    /// [`center`](Self::center): a caller may measure positions from elsewhere than the top left corner.
    pub(crate) fn inverse_matrix_about(&self, [center_x, center_y]: [f64; 2]) -> [f64; 6] {
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

/// The coefficients (see [`warp::perspective`](crate::transform::warp::perspective)) of the map from
/// `corners` (`[x, y]`, clockwise from the top left) to the corners of an image of `size` (width, height), so
/// that the image is drawn between `corners`. Rounded to single precision as in torchvision.
pub(crate) fn perspective_coefficients(size: (u32, u32), corners: &[[u32; 2]; 4]) -> [f64; 8] {
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
