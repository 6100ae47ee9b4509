//! Images of unusual size or aspect ratio.

/// Minimum shorter side in pixels; smaller images have too little detail.
pub const MIN_SIDE: u32 = 32;

/// Aspect ratio above which a network's square crop shows less than a third of the image.
pub const MAX_ASPECT_RATIO: f64 = 3.0;

/// Ratio to the median number of pixels, in either direction, above which an image is unusual.
const EXTREME_PIXEL_RATIO: u64 = 25;

/// The median image size of a data set, with which unusual images are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeStats {
    /// Median number of pixels; the lower one of two.
    pub median_pixels: u64,
}

impl SizeStats {
    /// Computes the median of the images' sizes (width, height); `None` if there are no images.
    ///
    /// ```
    /// use headstock_loader::checks::SizeStats;
    ///
    /// let stats = SizeStats::from_sizes([(640, 480), (480, 640), (100, 75)]).ok_or("no images")?;
    /// assert!(stats.is_extreme((100, 75)) && !stats.is_extreme((320, 240)));
    /// assert!(stats.is_extreme((640, 31)) && SizeStats::is_elongated((640, 200)));
    /// # Ok::<(), &str>(())
    /// ```
    #[must_use]
    pub fn from_sizes(sizes: impl IntoIterator<Item = (u32, u32)>) -> Option<Self> {
        let mut areas: Vec<u64> = sizes.into_iter().map(n_pixels).collect();
        let middle = areas.len().checked_sub(1)? / 2;
        let (_, &mut median_pixels, _) = areas.select_nth_unstable(middle);
        Some(Self { median_pixels })
    }

    /// Whether an image of `size` (width, height) is unusually small or large for the data set: its shorter
    /// side is below [`MIN_SIDE`], or its number of pixels is more than 25 times below or above the median.
    #[must_use]
    pub fn is_extreme(self, size: (u32, u32)) -> bool {
        let area = n_pixels(size);
        size.0.min(size.1) < MIN_SIDE
            || area.saturating_mul(EXTREME_PIXEL_RATIO) < self.median_pixels
            || area > self.median_pixels.saturating_mul(EXTREME_PIXEL_RATIO)
    }

    /// Whether one side of `size` (width, height) is more than [`MAX_ASPECT_RATIO`] times the other.
    #[must_use]
    pub fn is_elongated(size: (u32, u32)) -> bool {
        f64::from(size.0.max(size.1)) > MAX_ASPECT_RATIO * f64::from(size.0.min(size.1))
    }
}

/// Number of pixels of an image.
fn n_pixels((width, height): (u32, u32)) -> u64 {
    u64::from(width) * u64::from(height)
}
