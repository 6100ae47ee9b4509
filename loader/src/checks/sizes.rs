//! Photos that are far smaller, larger or longer than others.

/// A shorter side below this shows next to nothing, however far it is enlarged.
pub const MIN_SIDE: u32 = 32;

/// So many times as long as wide, or as wide as long: a network's square shows less than a third of it.
pub const MAX_ASPECT_RATIO: f64 = 3.0;

/// A photo with so many times fewer or more pixels than the median is odd.
const EXTREME_PIXEL_RATIO: u64 = 25;

/// What sizes are usual among photos.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeStats {
    /// The median number of pixels; of two in the middle the lower.
    pub median_pixels: u64,
}

impl SizeStats {
    /// Of the sizes (width, height) of photos; none where there are none.
    ///
    /// ```
    /// use headstock_loader::checks::Sizes;
    ///
    /// let sizes = Sizes::of([(640, 480), (480, 640), (100, 75)]).ok_or("no photos")?;
    /// assert!(sizes.are_extreme((100, 75)) && !sizes.are_extreme((320, 240)));
    /// assert!(sizes.are_extreme((640, 31)) && Sizes::are_long((640, 200)));
    /// # Ok::<(), &str>(())
    /// ```
    #[must_use]
    pub fn from_sizes(sizes: impl IntoIterator<Item = (u32, u32)>) -> Option<Self> {
        let mut areas: Vec<u64> = sizes.into_iter().map(n_pixels).collect();
        let middle = areas.len().checked_sub(1)? / 2;
        let (_, &mut median, _) = areas.select_nth_unstable(middle);
        Some(Self { median_pixels: median })
    }

    /// Whether a photo's shorter side is below [`MIN_SIDE`], or it has 25 times fewer or more pixels than the median.
    #[must_use]
    pub fn is_extreme(self, size: (u32, u32)) -> bool {
        let area = n_pixels(size);
        size.0.min(size.1) < MIN_SIDE
            || area.saturating_mul(EXTREME_PIXEL_RATIO) < self.median_pixels
            || area > self.median_pixels.saturating_mul(EXTREME_PIXEL_RATIO)
    }

    /// Whether one side is more than [`LONGEST`] times the other.
    #[must_use]
    pub fn is_elongated(size: (u32, u32)) -> bool {
        f64::from(size.0.max(size.1)) > MAX_ASPECT_RATIO * f64::from(size.0.min(size.1))
    }
}

fn n_pixels((width, height): (u32, u32)) -> u64 {
    u64::from(width) * u64::from(height)
}
