//! Forward and backward of the stem's max pool and of global average pooling, in NHWC layout.

use pulp::Arch;
use rayon::prelude::*;

/// The shape `[N, H, W, C]` of activations: images, height, width, channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NhwcShape {
    pub(super) images: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
}

/// Borrowed activations with their shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct NhwcView<'a> {
    pub(super) shape: NhwcShape,
    pub(super) values: &'a [f32],
}

impl NhwcShape {
    /// Values of one row of one image, `W · C`.
    fn row_len(self) -> usize {
        self.width * self.channels
    }

    /// Positions of all images, `N · H · W`.
    pub(super) fn n_positions(self) -> usize {
        self.images * self.height * self.width
    }

    /// Values of all images, `N · H · W · C`.
    pub(super) fn n_values(self) -> usize {
        self.n_positions() * self.channels
    }

    /// The output shape of the stem's max pool.
    pub(super) fn after_max_pool(self) -> Self {
        Self { height: self.height.div_ceil(2), width: self.width.div_ceil(2), ..self }
    }
}

/// For window `window` of the max pool along an axis with `side` input positions: the range of the input
/// positions in it, and the index in the window (0 to 2) of the first one, which is 1 if 0 is padding.
fn window_range(window: usize, side: usize) -> (std::ops::Range<usize>, usize) {
    let first = (2 * window).saturating_sub(1);
    (first..(2 * window + 2).min(side), first + 1 - 2 * window)
}

/// The max pool of the stem in a forward pass: PyTorch's `max_pool2d` with 3 x 3 windows, stride 2 and
/// padding 1, of `input`, `[N, H, W, C]` of this `shape`. Writes the maxima to `out`, `[N, H', W', C]`. For
/// [`max_pool_backward`], it writes the index (0 to 8, by rows) of the first maximum in each window to
/// `argmax`, in the same shape.
pub(super) fn max_pool(shape: NhwcShape, input: &[f32], out: &mut [f32], argmax: &mut [u8]) {
    let (pooled, channels) = (shape.after_max_pool(), shape.channels);
    out.par_chunks_exact_mut(pooled.row_len())
        .zip(argmax.par_chunks_exact_mut(pooled.row_len()))
        .enumerate()
        .for_each(|(row, (out, argmax))| {
            let (image, y) = (row / pooled.height, row % pooled.height);
            // The input rows in the window, and the index (0 to 2) of the first one in the window.
            let (rows, first_row) = window_range(y, shape.height);
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    let positions = out.chunks_exact_mut(channels).zip(argmax.chunks_exact_mut(channels));
                    for (x, (out, argmax)) in positions.enumerate() {
                        let (columns, first_column) = window_range(x, shape.width);
                        out.fill(f32::NEG_INFINITY);
                        for (down, from_y) in rows.clone().enumerate() {
                            for (right, from_x) in columns.clone().enumerate() {
                                let index = (3 * (first_row + down) + first_column + right) as u8;
                                let start =
                                    (image * shape.height + from_y) * shape.row_len() + from_x * channels;
                                let xs = &input[start..start + channels];
                                for ((max, argmax), &x) in out.iter_mut().zip(argmax.iter_mut()).zip(xs) {
                                    // NaN propagates.
                                    let larger = x > *max || x.is_nan();
                                    *argmax = if larger { index } else { *argmax };
                                    *max = if larger { x } else { *max };
                                }
                            }
                        }
                    }
                },
            );
        });
}

