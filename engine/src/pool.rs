//! Pooling, and conversion of outputs to plain `f32` tensors.

use std::ops::Range;

use crate::cache_line::CacheLine;
use crate::kernels::{Job, Kernel, Simd};
use crate::pad::TensorView;

/// Max pool that ignores padding: units `row + rows * (image + images * block)` of the output.
pub(crate) struct MaxPool {
    pub(crate) input: TensorView,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) output: *mut CacheLine,
    /// Lines between two channel blocks of the output.
    pub(crate) block_stride: usize,
    pub(crate) units: Range<usize>,
}

/// Output size along an axis of `size`.
pub(crate) fn output_len(size: usize, kernel: usize, stride: usize, padding: usize) -> usize {
    (size + 2 * padding - kernel) / stride + 1
}

impl Job for MaxPool {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        let TensorView { height, width, images, .. } = self.input;
        let rows = output_len(height, self.kernel, self.stride, self.padding);
        let columns = output_len(width, self.kernel, self.stride, self.padding);
        let window = |output: usize, size: usize| {
            let start = output * self.stride;
            start.saturating_sub(self.padding)..(start + self.kernel - self.padding).min(size)
        };
        for unit in self.units {
            let (row, image) = (unit % rows, unit / rows);
            let (image, block) = (image % images, image / images);
            // SAFETY: the job's creator guarantees both values; windows are inside the image.
            unsafe {
                let input = self.input.lines.add(block * self.input.block_stride + image * height * width);
                let output = self.output.add(block * self.block_stride + (image * rows + row) * columns);
                for column in 0..columns {
                    for part in 0..K::PARTS {
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

/// Global average pool to `out`, `[N, C]`: units `image + images * block`.
pub(crate) struct GlobalAvgPool {
    pub(crate) input: TensorView,
    pub(crate) channels: usize,
    pub(crate) out: *mut f32,
    pub(crate) units: Range<usize>,
}

impl Job for GlobalAvgPool {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        let TensorView { height, width, images, .. } = self.input;
        let scale = 1.0 / (height * width) as f32;
        for unit in self.units {
            let (image, block) = (unit % images, unit / images);
            for part in 0..K::PARTS {
                let mut means = [0.0; 16];
                // SAFETY: the job's creator guarantees the value and the output of its images.
                unsafe {
                    let first = block * self.input.block_stride + image * height * width;
                    let input = self.input.lines.add(first);
                    let mut sum = simd.splat(0.0);
                    for pixel in 0..height * width {
                        sum = simd.add(sum, kernel.load_part(input.add(pixel), part));
                    }
                    simd.store(means.as_mut_ptr(), sum);
                    let first = (block * K::PARTS + part) * 16;
                    for (channel, mean) in (first..self.channels).zip(means) {
                        *self.out.add(image * self.channels + channel) = mean * scale;
                    }
                }
            }
        }
    }
}

/// Distances in a plain tensor between two channels, and between two pixels.
#[derive(Clone, Copy)]
pub(crate) struct Strides {
    pub(crate) channel: usize,
    pub(crate) pixel: usize,
}

/// Copies a value to a plain `f32` tensor, image by image: units `image + images * block`.
pub(crate) struct UnpackOutput {
    pub(crate) input: TensorView,
    pub(crate) channels: usize,
    /// Within an image of `out`.
    pub(crate) strides: Strides,
    pub(crate) out: *mut f32,
    pub(crate) units: Range<usize>,
}

impl Job for UnpackOutput {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let TensorView { height, width, images, .. } = self.input;
        let pixels = height * width;
        for unit in self.units {
            let (image, block) = (unit % images, unit / images);
            for pixel in 0..pixels {
                for part in 0..K::PARTS {
                    let mut values = [0.0; 16];
                    let first = (block * K::PARTS + part) * 16;
                    let line = block * self.input.block_stride + image * pixels + pixel;
                    // SAFETY: the job's creator guarantees the value and the output of its images.
                    unsafe {
                        let vector = kernel.load_part(self.input.lines.add(line), part);
                        kernel.simd().store(values.as_mut_ptr(), vector);
                        let out = self.out.add(image * self.channels * pixels + pixel * self.strides.pixel);
                        for (channel, value) in (first..self.channels).zip(values) {
                            *out.add(channel * self.strides.channel) = value;
                        }
                    }
                }
            }
        }
    }
}
