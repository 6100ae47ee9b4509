//! Finds pairs of images with close hashes.

use pulp::{Arch, WithSimd};
use rayon::prelude::*;

use super::signature::{BITS_PER_PARITY, PerceptualHash, Signature};

/// Maximum Hamming distance of the 128-bit hashes of two images that are compared further.
pub(super) const MAX_DISTANCE: u8 = 38;
/// Images per tile; the hashes of a tile stay in the L1 cache while they are compared.
const TILE: usize = 256;

/// In which orientations the hashes of two images are close: as they are, or with one image mirrored.
#[derive(Clone, Copy)]
pub(super) struct CandidateOrientations {
    pub(super) direct: bool,
    pub(super) mirrored: bool,
}

/// Calls `compare` for all pairs of images with close hashes, the earlier image first, and collects the
/// results that are not `None`, in parallel. `T` is what identifies an image. Hashes are compared tile by
/// tile of [`TILE`] images.
pub(super) fn map_candidates<T, R>(
    images: &[(T, &Signature)],
    compare: impl Fn(&(T, &Signature), &(T, &Signature), CandidateOrientations) -> Option<R> + Sync,
) -> Vec<R>
where
    T: Sync,
    R: Send,
{
    let hashes: Vec<[PerceptualHash; 2]> = images.iter().map(|(_, signature)| signature.hashes).collect();
    let columns = HashColumns {
        even: [0, 1].map(|crop| hashes.iter().map(|hash| hash[crop].even).collect()),
        odd: [0, 1].map(|crop| hashes.iter().map(|hash| hash[crop].odd).collect()),
    };
    let arch = Arch::new();
    (0..hashes.len().div_ceil(TILE))
        .into_par_iter()
        .flat_map_iter(|tile| {
            // Each image of this tile, a row, is compared with the images after it, the columns.
            let rows = tile * TILE..hashes.len().min((tile + 1) * TILE);
            let mut results = Vec::new();
            let mut distances = [0; TILE];
            for start in (rows.start..hashes.len()).step_by(TILE) {
                let end = hashes.len().min(start + TILE);
                for row in rows.clone() {
                    arch.dispatch(HammingDistances {
                        hash: &hashes[row],
                        columns: &columns,
                        start,
                        end,
                        distances: &mut distances,
                    });
                    for (column, &distance) in distances[..end - start].iter().enumerate() {
                        let column = start + column;
                        if distance <= MAX_DISTANCE && row < column {
                            let orientations = candidate_orientations(&hashes[row], &hashes[column]);
                            results.extend(compare(&images[row], &images[column], orientations));
                        }
                    }
                }
            }
            results
        })
        .collect()
}

/// The pairs of hashes of two images that are compared: whole to whole, whole to center, center to whole. 0 is
/// the hash of the whole image, 1 that of its center crop.
const HASH_PAIRS: [(usize, usize); 3] = [(0, 0), (0, 1), (1, 0)];

/// In which orientations two images have close hashes, so that only these are aligned. `a` and `b` are the
/// hashes of each image: of the whole and of its center crop. Even and odd bits are counted apart because
/// mirroring an image inverts all odd bits of its hashes.
fn candidate_orientations(a: &[PerceptualHash; 2], b: &[PerceptualHash; 2]) -> CandidateOrientations {
    let is_near = |distance: u32| distance <= u32::from(MAX_DISTANCE);
    let distances =
        HASH_PAIRS.map(|(i, j)| ((a[i].even ^ b[j].even).count_ones(), (a[i].odd ^ b[j].odd).count_ones()));
    CandidateOrientations {
        direct: distances.iter().any(|&(even, odd)| is_near(even + odd)),
        mirrored: distances.iter().any(|&(even, odd)| is_near(even + BITS_PER_PARITY as u32 - odd)),
    }
}

/// The hashes of all images as a structure of arrays, so that comparisons vectorize.
struct HashColumns {
    /// Even bits of the whole images, then of their centers; `odd` likewise.
    even: [Vec<u64>; 2],
    odd: [Vec<u64>; 2],
}

/// The arguments of computing the Hamming distance of one image to each image of a tile, with the SIMD
/// instructions of the processor.
struct HammingDistances<'a> {
    hash: &'a [PerceptualHash; 2],
    columns: &'a HashColumns,
    /// The tile is the images `start..end`.
    start: usize,
    end: usize,
    /// The results; those beyond the tile are unchanged.
    distances: &'a mut [u8; TILE],
}

impl WithSimd for HammingDistances<'_> {
    type Output = ();

    /// Writes the distances from the image with `hash` to the images of the tile `start..end` into
    /// `distances`: the smallest Hamming distance of the pairs of hashes (whole image and center crop) that
    /// [`HASH_PAIRS`] names, with the image as it is or mirrored. `pulp` inlines this into a function
    /// that it compiles for the instruction set `S`.
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let tile = self.start..self.end;
        let distances = &mut self.distances[..tile.len()];
        distances.fill(u8::MAX);
        for (a, b) in HASH_PAIRS {
            let PerceptualHash { even, odd } = self.hash[a];
            let (evens, odds) = (&self.columns.even[b][tile.clone()], &self.columns.odd[b][tile.clone()]);
            for ((distance, to_even), to_odd) in distances.iter_mut().zip(evens).zip(odds) {
                let n_odd = (odd ^ to_odd).count_ones(); // mirroring inverts the odd bits
                let n_bits = (even ^ to_even).count_ones() + n_odd.min(BITS_PER_PARITY as u32 - n_odd);
                *distance = (*distance).min(n_bits as u8);
            }
        }
    }
}
