//! Erasing of a rectangle.

use headstock_split::KeyedRng;
use image::RgbImage;

use crate::decode::Crop;

/// A rectangle to erase from an image, and what it is filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Erasure {
    pub(crate) area: Crop,
    pub(crate) fill: EraseFill,
}

/// What an erased rectangle is filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum EraseFill {
    Color([u8; 3]),
    /// Normal noise from the random stream with this state.
    Noise(u64),
}

/// ImageNet's mean and standard deviation per channel: noise in these units is standard normal after
/// normalization, as in torchvision, which erases normalized images.
const NOISE: [(f64, f64); 3] = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];

impl Erasure {
    /// Fills the rectangle of `image` with the color or with noise, as an augmentation; the part of the
    /// rectangle outside the image is ignored.
    pub(crate) fn apply(&self, image: &mut RgbImage) {
        let Crop { top, left, height, width } = self.area;
        let rows = image.rows_mut().skip(top as usize).take(height as usize);
        let area = rows.flat_map(|row| row.skip(left as usize).take(width as usize));
        match self.fill {
            EraseFill::Color(color) => area.for_each(|pixel| pixel.0 = color),
            EraseFill::Noise(state) => {
                let mut random = KeyedRng::from_state(state);
                let mut value = |(mean, deviation)| mean + deviation * random.normal();
                area.for_each(|pixel| pixel.0 = NOISE.map(|channel| (value(channel) * 255.0).round() as u8));
            }
        }
    }
}
