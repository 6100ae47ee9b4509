//! What is kept of a photo to compare it by.

use std::f64::consts::PI;
use std::sync::LazyLock;

use image::RgbImage;

use crate::transform::{Interpolation, resize};

/// Height and width of the luma that is kept.
pub(super) const SIDE: usize = 32;
/// Height and width of the smoothed luma and of the colours that are kept.
pub(super) const HALF: usize = SIDE / 2;
/// The part of each side that a photo's middle has.
const MIDDLE: f32 = 0.93;
/// Frequencies of each kind in a hash.
pub(super) const BITS: usize = 64;
/// A photo whose luma deviates less than this shows nothing.
const CONTRAST: f32 = 1.5;
/// How far the luma or the colours of two photos without contrast may be apart, on average.
const FLAT_APART: f32 = 1.5;

/// What near-duplicates are found by: 1.8 kB that a photo's pixels are boiled down to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// `[SIDE, SIDE]`
    luma: [u8; SIDE * SIDE],
    /// The luma smoothed, `[HALF, HALF]`.
    half: [u8; HALF * HALF],
    /// Blue and red against luma, `[2, HALF, HALF]`.
    chroma: [[u8; HALF * HALF]; 2],
    /// Of the whole photo and of its middle.
    pub(super) hashes: [Hash; 2],
}

/// Signs of low frequencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hash {
    /// Of those that stay when the photo is mirrored.
    pub(super) even: u64,
    /// Of those that change their sign.
    pub(super) odd: u64,
}

impl Signature {
    /// The signature of `photo`.
    #[must_use]
    pub fn new(photo: &RgbImage) -> Self {
        let side = SIDE as u32;
        let small = match photo.dimensions() {
            (0, _) | (_, 0) => RgbImage::new(side, side),
            _ => resize(photo, (side, side), Interpolation::Bilinear),
        };
        let mut luma = [0; SIDE * SIDE];
        let mut sums = [[0.0; HALF * HALF]; 2];
        for ((x, y, pixel), luma) in small.enumerate_pixels().zip(&mut luma) {
            let [red, green, blue] = pixel.0.map(f32::from);
            // The YCbCr of JPEG files.
            let grey = 0.299 * red + 0.587 * green + 0.114 * blue;
            *luma = grey.round() as u8;
            let block = y as usize / 2 * HALF + x as usize / 2;
            sums[0][block] += (blue - grey) / 1.772;
            sums[1][block] += (red - grey) / 1.402;
        }
        let chroma = sums.map(|sums| sums.map(|sum| (sum / 4.0 + 128.0).round() as u8));
        Self::of(luma, chroma)
    }

    fn of(luma: [u8; SIDE * SIDE], chroma: [[u8; HALF * HALF]; 2]) -> Self {
        let plane = luma.map(f32::from);
        let hashes = [Hash::of(&plane), Hash::of(&middle(&plane))];
        Self { luma, half: halved(&plane), chroma, hashes }
    }

    /// To keep it: [`from_bytes`](Self::from_bytes) makes it again.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.luma.as_slice(), self.chroma.as_flattened()].concat()
    }

    /// What [`to_bytes`](Self::to_bytes) gave; nothing for anything of another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (luma, chroma) = bytes.split_first_chunk()?;
        let (chroma, []) = chroma.as_chunks() else { return None };
        Some(Self::of(*luma, chroma.try_into().ok()?))
    }

    /// The luma `[SIDE, SIDE]`, of the mirror image where asked for.
    pub(super) fn luma(&self, mirrored: bool) -> Vec<f32> {
        unpacked(&self.luma, SIDE, mirrored)
    }

    /// Whether there is nothing to see.
    pub(super) fn is_flat(&self) -> bool {
        let count = self.luma.len() as f32;
        let mean = self.luma.iter().map(|&value| f32::from(value)).sum::<f32>() / count;
        let squares: f32 = self.luma.iter().map(|&value| (f32::from(value) - mean).powi(2)).sum();
        squares / count < CONTRAST * CONTRAST
    }

    /// The smoothed luma `[HALF, HALF]`, of the mirror image where asked for.
    pub(super) fn half(&self, mirrored: bool) -> Vec<f32> {
        unpacked(&self.half, HALF, mirrored)
    }

    /// The colours `[2, HALF, HALF]`, of the mirror image where asked for.
    pub(super) fn chroma(&self, mirrored: bool) -> [Vec<f32>; 2] {
        self.chroma.each_ref().map(|plane| unpacked(plane, HALF, mirrored))
    }

    /// How similar two photos without contrast are, where they have the same colour.
    pub(super) fn same_colour(&self, other: &Self) -> Option<f32> {
        let apart = |a: &[u8], b: &[u8]| {
            let sum: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
            sum as f32 / a.len() as f32
        };
        let most = apart(&self.luma, &other.luma)
            .max(apart(&self.chroma[0], &other.chroma[0]))
            .max(apart(&self.chroma[1], &other.chroma[1]));
        (most <= FLAT_APART).then_some(1.0 - most / 255.0)
    }
}

