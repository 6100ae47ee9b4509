//! Lookup tables for channel values, as in Pillow's `ImageOps`.

use image::RgbImage;

/// The new value of each value of a channel.
pub(crate) type LookupTable = [u8; 256];

/// The table whose entry `v` is `new_value(v)`, for an operation that changes each pixel value on its own:
/// the function is then called 256 times and not for each pixel.
pub(crate) fn lookup_table(new_value: impl Fn(u8) -> u8) -> LookupTable {
    std::array::from_fn(|value| new_value(value as u8))
}

/// Replaces every value `v` of the image by `new_value(v)`.
pub(crate) fn map_values(mut image: RgbImage, new_value: impl Fn(u8) -> u8) -> RgbImage {
    let table = lookup_table(new_value);
    for value in image.iter_mut() {
        *value = table[usize::from(*value)];
    }
    image
}

/// Replaces the values of each channel by their entries in the table that `table_for` computes from the
/// channel's histogram (the number of pixels of each value).
pub(crate) fn map_channels(mut image: RgbImage, table_for: impl Fn(&[u32; 256]) -> LookupTable) -> RgbImage {
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
    image
}
