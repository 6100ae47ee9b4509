//! Winograd's transforms: a 3 x 3 convolution of stride 1 as products at the points of transformed tiles.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015). A tile of 4 x 4 outputs takes 36 products
//! where the direct way takes 144. Input tiles overlap by 2; what lies outside the photo is zero.
//!
//! `Y = A^T [(G g G^T) * (B^T d B)] A` for a tile `d` and a kernel `g`. It is linear in `g`, so that the derivative by it, for that by
//! `Y`, goes the same way back: `G^T [(A Y' A^T) * (B^T d B)] G`, the products being summed over all tiles first.

use std::marker::PhantomData;
use std::ops::Range;

use crate::cell::Cell;
use crate::kernels::{Job, Kernel, Simd, Vector};
use crate::tile::Output;

/// Outputs of a tile, along one axis.
pub(crate) const OUTPUTS: usize = 4;
/// Inputs of a tile, along one axis.
pub(crate) const INPUTS: usize = OUTPUTS + 2;
/// Taps of a kernel, along one axis.
pub(crate) const TAPS: usize = 3;
/// Products of a tile.
pub(crate) const POINTS: usize = INPUTS * INPUTS;

/// The finite points of interpolation are 0, `±P` and `±Q`; the sixth is infinity.
const P: f32 = 0.75;
const Q: f32 = 1.5;

