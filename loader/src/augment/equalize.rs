//! Histogram equalization.

use image::RgbImage;

use crate::transform::ImageOp;
use crate::transform::lookup_table::{lookup_table, map_channels};

/// Equalizes the histogram of each channel (`ImageOps.equalize`): the new value is proportional to the number
/// of darker pixels, so that all values become about equally frequent.
#[derive(Clone, Debug)]
pub(super) struct Equalize;

impl ImageOp for Equalize {
    fn apply(&self, image: RgbImage) -> RgbImage {
        map_channels(image, |histogram| {
            let total: u32 = histogram.iter().sum();
            let brightest_count = histogram.iter().rfind(|&&count| count > 0).copied().unwrap_or(0);
            // Number of pixels per level of the result; Pillow leaves out those of the brightest value.
            let step = (total - brightest_count) / 255;
            if step == 0 {
                return lookup_table(|value| value);
            }
            let mut cumulative = step / 2; // darker pixels, plus half a step for rounding
            let mut table = [0; 256];
            for (entry, count) in table.iter_mut().zip(histogram) {
                *entry = (cumulative / step).min(255) as u8;
                cumulative += count;
            }
            table
        })
    }
}
