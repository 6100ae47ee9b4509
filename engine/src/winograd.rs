//! Winograd's transforms: a 3 x 3 convolution of stride 1 as products at the points of transformed tiles.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015). A tile of 4 x 4 outputs takes 36 products
//! where the direct way takes 144. Input tiles overlap by 2; what lies outside the photo is zero.
//!
//! `Y = A^T [(G g G^T) * (B^T d B)] A` for a tile `d` and a kernel `g`. It is linear in `g`, so that the derivative by it, for that by
//! `Y`, goes the same way back: `G^T [(A Y' A^T) * (B^T d B)] G`, the products being summed over all tiles first.

use std::marker::PhantomData;
use std::ops::Range;

use crate::cache_line::CacheLine;
use crate::kernels::{Job, Kernel, Simd, Vector};
use crate::tile::TileOutput;

/// Outputs of a tile, along one axis.
pub(crate) const OUT_SIDE: usize = 4;
/// Inputs of a tile, along one axis.
pub(crate) const IN_SIDE: usize = OUT_SIDE + 2;
/// Taps of a kernel, along one axis.
pub(crate) const TAPS: usize = 3;
/// Products of a tile.
pub(crate) const COMPONENTS: usize = IN_SIDE * IN_SIDE;

/// The finite points of interpolation are 0, `±P` and `±Q`; the sixth is infinity.
const P: f32 = 0.75;
const Q: f32 = 1.5;

