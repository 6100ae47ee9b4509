//! The images on which the statistics for rounding weights to `bf16` are collected.

use headstock_split::KeyedRng;

/// Red, green and blue.
const CHANNELS: usize = 3;
/// State from which the random numbers start.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Generates images `[count, side, side, 3]` for
/// [`ActivationStats::collect`](headstock_engine::ActivationStats::collect) when there are no real ones: a
/// background of one color (gray in every second image), and a square of a different color with nearly normal
/// noise. They are the same in every run.
pub(crate) fn synthetic_calibration_images(count: usize, side: usize) -> Vec<u8> {
    let mut rng = KeyedRng::from_state(SEED);
    let mut draw = |limit: usize| (rng.next_u64() % limit as u64) as usize;
    let mut pixels = Vec::with_capacity(count * side * side * CHANNELS);
    for image in 0..count {
        // From white in the first image to dark gray, then again.
        let gray = 255 - image * 3 % 200;
        // Three random channels, or three times the given gray.
        let mut draw_color = |gray: Option<usize>| [0; CHANNELS].map(|_| gray.unwrap_or_else(|| draw(256)));
        let (background, foreground) = (draw_color((image % 2 == 0).then_some(gray)), draw_color(None));
        let (top, left) = (side / 12 + draw(side / 3), side / 12 + draw(side / 3));
        for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
            let is_foreground = (top..top + side / 2).contains(&y) && (left..left + side / 2).contains(&x);
            // The sum of four uniform draws is nearly normal, with a mean of 42 and a standard deviation of
            // 12.7.
            let noise = if is_foreground { (0..4).map(|_| draw(22)).sum::<usize>() as i32 - 42 } else { 0 };
            let color = if is_foreground { foreground } else { background };
            pixels.extend(color.map(|value| (value as i32 + noise).clamp(0, 255) as u8));
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synthetic_images_are_a_noisy_rectangle_on_a_background() {
        let (count, side) = (12, 48);
        let data = synthetic_calibration_images(count, side);
        assert_eq!(data.len(), count * side * side * 3);
        assert_eq!(synthetic_calibration_images(3, side), data[..3 * side * side * 3]);
        let mut positions = std::collections::BTreeSet::new();
        for (number, image) in data.chunks_exact(side * side * 3).enumerate() {
            let pixel = |y: usize, x: usize| <[u8; 3]>::try_from(&image[3 * (y * side + x)..][..3]).unwrap();
            let background = pixel(0, 0);
            let is_gray = background[0] == background[1] && background[1] == background[2];
            assert_eq!(is_gray, number % 2 == 0, "{number}: {background:?}");
            if is_gray {
                assert_eq!(usize::from(background[0]), 255 - 3 * number);
            }
            // The rectangle starts between a twelfth and five twelfths of the side from each edge.
            let inside = |y: usize, x: usize| pixel(y, x) != background;
            let rows: Vec<usize> =
                (0..side).filter(|&y| (0..side).filter(|&x| inside(y, x)).count() > side / 4).collect();
            let columns: Vec<usize> =
                (0..side).filter(|&x| (0..side).filter(|&y| inside(y, x)).count() > side / 4).collect();
            for lines in [&rows, &columns] {
                assert_eq!(
                    (lines.len(), lines[side / 2 - 1] - lines[0]),
                    (side / 2, side / 2 - 1),
                    "{number}"
                );
                assert!((side / 12..side / 12 + side / 3).contains(&lines[0]), "{number}");
            }
            positions.insert((rows[0], columns[0]));
            for channel in 0..3 {
                let values: Vec<f64> = rows
                    .iter()
                    .flat_map(|&y| columns.iter().map(move |&x| (y, x)))
                    .map(|(y, x)| f64::from(pixel(y, x)[channel]))
                    .collect();
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let deviation =
                    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
                // Four draws of 22 values: 4 * (22^2 - 1) / 12 = 12.7^2, less if they are clamped.
                let is_clamped = !(50.0..205.0).contains(&mean);
                assert!(
                    deviation < 14.0 && (is_clamped || deviation > 11.0),
                    "{number} {channel}: {mean} {deviation}"
                );
            }
        }
        assert!(positions.len() > count / 2, "{positions:?}");
    }
}
