//! Which pairs of hashes are near.

use pulp::{Arch, WithSimd};
use rayon::prelude::*;

use super::signature::{BITS, Hash, Signature};

/// How many of the 128 bits may differ.
pub(super) const MOST: u8 = 38;
/// Photos of a tile: its hashes stay in the first cache while many others are compared with them.
const TILE: usize = 256;

/// How one photo may show the picture of another.
#[derive(Clone, Copy)]
pub(super) struct Poses {
    pub(super) direct: bool,
    pub(super) mirrored: bool,
}

/// What `judge` makes of the pairs that may show the same picture.
pub(super) fn candidates<T, R>(
    photos: &[(T, &Signature)],
    judge: impl Fn(&(T, &Signature), &(T, &Signature), Poses) -> Option<R> + Sync,
) -> Vec<R>
where
    T: Sync,
    R: Send,
{
    let hashes: Vec<[Hash; 2]> = photos.iter().map(|(_, signature)| signature.hashes).collect();
    let columns = Columns::of(&hashes);
    let arch = Arch::new();
    (0..hashes.len().div_ceil(TILE))
        .into_par_iter()
        .flat_map_iter(|rows| {
            let rows = rows * TILE..hashes.len().min((rows + 1) * TILE);
            let mut found = Vec::new();
            let mut apart = [0; TILE];
            for begin in (rows.start..hashes.len()).step_by(TILE) {
                let end = hashes.len().min(begin + TILE);
                for row in rows.clone() {
                    arch.dispatch(Distances {
                        from: &hashes[row],
                        to: &columns,
                        begin,
                        end,
                        apart: &mut apart,
                    });
                    for (column, &apart) in apart[..end - begin].iter().enumerate() {
                        let column = begin + column;
                        if apart <= MOST && row < column {
                            let poses = poses(&hashes[row], &hashes[column]);
                            found.extend(judge(&photos[row], &photos[column], poses));
                        }
                    }
                }
            }
            found
        })
        .collect()
}

/// What is compared with what: whole with whole, whole with middle, middle with whole.
fn compared(a: &[Hash; 2], b: &[Hash; 2]) -> [(u32, u32); 3] {
    let bits = |a: &Hash, b: &Hash| ((a.even ^ b.even).count_ones(), (a.odd ^ b.odd).count_ones());
    [bits(&a[0], &b[0]), bits(&a[0], &b[1]), bits(&a[1], &b[0])]
}

fn poses(a: &[Hash; 2], b: &[Hash; 2]) -> Poses {
    let near = |bits: u32| bits <= u32::from(MOST);
    let compared = compared(a, b);
    Poses {
        direct: compared.iter().any(|&(even, odd)| near(even + odd)),
        mirrored: compared.iter().any(|&(even, odd)| near(even + BITS as u32 - odd)),
    }
}

/// The words of many hashes, each kind in a row of its own, so that several are compared at once.
struct Columns {
    /// Of the whole photo, then of its middle.
    even: [Vec<u64>; 2],
    odd: [Vec<u64>; 2],
}

impl Columns {
    fn of(hashes: &[[Hash; 2]]) -> Self {
        Self {
            even: [0, 1].map(|part| hashes.iter().map(|hash| hash[part].even).collect()),
            odd: [0, 1].map(|part| hashes.iter().map(|hash| hash[part].odd).collect()),
        }
    }
}

/// The fewest bits by which one photo, plain or mirrored, is apart from each of a tile.
struct Distances<'a> {
    from: &'a [Hash; 2],
    to: &'a Columns,
    begin: usize,
    end: usize,
    apart: &'a mut [u8; TILE],
}

impl WithSimd for Distances<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let tile = self.begin..self.end;
        let apart = &mut self.apart[..tile.len()];
        apart.fill(u8::MAX);
        for (from, to) in [(0, 0), (0, 1), (1, 0)] {
            let Hash { even, odd } = self.from[from];
            let (evens, odds) = (&self.to.even[to][tile.clone()], &self.to.odd[to][tile.clone()]);
            for ((apart, to_even), to_odd) in apart.iter_mut().zip(evens).zip(odds) {
                let odd = (odd ^ to_odd).count_ones();
                let bits = (even ^ to_even).count_ones() + odd.min(BITS as u32 - odd);
                *apart = (*apart).min(bits as u8);
            }
        }
    }
}