/// A line of inputs at the six points: `B^T` of the paper, with each row's last coefficient 1.
#[inline(always)]
pub(crate) fn input<S: Simd>(simd: S, x: [S::Vector; INPUTS]) -> [S::Vector; INPUTS] {
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

/// A line of derivatives by outputs at the six points: `A`.
#[inline(always)]
fn gradient<S: Simd>(simd: S, y: [S::Vector; OUTPUTS]) -> [S::Vector; INPUTS] {
    let scaled = |factor: f32, a, b| simd.mul_add(simd.splat(factor), a, b);
    let times = |factor: f32, a| scaled(factor, a, simd.splat(0.0));
    let (even_p, odd_p) = (scaled(P * P, y[2], y[0]), scaled(P * P * P, y[3], times(P, y[1])));
    let (even_q, odd_q) = (scaled(Q * Q, y[2], y[0]), scaled(Q * Q * Q, y[3], times(Q, y[1])));
    [
        y[0],
        simd.add(even_p, odd_p),
        simd.sub(even_p, odd_p),
        simd.add(even_q, odd_q),
        simd.sub(even_q, odd_q),
        y[3],
    ]
}

/// What a kernel's row is divided by at 0, at `±P` and at `±Q`.
const DIVISORS: [f32; 3] = [P * P * Q * Q, 2.0 * P * P * (P * P - Q * Q), 2.0 * Q * Q * (Q * Q - P * P)];

/// The kernel's row of coefficients at each of the six points: `G`.
fn weight_rows() -> [[f64; 3]; INPUTS] {
    let (p, q) = (f64::from(P), f64::from(Q));
    let at = |x: f64, divisor: f32| [1.0, x, x * x].map(|power| power / f64::from(divisor));
    let [at_0, at_p, at_q] = DIVISORS;
    [at(0.0, at_0), at(p, at_p), at(-p, at_p), at(q, at_q), at(-q, at_q), [0.0, 0.0, 1.0]]
}

/// What each tap of a kernel, row by row, counts for at `point`: `G g G^T` is a sum of these.
pub(crate) fn weight_factors(point: usize) -> [f64; 9] {
    let rows = weight_rows();
    std::array::from_fn(|tap| rows[point / INPUTS][tap / 3] * rows[point % INPUTS][tap % 3])
}

/// A kernel's row at the six points: `G`.
#[inline(always)]
fn kernel_row<S: Simd>(simd: S, g: [S::Vector; TAPS]) -> [S::Vector; INPUTS] {
    let scaled = |factor: f32, a, b| simd.mul_add(simd.splat(factor), a, b);
    let times = |factor: f32, a| scaled(factor, a, simd.splat(0.0));
    let [at_0, at_p, at_q] = DIVISORS;
    let (even_p, odd_p) = (scaled(P * P / at_p, g[2], times(1.0 / at_p, g[0])), times(P / at_p, g[1]));
    let (even_q, odd_q) = (scaled(Q * Q / at_q, g[2], times(1.0 / at_q, g[0])), times(Q / at_q, g[1]));
    [
        times(1.0 / at_0, g[0]),
        simd.add(even_p, odd_p),
        simd.sub(even_p, odd_p),
        simd.add(even_q, odd_q),
        simd.sub(even_q, odd_q),
        g[2],
    ]
}

/// A line of products to the derivatives by a kernel's row: `G^T`.
#[inline(always)]
fn by_kernel_row<S: Simd>(simd: S, m: [S::Vector; INPUTS]) -> [S::Vector; TAPS] {
    let scaled = |factor: f32, a, b| simd.mul_add(simd.splat(factor), a, b);
    let times = |factor: f32, a| scaled(factor, a, simd.splat(0.0));
    let [at_0, at_p, at_q] = DIVISORS;
    let (sum_p, difference_p) = (simd.add(m[1], m[2]), simd.sub(m[1], m[2]));
    let (sum_q, difference_q) = (simd.add(m[3], m[4]), simd.sub(m[3], m[4]));
    [
        scaled(1.0 / at_0, m[0], scaled(1.0 / at_p, sum_p, times(1.0 / at_q, sum_q))),
        scaled(P / at_p, difference_p, times(Q / at_q, difference_q)),
        scaled(P * P / at_p, sum_p, scaled(Q * Q / at_q, sum_q, m[5])),
    ]
}

/// A kernel at its points, row by row: `G g G^T`.
#[inline(always)]
pub(crate) fn kernel_at_points<S: Simd>(
    simd: S,
    taps: [[S::Vector; TAPS]; TAPS],
) -> [[S::Vector; INPUTS]; INPUTS] {
    let zero = simd.splat(0.0);
    let (mut columns, mut points) = ([[zero; INPUTS]; TAPS], [[zero; INPUTS]; INPUTS]);
    for x in 0..TAPS {
        columns[x] = kernel_row(simd, [taps[0][x], taps[1][x], taps[2][x]]);
    }
    for y in 0..INPUTS {
        points[y] = kernel_row(simd, [columns[0][y], columns[1][y], columns[2][y]]);
    }
    points
}

/// The derivatives by a kernel, for sums at its points, row by row: `G^T m G`.
#[inline(always)]
pub(crate) fn by_kernel<S: Simd>(
    simd: S,
    points: [[S::Vector; INPUTS]; INPUTS],
) -> [[S::Vector; TAPS]; TAPS] {
    let zero = simd.splat(0.0);
    let (mut columns, mut taps) = ([[zero; TAPS]; INPUTS], [[zero; TAPS]; TAPS]);
    for x in 0..INPUTS {
        columns[x] = by_kernel_row(simd, std::array::from_fn(|y| points[y][x]));
    }
    for y in 0..TAPS {
        taps[y] = by_kernel_row(simd, std::array::from_fn(|x| columns[x][y]));
    }
    taps
}

/// The tiles of a value: photos, rows and columns of tiles, in this order.
#[derive(Clone, Copy, Debug)]
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

/// Transformed tiles: `[point][panel of blocks][tile][block of a panel]`, a cell each.
#[derive(Clone, Copy)]
pub(crate) struct Transformed {
    pub(crate) cells: *mut Cell,
    /// Cells from a point to the next.
    pub(crate) point: usize,
    /// Tiles from a panel to the next.
    pub(crate) panel: usize,
    /// Blocks in a panel.
    pub(crate) blocks: usize,
}

impl Transformed {
    /// Where a block of channels of a tile lies at the first point.
    #[inline(always)]
    pub(crate) fn cell(&self, block: usize, tile: usize) -> usize {
        (block / self.blocks * self.panel + tile) * self.blocks + block % self.blocks
    }
}

/// What a tile of `SIDE` x `SIDE` values is at the points.
pub(crate) trait AtPoints<const SIDE: usize> {
    /// Pixels that a tile starts before its outputs.
    const MARGIN: usize;

    fn line<S: Simd>(simd: S, values: [S::Vector; SIDE]) -> [S::Vector; INPUTS];
}

/// Of what a convolution reads.
pub(crate) struct Inputs;
/// Of derivatives by what it gives.
pub(crate) struct Gradients;

impl AtPoints<INPUTS> for Inputs {
    const MARGIN: usize = 1;

    #[inline(always)]
    fn line<S: Simd>(simd: S, values: [S::Vector; INPUTS]) -> [S::Vector; INPUTS] {
        input(simd, values)
    }
}

impl AtPoints<OUTPUTS> for Gradients {
    const MARGIN: usize = 0;

    #[inline(always)]
    fn line<S: Simd>(simd: S, values: [S::Vector; OUTPUTS]) -> [S::Vector; INPUTS] {
        gradient(simd, values)
    }
}

/// Photos whose tiles are transformed.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) cells: *const Cell,
    /// Cells from a pixel to the next.
    pub(crate) pixel: usize,
    /// Cells from a block of channels to the next.
    pub(crate) block: usize,
}

/// Transforms tiles: units `tile + tiles * block` of those of `tiles`.
pub(crate) struct ToPoints<T, const SIDE: usize> {
    pub(crate) tiling: Tiling,
    pub(crate) source: Source,
    pub(crate) tiles: Range<usize>,
    pub(crate) units: Range<usize>,
    pub(crate) to: Transformed,
    pub(crate) of: PhantomData<T>,
}

