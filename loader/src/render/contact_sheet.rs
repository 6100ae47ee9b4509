//! A contact sheet that shows what the augmentation does.

use image::{Rgb, RgbImage, imageops};

use super::{EvalTransform, RenderSpec};
use crate::augment::Augment;

/// Pixels between two views.
const GAP: u32 = 4;

/// Draws a sheet that shows users what `augment` does, with one row per image: the evaluation view, then the
/// augmented views 1 to `n_views`, separated by white. `image_hashes` are the hashes of the image files'
/// bytes, as for [`RenderSpec::augmented`]; images without a hash are left out. Without images the sheet has no
/// pixels.
///
/// ```
/// use headstock_loader::{Augment, EvalTransform, Resampling, contact_sheet};
///
/// let augment = Augment { horizontal_flip: Some(0.5), rotation: Some(30.0), ..Augment::default() };
/// let eval = EvalTransform { resize: 32.into(), crop: (28, 30), interpolation: Resampling::Bilinear };
/// let images = [image::RgbImage::new(60, 40), image::RgbImage::new(40, 60)];
/// let sheet = contact_sheet(&augment, &eval, &images, &[[7; 32], [8; 32]], 3);
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
    let (width, height) = eval.view_size();
    let n_rows = images.len().min(image_hashes.len()) as u32;
    if n_rows == 0 {
        return RgbImage::new(0, 0);
    }
    let total_size = |count: u32, size: u32| count * (size + GAP) - GAP;
    let (sheet_width, sheet_height) = (total_size(n_views + 1, width), total_size(n_rows, height));
    let mut sheet = RgbImage::from_pixel(sheet_width, sheet_height, Rgb([255; 3]));
    for (row, (image, image_hash)) in (0..).zip(images.iter().zip(image_hashes)) {
        for column in 0..=n_views {
            let view = match column {
                0 => eval.apply(image),
                view => {
                    RenderSpec::augmented(augment, eval, image.dimensions(), view, image_hash).render(image)
                }
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
