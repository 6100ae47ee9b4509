//! Copies that give a product's pixels one stride: a cell.

use std::ops::Range;

use crate::cell::Cell;
use crate::kernels::{Job, Kernel};

/// The pixels of a value: blocks of photos of rows.
#[derive(Clone, Copy)]
pub(crate) struct Pixels {
    pub(crate) cells: *const Cell,
    /// Cells from a block of channels to the next.
    pub(crate) block: usize,
    pub(crate) photos: usize,
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
    pub(crate) fn rows(self) -> usize {
        self.height + 2 * self.padding
    }

    /// Columns of one remainder.
    pub(crate) fn columns(self) -> usize {
        (self.width + 2 * self.padding).div_ceil(self.stride)
    }

    /// Cells of a row.
    pub(crate) fn row(self) -> usize {
        self.stride * self.columns()
    }

    /// Cells of a photo's block.
    pub(crate) fn photo(self) -> usize {
        self.rows() * self.row()
    }
}

/// Fills some rows of a [`Padded`] copy: units `row + rows * (photo + photos * block)`.
pub(crate) struct Pad {
    pub(crate) from: Pixels,
    pub(crate) padded: Padded,
    pub(crate) to: *mut Cell,
    /// Cells from a block of the copy to the next.
    pub(crate) block: usize,
    pub(crate) units: Range<usize>,
}

impl Job for Pad {
    #[inline(always)]
    fn run<K: Kernel>(self, _: K) {
        let Padded { stride, padding, height, width } = self.padded;
        for unit in self.units {
            let (row, photo) = (unit % self.padded.rows(), unit / self.padded.rows());
            let (photo, block) = (photo % self.from.photos, photo / self.from.photos);
            // SAFETY: the maker of the job vouches for both values; every row of the copy is written whole, by one unit.
            unsafe {
                let to =
                    self.to.add(block * self.block + photo * self.padded.photo() + row * self.padded.row());
                to.write_bytes(0, self.padded.row());
                let Some(row) = row.checked_sub(padding).filter(|&row| row < height) else { continue };
                let from = self.from.cells.add(block * self.from.block + (photo * height + row) * width);
                for x in 0..width {
                    let column = x + padding;
                    *to.add(column % stride * self.padded.columns() + column / stride) = *from.add(x);
                }
            }
        }
    }
}

/// Every `stride`-th pixel of every `stride`-th row: units `row + rows * (photo + photos * block)`.
pub(crate) struct Subsample {
    pub(crate) from: Pixels,
    pub(crate) stride: usize,
    pub(crate) to: *mut Cell,
    /// Cells from a block of the copy to the next.
    pub(crate) block: usize,
    pub(crate) units: Range<usize>,
}

impl Job for Subsample {
    #[inline(always)]
    fn run<K: Kernel>(self, _: K) {
        let Pixels { height, width, photos, .. } = self.from;
        let (rows, columns) = (height.div_ceil(self.stride), width.div_ceil(self.stride));
        for unit in self.units {
            let (row, photo) = (unit % rows, unit / rows);
            let (photo, block) = (photo % photos, photo / photos);
            // SAFETY: the maker of the job vouches for both values.
            unsafe {
                let from = self
                    .from
                    .cells
                    .add(block * self.from.block + (photo * height + row * self.stride) * width);
                let to = self.to.add(block * self.block + (photo * rows + row) * columns);
                for x in 0..columns {
                    *to.add(x) = *from.add(x * self.stride);
                }
            }
        }
    }
}
