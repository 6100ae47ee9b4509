//! Winograd's transforms: a 3 x 3 convolution of stride 1 as products at the points of transformed tiles.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015). A tile of 4 x 4 outputs takes 36 products
//! where the direct way takes 144. Input tiles overlap by 2; what lies outside the photo is zero.

use std::ops::Range;

use crate::cell::Cell;
use crate::kernels::{Job, Kernel, Simd};
use crate::tile::Output;

/// Outputs of a tile, along one axis.
pub(crate) const OUTPUTS: usize = 4;
/// Inputs of a tile, along one axis.
pub(crate) const INPUTS: usize = OUTPUTS + 2;
/// Products of a tile.
pub(crate) const POINTS: usize = INPUTS * INPUTS;

/// The finite points of interpolation are 0, `±P` and `±Q`; the sixth is infinity.
const P: f32 = 0.75;
const Q: f32 = 1.5;

/// A line of inputs at the six points: `B^T` of the paper, with each row's last coefficient 1.
#[inline(always)]
fn input<S: Simd>(simd: S, x: [S::Vector; INPUTS]) -> [S::Vector; INPUTS] {
    let scaled = |factor: f32, a, b| simd.mul_add(simd.splat(factor), a, b);
    let (even_p, odd_p) = (scaled(-Q * Q, x[2], x[4]), scaled(-Q * Q, x[1], x[3]));
    let (even_q, odd_q) = (scaled(-P * P, x[2], x[4]), scaled(-P * P, x[1], x[3]));
    let ends = |a, b, c| scaled(P * P * Q * Q, a, scaled(-(P * P + Q * Q), b, c));
    [
        ends(x[0], x[2], x[4]),
        scaled(P, odd_p, even_p),
        scaled(-P, odd_p, even_p),
        scaled(Q, odd_q, even_q),
        scaled(-Q, odd_q, even_q),
        ends(x[1], x[3], x[5]),
    ]
}

/// A line of products to outputs: `A^T`.
#[inline(always)]
fn output<S: Simd>(simd: S, m: [S::Vector; INPUTS]) -> [S::Vector; OUTPUTS] {
    let scaled = |factor: f32, a, b| simd.mul_add(simd.splat(factor), a, b);
    let times = |factor: f32, a| scaled(factor, a, simd.splat(0.0));
    let (sum_p, difference_p) = (simd.add(m[1], m[2]), simd.sub(m[1], m[2]));
    let (sum_q, difference_q) = (simd.add(m[3], m[4]), simd.sub(m[3], m[4]));
    [
        simd.add(m[0], simd.add(sum_p, sum_q)),
        scaled(Q, difference_q, times(P, difference_p)),
        scaled(Q * Q, sum_q, times(P * P, sum_p)),
        scaled(Q * Q * Q, difference_q, scaled(P * P * P, difference_p, m[5])),
    ]
}

/// The kernel's row of coefficients at each of the six points: `G`.
fn weight_rows() -> [[f64; 3]; INPUTS] {
    let (p, q) = (f64::from(P), f64::from(Q));
    let at = |x: f64, divisor: f64| [1.0, x, x * x].map(|power| power / divisor);
    let (at_p, at_q) = (2.0 * p * p * (p * p - q * q), 2.0 * q * q * (q * q - p * p));
    [at(0.0, p * p * q * q), at(p, at_p), at(-p, at_p), at(q, at_q), at(-q, at_q), [0.0, 0.0, 1.0]]
}

/// What each tap of a kernel, row by row, counts for at `point`: `G g G^T` is a sum of these.
pub(crate) fn weight_factors(point: usize) -> [f64; 9] {
    let rows = weight_rows();
    std::array::from_fn(|tap| rows[point / INPUTS][tap / 3] * rows[point % INPUTS][tap % 3])
}

