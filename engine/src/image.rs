//! Photos as the first layer reads them.

use std::ops::Range;

use crate::kernels::{Job, Kernel};

/// Channels of a photo: red, green, blue.
pub(crate) const CHANNELS: usize = 3;

/// What each `u8` value of a channel becomes before the first layer.
pub type Normalisation = [[f32; 256]; CHANNELS];

/// A batch of photos, `[N, H, W, 3]`.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// To be normalised.
    U8(&'a [u8]),
    /// Normalised already.
    F32(&'a [f32]),
}

impl Values<'_> {
    /// How many there are.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }
}

/// Photos within a margin of zeros: `[photo][row][column][3]`.
#[derive(Clone, Copy)]
pub(crate) struct Framed {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) padding: usize,
    /// Values of a row, with zeros at its end.
    pub(crate) row: usize,
}

impl Framed {
    /// Rows of a photo.
    pub(crate) fn rows(self) -> usize {
        self.height + 2 * self.padding
    }
}

/// Normalises photos into rows: units `row + rows * photo`.
pub(crate) struct Frame<'a> {
    pub(crate) values: Values<'a>,
    /// The first photo of the group.
    pub(crate) first: usize,
    pub(crate) normalisation: &'a Normalisation,
    pub(crate) framed: Framed,
    pub(crate) to: *mut f32,
    pub(crate) units: Range<usize>,
}

impl Job for Frame<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, _: K) {
        let Framed { height, width, padding, row: length } = self.framed;
        for unit in self.units.clone() {
            let (row, photo) = (unit % self.framed.rows(), unit / self.framed.rows());
            let inside = row.checked_sub(padding).filter(|&row| row < height);
            let values = inside.map(|row| ((self.first + photo) * height + row) * width * CHANNELS);
            // SAFETY: the maker of the job vouches for the copy; every row is written whole, by one unit.
            let row = unsafe { std::slice::from_raw_parts_mut(self.to.add(unit * length), length) };
            self.fill(row, values);
        }
    }
}

impl Frame<'_> {
    /// One row: from value `start` of the batch on, or zeros.
    #[inline(always)]
    fn fill(&self, row: &mut [f32], start: Option<usize>) {
        row.fill(0.0);
        let (Some(start), left) = (start, self.framed.padding * CHANNELS) else { return };
        let row = &mut row[left..left + self.framed.width * CHANNELS];
        match self.values {
            Values::U8(values) => {
                let pixels = values[start..start + row.len()].chunks_exact(CHANNELS);
                for (to, pixel) in row.chunks_exact_mut(CHANNELS).zip(pixels) {
                    for channel in 0..CHANNELS {
                        to[channel] = self.normalisation[channel][usize::from(pixel[channel])];
                    }
                }
            }
            Values::F32(values) => row.copy_from_slice(&values[start..start + row.len()]),
        }
    }
}
