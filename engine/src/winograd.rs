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
use crate::kernels::{Job, Kernel, Simd, TileOutput, Vector};

/// Height and width of an output tile.
pub(crate) const OUT_SIDE: usize = 4;
/// Height and width of an input tile.
pub(crate) const IN_SIDE: usize = OUT_SIDE + 2;
/// Height and width of a kernel.
pub(crate) const TAPS: usize = 3;
/// Components of a transformed tile or kernel.
pub(crate) const COMPONENTS: usize = IN_SIDE * IN_SIDE;

/// The interpolation points are 0, `±P`, `±Q` and infinity: Winograd's algorithm takes inputs and weights as
/// coefficients of polynomials, and multiplies the values of the polynomials at these points.
const P: f32 = 0.75;
/// See [`P`].
const Q: f32 = 1.5;

/// The output transform of Winograd's algorithm F(4 x 4, 3 x 3) along one axis: computes four values `A^T m`
/// from six products `m` of an input tile's components with those of a kernel, a row or a column of the 6 x 6
/// products, with one channel per lane. Done for all columns and then for all rows it gives the 4 x 4 outputs
/// of the convolution in a tile.
#[inline(always)]
fn transform_output_row<S: Simd>(simd: S, m: [S::Vector; IN_SIDE]) -> [S::Vector; OUT_SIDE] {
    let scale_add = |factor: f32, a, b| simd.mul_add(simd.splat(factor), a, b);
    let scale = |factor: f32, a| scale_add(factor, a, simd.splat(0.0));
    // The products belong to the interpolation points 0, `P`, `-P`, `Q`, `-Q` and infinity. Output `i`
    // weights that at point `p` with `p^i`; the point infinity only adds to the last output.
    let (sum_p, difference_p) = (simd.add(m[1], m[2]), simd.sub(m[1], m[2]));
    let (sum_q, difference_q) = (simd.add(m[3], m[4]), simd.sub(m[3], m[4]));
    [
        simd.add(m[0], simd.add(sum_p, sum_q)),
        scale_add(Q, difference_q, scale(P, difference_p)),
        scale_add(Q * Q, sum_q, scale(P * P, sum_p)),
        scale_add(Q * Q * Q, difference_q, scale_add(P * P * P, difference_p, m[5])),
    ]
}

/// Divisors of the rows of `G` at the points 0, `±P` and `±Q`: for each point the product of its differences
/// from the other finite points, the denominators of Lagrange's interpolation.
const DIVISORS: [f32; 3] = [P * P * Q * Q, 2.0 * P * P * (P * P - Q * Q), 2.0 * Q * Q * (Q * Q - P * P)];

/// The 6 x 3 matrix `G` with which Winograd's algorithm transforms a 3 x 3 kernel `g` to its 36 components,
/// `G g G^T`. It has a row per interpolation point: the powers 0 to 2 of the point, over the point's divisor
/// (see [`DIVISORS`]). In `f64`, for frozen weights, which are transformed only once.
fn kernel_transform_matrix() -> [[f64; 3]; IN_SIDE] {
    let (p, q) = (f64::from(P), f64::from(Q));
    let row_at = |x: f64, divisor: f32| [1.0, x, x * x].map(|power| power / f64::from(divisor));
    let [div_0, div_p, div_q] = DIVISORS;
    [
        row_at(0.0, div_0),
        row_at(p, div_p),
        row_at(-p, div_p),
        row_at(q, div_q),
        row_at(-q, div_q),
        [0.0, 0.0, 1.0], // infinity: the highest coefficient of the polynomial
    ]
}

/// The nine factors, in row-major order, by which the weights of a 3 x 3 kernel `g` are multiplied and summed
/// to get component `component` (0 to 35, row by row) of `G g G^T`, the transformed kernel of Winograd's
/// algorithm. Packing transforms frozen weights with them in `f64`.
pub(crate) fn kernel_transform_factors(component: usize) -> [f64; 9] {
    let rows = kernel_transform_matrix();
    std::array::from_fn(|tap| rows[component / IN_SIDE][tap / 3] * rows[component % IN_SIDE][tap % 3])
}

