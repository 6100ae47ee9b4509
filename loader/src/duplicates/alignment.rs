//! Aligns two images and measures their similarity.

use super::signature::{Flip, HALF_SIDE, SIDE, Signature};

/// Minimum correlation of the aligned lumas at half size.
const MIN_COARSE_CORRELATION: f32 = 0.8;
/// Maximum mean absolute difference of the aligned chroma.
const MAX_CHROMA_DISTANCE: f32 = 6.0;
/// Gauss-Newton steps at each size.
const FIT_STEPS: usize = 4;
/// Minimum fraction of each side that both images must share.
const MIN_OVERLAP: f32 = 0.8;
/// Maximum scale between the images.
const MAX_SCALE: f32 = 1.2;

/// Similarity of `first`, flipped by `flip`, and `second`: the correlation of their luma gradients, from -1
/// to 1, after the alignment that the [module](super) describes. `None` if they clearly differ at half size,
/// which is tested first because it is fast.
pub(super) fn align(first: &Signature, second: &Signature, flip: Flip) -> Option<f32> {
    let half = [first.half_luma(flip), second.half_luma(Flip::None)];
    let identity = AxisTransform { scale: 1.0, offset: 0.0 };
    let mut warp = Warp { x: identity, y: identity };
    for _ in 0..FIT_STEPS {
        warp = warp.fit_step(&half, HALF_SIDE)?;
    }
    let overlap = warp.resample_overlap(&half[0], HALF_SIDE, linear_weights)?;
    if overlap.correlation(&half[1], HALF_SIDE) < MIN_COARSE_CORRELATION {
        return None;
    }
    for (first, second) in first.chroma(flip).iter().zip(&second.chroma(Flip::None)) {
        let overlap = warp.resample_overlap(first, HALF_SIDE, linear_weights)?;
        if overlap.mean_abs_difference(second, HALF_SIDE) > MAX_CHROMA_DISTANCE {
            return None;
        }
    }
    let full = [first.luma(flip), second.luma(Flip::None)];
    for _ in 0..FIT_STEPS {
        warp = warp.fit_step(&full, SIDE)?;
    }
    Some(warp.resample_overlap(&full[0], SIDE, cubic_weights)?.gradient_correlation(&full[1], SIDE))
}

/// Linear interpolation weights of two adjacent pixels for a position at `fraction` (0 to 1) between them.
fn linear_weights(fraction: f32) -> [f32; 2] {
    [1.0 - fraction, fraction]
}

/// Catmull-Rom interpolation weights of four adjacent pixels for a position at `fraction` (0 to 1) between
/// the middle two. The last comparison of two images uses them, because they preserve detail.
fn cubic_weights(fraction: f32) -> [f32; 4] {
    [
        ((-0.5 * fraction + 1.0) * fraction - 0.5) * fraction,
        (1.5 * fraction - 2.5) * fraction * fraction + 1.0,
        ((-1.5 * fraction + 2.0) * fraction + 0.5) * fraction,
        (0.5 * fraction - 0.5) * fraction * fraction,
    ]
}

/// Maps positions of the second image to the first along one axis: `scale * position + offset`. Positions go
/// from -0.5 to 0.5, the edges of an image.
#[derive(Clone, Copy)]
struct AxisTransform {
    scale: f32,
    offset: f32,
}

impl AxisTransform {
    /// Finds the pixels of the second image, of `n` along this axis, that lie in the first image. Returns the
    /// first such pixel; and for each of them its position in the first image, as a pixel and the fraction of
    /// the way to the next pixel. `None` if the scale or the overlap is out of bounds.
    fn overlapping_pixels(self, n: usize) -> Option<(usize, Vec<(usize, f32)>)> {
        let size = n as f32;
        let source_position = |pixel: usize| {
            let centered = self.scale * ((pixel as f32 + 0.5) / size - 0.5) + self.offset;
            (centered + 0.5) * size - 0.5
        };
        let is_inside = |pixel: &usize| (-0.5..=size - 0.5).contains(&source_position(*pixel));
        let start = (0..n).find(is_inside)?;
        let positions: Vec<(usize, f32)> = (start..n)
            .take_while(is_inside)
            .map(|pixel| {
                let position = source_position(pixel).clamp(0.0, size - 1.0);
                (position as usize, position.fract())
            })
            .collect();
        let is_scale_allowed = (1.0 / MAX_SCALE..=MAX_SCALE).contains(&self.scale);
        (is_scale_allowed && positions.len() as f32 >= MIN_OVERLAP * size).then_some((start, positions))
    }
}

/// The transform (scale and offset of both axes) from positions in the second image to positions in the
/// first.
#[derive(Clone, Copy)]
struct Warp {
    x: AxisTransform,
    y: AxisTransform,
}

