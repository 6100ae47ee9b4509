//! Copies of inputs in which the pixels that a GEMM reads are one cache line apart.

use std::ops::Range;

use crate::cache_line::CacheLine;
use crate::kernels::{Job, Kernel};

/// The input or output of a layer in memory: `[channel block][image][row][column]`, a cache line each, which
/// has the channels of the block at one pixel.
#[derive(Clone, Copy)]
pub(crate) struct TensorView {
    pub(crate) lines: *const CacheLine,
    /// Lines between two channel blocks.
    pub(crate) block_stride: usize,
    pub(crate) images: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

/// Layout of a zero-padded copy of a layer's input whose columns are grouped by their remainder (phase)
/// modulo the stride, so that the pixels under one kernel position, a stride apart, are adjacent lines:
/// `[block][image][row][column % stride][column / stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Padded {
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    /// Height without padding.
    pub(crate) height: usize,
    /// Width without padding.
    pub(crate) width: usize,
}

impl Padded {
    /// Number of rows of an image, with padding.
    pub(crate) fn n_rows(self) -> usize {
        self.height + 2 * self.padding
    }

    /// Number of columns of one phase: those with the same remainder modulo the stride.
    pub(crate) fn phase_columns(self) -> usize {
        (self.width + 2 * self.padding).div_ceil(self.stride)
    }

    /// Number of cache lines of a row.
    pub(crate) fn row_len(self) -> usize {
        self.stride * self.phase_columns()
    }

    /// Number of cache lines of an image in a channel block.
    pub(crate) fn image_len(self) -> usize {
        self.n_rows() * self.row_len()
    }
}

/// Copies the input of a direct convolution to a [`Padded`] layout, whose pixels the GEMM reads from adjacent
/// lines. Unit of work `row + rows * (image + images * block)` writes one row of the copy.
pub(crate) struct Pad {
    pub(crate) input: TensorView,
    pub(crate) padded: Padded,
    pub(crate) dst: *mut CacheLine,
    /// Lines between two channel blocks of the copy.
    pub(crate) block_stride: usize,
    pub(crate) units: Range<usize>,
}

impl Job for Pad {
    /// Writes one row of one channel block of the zero-padded copy per unit of work: fills it with zeros,
    /// then copies the pixels of the input's row, grouped by their column modulo the stride. So the GEMM of a
    /// direct convolution finds the pixels under one cell of the convolution's kernel, a stride apart, in
    /// adjacent cache lines.
    #[inline(always)]
    fn run<K: Kernel>(self, _: K) {
        let Padded { stride, padding, height, width } = self.padded;
        for unit in self.units {
            let (y, rest) = (unit % self.padded.n_rows(), unit / self.padded.n_rows());
            let (image, block) = (rest % self.input.images, rest / self.input.images);
            // `y` is a row of the copy, with padding; `row` below is a row of the input.
            // SAFETY: the job's creator guarantees input and copy; one unit writes a whole row of the copy.
            unsafe {
                let dst = self.dst.add(
                    block * self.block_stride + image * self.padded.image_len() + y * self.padded.row_len(),
                );
                dst.write_bytes(0, self.padded.row_len());
                let Some(row) = y.checked_sub(padding).filter(|&row| row < height) else { continue };
                let src =
                    self.input.lines.add(block * self.input.block_stride + (image * height + row) * width);
                for x in 0..width {
                    let column = x + padding;
                    *dst.add(column % stride * self.padded.phase_columns() + column / stride) = *src.add(x);
                }
            }
        }
    }
}

/// Copies every `stride`-th pixel of every `stride`-th row, for a 1 x 1 convolution with that stride. Unit of
/// work `row + rows * (image + images * block)` writes one row of the copy.
pub(crate) struct Subsample {
    pub(crate) input: TensorView,
    pub(crate) stride: usize,
    pub(crate) dst: *mut CacheLine,
    /// Lines between two channel blocks of the copy.
    pub(crate) block_stride: usize,
    pub(crate) units: Range<usize>,
}

impl Job for Subsample {
    /// Writes one row of one channel block of the subsampled copy per unit of work: every `stride`-th pixel
    /// of every `stride`-th row of the input. The GEMM of a 1 x 1 convolution with that stride reads the
    /// copy, in which its pixels are adjacent cache lines.
    #[inline(always)]
    fn run<K: Kernel>(self, _: K) {
        let TensorView { height, width, images, .. } = self.input;
        let (rows, columns) = (height.div_ceil(self.stride), width.div_ceil(self.stride));
        for unit in self.units {
            let (row, rest) = (unit % rows, unit / rows);
            let (image, block) = (rest % images, rest / images);
            let first = block * self.input.block_stride + (image * height + row * self.stride) * width;
            // SAFETY: the job's creator guarantees input and copy.
            unsafe {
                let src = self.input.lines.add(first);
                let dst = self.dst.add(block * self.block_stride + (image * rows + row) * columns);
                for x in 0..columns {
                    *dst.add(x) = *src.add(x * self.stride);
                }
            }
        }
    }
}
