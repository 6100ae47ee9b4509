//! Photos that cannot be read, found before the long work.

use rayon::prelude::*;

use crate::decode::{DecodeError, decode};
use crate::image_ref::ImageRef;

/// The photos that cannot be read or decoded: the index of each among `photos` and the reason, by index.
///
/// Every photo is decoded in full, on all cores of the current rayon pool. Each core holds one photo at a time, so that
/// memory does not grow with their number. `done` is called once a photo, from the threads that decode.
///
/// ```
/// use std::path::PathBuf;
/// use headstock_loader::Photo;
/// use headstock_loader::dataset::unreadable;
///
/// let photo = Photo::from(PathBuf::from("no-such-photo.jpg"));
/// let faults = unreadable(&[&photo], 1 << 26, || ());
/// assert_eq!(faults[0].0, 0);
/// ```
#[must_use]
pub fn find_unreadable(
    images: &[&ImageRef],
    max_pixels: u64,
    on_image_done: impl Fn() + Sync,
) -> Vec<(usize, DecodeError)> {
    images
        .par_iter()
        .enumerate()
        .filter_map(|(index, image)| {
            let decoded = image.read().and_then(|bytes| decode(&bytes, max_pixels));
            on_image_done();
            decoded.err().map(|error| (index, error))
        })
        .collect()
}
