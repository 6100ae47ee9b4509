//! Tables from a value to a value, as Pillow's `ImageOps` makes them.

use image::RgbImage;

/// What each value of a channel becomes.
pub(crate) type Table = [u8; 256];

pub(crate) fn table(value: impl Fn(u8) -> u8) -> Table {
    let mut table = [0; 256];
    for (entry, from) in table.iter_mut().zip(0..=u8::MAX) {
        *entry = value(from);
    }
    table
}

/// Applies one table to all channels.
pub(crate) fn map(photo: &mut RgbImage, table: &Table) {
    for value in photo.iter_mut() {
        *value = table[usize::from(*value)];
    }
}

/// Applies to each channel the table made of its histogram.
pub(crate) fn map_channels(photo: &mut RgbImage, of_histogram: impl Fn(&[u32; 256]) -> Table) {
    let mut histograms = [[0; 256]; 3];
    for pixel in photo.pixels() {
        for (histogram, value) in histograms.iter_mut().zip(pixel.0) {
            histogram[usize::from(value)] += 1;
        }
    }
    let tables = histograms.each_ref().map(of_histogram);
    for pixel in photo.pixels_mut() {
        for (value, table) in pixel.0.iter_mut().zip(&tables) {
            *value = table[usize::from(*value)];
        }
    }
}

pub(crate) fn posterize(photo: &mut RgbImage, bits: u8) {
    let dropped = 8_u32.saturating_sub(bits.into());
    let kept = u8::MAX.checked_shl(dropped).unwrap_or(0);
    map(photo, &table(|value| value & kept));
}

pub(crate) fn solarize(photo: &mut RgbImage, threshold: f64) {
    map(photo, &table(|value| if f64::from(value) < threshold { value } else { 255 - value }));
}

pub(crate) fn invert(photo: &mut RgbImage) {
    map(photo, &table(|value| 255 - value));
}

pub(crate) fn equalize(photo: &mut RgbImage) {
    map_channels(photo, |histogram| {
        let total: u32 = histogram.iter().sum();
        let brightest = histogram.iter().rfind(|&&count| count > 0).copied().unwrap_or(0);
        let step = (total - brightest) / 255;
        if step == 0 {
            return table(|value| value);
        }
        let mut below = step / 2;
        let mut table = [0; 256];
        for (entry, count) in table.iter_mut().zip(histogram) {
            *entry = (below / step).min(255) as u8;
            below += count;
        }
        table
    });
}

/// The darkest and the brightest value, where they differ.
pub(crate) fn extent(histogram: &[u32; 256]) -> Option<(u8, u8)> {
    let darkest = histogram.iter().position(|&count| count > 0)?;
    let brightest = histogram.iter().rposition(|&count| count > 0)?;
    (darkest < brightest).then_some((darkest as u8, brightest as u8))
}

pub(crate) fn autocontrast(photo: &mut RgbImage) {
    map_channels(photo, |histogram| match extent(histogram) {
        Some((darkest, brightest)) => {
            let scale = 255.0 / f64::from(brightest - darkest);
            let offset = -f64::from(darkest) * scale;
            table(|value| (f64::from(value) * scale + offset) as u8)
        }
        None => table(|value| value),
    });
}
