//! What Pillow's `ImageEnhance` consists of: gray values, blending and the filter of 3 x 3 pixels.
//!
//! Source: Pillow 13.0.0's `Blend.c`, `Convert.c` (`rgb2l`) and `Filter.c`.

use image::RgbImage;

/// Pillow's `Image.blend`: `degenerate + factor (value - degenerate)`, clamped and truncated, not rounded,
/// where `degenerate` is the value at factor 0. Factors above 1 extrapolate.
pub(crate) fn blend(degenerate: u8, value: u8, factor: f32) -> u8 {
    (f32::from(degenerate) + factor * (f32::from(value) - f32::from(degenerate))) as u8
}

/// The gray value of a pixel as in Pillow's mode `L`: `0.299 R + 0.587 G + 0.114 B`, with weights in units of
/// 1/65536.
pub(crate) fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// A copy of the image in which every value that has eight neighbors is replaced by `kernel` of its
/// neighborhood (three rows of three values of the same channel). Edge values stay. Both versions of
/// sharpness, Pillow's and torchvision's, use it.
pub(crate) fn filter_3x3(image: &RgbImage, kernel: impl Fn([[u8; 3]; 3]) -> u8) -> RgbImage {
    let mut out = image.clone();
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width < 3 || height < 3 {
        return out;
    }
    let (values, stride) = (image.as_raw(), width * 3);
    let inner = out.chunks_exact_mut(stride).take(height - 1).skip(1);
    for (out_row, rows) in inner.zip(values.windows(3 * stride).step_by(stride)) {
        for (x, value) in out_row.iter_mut().enumerate().take(stride - 3).skip(3) {
            *value = kernel([0, 1, 2].map(|row| [x - 3, x, x + 3].map(|x| rows[row * stride + x])));
        }
    }
    out
}
