//! Convolution and its derivatives as matrix products, channels last.

use candle_core::{D, Result, Tensor};

use crate::resnet_spec::ConvGeometry;

/// `[N, H, W, C]` and weights `[K, K, C, O]` to `[N, H', W', O]`.
pub(super) fn forward(xs: &Tensor, weight: &Tensor, geometry: ConvGeometry) -> Result<Tensor> {
    let (kernel, _, inputs, outputs) = weight.dims4()?;
    let sizes = output_size(xs, kernel, geometry)?;
    let ConvGeometry { stride, padding } = geometry;
    let columns = im2col(xs, kernel, stride, padding, sizes)?;
    pointwise_matmul(&columns, &weight.reshape((kernel * kernel * inputs, outputs))?)
}

/// The derivative by the weights, `[K K C, O]`. What lies under the kernel is gathered anew: kept from the forward pass it would be
/// `K K` times the input.
pub(super) fn backward_weight(
    xs: &Tensor,
    kernel: usize,
    geometry: ConvGeometry,
    gradient: &Tensor,
) -> Result<Tensor> {
    let sizes = output_size(xs, kernel, geometry)?;
    let ConvGeometry { stride, padding } = geometry;
    to_rows(&im2col(xs, kernel, stride, padding, sizes)?)?.t()?.matmul(&to_rows(gradient)?)
}

/// The derivative by an input of some height and width: a convolution of the output's derivative, in steps of 1, with zeros between
/// its positions where the stride left out some.
pub(super) fn backward_input(
    sizes: [usize; 2],
    weight: &Tensor,
    geometry: ConvGeometry,
    gradient: &Tensor,
) -> Result<Tensor> {
    let (kernel, _, inputs, outputs) = weight.dims4()?;
    let ConvGeometry { stride, padding } = geometry;
    let turned = weight.flip(&[0, 1])?.transpose(2, 3)?.contiguous()?;
    let turned = turned.reshape((kernel * kernel * outputs, inputs))?;
    if kernel == 1 {
        // The product first: it needs no zeros.
        return im2col(&dilate(&pointwise_matmul(gradient, &turned)?, stride)?, 1, 1, 0, sizes);
    }
    pointwise_matmul(&im2col(&dilate(gradient, stride)?, kernel, 1, kernel - 1 - padding, sizes)?, &turned)
}

fn output_size(
    xs: &Tensor,
    kernel: usize,
    ConvGeometry { stride, padding }: ConvGeometry,
) -> Result<[usize; 2]> {
    let (_, height, width, _) = xs.dims4()?;
    if height + 2 * padding < kernel || width + 2 * padding < kernel {
        candle_core::bail!("no convolution of {height} x {width} with a kernel of {kernel}");
    }
    Ok([height, width].map(|side| (side + 2 * padding - kernel) / stride + 1))
}

/// Each position a row: `[N H W, C]`.
pub(super) fn to_rows(xs: &Tensor) -> Result<Tensor> {
    xs.contiguous()?.flatten(0, D::Minus2)
}

fn pointwise_matmul(xs: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (photos, height, width, _) = xs.dims4()?;
    to_rows(xs)?.matmul(weight)?.reshape((photos, height, width, weight.dim(1)?))
}

/// What lies under the kernel at so many positions along each axis: `[N, H', W', K K C]`, with zeros where the input has ended. First
/// along one axis, then along the other: `2 K` copies rather than `K K`.
fn im2col(xs: &Tensor, kernel: usize, stride: usize, left: usize, out: [usize; 2]) -> Result<Tensor> {
    let mut xs = xs.clone();
    for (axis, out) in [(2, out[1]), (1, out[0])] {
        let taps = kernel_taps(&xs, axis, kernel, stride, left, out)?;
        let taps = taps.iter().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
        xs = Tensor::cat(&taps, 3)?;
    }
    Ok(xs)
}

/// The values under each of `kernel` places along an axis, `left` of them before the first position; each `[.., out, ..]`, a view.
pub(super) fn kernel_taps(
    xs: &Tensor,
    axis: usize,
    kernel: usize,
    stride: usize,
    left: usize,
    out: usize,
) -> Result<Vec<Tensor>> {
    let length = stride * (out + (kernel - 1) / stride);
    let xs = pad_or_crop(xs, axis, left, length)?;
    let mut dims = xs.dims().to_vec();
    dims[axis] = length / stride;
    dims.insert(axis + 1, stride);
    let phases = xs.reshape(dims)?;
    let tap = |tap: usize| {
        phases.narrow(axis + 1, tap % stride, 1)?.squeeze(axis + 1)?.narrow(axis, tap / stride, out)
    };
    (0..kernel).map(tap).collect()
}

/// With `left` zeros before it along an axis, and then as many after it, or as few of its own, as make `length`.
pub(super) fn pad_or_crop(xs: &Tensor, axis: usize, left: usize, length: usize) -> Result<Tensor> {
    let own = xs.dim(axis)?.min(length.saturating_sub(left));
    xs.narrow(axis, 0, own)?.contiguous()?.pad_with_zeros(axis, left, length.saturating_sub(left + own))
}

/// With `stride - 1` zeros after each position, along both axes.
fn dilate(xs: &Tensor, stride: usize) -> Result<Tensor> {
    let mut xs = xs.clone();
    for axis in [1, 2] {
        let mut dims = xs.dims().to_vec();
        dims[axis] *= stride;
        xs = xs.unsqueeze(axis + 1)?.pad_with_zeros(axis + 1, 0, stride - 1)?.reshape(dims)?;
    }
    Ok(xs)
}
