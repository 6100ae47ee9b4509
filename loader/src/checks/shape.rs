//! Photos that are far smaller, larger or longer than others.

/// A shorter side below this shows next to nothing, however far it is enlarged.
pub const SMALLEST: u32 = 32;

/// So many times as long as wide, or as wide as long: a network's square shows less than a third of it.
pub const LONGEST: f64 = 3.0;

/// A photo with so many times fewer or more pixels than the median is odd.
const ODD: u64 = 25;

/// What sizes are usual among photos.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The median number of pixels; of two in the middle the lower.
    pub median: u64,
}

impl Sizes {
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
    pub fn of(sizes: impl IntoIterator<Item = (u32, u32)>) -> Option<Self> {
        let mut pixels: Vec<u64> = sizes.into_iter().map(pixels).collect();
        let middle = pixels.len().checked_sub(1)? / 2;
        let (_, &mut median, _) = pixels.select_nth_unstable(middle);
        Some(Self { median })
    }

    /// Whether a photo's shorter side is below [`SMALLEST`], or it has 25 times fewer or more pixels than the median.
    #[must_use]
    pub fn are_extreme(self, size: (u32, u32)) -> bool {
        let own = pixels(size);
        size.0.min(size.1) < SMALLEST
            || own.saturating_mul(ODD) < self.median
            || own > self.median.saturating_mul(ODD)
    }

    /// Whether one side is more than [`LONGEST`] times the other.
    #[must_use]
    pub fn are_long(size: (u32, u32)) -> bool {
        f64::from(size.0.max(size.1)) > LONGEST * f64::from(size.0.min(size.1))
    }
}

fn pixels((width, height): (u32, u32)) -> u64 {
    u64::from(width) * u64::from(height)
}