/// A line of inputs at the six points: `B^T` of the paper, with each row's last coefficient 1.
#[inline(always)]
pub(crate) fn transform_input_row<S: Simd>(simd: S, x: [S::Vector; IN_SIDE]) -> [S::Vector; IN_SIDE] {
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
fn transform_output_row<S: Simd>(simd: S, m: [S::Vector; IN_SIDE]) -> [S::Vector; OUT_SIDE] {
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
fn transform_gradient_row<S: Simd>(simd: S, y: [S::Vector; OUT_SIDE]) -> [S::Vector; IN_SIDE] {
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
fn kernel_transform_matrix() -> [[f64; 3]; IN_SIDE] {
    let (p, q) = (f64::from(P), f64::from(Q));
    let row_at = |x: f64, divisor: f32| [1.0, x, x * x].map(|power| power / f64::from(divisor));
    let [at_0, at_p, at_q] = DIVISORS;
    [row_at(0.0, at_0), row_at(p, at_p), row_at(-p, at_p), row_at(q, at_q), row_at(-q, at_q), [0.0, 0.0, 1.0]]
}

/// What each tap of a kernel, row by row, counts for at `point`: `G g G^T` is a sum of these.
pub(crate) fn kernel_transform_factors(component: usize) -> [f64; 9] {
    let rows = kernel_transform_matrix();
    std::array::from_fn(|tap| rows[component / IN_SIDE][tap / 3] * rows[component % IN_SIDE][tap % 3])
}

/// A kernel's row at the six points: `G`.
#[inline(always)]
fn transform_kernel_row<S: Simd>(simd: S, g: [S::Vector; TAPS]) -> [S::Vector; IN_SIDE] {
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
fn kernel_gradient_row<S: Simd>(simd: S, m: [S::Vector; IN_SIDE]) -> [S::Vector; TAPS] {
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
pub(crate) fn transform_kernel<S: Simd>(
    simd: S,
    taps: [[S::Vector; TAPS]; TAPS],
) -> [[S::Vector; IN_SIDE]; IN_SIDE] {
    let zero = simd.splat(0.0);
    let (mut columns, mut components) = ([[zero; IN_SIDE]; TAPS], [[zero; IN_SIDE]; IN_SIDE]);
    for x in 0..TAPS {
        columns[x] = transform_kernel_row(simd, [taps[0][x], taps[1][x], taps[2][x]]);
    }
    for y in 0..IN_SIDE {
        components[y] = transform_kernel_row(simd, [columns[0][y], columns[1][y], columns[2][y]]);
    }
    components
}

/// The derivatives by a kernel, for sums at its points, row by row: `G^T m G`.
#[inline(always)]
pub(crate) fn kernel_gradient<S: Simd>(
    simd: S,
    components: [[S::Vector; IN_SIDE]; IN_SIDE],
) -> [[S::Vector; TAPS]; TAPS] {
    let zero = simd.splat(0.0);
    let (mut columns, mut taps) = ([[zero; TAPS]; IN_SIDE], [[zero; TAPS]; TAPS]);
    for x in 0..IN_SIDE {
        columns[x] = kernel_gradient_row(simd, std::array::from_fn(|y| components[y][x]));
    }
    for y in 0..TAPS {
        taps[y] = kernel_gradient_row(simd, std::array::from_fn(|x| columns[x][y]));
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
    pub(crate) fn tiles_per_image(self) -> usize {
        self.height.div_ceil(OUT_SIDE) * self.width.div_ceil(OUT_SIDE)
    }

    /// The photo of tile `index`, and the first row and column of its outputs.
    #[inline(always)]
    fn locate(self, index: usize) -> (usize, usize, usize) {
        let columns = self.width.div_ceil(OUT_SIDE);
        let (image, tile) = (index / self.tiles_per_image(), index % self.tiles_per_image());
        (image, tile / columns * OUT_SIDE, tile % columns * OUT_SIDE)
    }
}

/// Transformed tiles: `[point][panel of blocks][tile][block of a panel]`, a cell each.
#[derive(Clone, Copy)]
pub(crate) struct TransformedTiles {
    pub(crate) lines: *mut CacheLine,
    /// Cells from a point to the next.
    pub(crate) component_stride: usize,
    /// Tiles from a panel to the next.
    pub(crate) panel_stride: usize,
    /// Blocks in a panel.
    pub(crate) panel_blocks: usize,
}

impl TransformedTiles {
    /// Where a block of channels of a tile lies at the first point.
    #[inline(always)]
    pub(crate) fn line_index(&self, block: usize, tile: usize) -> usize {
        (block / self.panel_blocks * self.panel_stride + tile) * self.panel_blocks + block % self.panel_blocks
    }
}

/// What a tile of `SIDE` x `SIDE` values is at the points.
pub(crate) trait TileTransform<const SIDE: usize> {
    /// Pixels that a tile starts before its outputs.
    const MARGIN: usize;

    fn transform_row<S: Simd>(simd: S, values: [S::Vector; SIDE]) -> [S::Vector; IN_SIDE];
}

/// Of what a convolution reads.
pub(crate) struct InputTiles;
/// Of derivatives by what it gives.
pub(crate) struct GradientTiles;

impl TileTransform<IN_SIDE> for InputTiles {
    const MARGIN: usize = 1;

    #[inline(always)]
    fn transform_row<S: Simd>(simd: S, values: [S::Vector; IN_SIDE]) -> [S::Vector; IN_SIDE] {
        transform_input_row(simd, values)
    }
}

impl TileTransform<OUT_SIDE> for GradientTiles {
    const MARGIN: usize = 0;

    #[inline(always)]
    fn transform_row<S: Simd>(simd: S, values: [S::Vector; OUT_SIDE]) -> [S::Vector; IN_SIDE] {
        transform_gradient_row(simd, values)
    }
}

/// Photos whose tiles are transformed.
#[derive(Clone, Copy)]
pub(crate) struct TransformSource {
    pub(crate) lines: *const CacheLine,
    /// Cells from a pixel to the next.
    pub(crate) pixel_stride: usize,
    /// Cells from a block of channels to the next.
    pub(crate) block_stride: usize,
}

/// Transforms tiles: units `tile + tiles * block` of those of `tiles`.
pub(crate) struct TransformTiles<T, const SIDE: usize> {
    pub(crate) tiling: Tiling,
    pub(crate) source: TransformSource,
    pub(crate) tiles: Range<usize>,
    pub(crate) units: Range<usize>,
    pub(crate) dst: TransformedTiles,
    pub(crate) kind: PhantomData<T>,
}

impl<T: TileTransform<SIDE>, const SIDE: usize> Job for TransformTiles<T, SIDE> {
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "two axes: rows and columns of one square")]
    fn run<K: Kernel>(self, kernel: K) {
        let (Tiling { height, width }, TransformSource { lines, pixel_stride, block_stride }) =
            (self.tiling, self.source);
        for unit in self.units {
            let (block, tile) = (unit / self.tiles.len(), unit % self.tiles.len());
            let (image, top, left) = self.tiling.locate(self.tiles.start + tile);
            // SAFETY: the maker of the job vouches for the source's blocks and photos; only pixels inside the photo are read.
            let image = unsafe { lines.add(block * block_stride + image * height * width * pixel_stride) };
            let first_line = self.dst.line_index(block, tile);
            for part in 0..K::PARTS {
                let zero = kernel.simd().splat(0.0);
                let mut columns = [[zero; IN_SIDE]; SIDE];
                for x in 0..SIDE {
                    let mut row = [zero; SIDE];
                    if let Some(left) = (left + x).checked_sub(T::MARGIN).filter(|&left| left < width) {
                        for (y, value) in row.iter_mut().enumerate() {
                            if let Some(row) = (top + y).checked_sub(T::MARGIN).filter(|&row| row < height) {
                                // SAFETY: row and column are inside.
                                *value = unsafe {
                                    kernel.load_part(image.add((row * width + left) * pixel_stride), part)
                                };
                            }
                        }
                    }
                    columns[x] = T::transform_row(kernel.simd(), row);
                }
                for y in 0..IN_SIDE {
                    let line = T::transform_row(kernel.simd(), std::array::from_fn(|x| columns[x][y]));
                    for (x, value) in line.into_iter().enumerate() {
                        let index = (IN_SIDE * y + x) * self.dst.component_stride + first_line;
                        // SAFETY: the maker of the job vouches for all points, blocks and tiles.
                        unsafe { kernel.store_part(self.dst.lines.add(index), part, value) };
                    }
                }
            }
        }
    }
}

/// Where outputs go.
pub(crate) trait PixelSink {
    /// Finishes and stores channels `16 * vector..` of a pixel.
    ///
    /// # Safety
    /// They are inside all that is read and written.
    unsafe fn store_vector<K: Kernel>(&self, kernel: K, pixel: usize, vector: usize, sums: Vector<K>);
}

impl PixelSink for TileOutput {
    #[inline(always)]
    unsafe fn store_vector<K: Kernel>(&self, kernel: K, pixel: usize, vector: usize, sums: Vector<K>) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.store_vector(kernel, pixel, vector, sums) }
    }
}

/// Transforms products back and finishes them: units `tile + tiles * vector` of those of `tiles`, a vector being 16 channels.
pub(crate) struct InverseTransform<O> {
    pub(crate) tiling: Tiling,
    pub(crate) transformed: TransformedTiles,
    pub(crate) tiles: Range<usize>,
    pub(crate) units: Range<usize>,
    pub(crate) output: O,
}

impl<O: PixelSink> Job for InverseTransform<O> {
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "two axes: rows and columns of one square")]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        let Tiling { height, width } = self.tiling;
        for unit in self.units {
            let (vector, tile) = (unit / self.tiles.len(), unit % self.tiles.len());
            let (image, top, left) = self.tiling.locate(self.tiles.start + tile);
            let zero = simd.splat(0.0);
            let mut columns = [[zero; OUT_SIDE]; IN_SIDE];
            // SAFETY: the maker of the job vouches for all points, vectors and tiles.
            let src = unsafe { self.transformed.lines.add(self.transformed.line_index(vector, tile)) };
            for x in 0..IN_SIDE {
                let row = std::array::from_fn(|y| {
                    // SAFETY: as above.
                    unsafe {
                        simd.load(src.add((IN_SIDE * y + x) * self.transformed.component_stride).cast())
                    }
                });
                columns[x] = transform_output_row(simd, row);
            }
            for y in 0..OUT_SIDE.min(height - top) {
                let line = transform_output_row(simd, std::array::from_fn(|x| columns[x][y]));
                for (x, value) in line.into_iter().enumerate().take(width - left) {
                    let pixel = (image * height + top + y) * width + left + x;
                    // SAFETY: row and column are inside; the maker of the job vouches for photos and vectors.
                    unsafe { self.output.store_vector(kernel, pixel, vector, value) };
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
    fn unit<const SIZE: usize>(position: usize) -> [[f32; 16]; SIZE] {
        std::array::from_fn(|i| [f32::from(u8::from(i == position)); 16])
    }

    fn product(a: [[f32; 16]; IN_SIDE], b: [[f32; 16]; IN_SIDE]) -> [[f32; 16]; IN_SIDE] {
        std::array::from_fn(|i| std::array::from_fn(|lane| a[i][lane] * b[i][lane]))
    }

    /// The law that the transforms share, in one dimension: the outputs are the correlation of inputs and kernel, and the derivative
    /// by the kernel that of inputs and derivatives by the outputs.
    #[test]
    fn transforms_give_the_correlation() {
        for (inputs, kernel) in (0..IN_SIDE).flat_map(|inputs| (0..TAPS).map(move |kernel| (inputs, kernel)))
        {
            let x = transform_input_row(Portable, unit(inputs));
            let y = transform_output_row(Portable, product(x, transform_kernel_row(Portable, unit(kernel))));
            for (position, y) in y.iter().enumerate() {
                let expected = f32::from(u8::from(position + kernel == inputs));
                let gradient = kernel_gradient_row(
                    Portable,
                    product(x, transform_gradient_row(Portable, unit(position))),
                );
                for found in [y[0], gradient[kernel][0]] {
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
            let components = transform_kernel(Portable, taps);
            for component in 0..COMPONENTS {
                let (found, expected) = (
                    components[component / IN_SIDE][component % IN_SIDE][0],
                    kernel_transform_factors(component)[tap],
                );
                assert!((f64::from(found) - expected).abs() < 1e-6, "{tap} {component}: {found} {expected}");
            }
        }
    }
}