/// The part of both images that overlaps: the first image, resampled at the pixels of the second. `left` and
/// `top` are the position of this part in the second image.
struct OverlapRegion {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    /// `[height, width]`
    values: Vec<f32>,
}

impl Warp {
    /// Resamples `image` (`[n, n]`, a plane of the first image) at those pixels of the second image that it
    /// overlaps, to compare both pixel by pixel. `weights` gives the interpolation weights of `TAPS` adjacent
    /// pixels for a position at a fraction between the middle two. `None` if the scale or the overlap is out
    /// of bounds.
    fn resample_overlap<const TAPS: usize>(
        self,
        image: &[f32],
        n: usize,
        weights: fn(f32) -> [f32; TAPS],
    ) -> Option<OverlapRegion> {
        let (left, columns) = self.x.overlapping_pixels(n)?;
        let (top, rows) = self.y.overlapping_pixels(n)?;
        // The pixels around a position along one axis, clamped to the image, and their weights. `half` is
        // subtracted last, so that no index is negative.
        let taps = |&(pixel, fraction): &(usize, f32)| {
            let weights = weights(fraction);
            let half = TAPS / 2;
            std::array::from_fn::<_, TAPS, _>(|tap| {
                ((pixel + tap + 1).clamp(half, n - 1 + half) - half, weights[tap])
            })
        };
        let columns: Vec<_> = columns.iter().map(taps).collect();
        let mut values = Vec::with_capacity(rows.len() * columns.len());
        for row in rows.iter().map(taps) {
            values.extend(columns.iter().map(|column| {
                let row_sum =
                    |y: usize| column.iter().map(|&(x, weight)| weight * image[y * n + x]).sum::<f32>();
                row.iter().map(|&(y, weight)| weight * row_sum(y)).sum::<f32>()
            }));
        }
        Some(OverlapRegion { left, top, width: columns.len(), height: rows.len(), values })
    }

    /// Improves the alignment of the first and the second image, both `[n, n]`, by one Gauss-Newton step. The
    /// step fits warp, gain and bias so that `gain * warped first + bias` equals the second image, in the
    /// sense of least squares. Returns the new warp; `None` if the images do not overlap enough, the
    /// equations are singular or the contrast is nearly zero or inverted.
    fn fit_step(self, [first, second]: &[Vec<f32>; 2], n: usize) -> Option<Self> {
        let overlap = self.resample_overlap(first, n, linear_weights)?;
        let size = n as f32;
        // For each inner pixel the derivatives by gain, bias, and the scale and offset of both axes (times
        // the gain); then the pixel of the second image, which is the target.
        let mut terms = [(); 7].map(|()| Vec::with_capacity(overlap.values.len()));
        for y in 1..overlap.height - 1 {
            let y_centered = (overlap.top + y) as f32 / size - 0.5;
            for x in 1..overlap.width - 1 {
                let i = y * overlap.width + x;
                let x_centered = (overlap.left + x) as f32 / size - 0.5;
                let grad_x = (overlap.values[i + 1] - overlap.values[i - 1]) * (size / 2.0);
                let grad_y =
                    (overlap.values[i + overlap.width] - overlap.values[i - overlap.width]) * (size / 2.0);
                let target = second[(overlap.top + y) * n + overlap.left + x];
                let row = [
                    overlap.values[i],
                    1.0,
                    grad_x * x_centered,
                    grad_x,
                    grad_y * y_centered,
                    grad_y,
                    target,
                ];
                terms.iter_mut().zip(row).for_each(|(term, value)| term.push(value));
            }
        }
        let mut equations = [[0.0; 7]; 6]; // the normal equations
        for row in 0..6 {
            for column in row..7 {
                equations[row][column] = f64::from(dot(&terms[row], &terms[column]));
                if column < 6 {
                    equations[column][row] = equations[row][column];
                }
            }
        }
        let [gain, _, x_scale, x_offset, y_scale, y_offset] = solve(equations)?;
        if gain < 0.1 {
            return None;
        }
        // Each step is limited, because the derivatives hold only nearby.
        let updated = |axis: AxisTransform, scale: f64, offset: f64| AxisTransform {
            scale: axis.scale + (scale / gain).clamp(-0.1, 0.1) as f32,
            offset: axis.offset + (offset / gain).clamp(-0.1, 0.1) as f32,
        };
        Some(Self { x: updated(self.x, x_scale, x_offset), y: updated(self.y, y_scale, y_offset) })
    }
}