/// The kernel transform of Winograd's algorithm F(4 x 4, 3 x 3) along one axis: computes the six values `G g`
/// for three weights `g`, a row or a column of a 3 x 3 kernel, with one kernel per lane. `G` is that of
/// [`kernel_transform_matrix`], here in `f32`, since kernels in training are transformed at each step.
#[inline(always)]
pub(crate) fn transform_kernel_row<S: Simd>(simd: S, g: [S::Vector; TAPS]) -> [S::Vector; IN_SIDE] {
    let scale_add = |factor: f32, a, b| simd.mul_add(simd.splat(factor), a, b);
    let scale = |factor: f32, a| scale_add(factor, a, simd.splat(0.0));
    let [div_0, div_p, div_q] = DIVISORS;
    // The rows for `P` and `-P` differ only in the sign of the odd part; likewise for `Q` and `-Q`.
    let (even_p, odd_p) = (scale_add(P * P / div_p, g[2], scale(1.0 / div_p, g[0])), scale(P / div_p, g[1]));
    let (even_q, odd_q) = (scale_add(Q * Q / div_q, g[2], scale(1.0 / div_q, g[0])), scale(Q / div_q, g[1]));
    [
        scale(1.0 / div_0, g[0]),
        simd.add(even_p, odd_p),
        simd.sub(even_p, odd_p),
        simd.add(even_q, odd_q),
        simd.sub(even_q, odd_q),
        g[2],
    ]
}

/// The last step of the gradient of the weights by Winograd's algorithm along one axis: computes the three
/// values `G^T m` from six values `m`, a row or a column of the 6 x 6 components of a kernel's gradient, with
/// one kernel per lane. Done for all columns and then for all rows it gives the gradients of the 3 x 3
/// weights. The matrix is the transpose of that of [`transform_kernel_row`].
#[inline(always)]
pub(crate) fn kernel_gradient_row<S: Simd>(simd: S, m: [S::Vector; IN_SIDE]) -> [S::Vector; TAPS] {
    let scale_add = |factor: f32, a, b| simd.mul_add(simd.splat(factor), a, b);
    let scale = |factor: f32, a| scale_add(factor, a, simd.splat(0.0));
    let [div_0, div_p, div_q] = DIVISORS;
    // Weight `i` sums the values at the points `p`, times `p^i` over the divisor; for `-p` only the sign of
    // an odd power differs.
    let (sum_p, difference_p) = (simd.add(m[1], m[2]), simd.sub(m[1], m[2]));
    let (sum_q, difference_q) = (simd.add(m[3], m[4]), simd.sub(m[3], m[4]));
    [
        scale_add(1.0 / div_0, m[0], scale_add(1.0 / div_p, sum_p, scale(1.0 / div_q, sum_q))),
        scale_add(P / div_p, difference_p, scale(Q / div_q, difference_q)),
        scale_add(P * P / div_p, sum_p, scale_add(Q * Q / div_q, sum_q, m[5])),
    ]
}

/// Transforms a matrix of `N` x `N` vectors along both axes: `transform` takes a column of it, and then a row
/// of the results, and returns `M` vectors. With [`transform_kernel_row`] it transforms 16 kernels `g`, one
/// per lane, from their 3 x 3 weights `[row][column]` to their 36 components, `G g G^T`, in training, where
/// kernels change at each step; [`kernel_transform_factors`] serves frozen kernels. With
/// [`kernel_gradient_row`] it turns the 36 components `m` of the gradients of 16 kernels into the gradients
/// of their weights, `G^T m G`.
#[inline(always)]
pub(crate) fn transform_both_axes<V: Copy, const N: usize, const M: usize>(
    matrix: [[V; N]; N],
    transform: impl Fn([V; N]) -> [V; M],
) -> [[V; M]; M] {
    let (mut columns, mut result) = ([[matrix[0][0]; M]; N], [[matrix[0][0]; M]; M]);
    for (x, column) in columns.iter_mut().enumerate() {
        *column = transform(std::array::from_fn(|y| matrix[y][x]));
    }
    for (y, row) in result.iter_mut().enumerate() {
        *row = transform(std::array::from_fn(|x| columns[x][y]));
    }
    result
}

