//! Positions and sizes within an image, in pixels.

/// A rectangle of an upright image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Rows above the rectangle.
    pub top: u32,
    /// Columns left of the rectangle.
    pub left: u32,
    /// Number of rows.
    pub height: u32,
    /// Number of columns.
    pub width: u32,
}

impl Crop {
    /// The whole of an image of `size` (width, height).
    pub(crate) fn whole((width, height): (u32, u32)) -> Self {
        Self { top: 0, left: 0, height, width }
    }

    /// The part of the rectangle within an image of `size` (width, height); may be empty.
    pub(crate) fn clipped_to(self, (width, height): (u32, u32)) -> Self {
        let (left, top) = (self.left.min(width), self.top.min(height));
        Self { top, left, height: self.height.min(height - top), width: self.width.min(width - left) }
    }

    /// The smallest rectangle that contains `self` and `other`, for decoding the regions of several views at
    /// once.
    pub(crate) fn union(self, other: Self) -> Self {
        let (left, top) = (self.left.min(other.left), self.top.min(other.top));
        let bottom = (self.top + self.height).max(other.top + other.height);
        let right = (self.left + self.width).max(other.left + other.width);
        Self { top, left, height: bottom - top, width: right - left }
    }
}

/// Position and scale of decoded pixels within the full image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DecodedRegion {
    /// The factor by which the image is reduced.
    pub(crate) scale: u32,
    /// Width and height of the upright, reduced image.
    pub(crate) image_size: (u32, u32),
    /// Position of the first decoded pixel in the reduced image (x, y).
    pub(crate) origin: (u32, u32),
    /// The fraction (x, y) of the first column and row of the reduced image that lies outside the full image.
    /// It is not 0 if the EXIF orientation flips an image whose size is not a multiple of `scale`: the
    /// incomplete last column is then the first.
    pub(crate) shift: (f64, f64),
}

impl DecodedRegion {
    /// The region of a whole image of `size` (width, height) that is not reduced.
    pub(crate) fn whole(size: (u32, u32)) -> Self {
        Self { scale: 1, image_size: size, origin: (0, 0), shift: (0.0, 0.0) }
    }
}
