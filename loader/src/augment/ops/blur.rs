//! torchvision's Gaussian blur, with reflected edges.

use image::RgbImage;

/// Blurs the image with a Gaussian kernel, as an augmentation. `kernel_size` is the width and height of the
/// kernel in pixels, both odd, and `sigma` its standard deviation in pixels. torchvision rejects an image
/// that is not larger than half the kernel; here such an image is reflected repeatedly.
///
/// Source: torchvision 0.29.2's `gaussian_blur_image`, which sums over both axes at once and not in two
/// passes.
pub(crate) fn gaussian_blur(image: &RgbImage, kernel_size: [u32; 2], sigma: f64) -> RgbImage {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let [x_weights, y_weights] = kernel_size.map(|size| gaussian_weights(size, sigma));
    let stride = width * 3;
    let columns = ReflectedAxis::new(width, x_weights.len());
    let mut blurred = vec![0.0_f32; stride * height];
    // Blurred horizontally, then vertically. `max(1)` is for an image without pixels.
    for (row, out) in image.as_raw().chunks_exact(stride.max(1)).zip(blurred.chunks_exact_mut(stride.max(1)))
    {
        for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
            for (weight, &source_x) in x_weights.iter().zip(columns.window(x)) {
                for (value, &source) in pixel.iter_mut().zip(&row[source_x * 3..]) {
                    *value += weight * f32::from(source);
                }
            }
        }
    }
    let rows = ReflectedAxis::new(height, y_weights.len());
    let mut out = RgbImage::new(image.width(), image.height());
    let mut sums = vec![0.0_f32; stride];
    for (y, out_row) in out.chunks_exact_mut(stride.max(1)).enumerate() {
        sums.fill(0.0);
        for (weight, &source_y) in y_weights.iter().zip(rows.window(y)) {
            for (sum, value) in sums.iter_mut().zip(&blurred[source_y * stride..]) {
                *sum += weight * value;
            }
        }
        for (value, sum) in out_row.iter_mut().zip(&sums) {
            *value = sum.round_ties_even() as u8;
        }
    }
    out
}

/// The weights of a Gaussian kernel of `size` pixels with standard deviation `sigma`; their sum is 1.
fn gaussian_weights(size: u32, sigma: f64) -> Vec<f32> {
    let center = f64::from(size / 2);
    let weight = |i: u32| (-((f64::from(i) - center) / sigma).powi(2) / 2.0).exp();
    let sum: f64 = (0..size).map(weight).sum();
    (0..size).map(|i| (weight(i) / sum) as f32).collect()
}

/// The columns or rows of an image, extended by reflection at both ends so that a kernel fits everywhere.
struct ReflectedAxis {
    /// The index in the image of each position, from half a kernel before the first to half a kernel after
    /// the last.
    indices: Vec<usize>,
    kernel_size: usize,
}

impl ReflectedAxis {
    /// Extends an axis (the columns or rows) of `size` pixels by half of a kernel of `kernel_size` pixels at
    /// both ends, so that a blur finds a pixel at every position of the kernel. Positions outside are
    /// reflected without repeating the edge pixel: position -1 is pixel 1.
    fn new(size: usize, kernel_size: usize) -> Self {
        let last = size.saturating_sub(1) as i64;
        let radius = (kernel_size / 2) as i64;
        // A triangle wave with the period 2 `last`.
        let reflect = |index: i64| match last {
            0 => 0,
            _ => (last - (index.rem_euclid(2 * last) - last).abs()) as usize,
        };
        Self { indices: (-radius..=last + radius).map(reflect).collect(), kernel_size }
    }

    /// The indices of the pixels under a kernel whose center is at pixel `center`.
    fn window(&self, center: usize) -> &[usize] {
        &self.indices[center..center + self.kernel_size]
    }
}
