//! Autocontrast.

use image::RgbImage;

use crate::transform::ImageOp;
use crate::transform::lookup_table::{lookup_table, map_channels};

/// Stretches the values of each channel, from its darkest to its brightest, to the range from 0 to 255
/// (`ImageOps.autocontrast`). A channel with a single value stays.
#[derive(Clone, Debug)]
pub(super) struct Autocontrast;

impl ImageOp for Autocontrast {
    fn apply(&self, image: RgbImage) -> RgbImage {
        map_channels(image, |histogram| match value_range(histogram) {
            Some((darkest, brightest)) => {
                let scale = 255.0 / f64::from(brightest - darkest);
                let offset = -f64::from(darkest) * scale;
                lookup_table(|value| (f64::from(value) * scale + offset) as u8)
            }
            None => lookup_table(|value| value),
        })
    }
}

/// The darkest and the brightest value of a channel, by its histogram; `None` if they are equal or there are
/// no pixels. Autocontrast stretches this range.
pub(super) fn value_range(histogram: &[u32; 256]) -> Option<(u8, u8)> {
    let darkest = histogram.iter().position(|&count| count > 0)?;
    let brightest = histogram.iter().rposition(|&count| count > 0)?;
    (darkest < brightest).then_some((darkest as u8, brightest as u8))
}
