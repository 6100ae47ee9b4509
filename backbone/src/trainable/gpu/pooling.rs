//! The stem's max pool (3 x 3, stride 2, padding 1) with candle's operations, in NHWC layout. Padding with
//! zeros does not change the maximum, because the input is the output of a ReLU.

use candle_core::{Result, Tensor};

use super::convolution::{kernel_taps, pad_or_crop};

/// The forward pass: the max pool of `xs`, `[N, H, W, C]`, first along the width, then along the height.
/// Returns `[N, H', W', C]`, with height and width halved and rounded up.
pub(super) fn forward(xs: &Tensor) -> Result<Tensor> {
    max_along(&max_along(xs, 2)?, 1)
}

/// The backward pass: the gradient of the input `xs`, given that of the output, `grad_output`,
/// `[N, H', W', C]`. The first maximum of a window gets all of its gradient, as in PyTorch; candle's
/// `maximum` would split the gradient between equal values.
pub(super) fn backward(xs: &Tensor, grad_output: &Tensor) -> Result<Tensor> {
    let row_max = max_along(xs, 2)?;
    max_along_backward(xs, 2, &max_along_backward(&row_max, 1, grad_output)?)
}

/// The first, second and third elements (taps) of all windows along `axis`, as three tensors. A window has 3
/// positions; the stride is 2 and the padding 1.
fn window_taps(xs: &Tensor, axis: usize) -> Result<Vec<Tensor>> {
    kernel_taps(xs, axis, 3, 2, 1, xs.dim(axis)?.div_ceil(2))
}

/// The maxima of all windows along `axis`, `xs.dim(axis)` halved and rounded up: the max pool of one axis.
fn max_along(xs: &Tensor, axis: usize) -> Result<Tensor> {
    let taps = window_taps(xs, axis)?;
    taps[0].maximum(&taps[1])?.maximum(&taps[2])
}

/// The backward pass of [`max_along`], the max pool along `axis` with windows of 3 positions, stride 2 and
/// padding 1: returns the gradient of its input `xs`, given `grad_output`, the gradient of its output. Each
/// position gets the sum of the gradients of the windows whose first maximum it is.
fn max_along_backward(xs: &Tensor, axis: usize, grad_output: &Tensor) -> Result<Tensor> {
    let (length, windows) = (xs.dim(axis)?, grad_output.dim(axis)?);
    // The first, second and third elements of all windows.
    let taps = window_taps(xs, axis)?;
    let max = taps[0].maximum(&taps[1])?.maximum(&taps[2])?;
    // The gradient of each window goes to its first tap that equals the maximum; for later taps it is 0.
    let mut remaining = grad_output.clone();
    let mut tap_grads = Vec::with_capacity(3);
    for tap in &taps {
        let tap_grad = (&remaining * tap.eq(&max)?.to_dtype(remaining.dtype())?)?;
        remaining = (remaining - &tap_grad)?;
        tap_grads.push(tap_grad);
    }
    // On the padded axis, position 2 i is the first one of window i and the last one of window i - 1, and
    // position 2 i + 1 is the center of window i.
    let even = (tap_grads[0].pad_with_zeros(axis, 0, 1)? + tap_grads[2].pad_with_zeros(axis, 1, 0)?)?;
    let odd = tap_grads[1].pad_with_zeros(axis, 0, 1)?;
    let mut dims = even.dims().to_vec();
    dims[axis] = 2 * (windows + 1);
    // Interleaves even and odd positions, then removes the padding at position 0.
    let padded = Tensor::stack(&[even, odd], axis + 1)?.reshape(dims)?;
    pad_or_crop(&padded.narrow(axis, 1, 2 * windows + 1)?, axis, 0, length)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// Compares values with many duplicates with a loop over windows.
    #[test]
    fn the_first_maximum_gets_the_gradient() {
        for [height, width] in [[6usize, 6], [5, 7], [1, 4], [1, 1], [8, 3]] {
            let values: Vec<f32> = (0..height * width).map(|i| (i * 7 % 5 % 3) as f32).collect();
            let [rows, columns] = [height.div_ceil(2), width.div_ceil(2)];
            let gradient: Vec<f32> = (1..=rows * columns).map(|i| i as f32).collect();
            let (mut maxima, mut grad_input) = (Vec::new(), vec![0.0; values.len()]);
            for (window, g) in gradient.iter().enumerate() {
                let [y, x] = [window / columns, window % columns];
                let range = |i: usize, side: usize| (2 * i).saturating_sub(1)..(2 * i + 2).min(side);
                let indices = range(y, height).flat_map(|y| range(x, width).map(move |x| y * width + x));
                let indices: Vec<usize> = indices.collect();
                let max = indices.iter().map(|&i| values[i]).fold(0.0, f32::max);
                // In a window of zeros the padding may be the first maximum, but the ReLU has no gradient.
                if max > 0.0 {
                    grad_input[*indices.iter().find(|&&i| values[i] == max).unwrap()] += g;
                }
                maxima.push(max);
            }
            let tensor = |values: &[f32], dims: [usize; 2]| {
                Tensor::from_slice(values, (1, dims[0], dims[1], 1), &Device::Cpu).unwrap()
            };
            let to_vec = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let xs = tensor(&values, [height, width]);
            assert_eq!(to_vec(&forward(&xs).unwrap()), maxima, "{height} x {width}");
            let grad = backward(&xs, &tensor(&gradient, [rows, columns])).unwrap();
            let masked = (grad * xs.gt(0f32).unwrap().to_dtype(DType::F32).unwrap()).unwrap();
            assert_eq!(to_vec(&masked), grad_input, "{height} x {width}");
        }
    }
}