/// The division of images of `height` x `width` pixels into tiles of 4 x 4 outputs, which are numbered in the
/// order image, row, column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiling {
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Tiling {
    /// Number of tiles in an image; those at the right and bottom edges may go past it.
    pub(crate) fn tiles_per_image(self) -> usize {
        self.height.div_ceil(OUT_SIDE) * self.width.div_ceil(OUT_SIDE)
    }

    /// Finds tile `index`, where tiles are counted over all images. Returns the index of its image, and the
    /// row and the column in that image of the tile's top left output.
    #[inline(always)]
    fn locate(self, index: usize) -> (usize, usize, usize) {
        let columns = self.width.div_ceil(OUT_SIDE);
        let (image, tile) = (index / self.tiles_per_image(), index % self.tiles_per_image());
        (image, tile / columns * OUT_SIDE, tile % columns * OUT_SIDE)
    }
}

/// Memory layout of tiles that Winograd's algorithm has transformed to 36 components:
/// `[component][panel of blocks][tile][block of the panel]`, where a block is a cache line of channels. One
/// component of all tiles is a matrix that a GEMM reads.
#[derive(Clone, Copy)]
pub(crate) struct TransformedTiles {
    pub(crate) lines: *mut CacheLine,
    /// Lines between two components.
    pub(crate) component_stride: usize,
    /// Tiles between two panels.
    pub(crate) panel_stride: usize,
    /// Channel blocks in a panel.
    pub(crate) panel_blocks: usize,
}

impl TransformedTiles {
    /// Pointer to the first line of component `index` (0 to 35), the operand of one GEMM.
    pub(crate) fn component(&self, index: usize) -> *mut CacheLine {
        self.lines.wrapping_add(index * self.component_stride)
    }

    /// Index, within a component, of the line with channel block `block` of tile `tile`.
    #[inline(always)]
    pub(crate) fn line_index(&self, block: usize, tile: usize) -> usize {
        (block / self.panel_blocks * self.panel_stride + tile) * self.panel_blocks + block % self.panel_blocks
    }
}

/// How Winograd's algorithm transforms a tile of `SIDE` x `SIDE` pixels to its [`COMPONENTS`] (36)
/// components.
pub(crate) trait TileTransform<const SIDE: usize> {
    /// Number of rows above, and of columns left of, the tile's first output that belong to the tile.
    const MARGIN: usize;

    /// Transforms a row or a column of a tile, `values`, with one channel per lane, to six values. Done for
    /// all columns and then for all rows of the result it gives the 36 components of the tile.
    fn transform_row<S: Simd>(simd: S, values: [S::Vector; SIDE]) -> [S::Vector; IN_SIDE];
}

/// Tiles of a convolution's input: 6 x 6 pixels, from one pixel above and left of the first output on.
pub(crate) struct InputTiles;
/// Tiles of a convolution's output gradient: 4 x 4 pixels.
pub(crate) struct GradientTiles;

impl TileTransform<IN_SIDE> for InputTiles {
    const MARGIN: usize = 1;