fn unpacked(plane: &[u8], side: usize, mirrored: bool) -> Vec<f32> {
    let mut plane: Vec<f32> = plane.iter().copied().map(f32::from).collect();
    if mirrored {
        plane.chunks_exact_mut(side).for_each(<[f32]>::reverse);
    }
    plane
}

impl Hash {
    fn of(plane: &[f32; SIDE * SIDE]) -> Self {
        let bits = |frequencies: &[(usize, usize)]| {
            frequencies.iter().fold(0, |bits, &(down, across)| {
                let (down, across) = (&COSINES[down], &COSINES[across]);
                let rows = plane.chunks_exact(SIDE).zip(down);
                let sum: f32 = rows
                    .map(|(row, weight)| weight * row.iter().zip(across).map(|(v, w)| v * w).sum::<f32>())
                    .sum();
                bits << 1 | u64::from(sum > 0.0)
            })
        };
        Self { even: bits(&FREQUENCIES[0]), odd: bits(&FREQUENCIES[1]) }
    }
}

/// The lowest frequencies (down, across) that are even across, without the mean, and that are odd across.
static FREQUENCIES: LazyLock<[Vec<(usize, usize)>; 2]> = LazyLock::new(|| {
    [0, 1].map(|parity| {
        let mut all: Vec<(usize, usize)> = (0..SIDE)
            .flat_map(|down| (0..SIDE).map(move |across| (down, across)))
            .filter(|&(down, across)| across % 2 == parity && down + across > 0)
            .collect();
        all.sort_by_key(|&(down, across)| (down + across, down));
        all.truncate(BITS);
        all
    })
});

/// The waves of a discrete cosine transform, `[frequency, SIDE]`.
static COSINES: LazyLock<[[f32; SIDE]; SIDE]> = LazyLock::new(|| {
    std::array::from_fn(|frequency| {
        std::array::from_fn(|at| {
            ((2 * at + 1) as f64 * frequency as f64 * PI / (2 * SIDE) as f64).cos() as f32
        })
    })
});

/// A plane at half its size, smooth enough that stripes do not become other stripes.
fn halved(plane: &[f32; SIDE * SIDE]) -> [u8; HALF * HALF] {
    /// Binomial, between two pixels.
    const WEIGHTS: [f32; 6] = [1.0 / 32.0, 5.0 / 32.0, 10.0 / 32.0, 10.0 / 32.0, 5.0 / 32.0, 1.0 / 32.0];
    let taps = |at: usize| {
        let place = move |tap: usize| (2 * at + tap).clamp(2, SIDE + 1) - 2;
        WEIGHTS.iter().enumerate().map(move |(tap, &weight)| (place(tap), weight))
    };
    std::array::from_fn(|at| {
        let across = |y: usize| taps(at % HALF).map(|(x, weight)| weight * plane[y * SIDE + x]).sum::<f32>();
        taps(at / HALF).map(|(y, weight)| weight * across(y)).sum::<f32>().round() as u8
    })
}

/// The middle of a plane at its size.
fn middle(plane: &[f32; SIDE * SIDE]) -> [f32; SIDE * SIDE] {
    let half = SIDE as f32 / 2.0;
    let place = |at: usize| {
        let at = (at as f32 + 0.5 - half) * MIDDLE + half - 0.5;
        (at as usize, at.fract())
    };
    std::array::from_fn(|at| {
        let ((y, down), (x, right)) = (place(at / SIDE), place(at % SIDE));
        let row = |y: usize| plane[y * SIDE + x] * (1.0 - right) + plane[y * SIDE + x + 1] * right;
        row(y) * (1.0 - down) + row(y + 1) * down
    })
}
