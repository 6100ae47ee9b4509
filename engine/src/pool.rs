//! Pooling, and conversion of outputs to ordinary `f32` tensors.

use std::ops::Range;

use crate::cache_line::CacheLine;
use crate::kernels::{Job, Kernel, Simd};
use crate::pad::TensorView;

/// Max pool that ignores padding. Unit of work `row + rows * (image + images * block)` computes one row of
/// the output.
pub(crate) struct MaxPool {
    pub(crate) input: TensorView,
    pub(crate) kernel_size: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) output: *mut CacheLine,
    /// Lines between two channel blocks of the output.
    pub(crate) block_stride: usize,
    pub(crate) units: Range<usize>,
}

/// Height or width of a pool's output for an input of that height or width, which the kernel must fit.
pub(crate) fn output_len(input_len: usize, kernel_size: usize, stride: usize, padding: usize) -> usize {
    (input_len + 2 * padding - kernel_size) / stride + 1
}

impl Job for MaxPool {
    /// Computes one output row of a max pool, for one channel block of one image, per unit of work: each
    /// output is the maximum of the input pixels under the pool's kernel, without those in the padding.
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        let TensorView { height, width, images, .. } = self.input;
        let rows = output_len(height, self.kernel_size, self.stride, self.padding);
        let columns = output_len(width, self.kernel_size, self.stride, self.padding);
        // The rows or columns of the input, without padding, under the kernel at an output row or column.
        let window = |output: usize, input_len: usize| {
            let start = output * self.stride;
            start.saturating_sub(self.padding)..(start + self.kernel_size - self.padding).min(input_len)
        };
        for unit in self.units {
            let (row, rest) = (unit % rows, unit / rows);
            let (image, block) = (rest % images, rest / images);
            // SAFETY: the job's creator guarantees input and output; windows are inside the image.
            unsafe {
                let input = self.input.lines.add(block * self.input.block_stride + image * height * width);
                let output = self.output.add(block * self.block_stride + (image * rows + row) * columns);
                for column in 0..columns {
                    // A part is a vector of 16 channels of a cache line.
                    for part in 0..K::VECTORS_PER_LINE {
                        let mut largest = simd.splat(f32::NEG_INFINITY);
                        for y in window(row, height) {
                            for x in window(column, width) {
                                largest = simd.max(largest, kernel.load_part(input.add(y * width + x), part));
                            }
                        }
                        kernel.store_part(output.add(column), part, largest);
                    }
                }
            }
        }
    }
}

/// Global average pool: writes the mean over all pixels of each channel to `out`, `[N, C]`. Unit of work
/// `image + images * block` computes the channels of one block for one image.
pub(crate) struct GlobalAvgPool {
    pub(crate) input: TensorView,
    /// Channels without padding, `C`.
    pub(crate) channels: usize,
    pub(crate) out: *mut f32,
    pub(crate) units: Range<usize>,
}

impl Job for GlobalAvgPool {
    /// Computes the global average pool, the mean of each channel over all pixels, for one channel block of
    /// one image per unit of work, and writes the channels that are not padding to `out`, `[N, C]`.
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        let TensorView { height, width, images, .. } = self.input;
        let scale = 1.0 / (height * width) as f32;
        for unit in self.units {
            let (image, block) = (unit % images, unit / images);
            // A part is a vector of 16 channels of a cache line.
            for part in 0..K::VECTORS_PER_LINE {
                let mut sums = [0.0; 16];
                // SAFETY: the job's creator guarantees the input and the output of its images.
                unsafe {
                    let first_line = block * self.input.block_stride + image * height * width;
                    let input = self.input.lines.add(first_line);
                    let mut sum = simd.splat(0.0);
                    for pixel in 0..height * width {
                        sum = simd.add(sum, kernel.load_part(input.add(pixel), part));
                    }
                    simd.store(sums.as_mut_ptr(), sum);
                    let first_channel = (block * K::VECTORS_PER_LINE + part) * 16;
                    for (channel, sum) in (first_channel..self.channels).zip(sums) {
                        *self.out.add(image * self.channels + channel) = sum * scale;
                    }
                }
            }
        }
    }
}

/// Distances in an output tensor between two channels, and between two pixels: `[C, H, W]` or `[H, W, C]`.
#[derive(Clone, Copy)]
pub(crate) struct Strides {
    pub(crate) channel: usize,
    pub(crate) pixel: usize,
}

/// Copies the output of a layer from channel blocks to an ordinary `f32` tensor `out`, the result of a run.
/// Unit of work `image + images * block` copies the channels of one block of one image.
pub(crate) struct UnpackOutput {
    pub(crate) input: TensorView,
    /// Channels without padding.
    pub(crate) channels: usize,
    /// Layout of an image of `out`.
    pub(crate) strides: Strides,
    pub(crate) out: *mut f32,
    pub(crate) units: Range<usize>,
}

impl Job for UnpackOutput {
    /// Copies the output of a layer, for one channel block of one image per unit of work, to the ordinary
    /// tensor `out` that a run returns, `[N, C, H, W]` or `[N, H, W, C]`; leaves out channels that are
    /// padding.
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let TensorView { height, width, images, .. } = self.input;
        let pixels = height * width;
        for unit in self.units {
            let (image, block) = (unit % images, unit / images);
            for pixel in 0..pixels {
                // A part is a vector of 16 channels of a cache line.
                for part in 0..K::VECTORS_PER_LINE {
                    let mut values = [0.0; 16];
                    let first_channel = (block * K::VECTORS_PER_LINE + part) * 16;
                    let line = block * self.input.block_stride + image * pixels + pixel;
                    // SAFETY: the job's creator guarantees the input and the output of its images.
                    unsafe {
                        let vector = kernel.load_part(self.input.lines.add(line), part);
                        kernel.simd().store(values.as_mut_ptr(), vector);
                        let out = self.out.add(image * self.channels * pixels + pixel * self.strides.pixel);
                        for (channel, value) in (first_channel..self.channels).zip(values) {
                            *out.add(channel * self.strides.channel) = value;
                        }
                    }
                }
            }
        }
    }
}
