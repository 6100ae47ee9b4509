//! Finds unreadable images before the network runs.

use rayon::prelude::*;

use crate::decode::{DecodeError, DecodeOptions, decode};
use crate::image_ref::ImageRef;

/// Returns the index and the error of each image that cannot be read or decoded, sorted by index, so that all
/// of them can be reported at once.
///
/// Decodes every image in full, in parallel on the current rayon pool. Each thread holds one image at a time, so memory does not grow with the number of
/// images. `on_image_done` is called once per image, from the decoding threads.
///
/// ```
/// use std::path::PathBuf;
/// use headstock_loader::ImageRef;
/// use headstock_loader::dataset::find_unreadable;
///
/// let image = ImageRef::from(PathBuf::from("no-such-photo.jpg"));
/// let unreadable = find_unreadable(&[&image], 1 << 26, || ());
/// assert_eq!(unreadable[0].0, 0);
/// ```
#[must_use]
pub fn find_unreadable(
    images: &[&ImageRef],
    options: impl Into<DecodeOptions>,
    on_image_done: impl Fn() + Sync,
) -> Vec<(usize, DecodeError)> {
    let options = options.into();
    images
        .par_iter()
        .enumerate()
        .filter_map(|(index, image)| {
            let decoded = image.read().map_err(DecodeError::from).and_then(|bytes| decode(&bytes, options));
            on_image_done();
            decoded.err().map(|error| (index, error))
        })
        .collect()
}