impl OverlapRegion {
    /// For each pixel of the region of `second`, `[n, n]`, that the resampled first image covers: the values
    /// of the first and of the second image, which the callers compare.
    fn value_pairs<'a>(&'a self, second: &'a [f32], n: usize) -> impl Iterator<Item = (f32, f32)> + 'a {
        (0..self.height).flat_map(move |y| {
            let start = (self.top + y) * n + self.left;
            let row = &self.values[y * self.width..(y + 1) * self.width];
            row.iter().copied().zip(second[start..start + self.width].iter().copied())
        })
    }

    /// Mean absolute difference from the second image, `[n, n]`, in the overlap: whether the colors are
    /// equal.
    fn mean_abs_difference(&self, second: &[f32], n: usize) -> f32 {
        self.value_pairs(second, n).map(|(a, b)| (a - b).abs()).sum::<f32>() / self.values.len() as f32
    }

    /// Pearson correlation (-1 to 1) of the values with those of the second image, `[n, n]`, in the overlap.
    /// It ignores differences in brightness and contrast. Images with a low correlation are no
    /// near-duplicates.
    fn correlation(&self, second: &[f32], n: usize) -> f32 {
        let count = self.values.len() as f32;
        let (sum_a, sum_b) =
            self.value_pairs(second, n).fold((0.0, 0.0), |(sum_a, sum_b), (a, b)| (sum_a + a, sum_b + b));
        let (mean_a, mean_b) = (sum_a / count, sum_b / count);
        cosine_similarity(self.value_pairs(second, n).map(|(a, b)| (a - mean_a, b - mean_b)))
    }

    /// Correlation (-1 to 1) of the horizontal and vertical luma gradients with those of the second image,
    /// `[n, n]`, at the inner pixels of the overlap: the similarity by which near-duplicates are reported.
    fn gradient_correlation(&self, second: &[f32], n: usize) -> f32 {
        cosine_similarity((1..self.height - 1).flat_map(|y| {
            (1..self.width - 1).flat_map(move |x| {
                let i = y * self.width + x;
                let j = (self.top + y) * n + self.left + x;
                // Differences of the right and the left, and of the lower and the upper neighbor.
                let a = &self.values;
                [
                    (a[i + 1] - a[i - 1], second[j + 1] - second[j - 1]),
                    (a[i + self.width] - a[i - self.width], second[j + n] - second[j - n]),
                ]
            })
        }))
    }
}

/// Cosine similarity of two series, given as pairs of their values: `a b / (|a| |b|)`, 0 if one is all zeros.
fn cosine_similarity(pairs: impl Iterator<Item = (f32, f32)>) -> f32 {
    let (aa, ab, bb) =
        pairs.fold((0.0, 0.0, 0.0), |(aa, ab, bb), (a, b)| (aa + a * a, ab + a * b, bb + b * b));
    if aa > 0.0 && bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

/// Dot product of two series of equal length, for the normal equations of [`Warp::fit_step`]. Eight partial
/// sums let it vectorize.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let remainder: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    let mut sums = [0.0; 8];
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + remainder
}

/// Solves the normal equations of [`Warp::fit_step`]: six linear equations in six unknowns, one per row with
/// its right-hand side in the last column, by Gauss-Jordan elimination. Returns the unknowns; `None` if the
/// equations are nearly singular.
fn solve(mut rows: [[f64; 7]; 6]) -> Option<[f64; 6]> {
    for column in 0..6 {
        let pivot = (column..6).max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()))?;
        rows.swap(column, pivot);
        let pivot_row = rows[column];
        if pivot_row[column].abs() < 1e-6 {
            return None;
        }
        for row in (0..6).filter(|&row| row != column) {
            let factor = rows[row][column] / pivot_row[column];
            for (value, pivot_value) in rows[row].iter_mut().zip(pivot_row) {
                *value -= factor * pivot_value;
            }
        }
    }
    Some(std::array::from_fn(|row| rows[row][6] / rows[row][row]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_similarities_are_normalized_and_0_for_a_zero_series() {
        let pairs = [(1.0, 2.0), (-3.0, 0.5), (0.25, 4.0)];
        let swapped = pairs.map(|(a, b)| (b, a));
        // (2 - 1.5 + 1) / sqrt((1 + 9 + 1/16) (4 + 1/4 + 16))
        let expected = 1.5 / (10.0625f32 * 20.25).sqrt();
        for pairs in [pairs, swapped] {
            assert!((cosine_similarity(pairs.into_iter()) - expected).abs() < 1e-6);
        }
        assert_eq!(cosine_similarity(pairs.map(|(a, _)| (a, -2.0 * a)).into_iter()), -1.0);
        for pairs in [[(0.0, 1.0), (0.0, -2.0)], [(1.0, 0.0), (-2.0, 0.0)], [(0.0, 0.0); 2]] {
            assert_eq!(cosine_similarity(pairs.into_iter()), 0.0, "{pairs:?}");
        }
    }
}
