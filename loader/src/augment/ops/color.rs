//! Pillow's `ImageEnhance`, grayscale and hue.
//!
//! Source: Pillow 13.0.0's `Blend.c`, `Convert.c` (`rgb2l`, `rgb2hsv_row`, `hsv2rgb`), `Filter.c` and
//! `ImageEnhance.py`.

use image::{Rgb, RgbImage};

use super::tone::{apply_table, lookup_table};

/// Pillow's `Image.blend`: `degenerate + factor (value - degenerate)`, clamped and truncated, not rounded,
/// where `degenerate` is the value at factor 0. Factors above 1 extrapolate.
fn blend(degenerate: u8, value: u8, factor: f32) -> u8 {
    (f32::from(degenerate) + factor * (f32::from(value) - f32::from(degenerate))) as u8
}

/// The gray value of a pixel as in Pillow's mode `L`: `0.299 R + 0.587 G + 0.114 B`, with weights in units of
/// 1/65536.
fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// Blends between black at factor 0 and the image at factor 1 (`ImageEnhance.Brightness`).
pub(crate) fn brightness(image: &mut RgbImage, factor: f64) {
    apply_table(image, &lookup_table(|value| blend(0, value, factor as f32)));
}

/// Blends between the mean gray at factor 0 and the image at factor 1, and strengthens the contrast above
/// (Pillow's `ImageEnhance.Contrast`).
pub(crate) fn contrast(image: &mut RgbImage, factor: f64) {
    let sum: u64 = image.pixels().map(|pixel| u64::from(luma(pixel.0))).sum();
    let count = u64::from(image.width()) * u64::from(image.height());
    let mean = (sum as f64 / count.max(1) as f64 + 0.5) as u8;
    apply_table(image, &lookup_table(|value| blend(mean, value, factor as f32)));
}

/// Blends between grayscale at factor 0 and the image at factor 1 (`ImageEnhance.Color`).
pub(crate) fn saturation(image: &mut RgbImage, factor: f64) {
    for pixel in image.pixels_mut() {
        let gray = luma(pixel.0);
        pixel.0 = pixel.0.map(|value| blend(gray, value, factor as f32));
    }
}

/// Replaces every pixel by its gray value (`ImageOps.grayscale`), in three equal channels.
pub(crate) fn grayscale(image: &mut RgbImage) {
    for pixel in image.pixels_mut() {
        pixel.0 = [luma(pixel.0); 3];
    }
}

/// Changes the sharpness, as an augmentation (`ImageEnhance.Sharpness`): blends between the image smoothed by
/// `ImageFilter.SMOOTH` at factor 0 and the image at factor 1, and sharpens above. Edge pixels stay.
pub(crate) fn sharpness(image: &RgbImage, factor: f64) -> RgbImage {
    // In the order and precision of `ImagingFilter3x3`: rows from the bottom up, then rounded by adding 0.5
    // and truncating.
    filter_3x3(image, |rows| {
        let (edge, center) = (1.0_f32 / 13.0, 5.0_f32 / 13.0);
        let row = |[a, b, c]: [u8; 3], center_weight: f32| {
            f32::from(a) * edge + f32::from(b) * center_weight + f32::from(c) * edge
        };
        let sum = 0.5 + row(rows[2], edge) + row(rows[1], center) + row(rows[0], edge);
        blend(sum as u8, rows[1][1], factor as f32)
    })
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

/// Shifts the hue of all pixels by `turns` of the color wheel (-0.5 to 0.5), as an augmentation:
/// torchvision's `adjust_hue` on a PIL image.
pub(crate) fn hue(image: &mut RgbImage, turns: f64) {
    // Hues are `u8`, which wraps around as the color wheel does; a negative shift wraps too. The factor 255
    // is torchvision's.
    let shift = (turns * 255.0) as i32 as u8;
    for pixel in image.pixels_mut() {
        let [h, s, v] = rgb_to_hsv(*pixel);
        *pixel = hsv_to_rgb([h.wrapping_add(shift), s, v]);
    }
}

/// Converts a pixel to `[hue, saturation, value]`, each from 0 to 255, to shift its hue: Pillow's
/// `rgb2hsv_row`, with the same float precision. The value is the largest channel.
fn rgb_to_hsv(Rgb([r, g, b]): Rgb<u8>) -> [u8; 3] {
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    if max == min {
        return [0, 0, max];
    }
    let range = f32::from(max - min);
    let saturation = range / f32::from(max);
    let [r_distance, g_distance, b_distance] = [r, g, b].map(|value| f32::from(max - value) / range);
    // The hue in sixths of the color wheel: red is 0, green 2, blue 4.
    let sixths = if r == max {
        b_distance - g_distance
    } else if g == max {
        (2.0 + f64::from(r_distance) - f64::from(b_distance)) as f32
    } else {
        (4.0 + f64::from(g_distance) - f64::from(r_distance)) as f32
    };
    let hue = ((f64::from(sixths) / 6.0 + 1.0) % 1.0) as f32;
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, max]
}

/// Converts `[hue, saturation, value]`, each from 0 to 255, back to an RGB pixel after the hue was shifted:
/// Pillow's `hsv2rgb`, with the same float precision. The value is the largest channel.
fn hsv_to_rgb([h, s, v]: [u8; 3]) -> Rgb<u8> {
    if s == 0 {
        return Rgb([v; 3]);
    }
    // The hue in sixths of the color wheel: red is 0, green 2, blue 4. Each channel is the highest or the
    // lowest value, or it rises or falls between them.
    let sixths = f64::from(h) * 6.0 / 255.0;
    let sector = sixths.floor();
    let fraction = f64::from((sixths - sector) as f32);
    let saturation = f64::from((f64::from(s) / 255.0) as f32);
    let reduced = |decrease: f64| (f64::from(v) * (1.0 - decrease)).round() as u8;
    let low = reduced(saturation);
    let falling = reduced(f64::from((saturation * fraction) as f32));
    let rising = reduced(saturation * (1.0 - fraction));
    Rgb(match sector as u8 % 6 {
        0 => [v, rising, low],
        1 => [falling, v, low],
        2 => [low, v, rising],
        3 => [low, falling, v],
        4 => [rising, low, v],
        _ => [v, low, falling],
    })
}
