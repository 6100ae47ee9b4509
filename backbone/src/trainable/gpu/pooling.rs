//! The stem's pool, the largest of 3 x 3 values in steps of 2 with a margin of 1, channels last, after a ReLU: a margin of zeros is
//! no margin then.

use candle_core::{Result, Tensor};

use super::convolution::{kernel_taps, pad_or_crop};

/// `[N, H, W, C]` to `[N, H', W', C]`, sides halved and rounded up.
pub(super) fn forward(xs: &Tensor) -> Result<Tensor> {
    max_along(&max_along(xs, 2)?, 1)
}

/// The derivative by the input. Of equals the first has it all, along each axis and so of all nine, as in PyTorch; candle's own
/// `maximum` would give parts to each.
pub(super) fn backward(xs: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let within = max_along(xs, 2)?;
    max_along_backward(xs, 2, &max_along_backward(&within, 1, gradient)?)
}

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
    let top = taps[0].maximum(&taps[1])?.maximum(&taps[2])?;
    let mut left = gradient.clone();
    let mut parts = Vec::with_capacity(3);
    for tap in &taps {
        let part = (&left * tap.eq(&top)?.to_dtype(left.dtype())?)?;
        left = (left - &part)?;
        parts.push(part);
    }
    // Place 2 i of the padded axis is under the first of window i and under the last of window i - 1, place 2 i + 1 under the middle.
    let even = (parts[0].pad_with_zeros(axis, 0, 1)? + parts[2].pad_with_zeros(axis, 1, 0)?)?;
    let odd = parts[1].pad_with_zeros(axis, 0, 1)?;
    let mut dims = even.dims().to_vec();
    dims[axis] = 2 * (windows + 1);
    let padded = Tensor::stack(&[even, odd], axis + 1)?.reshape(dims)?;
    pad_or_crop(&padded.narrow(axis, 1, 2 * windows + 1)?, axis, 0, length)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// Of few whole numbers, so that many are equal, against a loop over windows that takes the first of the largest.
    #[test]
    fn of_equals_the_first_has_the_derivative() {
        for [height, width] in [[6usize, 6], [5, 7], [1, 4], [1, 1], [8, 3]] {
            let values: Vec<f32> = (0..height * width).map(|i| (i * 7 % 5 % 3) as f32).collect();
            let [rows, columns] = [height.div_ceil(2), width.div_ceil(2)];
            let gradient: Vec<f32> = (1..=rows * columns).map(|i| i as f32).collect();
            let (mut tops, mut grad_input) = (Vec::new(), vec![0.0; values.len()]);
            for (window, g) in gradient.iter().enumerate() {
                let [y, x] = [window / columns, window % columns];
                let under = |at: usize, side: usize| (2 * at).saturating_sub(1)..(2 * at + 2).min(side);
                let places = under(y, height).flat_map(|y| under(x, width).map(move |x| y * width + x));
                let places: Vec<usize> = places.collect();
                let top = places.iter().map(|&at| values[at]).fold(0.0, f32::max);
                // In a window of zeros the margin may be the first: a ReLU passes nothing to either.
                if top > 0.0 {
                    grad_input[*places.iter().find(|&&at| values[at] == top).unwrap()] += g;
                }
                tops.push(top);
            }
            let tensor = |values: &[f32], dims: [usize; 2]| {
                Tensor::from_slice(values, (1, dims[0], dims[1], 1), &Device::Cpu).unwrap()
            };
            let found = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let xs = tensor(&values, [height, width]);
            assert_eq!(found(&forward(&xs).unwrap()), tops, "{height} x {width}");
            let back = backward(&xs, &tensor(&gradient, [rows, columns])).unwrap();
            let passed = (back * xs.gt(0f32).unwrap().to_dtype(DType::F32).unwrap()).unwrap();
            assert_eq!(found(&passed), grad_input, "{height} x {width}");
        }
    }
}
