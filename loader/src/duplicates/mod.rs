//! Finds near-duplicates: images that are recompressed, resized, slightly cropped or mirrored copies of each
//! other.
//!
//! Only pixels are compared, in three steps, each of which filters the pairs for the next:
//!
//! 1. Perceptual hash: the signs of 128 low DCT frequencies of the luma of the whole image and of its center
//!    crop, so that slightly cropped images stay close. All pairs are compared by Hamming distance, 4.5e10
//!    for 300,000 images.
//! 2. Alignment at 16 x 16: offset, scale, gain and bias between two lumas are fitted (Lucas and Kanade
//!    1981). Pairs whose aligned lumas do not correlate or whose chroma differs are dropped.
//! 3. Alignment at 32 x 32. A pair is reported if the luma *gradients* correlate: different objects of the
//!    same kind before the same background have similar luma, but not similar gradients.
//!
//! Images without contrast have nothing to align: two of them are a pair if they have the same color.
//! Images with equal bytes are found faster by a hash of the bytes; they are pairs here, too.

mod alignment;
mod candidates;
mod signature;

use rayon::prelude::*;

use alignment::align;
use candidates::map_candidates;
use signature::Flip;
pub use signature::Signature;

/// The recommended `min_similarity` of [`find_near_duplicates`]; `reference/duplicates/measure.py` measures
/// its precision and recall.
pub const DEFAULT_SIMILARITY: f32 = 0.955;

/// Two images that are near-duplicates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DuplicatePair {
    /// Index of the first image.
    pub a: usize,
    /// Index of the second image, `a < b`.
    pub b: usize,
    /// Correlation of the luma gradients after alignment, 1 for equal images; for images without contrast the
    /// similarity of their colors.
    pub similarity: f32,
    /// Whether one image is mirrored.
    pub mirrored: bool,
}

/// Finds all pairs of images whose similarity is at least `min_similarity`, for which [`DEFAULT_SIMILARITY`]
/// is recommended. `signatures` has one signature per image; images that could not be read have none and are
/// in no pair. The pairs are sorted by `(a, b)`. The result does not depend on the number of threads.
///
/// An image with k copies gives k (k - 1) / 2 pairs; [`join_groups`](crate::dataset::join_groups) merges
/// pairs into groups.
///
/// ```
/// use headstock_loader::duplicates::{DEFAULT_SIMILARITY, Signature, find_near_duplicates};
///
/// let original = image::RgbImage::from_fn(90, 60, |x, y| {
///     image::Rgb([(x * 2) as u8, if (x / 20 + y / 15) % 2 == 0 { 30 } else { 200 }, (y * 4) as u8])
/// });
/// let mirrored = image::imageops::flip_horizontal(&original);
/// let signatures = [Some(Signature::new(&original)), None, Some(Signature::new(&mirrored))];
/// let pairs = find_near_duplicates(&signatures, DEFAULT_SIMILARITY);
/// assert_eq!(pairs.len(), 1);
/// assert!((pairs[0].a, pairs[0].b, pairs[0].mirrored) == (0, 2, true));
/// ```
#[must_use]
pub fn find_near_duplicates(signatures: &[Option<Signature>], min_similarity: f32) -> Vec<DuplicatePair> {
    let (mut flat, mut textured) = (Vec::new(), Vec::new());
    for (index, signature) in signatures.iter().enumerate() {
        if let Some(signature) = signature {
            let images = if signature.is_flat() { &mut flat } else { &mut textured };
            images.push((index, signature));
        }
    }
    let mut pairs = map_candidates(&textured, |&(a, first), &(b, second), orientations| {
        let direct = if orientations.direct { align(first, second, Flip::None) } else { None };
        let mirrored = if orientations.mirrored { align(first, second, Flip::Horizontal) } else { None };
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
