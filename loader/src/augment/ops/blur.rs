//! torchvision's Gaussian blur: mirrored at the edges, rounded.

use image::RgbImage;

/// `kernel`: sizes across and down, odd. torchvision refuses a photo that is no larger than half of it; here it is mirrored again.
///
/// Source: torchvision 0.29.2's `gaussian_blur_image`, whose sums are of all pixels at once and not of a row and then a column.
pub(crate) fn gaussian(photo: &RgbImage, kernel: [u32; 2], sigma: f64) -> RgbImage {
    let (width, height) = (photo.width() as usize, photo.height() as usize);
    let [across, down] = kernel.map(|size| weights(size, sigma));
    let stride = width * 3;
    let columns = Mirrored::new(width, across.len());
    let mut blurred = vec![0.0_f32; stride * height];
    for (row, out) in photo.as_raw().chunks_exact(stride.max(1)).zip(blurred.chunks_exact_mut(stride.max(1)))
    {
        for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
            for (weight, &from) in across.iter().zip(columns.around(x)) {
                for (value, &from) in pixel.iter_mut().zip(&row[from * 3..]) {
                    *value += weight * f32::from(from);
                }
            }
        }
    }
    let rows = Mirrored::new(height, down.len());
    let mut out = RgbImage::new(photo.width(), photo.height());
    let mut sums = vec![0.0_f32; stride];
    for (y, out) in out.chunks_exact_mut(stride.max(1)).enumerate() {
        sums.fill(0.0);
        for (weight, &from) in down.iter().zip(rows.around(y)) {
            for (sum, value) in sums.iter_mut().zip(&blurred[from * stride..]) {
                *sum += weight * value;
            }
        }
        for (value, sum) in out.iter_mut().zip(&sums) {
            *value = sum.round_ties_even() as u8;
        }
    }
    out
}

fn weights(size: u32, sigma: f64) -> Vec<f32> {
    let middle = f64::from(size / 2);
    let weight = |i: u32| (-((f64::from(i) - middle) / sigma).powi(2) / 2.0).exp();
    let sum: f64 = (0..size).map(weight).sum();
    (0..size).map(|i| (weight(i) / sum) as f32).collect()
}

/// Along an axis of `size`, the places under a kernel whose middle may lie near an edge.
struct Mirrored {
    places: Vec<usize>,
    kernel: usize,
}

impl Mirrored {
    fn new(size: usize, kernel: usize) -> Self {
        let last = size.saturating_sub(1) as i64;
        let reach = (kernel / 2) as i64;
        let place = |at: i64| match last {
            0 => 0,
            _ => (last - (at.rem_euclid(2 * last) - last).abs()) as usize,
        };
        Self { places: (-reach..=last + reach).map(place).collect(), kernel }
    }

    fn around(&self, at: usize) -> &[usize] {
        &self.places[at..at + self.kernel]
    }
}
