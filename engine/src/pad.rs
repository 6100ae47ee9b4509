//! Copies that give a product's pixels one stride: a cell.

use std::ops::Range;

use crate::cache_line::CacheLine;
use crate::kernels::{Job, Kernel};

/// The pixels of a value: blocks of photos of rows.
#[derive(Clone, Copy)]
pub(crate) struct TensorView {
    pub(crate) lines: *const CacheLine,
    /// Cells from a block of channels to the next.
    pub(crate) block_stride: usize,
    pub(crate) images: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

/// A value within a margin of zeros, and its columns sorted by their number modulo the stride: then a tap of the kernel sees
/// neighbours side by side. `[block][photo][row][column % stride][column / stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Padded {
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Padded {
    /// Rows of a photo.
    pub(crate) fn n_rows(self) -> usize {
        self.height + 2 * self.padding
    }

    /// Columns of one remainder.
    pub(crate) fn phase_columns(self) -> usize {
        (self.width + 2 * self.padding).div_ceil(self.stride)
    }

    /// Cells of a row.
    pub(crate) fn row_len(self) -> usize {
        self.stride * self.phase_columns()
    }

    /// Cells of a photo's block.
    pub(crate) fn image_len(self) -> usize {
        self.n_rows() * self.row_len()
    }
}

/// Fills some rows of a [`Padded`] copy: units `row + rows * (photo + photos * block)`.
pub(crate) struct Pad {
    pub(crate) input: TensorView,
    pub(crate) padded: Padded,
    pub(crate) dst: *mut CacheLine,
    /// Cells from a block of the copy to the next.
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
            // SAFETY: the maker of the job vouches for both values; every row of the copy is written whole, by one unit.
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

/// Every `stride`-th pixel of every `stride`-th row: units `row + rows * (photo + photos * block)`.
pub(crate) struct Subsample {
    pub(crate) input: TensorView,
    pub(crate) stride: usize,
    pub(crate) dst: *mut CacheLine,
    /// Cells from a block of the copy to the next.
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
            // SAFETY: the maker of the job vouches for both values.
            unsafe {
                let src = self
                    .input
                    .lines
                    .add(block * self.input.block_stride + (image * height + row * self.stride) * width);
                let dst = self.dst.add(block * self.block_stride + (image * rows + row) * columns);
                for x in 0..columns {
                    *dst.add(x) = *src.add(x * self.stride);
                }
            }
        }
    }
}
