//! Finds pairs of images with close hashes.

use pulp::{Arch, WithSimd};
use rayon::prelude::*;

use super::signature::{BITS_PER_HASH, PerceptualHash, Signature};

/// Maximum Hamming distance of two 128-bit hashes.
pub(super) const MAX_DISTANCE: u8 = 38;
/// Images per tile; the hashes of a tile stay in the L1 cache while they are compared.
const TILE: usize = 256;

/// Orientations in which the hashes of two images are close.
#[derive(Clone, Copy)]
pub(super) struct CandidateOrientations {
    pub(super) direct: bool,
    pub(super) mirrored: bool,
}

/// Calls `compare` for all pairs of images with close hashes and collects its results, in parallel.
pub(super) fn map_candidates<T, R>(
    images: &[(T, &Signature)],
    compare: impl Fn(&(T, &Signature), &(T, &Signature), CandidateOrientations) -> Option<R> + Sync,
) -> Vec<R>
where
    T: Sync,
    R: Send,
{
    let hashes: Vec<[PerceptualHash; 2]> = images.iter().map(|(_, signature)| signature.hashes).collect();
    let columns = HashColumns::from_hashes(&hashes);
    let arch = Arch::new();
    (0..hashes.len().div_ceil(TILE))
        .into_par_iter()
        .flat_map_iter(|rows| {
            let rows = rows * TILE..hashes.len().min((rows + 1) * TILE);
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

/// Distances of even and odd bits: whole to whole, whole to center, center to whole.
fn hash_distances(a: &[PerceptualHash; 2], b: &[PerceptualHash; 2]) -> [(u32, u32); 3] {
    let distance = |a: &PerceptualHash, b: &PerceptualHash| {
        ((a.even ^ b.even).count_ones(), (a.odd ^ b.odd).count_ones())
    };
    [distance(&a[0], &b[0]), distance(&a[0], &b[1]), distance(&a[1], &b[0])]
}

/// The orientations in which two images have close hashes.
fn candidate_orientations(a: &[PerceptualHash; 2], b: &[PerceptualHash; 2]) -> CandidateOrientations {
    let is_near = |distance: u32| distance <= u32::from(MAX_DISTANCE);
    let distances = hash_distances(a, b);
    CandidateOrientations {
        direct: distances.iter().any(|&(even, odd)| is_near(even + odd)),
        mirrored: distances.iter().any(|&(even, odd)| is_near(even + BITS_PER_HASH as u32 - odd)),
    }
}

/// Hashes as a structure of arrays, so that comparisons vectorize.
struct HashColumns {
    /// Of the whole image, then of its center.
    even: [Vec<u64>; 2],
    odd: [Vec<u64>; 2],
}

impl HashColumns {
    fn from_hashes(hashes: &[[PerceptualHash; 2]]) -> Self {
        Self {
            even: [0, 1].map(|crop| hashes.iter().map(|hash| hash[crop].even).collect()),
            odd: [0, 1].map(|crop| hashes.iter().map(|hash| hash[crop].odd).collect()),
        }
    }
}

/// Computes the Hamming distance of one image, in the closer orientation, to each image of a tile.
struct HammingDistances<'a> {
    hash: &'a [PerceptualHash; 2],
    columns: &'a HashColumns,
    start: usize,
    end: usize,
    distances: &'a mut [u8; TILE],
}

impl WithSimd for HammingDistances<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let tile = self.start..self.end;
        let distances = &mut self.distances[..tile.len()];
        distances.fill(u8::MAX);
        for (a, b) in [(0, 0), (0, 1), (1, 0)] {
            let PerceptualHash { even, odd } = self.hash[a];
            let (evens, odds) = (&self.columns.even[b][tile.clone()], &self.columns.odd[b][tile.clone()]);
            for ((distance, to_even), to_odd) in distances.iter_mut().zip(evens).zip(odds) {
                let odd = (odd ^ to_odd).count_ones();
                let bits = (even ^ to_even).count_ones() + odd.min(BITS_PER_HASH as u32 - odd);
                *distance = (*distance).min(bits as u8);
            }
        }
    }
}
