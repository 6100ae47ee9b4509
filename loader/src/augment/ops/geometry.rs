//! Maps from a position in the output to one in the photo.
//!
//! Source: torchvision 0.29.2's `_get_inverse_affine_matrix` and `_get_perspective_coeffs`.

/// The parameters of torchvision's `affine`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AffineMap {
    /// Clockwise.
    pub(crate) degrees: f64,
    /// In pixels.
    pub(crate) translate: [f64; 2],
    pub(crate) scale: f64,
    /// In degrees.
    pub(crate) shear: [f64; 2],
    /// Center of rotation and shear in pixels; the center of the photo if `None`.
    pub(crate) center: Option<[f64; 2]>,
}

impl AffineMap {
    pub(crate) const IDENTITY: Self =
        Self { degrees: 0.0, translate: [0.0; 2], scale: 1.0, shear: [0.0; 2], center: None };

    /// The matrix from output to source positions, for a photo of `size` (width, height).
    pub(crate) fn inverse_matrix(&self, size: (u32, u32)) -> [f64; 6] {
        let center = self.center.unwrap_or([f64::from(size.0) * 0.5, f64::from(size.1) * 0.5]);
        self.inverse_matrix_about(center)
    }

    /// The matrix from output to source positions, with `center_x` and `center_y` as the center.
    pub(crate) fn inverse_matrix_about(&self, [center_x, center_y]: [f64; 2]) -> [f64; 6] {
        let angle = self.degrees.to_radians();
        let [shear_x, shear_y] = self.shear.map(f64::to_radians);
        let (to_x, to_y) = (center_x + self.translate[0], center_y + self.translate[1]);
        let a = (angle - shear_y).cos() / shear_y.cos();
        let b = -(a * shear_x.tan() + angle.sin());
        let c = (angle - shear_y).sin() / shear_y.cos();
        let d = angle.cos() - c * shear_x.tan();
        let [a, b, c, d] = [d / self.scale, -b / self.scale, -c / self.scale, a / self.scale];
        [a, b, center_x - a * to_x - b * to_y, c, d, center_y - c * to_x - d * to_y]
    }
}

/// The map from `corners` (`[x, y]`, clockwise from the top left) to the corners of a photo of `size`,
/// rounded to single precision as in torchvision.
pub(crate) fn perspective_coefficients(size: (u32, u32), corners: &[[u32; 2]; 4]) -> [f64; 8] {
    const IDENTITY: [f64; 8] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
    let (right, bottom) = (f64::from(size.0) - 1.0, f64::from(size.1) - 1.0);
    let targets = [[0.0, 0.0], [right, 0.0], [right, bottom], [0.0, bottom]];
    let mut rows = [[0.0; 9]; 8];
    for (i, (&[x, y], [to_x, to_y])) in corners.iter().zip(targets).enumerate() {
        let (x, y) = (f64::from(x), f64::from(y));
        rows[2 * i] = [x, y, 1.0, 0.0, 0.0, 0.0, -to_x * x, -to_x * y, to_x];
        rows[2 * i + 1] = [0.0, 0.0, 0.0, x, y, 1.0, -to_y * x, -to_y * y, to_y];
    }
    // Collinear corners have no map.
    solve_linear_system(rows).map_or(IDENTITY, |solution| solution.map(|value| f64::from(value as f32)))
}

/// Solves eight equations (the last column is the right-hand side) by Gaussian elimination with partial
/// pivoting.
fn solve_linear_system(mut rows: [[f64; 9]; 8]) -> Option<[f64; 8]> {
    for column in 0..8 {
        let pivot = (column..8).max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()))?;
        rows.swap(column, pivot);
        let pivot = rows[column];
        if pivot[column].abs() < 1e-9 {
            return None;
        }
        for row in &mut rows[column + 1..] {
            let factor = row[column] / pivot[column];
            for (value, pivot_value) in row.iter_mut().zip(pivot) {
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
