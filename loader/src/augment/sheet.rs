//! A contact sheet that shows what the augmentation does.

use image::{Rgb, RgbImage, imageops};

use super::Augment;
use crate::transform::EvalTransform;

/// Pixels between two views.
const GAP: u32 = 4;

/// One row per photo: the evaluation view, then the views 1 to `n_views`, separated by white. `image_hashes`
/// are the hashes of the photos' bytes, as for [`Augment::view`]; photos without a hash are left out. Without
/// photos the sheet has no pixels.
///
/// ```
/// use headstock_loader::augment::{Augment, contact_sheet};
/// use headstock_loader::{EvalTransform, Resampling};
///
/// let augment = Augment { horizontal_flip: Some(0.5), rotation: Some(30.0), ..Augment::default() };
/// let eval = EvalTransform { resize: 32, crop: (28, 30), interpolation: Resampling::Bilinear };
/// let photos = [image::RgbImage::new(60, 40), image::RgbImage::new(40, 60)];
/// let sheet = contact_sheet(&augment, &eval, &photos, &[[7; 32], [8; 32]], 3);
/// assert_eq!(sheet.dimensions(), (4 * 30 + 3 * 4, 2 * 28 + 4));
/// ```
#[must_use]
pub fn contact_sheet(
    augment: &Augment,
    eval: &EvalTransform,
    images: &[RgbImage],
    image_hashes: &[[u8; 32]],
    n_views: u32,
) -> RgbImage {
    let (width, height) = super::view_size(eval);
    let rows = images.len().min(image_hashes.len()) as u32;
    if rows == 0 {
        return RgbImage::new(0, 0);
    }
    let extent = |count: u32, size: u32| count * (size + GAP) - GAP;
    let mut sheet = RgbImage::from_pixel(extent(n_views + 1, width), extent(rows, height), Rgb([255; 3]));
    for (row, (image, image_hash)) in (0..).zip(images.iter().zip(image_hashes)) {
        for column in 0..=n_views {
            let view = match column {
                0 => eval.apply(image),
                view => augment.view(image, eval, view, image_hash),
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