/// The tiles of a value: photos, rows and columns of tiles, in this order.
#[derive(Clone, Copy)]
pub(crate) struct Tiling {
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Tiling {
    /// Tiles in a photo.
    pub(crate) fn count(self) -> usize {
        self.height.div_ceil(OUTPUTS) * self.width.div_ceil(OUTPUTS)
    }

    /// The photo of tile `index`, and the first row and column of its outputs.
    #[inline(always)]
    fn place(self, index: usize) -> (usize, usize, usize) {
        let columns = self.width.div_ceil(OUTPUTS);
        let (photo, tile) = (index / self.count(), index % self.count());
        (photo, tile / columns * OUTPUTS, tile % columns * OUTPUTS)
    }
}

/// Transformed tiles: `[point][block of channels][tile]`, a cell each.
#[derive(Clone, Copy)]
pub(crate) struct Transformed {
    pub(crate) cells: *mut Cell,
    /// Cells from a point to the next.
    pub(crate) point: usize,
    /// Cells from a block to the next.
    pub(crate) block: usize,
}

/// Transforms inputs: units `tile + tiles * block` of those of `tiles`.
pub(crate) struct ToPoints {
    pub(crate) tiling: Tiling,
    pub(crate) input: *const Cell,
    /// Cells from a block of the input to the next.
    pub(crate) block: usize,
    pub(crate) tiles: Range<usize>,
    pub(crate) units: Range<usize>,
    pub(crate) to: Transformed,
}

impl Job for ToPoints {
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "two axes: rows and columns of one square")]
    fn run<K: Kernel>(self, kernel: K) {
        let Tiling { height, width } = self.tiling;
        for unit in self.units {
            let (block, tile) = (unit / self.tiles.len(), unit % self.tiles.len());
            let (photo, top, left) = self.tiling.place(self.tiles.start + tile);
            // SAFETY: the maker of the job vouches for the input's blocks and photos; only pixels inside the photo are read.
            let photo = unsafe { self.input.add(block * self.block + photo * height * width) };
            for part in 0..K::PARTS {
                let zero = kernel.simd().splat(0.0);
                let mut columns = [[zero; INPUTS]; INPUTS];
                for x in 0..INPUTS {
                    let mut line = [zero; INPUTS];
                    // Outputs start at `left`, inputs a pixel before.
                    if let Some(left) = (left + x).checked_sub(1).filter(|&left| left < width) {
                        for (y, value) in line.iter_mut().enumerate() {
                            if let Some(row) = (top + y).checked_sub(1).filter(|&row| row < height) {
                                // SAFETY: row and column are inside.
                                *value = unsafe { kernel.load_part(photo.add(row * width + left), part) };
                            }
                        }
                    }
                    columns[x] = input(kernel.simd(), line);
                }
                for y in 0..INPUTS {
                    let line = input(kernel.simd(), std::array::from_fn(|x| columns[x][y]));
                    for (x, value) in line.into_iter().enumerate() {
                        let at = (INPUTS * y + x) * self.to.point + block * self.to.block + tile;
                        // SAFETY: the maker of the job vouches for all points, blocks and tiles.
                        unsafe { kernel.store_part(self.to.cells.add(at), part, value) };
                    }
                }
            }
        }
    }
}

/// Transforms products back and finishes them: units `tile + tiles * vector` of those of `tiles`, a vector being 16 channels.
pub(crate) struct FromPoints {
    pub(crate) tiling: Tiling,
    pub(crate) from: Transformed,
    pub(crate) tiles: Range<usize>,
    pub(crate) units: Range<usize>,
    pub(crate) output: Output,
}

impl Job for FromPoints {
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "two axes: rows and columns of one square")]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        let Tiling { height, width } = self.tiling;
        for unit in self.units {
            let (vector, tile) = (unit / self.tiles.len(), unit % self.tiles.len());
            let (photo, top, left) = self.tiling.place(self.tiles.start + tile);
            let zero = simd.splat(0.0);
            let mut columns = [[zero; OUTPUTS]; INPUTS];
            // SAFETY: the maker of the job vouches for all points, vectors and tiles.
            let from = unsafe { self.from.cells.add(vector * self.from.block + tile) };
            for x in 0..INPUTS {
                let line = std::array::from_fn(|y| {
                    // SAFETY: as above.
                    unsafe { simd.load(from.add((INPUTS * y + x) * self.from.point).cast()) }
                });
                columns[x] = output(simd, line);
            }
            for y in 0..OUTPUTS.min(height - top) {
                let line = output(simd, std::array::from_fn(|x| columns[x][y]));
                for (x, value) in line.into_iter().enumerate().take(width - left) {
                    let pixel = (photo * height + top + y) * width + left + x;
                    // SAFETY: row and column are inside; the maker of the job vouches for photos and vectors.
                    unsafe { self.output.store(kernel, pixel, vector, value) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Portable;

    /// The law that the three transforms share, in one dimension: the outputs are the correlation of inputs and kernel.
    #[test]
    fn transforms_give_the_correlation() {
        for inputs in 0..INPUTS {
            for kernel in 0..3 {
                let x: [[f32; 16]; INPUTS] = std::array::from_fn(|i| [f32::from(u8::from(i == inputs)); 16]);
                let g: [f64; 3] = std::array::from_fn(|i| f64::from(u8::from(i == kernel)));
                let at_points = input(Portable, x);
                let weights = weight_rows().map(|row| row.iter().zip(g).map(|(a, b)| a * b).sum::<f64>());
                let products = std::array::from_fn(|i| at_points[i].map(|x| x * weights[i] as f32));
                let y = output(Portable, products);
                for (position, y) in y.iter().enumerate() {
                    let expected = f32::from(u8::from(position + kernel == inputs));
                    assert!(
                        (y[0] - expected).abs() < 1e-5,
                        "{inputs} {kernel} {position}: {} {expected}",
                        y[0]
                    );
                }
            }
        }
    }
}
