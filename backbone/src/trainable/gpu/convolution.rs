//! Convolution and its gradients as im2col and GEMM, in NHWC layout.

use candle_core::{D, Result, Tensor};

use crate::resnet_spec::ConvGeometry;

/// The convolution of `[N, H, W, C]` with weights `[K, K, C, O]`, `[N, H', W', O]`.
pub(super) fn forward(xs: &Tensor, weight: &Tensor, geometry: ConvGeometry) -> Result<Tensor> {
    let (kernel, _, inputs, outputs) = weight.dims4()?;
    let out_size = output_size(xs, kernel, geometry)?;
    let ConvGeometry { stride, padding } = geometry;
    let columns = im2col(xs, kernel, stride, padding, out_size)?;
    pointwise_matmul(&columns, &weight.reshape((kernel * kernel * inputs, outputs))?)
}

/// The gradient of the weights, `[K · K · C, O]`. The im2col matrix is recomputed, because it is `K · K`
/// times the input.
pub(super) fn backward_weight(
    xs: &Tensor,
    kernel: usize,
    geometry: ConvGeometry,
    gradient: &Tensor,
) -> Result<Tensor> {
    let out_size = output_size(xs, kernel, geometry)?;
    let ConvGeometry { stride, padding } = geometry;
    to_rows(&im2col(xs, kernel, stride, padding, out_size)?)?.t()?.matmul(&to_rows(gradient)?)
}

/// The gradient of an input of `size` (height and width): the convolution with stride 1 of the dilated output
/// gradient with the flipped kernel.
pub(super) fn backward_input(
    size: [usize; 2],
    weight: &Tensor,
    geometry: ConvGeometry,
    gradient: &Tensor,
) -> Result<Tensor> {
    let (kernel, _, inputs, outputs) = weight.dims4()?;
    let ConvGeometry { stride, padding } = geometry;
    let flipped = weight.flip(&[0, 1])?.transpose(2, 3)?.contiguous()?;
    let flipped = flipped.reshape((kernel * kernel * outputs, inputs))?;
    if kernel == 1 {
        // Multiplying before dilation avoids products with zeros.
        return im2col(&dilate(&pointwise_matmul(gradient, &flipped)?, stride)?, 1, 1, 0, size);
    }
    pointwise_matmul(&im2col(&dilate(gradient, stride)?, kernel, 1, kernel - 1 - padding, size)?, &flipped)
}

/// Height and width of the output.
fn output_size(
    xs: &Tensor,
    kernel: usize,
    ConvGeometry { stride, padding }: ConvGeometry,
) -> Result<[usize; 2]> {
    let (_, height, width, _) = xs.dims4()?;
    if height + 2 * padding < kernel || width + 2 * padding < kernel {
        candle_core::bail!("an input of {height} x {width} is too small for a kernel of {kernel}");
    }
    Ok([height, width].map(|side| (side + 2 * padding - kernel) / stride + 1))
}

/// One row per position: `[N · H · W, C]`.
pub(super) fn to_rows(xs: &Tensor) -> Result<Tensor> {
    xs.contiguous()?.flatten(0, D::Minus2)
}

/// Multiplies the channels of every position by `weight`, `[C, O]`.
fn pointwise_matmul(xs: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (images, height, width, _) = xs.dims4()?;
    to_rows(xs)?.matmul(weight)?.reshape((images, height, width, weight.dim(1)?))
}

/// The inputs of each output position, `[N, H', W', K · K · C]`, padded with zeros. It works on one axis
/// after the other, which takes `2 K` copies instead of `K · K`.
fn im2col(xs: &Tensor, kernel: usize, stride: usize, padding: usize, out: [usize; 2]) -> Result<Tensor> {
    let mut xs = xs.clone();
    for (axis, out) in [(2, out[1]), (1, out[0])] {
        let taps = kernel_taps(&xs, axis, kernel, stride, padding, out)?;
        let taps = taps.iter().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
        xs = Tensor::cat(&taps, 3)?;
    }
    Ok(xs)
}

/// For each kernel element along `axis`, a view of the inputs of all `out` output positions, `[.., out, ..]`.
pub(super) fn kernel_taps(
    xs: &Tensor,
    axis: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    out: usize,
) -> Result<Vec<Tensor>> {
    let length = stride * (out + (kernel - 1) / stride);
    let xs = pad_or_crop(xs, axis, padding, length)?;
    let mut dims = xs.dims().to_vec();
    dims[axis] = length / stride;
    dims.insert(axis + 1, stride);
    let phases = xs.reshape(dims)?;
    let tap = |tap: usize| {
        phases.narrow(axis + 1, tap % stride, 1)?.squeeze(axis + 1)?.narrow(axis, tap / stride, out)
    };
    (0..kernel).map(tap).collect()
}

/// Pads `xs` with `left` zeros at the start of `axis`, and pads or crops it at the end to `length`.
pub(super) fn pad_or_crop(xs: &Tensor, axis: usize, left: usize, length: usize) -> Result<Tensor> {
    let remaining = xs.dim(axis)?.min(length.saturating_sub(left));
    xs.narrow(axis, 0, remaining)?.contiguous()?.pad_with_zeros(
        axis,
        left,
        length.saturating_sub(left + remaining),
    )
}

/// Inserts `stride - 1` zeros after each position, along both axes.
fn dilate(xs: &Tensor, stride: usize) -> Result<Tensor> {
    let mut xs = xs.clone();
    for axis in [1, 2] {
        let mut dims = xs.dims().to_vec();
        dims[axis] *= stride;
        xs = xs.unsqueeze(axis + 1)?.pad_with_zeros(axis + 1, 0, stride - 1)?.reshape(dims)?;
    }
    Ok(xs)
}
