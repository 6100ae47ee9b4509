//! Winograd's algorithm F(4 x 4, 3 x 3): a 3 x 3 convolution of stride 1 as one GEMM per component of
//! transformed tiles.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015). A tile of 4 x 4 outputs takes
//! 36 multiplications instead of 144. Input tiles overlap by 2 pixels and are padded with zeros.
//!
//! `Y = A^T [(G g G^T) * (B^T d B)] A` for an input tile `d` and a kernel `g`. `Y` is linear in `g`, so the
//! gradient with respect to `g`, given the gradient `Y'`, is `G^T [(A Y' A^T) * (B^T d B)] G`, with the
//! products summed over all tiles.

use std::marker::PhantomData;
use std::ops::Range;

use crate::cache_line::CacheLine;
use crate::kernels::{Job, Kernel, Simd, Vector};
use crate::tile::TileOutput;

/// Side of an output tile.
pub(crate) const OUT_SIDE: usize = 4;
/// Side of an input tile.
pub(crate) const IN_SIDE: usize = OUT_SIDE + 2;
/// Side of a kernel.
pub(crate) const TAPS: usize = 3;
/// Components of a transformed tile or kernel.
pub(crate) const COMPONENTS: usize = IN_SIDE * IN_SIDE;

/// The interpolation points are 0, `±P`, `±Q` and infinity.
const P: f32 = 0.75;
const Q: f32 = 1.5;

/// Transforms a row of inputs: `B^T` of the paper, with the last coefficient of each row scaled to 1.
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

/// Transforms a row of products to outputs: `A^T`.
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

/// Transforms a row of output gradients: `A`.
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

/// Divisors of the kernel transform at the points 0, `±P` and `±Q`.
const DIVISORS: [f32; 3] = [P * P * Q * Q, 2.0 * P * P * (P * P - Q * Q), 2.0 * Q * Q * (Q * Q - P * P)];

/// The kernel transform `G`, a row per point.
fn kernel_transform_matrix() -> [[f64; 3]; IN_SIDE] {
    let (p, q) = (f64::from(P), f64::from(Q));
    let row_at = |x: f64, divisor: f32| [1.0, x, x * x].map(|power| power / f64::from(divisor));
    let [at_0, at_p, at_q] = DIVISORS;
    [row_at(0.0, at_0), row_at(p, at_p), row_at(-p, at_p), row_at(q, at_q), row_at(-q, at_q), [0.0, 0.0, 1.0]]
}

/// Coefficients of the taps of a kernel, in row-major order, in a component of `G g G^T`.
pub(crate) fn kernel_transform_factors(component: usize) -> [f64; 9] {
    let rows = kernel_transform_matrix();
    std::array::from_fn(|tap| rows[component / IN_SIDE][tap / 3] * rows[component % IN_SIDE][tap % 3])
}

/// Transforms a row of a kernel: `G`.
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

/// Transforms a row of products to the gradient of a kernel's row: `G^T`.
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

/// Transforms a kernel: `G g G^T`.
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

/// Gradient of a kernel from its transform components summed over tiles: `G^T m G`.
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

/// The output tiles of a value, in the order image, row, column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiling {
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Tiling {
    /// Tiles in an image.
    pub(crate) fn tiles_per_image(self) -> usize {
        self.height.div_ceil(OUT_SIDE) * self.width.div_ceil(OUT_SIDE)
    }

    /// The image of tile `index`, and the first row and column of its outputs.
    #[inline(always)]
    fn locate(self, index: usize) -> (usize, usize, usize) {
        let columns = self.width.div_ceil(OUT_SIDE);
        let (image, tile) = (index / self.tiles_per_image(), index % self.tiles_per_image());
        (image, tile / columns * OUT_SIDE, tile % columns * OUT_SIDE)
    }
}

/// Transformed tiles: `[component][panel of blocks][tile][block of the panel]`, a cache line each.
#[derive(Clone, Copy)]
pub(crate) struct TransformedTiles {
    pub(crate) lines: *mut CacheLine,
    /// Lines between two components.
    pub(crate) component_stride: usize,
    /// Tiles between two panels.
    pub(crate) panel_stride: usize,
    /// Blocks in a panel.
    pub(crate) panel_blocks: usize,
}

impl TransformedTiles {
    /// First line of a component.
    pub(crate) fn component(&self, index: usize) -> *mut CacheLine {
        self.lines.wrapping_add(index * self.component_stride)
    }

    /// Index of the line of a channel block of a tile within a component.
    #[inline(always)]
    pub(crate) fn line_index(&self, block: usize, tile: usize) -> usize {
        (block / self.panel_blocks * self.panel_stride + tile) * self.panel_blocks + block % self.panel_blocks
    }
}

/// Transform of tiles of `SIDE` x `SIDE` values.
pub(crate) trait TileTransform<const SIDE: usize> {
    /// Rows and columns of a tile before its first output.
    const MARGIN: usize;

    /// Transforms a row or column of a tile.
    fn transform_row<S: Simd>(simd: S, values: [S::Vector; SIDE]) -> [S::Vector; IN_SIDE];
}

/// Tiles of a convolution's input.
pub(crate) struct InputTiles;
/// Tiles of a convolution's output gradient.
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

/// A value whose tiles are transformed.
#[derive(Clone, Copy)]
pub(crate) struct TransformSource {
    pub(crate) lines: *const CacheLine,
    /// Lines between two pixels.
    pub(crate) pixel_stride: usize,
    /// Lines between two channel blocks.
    pub(crate) block_stride: usize,
}

