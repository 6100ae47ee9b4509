//! Input images, and the padded copy that the first layer reads.

use std::ops::Range;

use crate::kernels::{Job, Kernel};

/// Channels of an image: red, green, blue.
pub(crate) const CHANNELS: usize = 3;

/// The `f32` value of each `u8` value, per channel.
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
    /// Number of values.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }
}

/// Layout of zero-padded images: `[image][row][column][3]`.
#[derive(Clone, Copy)]
pub(crate) struct PaddedImages {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) padding: usize,
    /// Values of a row, including zeros at the end.
    pub(crate) row_len: usize,
}

impl PaddedImages {
    /// Rows of an image.
    pub(crate) fn n_rows(self) -> usize {
        self.height + 2 * self.padding
    }
}

/// Normalizes and pads images: units `row + rows * image`.
pub(crate) struct NormalizeImages<'a> {
    pub(crate) values: PixelValues<'a>,
    /// First image of the group in the batch.
    pub(crate) first_image: usize,
    pub(crate) normalization: &'a Normalization,
    pub(crate) padded: PaddedImages,
    pub(crate) dst: *mut f32,
    pub(crate) units: Range<usize>,
}

impl Job for NormalizeImages<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, _: K) {
        let PaddedImages { height, width, padding, row_len } = self.padded;
        for unit in self.units.clone() {
            let (row, image) = (unit % self.padded.n_rows(), unit / self.padded.n_rows());
            let inside = row.checked_sub(padding).filter(|&row| row < height);
            let start = inside.map(|row| ((self.first_image + image) * height + row) * width * CHANNELS);
            // SAFETY: the job's creator guarantees the copy; one unit writes a whole row.
            let row = unsafe { std::slice::from_raw_parts_mut(self.dst.add(unit * row_len), row_len) };
            self.write_row(row, start);
        }
    }
}

impl NormalizeImages<'_> {
    /// Writes one row, from value `start` of the batch on, or zeros for `None`.
    #[inline(always)]
    fn write_row(&self, row: &mut [f32], start: Option<usize>) {
        row.fill(0.0);
        let Some(start) = start else { return };
        let left = self.padded.padding * CHANNELS;
        let row = &mut row[left..left + self.padded.width * CHANNELS];
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