    /// The input transform of Winograd's algorithm F(4 x 4, 3 x 3) along one axis: computes the six values
    /// `B^T x` for six adjacent inputs `x`, a row or a column of a 6 x 6 input tile, with one channel per
    /// lane. Done for all columns and then for all rows it gives the 36 components of the tile, which are
    /// multiplied with those of a kernel. Each row of `B^T` is that of Lavin and Gray (2015), scaled so that
    /// its last coefficient is 1.
    #[inline(always)]
    fn transform_row<S: Simd>(simd: S, x: [S::Vector; IN_SIDE]) -> [S::Vector; IN_SIDE] {
        let scale_add = |factor: f32, a, b| simd.mul_add(simd.splat(factor), a, b);
        // `B^T` has a row for each interpolation point: 0, `P`, `-P`, `Q`, `-Q` and infinity. The rows for
        // `P` and `-P` differ only in the sign of the odd part; likewise for `Q` and `-Q`.
        let (even_p, odd_p) = (scale_add(-Q * Q, x[2], x[4]), scale_add(-Q * Q, x[1], x[3]));
        let (even_q, odd_q) = (scale_add(-P * P, x[2], x[4]), scale_add(-P * P, x[1], x[3]));
        // The rows for the points 0 and infinity have the same coefficients.
        let outer_row = |a, b, c| scale_add(P * P * Q * Q, a, scale_add(-(P * P + Q * Q), b, c));
        [
            outer_row(x[0], x[2], x[4]),
            scale_add(P, odd_p, even_p),
            scale_add(-P, odd_p, even_p),
            scale_add(Q, odd_q, even_q),
            scale_add(-Q, odd_q, even_q),
            outer_row(x[1], x[3], x[5]),
        ]
    }
}

impl TileTransform<OUT_SIDE> for GradientTiles {
    const MARGIN: usize = 0;

    /// Computes the six values `A y` for four adjacent output gradients `y`, a row or a column of a 4 x 4
    /// tile, with one channel per lane: a transform along one axis for the gradient of the weights by
    /// Winograd's algorithm. Done for all columns and then for all rows it gives 36 components, which are
    /// multiplied with those of the inputs. `A` is the transpose of the matrix of [`transform_output_row`].
    #[inline(always)]
    fn transform_row<S: Simd>(simd: S, y: [S::Vector; OUT_SIDE]) -> [S::Vector; IN_SIDE] {
        let scale_add = |factor: f32, a, b| simd.mul_add(simd.splat(factor), a, b);
        let scale = |factor: f32, a| scale_add(factor, a, simd.splat(0.0));
        // The polynomial with coefficients `y` at each point. Its values at `P` and `-P` differ only in the
        // sign of the odd powers; likewise for `Q` and `-Q`.
        let (even_p, odd_p) = (scale_add(P * P, y[2], y[0]), scale_add(P * P * P, y[3], scale(P, y[1])));
        let (even_q, odd_q) = (scale_add(Q * Q, y[2], y[0]), scale_add(Q * Q * Q, y[3], scale(Q, y[1])));
        [
            y[0],
            simd.add(even_p, odd_p),
            simd.sub(even_p, odd_p),
            simd.add(even_q, odd_q),
            simd.sub(even_q, odd_q),
            y[3],
        ]
    }
}

/// A tensor whose tiles are transformed: the input of a frozen layer, in channel blocks, or a tensor
/// `[N, H, W, C]` in training.
#[derive(Clone, Copy)]
pub(crate) struct TransformSource {
    pub(crate) lines: *const CacheLine,
    /// Lines between two pixels.
    pub(crate) pixel_stride: usize,
    /// Lines between two channel blocks.
    pub(crate) block_stride: usize,
}

/// Transforms the tiles `tiles` of a tensor to the 36 components of Winograd's algorithm, which are then
/// multiplied by GEMMs. Unit of work `tile + tiles.len() * block` transforms one channel block of one tile.
pub(crate) struct TransformTiles<T, const SIDE: usize> {
    pub(crate) tiling: Tiling,
    pub(crate) source: TransformSource,
    pub(crate) tiles: Range<usize>,
    pub(crate) units: Range<usize>,
    /// Tile `tiles.start` becomes tile 0 there.
    pub(crate) dst: TransformedTiles,
    /// Selects the transform: [`InputTiles`] or [`GradientTiles`].
    pub(crate) kind: PhantomData<T>,
}

