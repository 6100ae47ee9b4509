//! Input images, and the padded copy that the first layer reads.

use std::ops::Range;

use crate::kernels::{Job, Kernel};

/// Channels of an image: red, green, blue.
pub(crate) const CHANNELS: usize = 3;

/// For each channel, the normalized `f32` value of each `u8` value.
pub type Normalization = [[f32; 256]; CHANNELS];

/// Pixels of a batch of images, `[N, H, W, 3]`.
#[derive(Clone, Copy, Debug)]
pub enum PixelValues<'a> {
    /// Not normalized yet.
    U8(&'a [u8]),
    /// Already normalized.
    F32(&'a [f32]),
}

impl PixelValues<'_> {
    /// Number of values, three per pixel, which must match the sizes of the batch.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }
}

/// Layout of zero-padded images, which the first layer reads: `[image][row][column][3]` in `f32`.
#[derive(Clone, Copy)]
pub(crate) struct PaddedImages {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) padding: usize,
    /// Values of a row, including zeros at the end.
    pub(crate) row_len: usize,
}

impl PaddedImages {
    /// Rows of an image, with padding.
    pub(crate) fn n_rows(self) -> usize {
        self.height + 2 * self.padding
    }
}

/// Copies a group of images for the first layer: normalized and padded with zeros. Unit of work
/// `row + rows * image` writes one row of the padded copy.
pub(crate) struct NormalizeImages<'a> {
    /// Pixels of the whole batch.
    pub(crate) values: PixelValues<'a>,
    /// First image of the group in the batch.
    pub(crate) first_image: usize,
    pub(crate) normalization: &'a Normalization,
    pub(crate) padded: PaddedImages,
    /// The padded copy of the group's images.
    pub(crate) dst: *mut f32,
    pub(crate) units: Range<usize>,
}

impl Job for NormalizeImages<'_> {
    /// Writes one row of the normalized, zero-padded copy per unit of work, which the first layer reads. The
    /// compiler vectorizes it for the kernel's instruction set, so it does not use the kernel itself.
    #[inline(always)]
    fn run<K: Kernel>(self, _: K) {
        let PaddedImages { height, width, padding, row_len } = self.padded;
        for unit in self.units.clone() {
            let (row, image) = (unit % self.padded.n_rows(), unit / self.padded.n_rows());
            // Row of the image; `None` above and below it.
            let y = row.checked_sub(padding).filter(|&y| y < height);
            let start = y.map(|y| ((self.first_image + image) * height + y) * width * CHANNELS);
            // SAFETY: the job's creator guarantees the copy; one unit writes a whole row.
            let dst = unsafe { std::slice::from_raw_parts_mut(self.dst.add(unit * row_len), row_len) };
            self.write_row(dst, start);
        }
    }
}

impl NormalizeImages<'_> {
    /// Fills `padded_row` with an image row, whose first value has the index `start` in the batch, between
    /// zeros on both sides. `u8` values are normalized, `f32` values already are. With `None` the row belongs
    /// to the padding above or below the image, and is all zeros.
    #[inline(always)]
    fn write_row(&self, padded_row: &mut [f32], start: Option<usize>) {
        padded_row.fill(0.0);
        let Some(start) = start else { return };
        let left = self.padded.padding * CHANNELS;
        let row = &mut padded_row[left..left + self.padded.width * CHANNELS];
        match self.values {
            PixelValues::U8(values) => {
                let pixels = values[start..start + row.len()].chunks_exact(CHANNELS);
                for (dst, pixel) in row.chunks_exact_mut(CHANNELS).zip(pixels) {
                    for channel in 0..CHANNELS {
                        dst[channel] = self.normalization[channel][usize::from(pixel[channel])];
                    }
                }
            }
            PixelValues::F32(values) => row.copy_from_slice(&values[start..start + row.len()]),
        }
    }
}
