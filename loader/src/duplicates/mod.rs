//! Near-duplicates: photos that show the same picture again, compressed anew, resized, cropped by a little, mirrored.
//!
//! Pixels alone are compared, in three steps, each of which looks at what the one before let through:
//!
//! 1. A perceptual hash: the signs of 128 low frequencies of the photo's luma, and of that of its middle, so that a cropped
//!    photo stays near. Every pair of photos is compared, for 300,000 of them 4.5e10, by counting bits.
//! 2. The luma at 16 x 16 of one photo is laid over that of the other: offset, scale and contrast are fitted (Lucas and Kanade
//!    1981, with a gain and a bias). What does not correlate then, or has other colours, is dropped.
//! 3. The same at 32 x 32. A pair is reported where the *changes* of brightness correlate: photos of the same kind of
//!    thing before the same background are alike in brightness, but not in its changes.
//!
//! A photo without any contrast has no picture to compare: two of them are a pair where they have the same colour.
//! Photos with the same bytes are found sooner by a hash of these; they are pairs here, too.

mod alignment;
mod candidates;
mod signature;

use rayon::prelude::*;

use alignment::align;
use candidates::map_candidates;
pub use signature::Signature;

/// The least similarity at which [`find_near_duplicates`] is meant to be run; `reference/duplicates/measure.py` measures what it finds.
pub const DEFAULT_SIMILARITY: f32 = 0.955;

/// Two photos that show the same picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DuplicatePair {
    /// The index of the first.
    pub a: usize,
    /// The index of the second, `a < b`.
    pub b: usize,
    /// How far the changes of brightness agree once one photo is laid over the other, 1 for the same picture; of photos
    /// without contrast how far their colours do.
    pub similarity: f32,
    /// Whether one is the mirror image of the other.
    pub mirrored: bool,
}

/// All pairs of photos at least as similar as `similarity`, by `(a, b)`; [`DEFAULT_SIMILARITY`] is a good choice. A photo that could
/// not be read has no signature and no pair. The result does not depend on the number of threads.
///
/// A picture that is there k times gives k (k - 1) / 2 pairs.
/// [`join_groups`](crate::dataset::join_groups) makes groups of pairs.
///
/// ```
/// use headstock_loader::duplicates::{SIMILARITY, Signature, near_duplicates};
///
/// let photo = image::RgbImage::from_fn(90, 60, |x, y| {
///     image::Rgb([(x * 2) as u8, if (x / 20 + y / 15) % 2 == 0 { 30 } else { 200 }, (y * 4) as u8])
/// });
/// let mirrored = image::imageops::flip_horizontal(&photo);
/// let signatures = [Some(Signature::new(&photo)), None, Some(Signature::new(&mirrored))];
/// let pairs = near_duplicates(&signatures, SIMILARITY);
/// assert_eq!(pairs.len(), 1);
/// assert!((pairs[0].a, pairs[0].b, pairs[0].mirrored) == (0, 2, true));
/// ```
#[must_use]
pub fn find_near_duplicates(signatures: &[Option<Signature>], min_similarity: f32) -> Vec<DuplicatePair> {
    let (mut flat, mut textured) = (Vec::new(), Vec::new());
    for (index, signature) in signatures.iter().enumerate() {
        if let Some(signature) = signature {
            let kind = if signature.is_flat() { &mut flat } else { &mut textured };
            kind.push((index, signature));
        }
    }
    let mut pairs = map_candidates(&textured, |&(a, first), &(b, second), orientations| {
        let direct = if orientations.direct { align(first, second, false) } else { None };
        let mirrored = if orientations.mirrored { align(first, second, true) } else { None };
        let (similarity, mirrored) = match (direct, mirrored) {
            (Some(direct), Some(mirrored)) if mirrored > direct => (mirrored, true),
            (Some(direct), _) => (direct, false),
            (None, Some(mirrored)) => (mirrored, true),
            (None, None) => return None,
        };
        (similarity >= min_similarity).then_some(DuplicatePair { a, b, similarity, mirrored })
    });
    let flat_pairs = flat.par_iter().enumerate().flat_map_iter(|(position, &(a, first))| {
        flat[position + 1..].iter().filter_map(move |&(b, second)| {
            let similarity = first.flat_similarity(second)?;
            (similarity >= min_similarity).then_some(DuplicatePair { a, b, similarity, mirrored: false })
        })
    });
    pairs.par_extend(flat_pairs);
    pairs.par_sort_unstable_by_key(|pair| (pair.a, pair.b));
    pairs
}

#[cfg(test)]
mod tests;
