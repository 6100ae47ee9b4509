//! The stem's max pool (3 x 3, stride 2, padding 1) with candle's operations, in NHWC layout. Padding with
//! zeros does not change the maximum, because the input is the output of a ReLU.

use candle_core::{Result, Tensor};

use super::convolution::{kernel_taps, pad_or_crop};

/// `[N, H, W, C]` to `[N, H', W', C]`: height and width are halved and rounded up.
pub(super) fn forward(xs: &Tensor) -> Result<Tensor> {
    max_along(&max_along(xs, 2)?, 1)
}

/// The gradient of the input. The first maximum of a window gets all of it, as in PyTorch; candle's `maximum`
/// would split it between equal values.
pub(super) fn backward(xs: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let row_max = max_along(xs, 2)?;
    max_along_backward(xs, 2, &max_along_backward(&row_max, 1, gradient)?)
}

/// The first, second and third elements of all windows along `axis`.
fn window_taps(xs: &Tensor, axis: usize) -> Result<Vec<Tensor>> {
    kernel_taps(xs, axis, 3, 2, 1, xs.dim(axis)?.div_ceil(2))
}

fn max_along(xs: &Tensor, axis: usize) -> Result<Tensor> {
    let taps = window_taps(xs, axis)?;
    taps[0].maximum(&taps[1])?.maximum(&taps[2])
}

fn max_along_backward(xs: &Tensor, axis: usize, gradient: &Tensor) -> Result<Tensor> {
    let (length, windows) = (xs.dim(axis)?, gradient.dim(axis)?);
    let taps = window_taps(xs, axis)?;
    let max = taps[0].maximum(&taps[1])?.maximum(&taps[2])?;
    let mut remaining = gradient.clone();
    let mut tap_grads = Vec::with_capacity(3);
    for tap in &taps {
        let tap_grad = (&remaining * tap.eq(&max)?.to_dtype(remaining.dtype())?)?;
        remaining = (remaining - &tap_grad)?;
        tap_grads.push(tap_grad);
    }
    // On the padded axis, 2 i is the first position of window i and the last of i - 1; 2 i + 1 is its center.
    let even = (tap_grads[0].pad_with_zeros(axis, 0, 1)? + tap_grads[2].pad_with_zeros(axis, 1, 0)?)?;
    let odd = tap_grads[1].pad_with_zeros(axis, 0, 1)?;
    let mut dims = even.dims().to_vec();
    dims[axis] = 2 * (windows + 1);
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