impl<T: TileTransform<SIDE>, const SIDE: usize> Job for TransformTiles<T, SIDE> {
    /// The first step of Winograd's algorithm, on one channel block of one tile per unit of work: loads the
    /// tile's pixels, with zeros outside the image, applies `T::transform_row` to the columns and then to the
    /// rows of the result, and stores the 36 components in `dst`. The tiles are of a convolution's input, or
    /// of the output gradient for the gradient of the weights.
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
            let pixels = unsafe { lines.add(block * block_stride + image * height * width * pixel_stride) };
            let first_line = self.dst.line_index(block, tile);
            // A part is a vector of 16 channels of a cache line.
            for part in 0..K::VECTORS_PER_LINE {
                let zero = kernel.simd().splat(0.0);
                let mut columns = [[zero; IN_SIDE]; SIDE];
                for x in 0..SIDE {
                    let mut column = [zero; SIDE];
                    if let Some(x) = (left + x).checked_sub(T::MARGIN).filter(|&x| x < width) {
                        for (y, value) in column.iter_mut().enumerate() {
                            if let Some(y) = (top + y).checked_sub(T::MARGIN).filter(|&y| y < height) {
                                let pixel = (y * width + x) * pixel_stride;
                                // SAFETY: row and column are inside the image.
                                *value = unsafe { kernel.load_part(pixels.add(pixel), part) };
                            }
                        }
                    }
                    columns[x] = T::transform_row(kernel.simd(), column);
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

/// Destination of the outputs of [`InverseTransform`], pixel by pixel: that of a frozen layer or of a
/// gradient.
pub(crate) trait PixelSink {
    /// Applies the epilogue (such as bias, residual and ReLU) to `sums`, the 16 channels from channel
    /// `16 * vector` on, at pixel `pixel`, counted over all images, and stores the result. Winograd's output
    /// transform calls it for each pixel of a tile.
    ///
    /// # Safety
    /// The channels must be inside everything that is read and written.
    unsafe fn store_vector<K: Kernel>(&self, kernel: K, pixel: usize, vector: usize, sums: Vector<K>);
}

impl PixelSink for TileOutput {
    /// Applies bias, residual and ReLU of a frozen layer to 16 channels of one pixel, and stores the result
    /// in the layer's output, which is in channel blocks.
    #[inline(always)]
    unsafe fn store_vector<K: Kernel>(&self, kernel: K, pixel: usize, vector: usize, sums: Vector<K>) {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.store(kernel, pixel, vector, sums) }
    }
}

/// Transforms the products `m` of the tiles `tiles` with the kernels to the outputs of the convolution,
/// `A^T m A`: the last step of Winograd's algorithm. Unit of work `tile + tiles.len() * vector` gives 16
/// channels of one tile's 4 x 4 outputs.
pub(crate) struct InverseTransform<O> {
    pub(crate) tiling: Tiling,
    /// The products, with tile `tiles.start` as tile 0.
    pub(crate) products: TransformedTiles,
    pub(crate) tiles: Range<usize>,
    pub(crate) units: Range<usize>,
    pub(crate) output: O,
}

impl<O: PixelSink> Job for InverseTransform<O> {
    /// The last step of Winograd's algorithm, for 16 channels of one tile per unit of work: transforms the
    /// tile's 36 products of input and kernel components to its 4 x 4 outputs of the convolution, first along
    /// the columns of the 6 x 6 products, then along the rows of the result. Gives the outputs that are
    /// inside the image to `output`, which applies the epilogue and stores them.
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
            let line = self.products.line_index(vector, tile);
            for x in 0..IN_SIDE {
                let column = std::array::from_fn(|y| {
                    let component = self.products.component(IN_SIDE * y + x);
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
            let x = InputTiles::transform_row(Portable, unit(input));
            let y = transform_output_row(Portable, product(x, transform_kernel_row(Portable, unit(kernel))));
            for (output, y) in y.iter().enumerate() {
                let expected = f32::from(u8::from(output + kernel == input));
                let gradient = product(x, GradientTiles::transform_row(Portable, unit(output)));
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
            let components = transform_both_axes(taps, |row| transform_kernel_row(Portable, row));
            for component in 0..COMPONENTS {
                let found = components[component / IN_SIDE][component % IN_SIDE][0];
                let expected = kernel_transform_factors(component)[tap];
                assert!((f64::from(found) - expected).abs() < 1e-6, "{tap} {component}: {found} {expected}");
            }
        }
    }
}