/// Transforms tiles `tiles` of a value: units `tile + tiles * block`.
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
        let Tiling { height, width } = self.tiling;
        let TransformSource { lines, pixel_stride, block_stride } = self.source;
        for unit in self.units {
            let (block, tile) = (unit / self.tiles.len(), unit % self.tiles.len());
            let (image, top, left) = self.tiling.locate(self.tiles.start + tile);
            // SAFETY: the job's creator guarantees the source's blocks and images; only pixels inside are
            // read.
            let image = unsafe { lines.add(block * block_stride + image * height * width * pixel_stride) };
            let first_line = self.dst.line_index(block, tile);
            for part in 0..K::PARTS {
                let zero = kernel.simd().splat(0.0);
                let mut columns = [[zero; IN_SIDE]; SIDE];
                for x in 0..SIDE {
                    let mut row = [zero; SIDE];
                    if let Some(x) = (left + x).checked_sub(T::MARGIN).filter(|&x| x < width) {
                        for (y, value) in row.iter_mut().enumerate() {
                            if let Some(y) = (top + y).checked_sub(T::MARGIN).filter(|&y| y < height) {
                                let pixel = (y * width + x) * pixel_stride;
                                // SAFETY: row and column are inside the image.
                                *value = unsafe { kernel.load_part(image.add(pixel), part) };
                            }
                        }
                    }
                    columns[x] = T::transform_row(kernel.simd(), row);
                }
                for y in 0..IN_SIDE {
                    let row = T::transform_row(kernel.simd(), std::array::from_fn(|x| columns[x][y]));
                    for (x, value) in row.into_iter().enumerate() {
                        let index = (IN_SIDE * y + x) * self.dst.component_stride + first_line;
                        // SAFETY: the job's creator guarantees all components, blocks and tiles.
                        unsafe { kernel.store_part(self.dst.lines.add(index), part, value) };
                    }
                }
            }
        }
    }
}

/// Destination of outputs, pixel by pixel.
pub(crate) trait PixelSink {
    /// Applies the epilogue to channels `16 * vector..` of a pixel and stores them.
    ///
    /// # Safety
    /// The channels must be inside everything that is read and written.
    unsafe fn store_vector<K: Kernel>(&self, kernel: K, pixel: usize, vector: usize, sums: Vector<K>);
}

impl PixelSink for TileOutput {
    #[inline(always)]
    unsafe fn store_vector<K: Kernel>(&self, kernel: K, pixel: usize, vector: usize, sums: Vector<K>) {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.store(kernel, pixel, vector, sums) }
    }
}

/// Transforms the products of tiles `tiles` to outputs: units `tile + tiles * vector`, with vectors of 16
/// channels.
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
            let line = self.transformed.line_index(vector, tile);
            for x in 0..IN_SIDE {
                let column = std::array::from_fn(|y| {
                    let component = self.transformed.component(IN_SIDE * y + x);
                    // SAFETY: the job's creator guarantees all components, vectors and tiles.
                    unsafe { simd.load(component.add(line).cast()) }
                });
                columns[x] = transform_output_row(simd, column);
            }
            for y in 0..OUT_SIDE.min(height - top) {
                let row = transform_output_row(simd, std::array::from_fn(|x| columns[x][y]));
                for (x, value) in row.into_iter().enumerate().take(width - left) {
                    let pixel = (image * height + top + y) * width + left + x;
                    // SAFETY: row and column are inside; the job's creator guarantees images and vectors.
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

    /// A unit vector.
    fn unit<const SIZE: usize>(position: usize) -> [[f32; 16]; SIZE] {
        std::array::from_fn(|i| [f32::from(u8::from(i == position)); 16])
    }

    fn product(a: [[f32; 16]; IN_SIDE], b: [[f32; 16]; IN_SIDE]) -> [[f32; 16]; IN_SIDE] {
        std::array::from_fn(|i| std::array::from_fn(|lane| a[i][lane] * b[i][lane]))
    }

    /// In one dimension, the outputs are the correlation of input and kernel, and the gradient of the kernel
    /// is the correlation of input and output gradient.
    #[test]
    fn transforms_give_the_correlation() {
        for (input, kernel) in (0..IN_SIDE).flat_map(|input| (0..TAPS).map(move |kernel| (input, kernel))) {
            let x = transform_input_row(Portable, unit(input));
            let y = transform_output_row(Portable, product(x, transform_kernel_row(Portable, unit(kernel))));
            for (output, y) in y.iter().enumerate() {
                let expected = f32::from(u8::from(output + kernel == input));
                let gradient = product(x, transform_gradient_row(Portable, unit(output)));
                let gradient = kernel_gradient_row(Portable, gradient);
                for found in [y[0], gradient[kernel][0]] {
                    assert!((found - expected).abs() < 1e-5, "{input} {kernel} {output}: {found} {expected}");
                }
            }
        }
    }

    #[test]
    fn transformed_kernels_agree_with_the_factors_of_their_taps() {
        for tap in 0..TAPS * TAPS {
            let taps = std::array::from_fn(|y| {
                std::array::from_fn(|x| [f32::from(u8::from(TAPS * y + x == tap)); 16])
            });
            let components = transform_kernel(Portable, taps);
            for component in 0..COMPONENTS {
                let found = components[component / IN_SIDE][component % IN_SIDE][0];
                let expected = kernel_transform_factors(component)[tap];
                assert!((f64::from(found) - expected).abs() < 1e-6, "{tap} {component}: {found} {expected}");
            }
        }
    }
}