/// The backward pass of [`max_pool`], 3 x 3 windows with stride 2: writes the gradient of its input,
/// `[N, H, W, C]` of this `shape`, to `grad_input`. Each position gets the sum of the output gradients of the
/// windows whose maximum it is. `grad_output` is the gradient of the output, and `argmax` the index (0 to 8,
/// by rows) of the maximum in each window, both `[N, H', W', C]`.
pub(super) fn max_pool_backward(
    shape: NhwcShape,
    grad_output: &[f32],
    argmax: &[u8],
    grad_input: &mut [f32],
) {
    let (pooled, channels) = (shape.after_max_pool(), shape.channels);
    grad_input.par_chunks_exact_mut(shape.row_len()).enumerate().for_each(|(row, grad_input)| {
        let (image, y) = (row / shape.height, row % shape.height);
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (x, grad_input) in grad_input.chunks_exact_mut(channels).enumerate() {
                    grad_input.fill(0.0);
                    // All windows that contain the position (y, x), and its index in them. Window w of an
                    // axis covers the positions 2 w - 1 to 2 w + 1, so odd positions are in two windows.
                    for window_y in y / 2..(y / 2 + 1 + y % 2).min(pooled.height) {
                        for window_x in x / 2..(x / 2 + 1 + x % 2).min(pooled.width) {
                            let index = (3 * (y + 1 - 2 * window_y) + x + 1 - 2 * window_x) as u8;
                            let start =
                                ((image * pooled.height + window_y) * pooled.width + window_x) * channels;
                            let window = start..start + channels;
                            let (gs, argmax) = (&grad_output[window.clone()], &argmax[window]);
                            for ((sum, g), argmax) in grad_input.iter_mut().zip(gs).zip(argmax) {
                                *sum += if *argmax == index { *g } else { 0.0 };
                            }
                        }
                    }
                }
            },
        );
    });
}

/// Global average pooling, the last step of a forward pass: returns the features `[N, C]`, the means over the
/// `H x W` positions of each image of `input`, the activations `[N, H, W, C]` of this `shape`.
pub(super) fn global_avg_pool(shape: NhwcShape, input: &[f32]) -> Vec<f32> {
    let channels = shape.channels;
    let inverse_count = 1.0 / (shape.height * shape.width) as f32;
    let mut out = vec![0.0; shape.images * channels];
    out.par_chunks_exact_mut(channels).zip(input.par_chunks_exact(shape.height * shape.row_len())).for_each(
        |(out, image)| {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    for xs in image.chunks_exact(channels) {
                        out.iter_mut().zip(xs).for_each(|(sum, x)| *sum += x);
                    }
                    out.iter_mut().for_each(|sum| *sum *= inverse_count);
                },
            );
        },
    );
    out
}

