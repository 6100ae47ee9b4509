//! Convolution and its gradients as im2col and GEMM, in NHWC layout. `K` is the size of the square kernel,
//! `C` and `O` are input and output channels, and `H'` and `W'` are height and width of the output.

use candle_core::{D, Result, Tensor};

use crate::resnet_spec::ConvGeometry;

/// The forward pass of a convolution in training, as a matrix product: of the input `xs`, `[N, H, W, C]`, and
/// `weight`, `[K, K, C, O]`, for a `K x K` kernel with `C` input and `O` output channels. Returns the output,
/// `[N, H', W', O]`.
pub(super) fn forward(xs: &Tensor, weight: &Tensor, geometry: ConvGeometry) -> Result<Tensor> {
    let (kernel, _, inputs, outputs) = weight.dims4()?;
    pointwise_matmul(
        &input_columns(xs, kernel, geometry)?,
        &weight.reshape((kernel * kernel * inputs, outputs))?,
    )
}

/// The gradient of the loss by the weights of [`forward`], `[K · K · C, O]` with `K = kernel`, given its
/// input `xs`, `[N, H, W, C]`, and `grad_output`, the gradient of its output, `[N, H', W', O]`: the
/// transposed im2col matrix (a row of `K · K · C` inputs per output position) times `grad_output`. The matrix
/// is recomputed, not saved by [`forward`], because it takes up to `K · K` times the memory of the input.
pub(super) fn backward_weight(
    xs: &Tensor,
    kernel: usize,
    geometry: ConvGeometry,
    grad_output: &Tensor,
) -> Result<Tensor> {
    to_rows(&input_columns(xs, kernel, geometry)?)?.t()?.matmul(&to_rows(grad_output)?)
}

/// The gradient of the loss by the input of [`forward`], `[N, H, W, C]`, for the layer before it.
/// `input_size` is `[H, W]`, `weight` is `[K, K, C, O]`, and `grad_output` is the gradient of the output,
/// `[N, H', W', O]`. It is a transposed convolution: `grad_output`, with zeros inserted between the
/// positions, is convolved with the flipped kernel with stride 1.
pub(super) fn backward_input(
    input_size: [usize; 2],
    weight: &Tensor,
    geometry: ConvGeometry,
    grad_output: &Tensor,
) -> Result<Tensor> {
    let (kernel, _, inputs, outputs) = weight.dims4()?;
    let ConvGeometry { stride, padding } = geometry;
    // The kernel rotated by 180 degrees, with input and output channels swapped: `[K, K, O, C]`.
    let flipped = weight.flip(&[0, 1])?.transpose(2, 3)?.contiguous()?;
    let flipped = flipped.reshape((kernel * kernel * outputs, inputs))?;
    if kernel == 1 {
        // Multiplying before dilation avoids products with zeros.
        return im2col(&dilate(&pointwise_matmul(grad_output, &flipped)?, stride)?, 1, 1, 0, input_size);
    }
    let columns = im2col(&dilate(grad_output, stride)?, kernel, 1, kernel - 1 - padding, input_size)?;
    pointwise_matmul(&columns, &flipped)
}

/// The [`im2col`] matrix of the input `xs`, `[N, H, W, C]`, of a convolution; an error if a side with its
/// padding is shorter than the kernel.
fn input_columns(xs: &Tensor, kernel: usize, geometry: ConvGeometry) -> Result<Tensor> {
    let ConvGeometry { stride, padding } = geometry;
    let (_, height, width, _) = xs.dims4()?;
    if height + 2 * padding < kernel || width + 2 * padding < kernel {
        candle_core::bail!(
            "an input of {height} x {width} with a padding of {padding} is smaller than the convolution \
             kernel of {kernel} x {kernel}: use a larger input"
        );
    }
    let out_size = [height, width].map(|side| (side + 2 * padding - kernel) / stride + 1);
    im2col(xs, kernel, stride, padding, out_size)
}