impl<T: AtPoints<SIDE>, const SIDE: usize> Job for ToPoints<T, SIDE> {
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "two axes: rows and columns of one square")]
    fn run<K: Kernel>(self, kernel: K) {
        let (Tiling { height, width }, Source { cells, pixel, block: apart }) = (self.tiling, self.source);
        for unit in self.units {
            let (block, tile) = (unit / self.tiles.len(), unit % self.tiles.len());
            let (photo, top, left) = self.tiling.place(self.tiles.start + tile);
            // SAFETY: the maker of the job vouches for the source's blocks and photos; only pixels inside the photo are read.
            let photo = unsafe { cells.add(block * apart + photo * height * width * pixel) };
            let to = self.to.cell(block, tile);
            for part in 0..K::PARTS {
                let zero = kernel.simd().splat(0.0);
                let mut columns = [[zero; INPUTS]; SIDE];
                for x in 0..SIDE {
                    let mut line = [zero; SIDE];
                    if let Some(left) = (left + x).checked_sub(T::MARGIN).filter(|&left| left < width) {
                        for (y, value) in line.iter_mut().enumerate() {
                            if let Some(row) = (top + y).checked_sub(T::MARGIN).filter(|&row| row < height) {
                                // SAFETY: row and column are inside.
                                *value = unsafe {
                                    kernel.load_part(photo.add((row * width + left) * pixel), part)
                                };
                            }
                        }
                    }
                    columns[x] = T::line(kernel.simd(), line);
                }
                for y in 0..INPUTS {
                    let line = T::line(kernel.simd(), std::array::from_fn(|x| columns[x][y]));
                    for (x, value) in line.into_iter().enumerate() {
                        let at = (INPUTS * y + x) * self.to.point + to;
                        // SAFETY: the maker of the job vouches for all points, blocks and tiles.
                        unsafe { kernel.store_part(self.to.cells.add(at), part, value) };
                    }
                }
            }
        }
    }
}

/// Where outputs go.
pub(crate) trait Store {
    /// Finishes and stores channels `16 * vector..` of a pixel.
    ///
    /// # Safety
    /// They are inside all that is read and written.
    unsafe fn store<K: Kernel>(&self, kernel: K, pixel: usize, vector: usize, sums: Vector<K>);
}

impl Store for Output {
    #[inline(always)]
    unsafe fn store<K: Kernel>(&self, kernel: K, pixel: usize, vector: usize, sums: Vector<K>) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.store(kernel, pixel, vector, sums) }
    }
}

/// Transforms products back and finishes them: units `tile + tiles * vector` of those of `tiles`, a vector being 16 channels.
pub(crate) struct FromPoints<O> {
    pub(crate) tiling: Tiling,
    pub(crate) from: Transformed,
    pub(crate) tiles: Range<usize>,
    pub(crate) units: Range<usize>,
    pub(crate) output: O,
}

impl<O: Store> Job for FromPoints<O> {
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
            let from = unsafe { self.from.cells.add(self.from.cell(vector, tile)) };
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

    /// 1 at one place, 0 elsewhere.
    fn unit<const SIZE: usize>(at: usize) -> [[f32; 16]; SIZE] {
        std::array::from_fn(|i| [f32::from(u8::from(i == at)); 16])
    }

    fn product(a: [[f32; 16]; INPUTS], b: [[f32; 16]; INPUTS]) -> [[f32; 16]; INPUTS] {
        std::array::from_fn(|i| std::array::from_fn(|lane| a[i][lane] * b[i][lane]))
    }

    /// The law that the transforms share, in one dimension: the outputs are the correlation of inputs and kernel, and the derivative
    /// by the kernel that of inputs and derivatives by the outputs.
    #[test]
    fn transforms_give_the_correlation() {
        for (inputs, kernel) in (0..INPUTS).flat_map(|inputs| (0..TAPS).map(move |kernel| (inputs, kernel))) {
            let x = input(Portable, unit(inputs));
            let y = output(Portable, product(x, kernel_row(Portable, unit(kernel))));
            for (position, y) in y.iter().enumerate() {
                let expected = f32::from(u8::from(position + kernel == inputs));
                let by_kernel = by_kernel_row(Portable, product(x, gradient(Portable, unit(position))));
                for found in [y[0], by_kernel[kernel][0]] {
                    assert!(
                        (found - expected).abs() < 1e-5,
                        "{inputs} {kernel} {position}: {found} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_kernel_at_a_point_is_what_the_factors_of_its_taps_say() {
        for tap in 0..TAPS * TAPS {
            let taps = std::array::from_fn(|y| {
                std::array::from_fn(|x| [f32::from(u8::from(TAPS * y + x == tap)); 16])
            });
            let points = kernel_at_points(Portable, taps);
            for point in 0..POINTS {
                let (found, expected) =
                    (points[point / INPUTS][point % INPUTS][0], weight_factors(point)[tap]);
                assert!((f64::from(found) - expected).abs() < 1e-6, "{tap} {point}: {found} {expected}");
            }
        }
    }
}