/// The backward pass of [`global_avg_pool`] and of the ReLU before it, the first step of backpropagation.
/// Writes the gradient of the last block's output before its ReLU to `grad_input`: `grad_features / (H · W)`
/// where `input` is positive, and 0 elsewhere. `input` is the output of that ReLU, `[N, H, W, C]` of this
/// `shape`, and `grad_features` is the gradient of the features, `[N, C]`.
pub(super) fn global_avg_pool_backward(
    shape: NhwcShape,
    grad_features: &[f32],
    input: &[f32],
    grad_input: &mut [f32],
) {
    let (channels, image_len) = (shape.channels, shape.height * shape.row_len());
    let inverse_count = 1.0 / (shape.height * shape.width) as f32;
    let images = grad_features.par_chunks_exact(channels).zip(input.par_chunks_exact(image_len));
    grad_input.par_chunks_exact_mut(image_len).zip(images).for_each(|(grad_input, (gs, input))| {
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (grads, xs) in grad_input.chunks_exact_mut(channels).zip(input.chunks_exact(channels)) {
                    for ((grad, x), g) in grads.iter_mut().zip(xs).zip(gs) {
                        *grad = if *x > 0.0 { inverse_count * g } else { 0.0 };
                    }
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heights and widths of images.
    const SIDES: [(usize, usize); 6] = [(1, 1), (1, 6), (5, 1), (4, 4), (5, 7), (6, 3)];

    /// Values with many duplicates, some negative.
    fn values(shape: NhwcShape) -> Vec<f32> {
        (0..shape.n_values()).map(|i| ((i * 7 + i / 5) % 4) as f32 - 2.5).collect()
    }

    /// For each output of [`max_pool`] the input index of the first maximum of its window.
    fn argmax_indices(shape: NhwcShape, xs: &[f32]) -> Vec<usize> {
        let mut indices = Vec::new();
        let (rows, columns) = (shape.height.div_ceil(2), shape.width.div_ceil(2));
        for (image, y, x) in (0..shape.images)
            .flat_map(|image| (0..rows).flat_map(move |y| (0..columns).map(move |x| (image, y, x))))
        {
            for channel in 0..shape.channels {
                let mut best: Option<usize> = None;
                for (down, right) in (0..3).flat_map(|down| (0..3).map(move |right| (down, right))) {
                    let (row, column) = ((2 * y + down).wrapping_sub(1), (2 * x + right).wrapping_sub(1));
                    if row < shape.height && column < shape.width {
                        let index =
                            ((image * shape.height + row) * shape.width + column) * shape.channels + channel;
                        best = best.filter(|&best| xs[index] <= xs[best]).or(Some(index));
                    }
                }
                indices.push(best.unwrap());
            }
        }
        indices
    }

    #[test]
    fn max_pool_selects_the_first_maximum_and_its_gradient_goes_there() {
        for (height, width) in SIDES {
            for channels in [1, 3, 40] {
                let shape = NhwcShape { images: 2, height, width, channels };
                let xs = values(shape);
                let expected = argmax_indices(shape, &xs);
                let pooled = shape.after_max_pool();
                assert_eq!(pooled.n_values(), expected.len());
                let (mut out, mut argmax) = (vec![f32::NAN; expected.len()], vec![u8::MAX; expected.len()]);
                max_pool(shape, &xs, &mut out, &mut argmax);
                assert_eq!(out, expected.iter().map(|&i| xs[i]).collect::<Vec<_>>(), "{shape:?}");
                let gradient: Vec<f32> = (0..out.len()).map(|i| i as f32 + 1.0).collect();
                let mut grad_input = vec![f32::NAN; xs.len()];
                max_pool_backward(shape, &gradient, &argmax, &mut grad_input);
                let mut expected_grad = vec![0.0; xs.len()];
                expected.iter().zip(&gradient).for_each(|(&i, g)| expected_grad[i] += g);
                assert_eq!(grad_input, expected_grad, "{shape:?}");
            }
        }
    }

    #[test]
    fn nan_propagates_through_max_pool() {
        let shape = NhwcShape { images: 1, height: 3, width: 3, channels: 1 };
        for position in 0..9 {
            let mut xs = vec![1.0; 9];
            xs[position] = f32::NAN;
            let (mut out, mut argmax) = ([0.0; 4], [0; 4]);
            max_pool(shape, &xs, &mut out, &mut argmax);
            // A window contains its center, which has even coordinates, and the neighbors of that center.
            for (window, out) in out.iter().enumerate() {
                let is_inside = (position / 3).abs_diff(2 * (window / 2)) < 2
                    && (position % 3).abs_diff(2 * (window % 2)) < 2;
                assert_eq!(out.is_nan(), is_inside, "{position} {window}");
            }
        }
    }

    #[test]
    fn average_pool_is_a_mean_and_its_gradient_is_zero_where_the_relu_output_is_zero() {
        let shape = NhwcShape { images: 2, height: 2, width: 3, channels: 2 };
        let mut ys: Vec<f32> = (0..24).map(|i| i as f32 + 1.0).collect();
        ys[4] = 0.0;
        ys[7] = -0.0;
        ys[13] = -3.0;
        ys[14] = 1e-40;
        // The sum of each channel of each image: every other value.
        let sums = [1.0 + 3.0 + 0.0 + 7.0 + 9.0 + 11.0, 2.0 + 4.0 + 6.0 + 0.0 + 10.0 + 12.0];
        let second = [13.0 + 1e-40 + 17.0 + 19.0 + 21.0 + 23.0, -3.0 + 16.0 + 18.0 + 20.0 + 22.0 + 24.0];
        let average = global_avg_pool(shape, &ys);
        for (ours, sum) in average.iter().zip(sums.iter().chain(&second)) {
            assert!((ours - sum / 6.0f32).abs() < 1e-5, "{ours}, not {sum} / 6");
        }
        let mut grad_input = [f32::NAN; 24];
        global_avg_pool_backward(shape, &[6.0, 12.0, -6.0, 18.0], &ys, &mut grad_input);
        let weight = 1.0f32 / 6.0;
        for (i, value) in grad_input.iter().enumerate() {
            let g = [[6.0, 12.0], [-6.0, 18.0]][i / 12][i % 2];
            let expected = if [4, 7, 13].contains(&i) { 0.0 } else { weight * g };
            assert_eq!(*value, expected, "{i}");
        }
    }
}