/// Reshapes `[N, H, W, C]` to a matrix with one row per position, `[N · H · W, C]`.
pub(super) fn to_rows(xs: &Tensor) -> Result<Tensor> {
    xs.contiguous()?.flatten(0, D::Minus2)
}

/// Multiplies the channels of every position of `xs`, `[N, H, W, C]`, by the matrix `weight`, `[C, O]`: the
/// result is `[N, H, W, O]`.
fn pointwise_matmul(xs: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (images, height, width, _) = xs.dims4()?;
    to_rows(xs)?.matmul(weight)?.reshape((images, height, width, weight.dim(1)?))
}

/// The im2col matrix of the input `xs`, `[N, H, W, C]`, with which a convolution is a matrix product: for
/// each output position the `K · K · C` input values under the kernel (0 for padding), in the order of the
/// weights. Returns `[N, H', W', K · K · C]`, with height and width `out_size`. One axis is processed after
/// the other, which takes `2 K` copies instead of `K · K`.
fn im2col(xs: &Tensor, kernel: usize, stride: usize, padding: usize, out_size: [usize; 2]) -> Result<Tensor> {
    let mut xs = xs.clone();
    for (axis, n_outputs) in [(2, out_size[1]), (1, out_size[0])] {
        // A tap has, for each output position, the input value under one element of the kernel.
        let taps = kernel_taps(&xs, axis, kernel, stride, padding, n_outputs)?;
        let taps = taps.iter().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
        xs = Tensor::cat(&taps, 3)?;
    }
    Ok(xs)
}

/// Splits the input of a convolution or a max pool into the tensors from which its outputs are computed: for
/// each of the `kernel` elements of a window along `axis` (a tap), a view of the values under it at the
/// `n_outputs` window positions. Along `axis` these are `n_outputs` values, every `stride`-th one of the
/// padded `xs`, from the index of the element on.
pub(super) fn kernel_taps(
    xs: &Tensor,
    axis: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    n_outputs: usize,
) -> Result<Vec<Tensor>> {
    // A tap reads the positions `stride · output + tap` of the padded axis. The axis is split into `stride`
    // phases, the positions with the same remainder modulo the stride: the tap reads a contiguous range of
    // one phase.
    let length = stride * (n_outputs + (kernel - 1) / stride);
    let xs = pad_or_crop(xs, axis, padding, length)?;
    let mut dims = xs.dims().to_vec();
    dims[axis] = length / stride;
    dims.insert(axis + 1, stride);
    let phases = xs.reshape(dims)?;
    let tap_view = |tap: usize| {
        phases.narrow(axis + 1, tap % stride, 1)?.squeeze(axis + 1)?.narrow(axis, tap / stride, n_outputs)
    };
    (0..kernel).map(tap_view).collect()
}

/// Pads `xs` with `left` zeros at the start of `axis`, and pads with zeros or crops it at the end, such that
/// the axis has `length` positions: those that the windows of a convolution or a max pool need.
pub(super) fn pad_or_crop(xs: &Tensor, axis: usize, left: usize, length: usize) -> Result<Tensor> {
    let remaining = xs.dim(axis)?.min(length.saturating_sub(left));
    xs.narrow(axis, 0, remaining)?.contiguous()?.pad_with_zeros(
        axis,
        left,
        length.saturating_sub(left + remaining),
    )
}

/// Inserts `stride - 1` zeros after each position, along height and width of `xs`, `[N, H, W, C]`.
/// [`backward_input`] spreads the gradient of the output of a convolution with a stride in this way.
fn dilate(xs: &Tensor, stride: usize) -> Result<Tensor> {
    let mut xs = xs.clone();
    for axis in [1, 2] {
        let mut dims = xs.dims().to_vec();
        dims[axis] *= stride;
        xs = xs.unsqueeze(axis + 1)?.pad_with_zeros(axis + 1, 0, stride - 1)?.reshape(dims)?;
    }
    Ok(xs)
}
