//! Lookup tables for channel values, as in Pillow's `ImageOps`.

use image::RgbImage;

/// The new value of each value of a channel.
pub(crate) type LookupTable = [u8; 256];

/// The table whose entry `v` is `new_value(v)`, for an operation that changes each pixel value on its own:
/// the function is then called 256 times and not for each pixel.
pub(crate) fn lookup_table(new_value: impl Fn(u8) -> u8) -> LookupTable {
    let mut table = [0; 256];
    for (entry, value) in table.iter_mut().zip(0..=u8::MAX) {
        *entry = new_value(value);
    }
    table
}

/// Replaces every value of the image by its entry in `table`, the same table for all channels.
pub(crate) fn apply_table(image: &mut RgbImage, table: &LookupTable) {
    for value in image.iter_mut() {
        *value = table[usize::from(*value)];
    }
}

/// Replaces the values of each channel by their entries in the table that `table_for` computes from the
/// channel's histogram (the number of pixels of each value).
pub(crate) fn apply_channel_tables(image: &mut RgbImage, table_for: impl Fn(&[u32; 256]) -> LookupTable) {
    let mut histograms = [[0; 256]; 3];
    for pixel in image.pixels() {
        for (histogram, value) in histograms.iter_mut().zip(pixel.0) {
            histogram[usize::from(value)] += 1;
        }
    }
    let tables = histograms.each_ref().map(table_for);
    for pixel in image.pixels_mut() {
        for (value, table) in pixel.0.iter_mut().zip(&tables) {
            *value = table[usize::from(*value)];
        }
    }
}

/// Sets all but the `bits` highest bits of every value to 0 (`ImageOps.posterize`).
pub(crate) fn posterize(image: &mut RgbImage, bits: u8) {
    let dropped = 8_u32.saturating_sub(bits.into());
    let mask = u8::MAX.checked_shl(dropped).unwrap_or(0);
    apply_table(image, &lookup_table(|value| value & mask));
}

/// Inverts the values at or above `threshold` (`ImageOps.solarize`).
pub(crate) fn solarize(image: &mut RgbImage, threshold: f64) {
    apply_table(image, &lookup_table(|value| if f64::from(value) < threshold { value } else { 255 - value }));
}

/// Replaces every value `v` by `255 - v` (`ImageOps.invert`).
pub(crate) fn invert(image: &mut RgbImage) {
    apply_table(image, &lookup_table(|value| 255 - value));
}

/// Equalizes the histogram of each channel, as an augmentation (`ImageOps.equalize`): the new value is
/// proportional to the number of darker pixels, so that all values become about equally frequent.
pub(crate) fn equalize(image: &mut RgbImage) {
    apply_channel_tables(image, |histogram| {
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
    });
}

/// The darkest and the brightest value of a channel, by its histogram; `None` if they are equal or there are
/// no pixels. Autocontrast stretches this range.
pub(crate) fn value_range(histogram: &[u32; 256]) -> Option<(u8, u8)> {
    let darkest = histogram.iter().position(|&count| count > 0)?;
    let brightest = histogram.iter().rposition(|&count| count > 0)?;
    (darkest < brightest).then_some((darkest as u8, brightest as u8))
}

/// Stretches the values of each channel, from its darkest to its brightest, to the range from 0 to 255, as an
/// augmentation (`ImageOps.autocontrast`). A channel with a single value stays.
pub(crate) fn autocontrast(image: &mut RgbImage) {
    apply_channel_tables(image, |histogram| match value_range(histogram) {
        Some((darkest, brightest)) => {
            let scale = 255.0 / f64::from(brightest - darkest);
            let offset = -f64::from(darkest) * scale;
            lookup_table(|value| (f64::from(value) * scale + offset) as u8)
        }
        None => lookup_table(|value| value),
    });
}
