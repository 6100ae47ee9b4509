//! Copies of inputs in which the pixels that a GEMM reads are one cache line apart.

use std::ops::Range;

use crate::cache_line::CacheLine;
use crate::kernels::{Job, Kernel};

/// A value: `[channel block][image][row][column]`, a cache line each.
#[derive(Clone, Copy)]
pub(crate) struct TensorView {
    pub(crate) lines: *const CacheLine,
    /// Lines between two channel blocks.
    pub(crate) block_stride: usize,
    pub(crate) images: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

/// Layout of a zero-padded value whose columns are grouped by their remainder (phase) modulo the stride, so
/// that a tap of the kernel reads adjacent lines: `[block][image][row][column % stride][column / stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Padded {
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Padded {
    /// Rows of an image.
    pub(crate) fn n_rows(self) -> usize {
        self.height + 2 * self.padding
    }

    /// Columns of one phase.
    pub(crate) fn phase_columns(self) -> usize {
        (self.width + 2 * self.padding).div_ceil(self.stride)
    }

    /// Lines of a row.
    pub(crate) fn row_len(self) -> usize {
        self.stride * self.phase_columns()
    }

    /// Lines of an image in a channel block.
    pub(crate) fn image_len(self) -> usize {
        self.n_rows() * self.row_len()
    }
}

/// Writes rows of a [`Padded`] copy: units `row + rows * (image + images * block)`.
pub(crate) struct Pad {
    pub(crate) input: TensorView,
    pub(crate) padded: Padded,
    pub(crate) dst: *mut CacheLine,
    /// Lines between two channel blocks of the copy.
    pub(crate) block_stride: usize,
    pub(crate) units: Range<usize>,
}

impl Job for Pad {
    #[inline(always)]
    fn run<K: Kernel>(self, _: K) {
        let Padded { stride, padding, height, width } = self.padded;
        for unit in self.units {
            let (row, image) = (unit % self.padded.n_rows(), unit / self.padded.n_rows());
            let (image, block) = (image % self.input.images, image / self.input.images);
            // SAFETY: the job's creator guarantees both values; one unit writes a whole row of the copy.
            unsafe {
                let dst = self.dst.add(
                    block * self.block_stride + image * self.padded.image_len() + row * self.padded.row_len(),
                );
                dst.write_bytes(0, self.padded.row_len());
                let Some(row) = row.checked_sub(padding).filter(|&row| row < height) else { continue };
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

/// Copies every `stride`-th pixel of every `stride`-th row: units `row + rows * (image + images * block)`.
pub(crate) struct Subsample {
    pub(crate) input: TensorView,
    pub(crate) stride: usize,
    pub(crate) dst: *mut CacheLine,
    /// Lines between two channel blocks of the copy.
    pub(crate) block_stride: usize,
    pub(crate) units: Range<usize>,
}

impl Job for Subsample {
    #[inline(always)]
    fn run<K: Kernel>(self, _: K) {
        let TensorView { height, width, images, .. } = self.input;
        let (rows, columns) = (height.div_ceil(self.stride), width.div_ceil(self.stride));
        for unit in self.units {
            let (row, image) = (unit % rows, unit / rows);
            let (image, block) = (image % images, image / images);
            let first = block * self.input.block_stride + (image * height + row * self.stride) * width;
            // SAFETY: the job's creator guarantees both values.
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
