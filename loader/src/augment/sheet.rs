//! A picture of what augmentation does.

use image::{Rgb, RgbImage, imageops};

use super::Augment;
use crate::transform::EvalTransform;

/// Pixels between pictures.
const GAP: u32 = 4;

/// A row for each of `photos`: its plain view, then its numbered views from 1 to `views`, with white between them. `keys` are the
/// hashes of the photos' bytes, as [`Augment::output_size`] takes them; a photo without one is left out. Without photos it has no
/// pixels.
///
/// ```
/// use headstock_loader::augment::{Augment, contact_sheet};
/// use headstock_loader::{EvalTransform, Interpolation};
///
/// let augment = Augment { horizontal_flip: Some(0.5), rotation: Some(30.0), ..Augment::default() };
/// let plain = EvalTransform { resize: 32, crop: (28, 30), interpolation: Interpolation::Bilinear };
/// let photos = [image::RgbImage::new(60, 40), image::RgbImage::new(40, 60)];
/// let sheet = contact_sheet(&augment, &plain, &photos, &[[7; 32], [8; 32]], 3);
/// assert_eq!(sheet.dimensions(), (4 * 30 + 3 * 4, 2 * 28 + 4));
/// ```
#[must_use]
pub fn contact_sheet(
    augment: &Augment,
    eval: &EvalTransform,
    photos: &[RgbImage],
    image_hashes: &[[u8; 32]],
    n_views: u32,
) -> RgbImage {
    let (width, height) = super::view_size(eval);
    let rows = photos.len().min(image_hashes.len()) as u32;
    if rows == 0 {
        return RgbImage::new(0, 0);
    }
    let extent = |count: u32, size: u32| count * (size + GAP) - GAP;
    let mut sheet = RgbImage::from_pixel(extent(n_views + 1, width), extent(rows, height), Rgb([255; 3]));
    for (row, (photo, image_hash)) in (0..).zip(photos.iter().zip(image_hashes)) {
        for column in 0..=n_views {
            let view = match column {
                0 => eval.apply(photo),
                view => augment.view(photo, eval, view, image_hash),
            };
            imageops::replace(
                &mut sheet,
                &view,
                i64::from(column * (width + GAP)),
                row * i64::from(height + GAP),
            );
        }
    }
    sheet
}
