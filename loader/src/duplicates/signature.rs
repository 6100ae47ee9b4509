//! What is kept of a photo to compare it by.

use std::f64::consts::PI;
use std::sync::LazyLock;

use image::RgbImage;

use crate::transform::{Resampling, resize};

/// Height and width of the luma that is kept.
pub(super) const SIDE: usize = 32;
/// Height and width of the smoothed luma and of the colours that are kept.
pub(super) const HALF_SIDE: usize = SIDE / 2;
/// The part of each side that a photo's middle has.
const CENTER_FRACTION: f32 = 0.93;
/// Frequencies of each kind in a hash.
pub(super) const BITS_PER_HASH: usize = 64;
/// A photo whose luma deviates less than this shows nothing.
const MIN_CONTRAST: f32 = 1.5;
/// How far the luma or the colours of two photos without contrast may be apart, on average.
const MAX_FLAT_DISTANCE: f32 = 1.5;

/// What near-duplicates are found by: 1.8 kB that a photo's pixels are boiled down to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// `[SIDE, SIDE]`
    luma: [u8; SIDE * SIDE],
    /// The luma smoothed, `[HALF, HALF]`.
    half_luma: [u8; HALF_SIDE * HALF_SIDE],
    /// Blue and red against luma, `[2, HALF, HALF]`.
    chroma: [[u8; HALF_SIDE * HALF_SIDE]; 2],
    /// Of the whole photo and of its middle.
    pub(super) hashes: [PerceptualHash; 2],
}

/// Signs of low frequencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PerceptualHash {
    /// Of those that stay when the photo is mirrored.
    pub(super) even: u64,
    /// Of those that change their sign.
    pub(super) odd: u64,
}

impl Signature {
    /// The signature of `photo`.
    #[must_use]
    pub fn new(image: &RgbImage) -> Self {
        let side = SIDE as u32;
        let small = match image.dimensions() {
            (0, _) | (_, 0) => RgbImage::new(side, side),
            _ => resize(image, (side, side), Resampling::Bilinear),
        };
        let mut luma = [0; SIDE * SIDE];
        let mut sums = [[0.0; HALF_SIDE * HALF_SIDE]; 2];
        for ((x, y, pixel), luma) in small.enumerate_pixels().zip(&mut luma) {
            let [red, green, blue] = pixel.0.map(f32::from);
            // The YCbCr of JPEG files.
            let gray = 0.299 * red + 0.587 * green + 0.114 * blue;
            *luma = gray.round() as u8;
            let block = y as usize / 2 * HALF_SIDE + x as usize / 2;
            sums[0][block] += (blue - gray) / 1.772;
            sums[1][block] += (red - gray) / 1.402;
        }
        let chroma = sums.map(|sums| sums.map(|sum| (sum / 4.0 + 128.0).round() as u8));
        Self::from_planes(luma, chroma)
    }

    fn from_planes(luma: [u8; SIDE * SIDE], chroma: [[u8; HALF_SIDE * HALF_SIDE]; 2]) -> Self {
        let plane = luma.map(f32::from);
        let hashes = [PerceptualHash::from_luma(&plane), PerceptualHash::from_luma(&center_crop(&plane))];
        Self { luma, half_luma: half_size(&plane), chroma, hashes }
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
        Some(Self::from_planes(*luma, chroma.try_into().ok()?))
    }

    /// The luma `[SIDE, SIDE]`, of the mirror image where asked for.
    pub(super) fn luma(&self, mirrored: bool) -> Vec<f32> {
        plane_to_f32(&self.luma, SIDE, mirrored)
    }

    /// Whether there is nothing to see.
    pub(super) fn is_flat(&self) -> bool {
        let count = self.luma.len() as f32;
        let mean = self.luma.iter().map(|&value| f32::from(value)).sum::<f32>() / count;
        let squares: f32 = self.luma.iter().map(|&value| (f32::from(value) - mean).powi(2)).sum();
        squares / count < MIN_CONTRAST * MIN_CONTRAST
    }

    /// The smoothed luma `[HALF, HALF]`, of the mirror image where asked for.
    pub(super) fn half_luma(&self, mirrored: bool) -> Vec<f32> {
        plane_to_f32(&self.half_luma, HALF_SIDE, mirrored)
    }

    /// The colours `[2, HALF, HALF]`, of the mirror image where asked for.
    pub(super) fn chroma(&self, mirrored: bool) -> [Vec<f32>; 2] {
        self.chroma.each_ref().map(|plane| plane_to_f32(plane, HALF_SIDE, mirrored))
    }

    /// How similar two photos without contrast are, where they have the same colour.
    pub(super) fn flat_similarity(&self, other: &Self) -> Option<f32> {
        let mean_abs_difference = |a: &[u8], b: &[u8]| {
            let sum: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
            sum as f32 / a.len() as f32
        };
        let distance = mean_abs_difference(&self.luma, &other.luma)
            .max(mean_abs_difference(&self.chroma[0], &other.chroma[0]))
            .max(mean_abs_difference(&self.chroma[1], &other.chroma[1]));
        (distance <= MAX_FLAT_DISTANCE).then_some(1.0 - distance / 255.0)
    }
}

fn plane_to_f32(plane: &[u8], side: usize, mirrored: bool) -> Vec<f32> {
    let mut plane: Vec<f32> = plane.iter().copied().map(f32::from).collect();
    if mirrored {
        plane.chunks_exact_mut(side).for_each(<[f32]>::reverse);
    }
    plane
}

impl PerceptualHash {
    fn from_luma(plane: &[f32; SIDE * SIDE]) -> Self {
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
        let mut frequencies: Vec<(usize, usize)> = (0..SIDE)
            .flat_map(|down| (0..SIDE).map(move |across| (down, across)))
            .filter(|&(down, across)| across % 2 == parity && down + across > 0)
            .collect();
        frequencies.sort_by_key(|&(down, across)| (down + across, down));
        frequencies.truncate(BITS_PER_HASH);
        frequencies
    })
});

/// The waves of a discrete cosine transform, `[frequency, SIDE]`.
static COSINES: LazyLock<[[f32; SIDE]; SIDE]> = LazyLock::new(|| {
    std::array::from_fn(|frequency| {
        std::array::from_fn(|position| {
            ((2 * position + 1) as f64 * frequency as f64 * PI / (2 * SIDE) as f64).cos() as f32
        })
    })
});

/// A plane at half its size, smooth enough that stripes do not become other stripes.
fn half_size(plane: &[f32; SIDE * SIDE]) -> [u8; HALF_SIDE * HALF_SIDE] {
    /// Binomial, between two pixels.
    const WEIGHTS: [f32; 6] = [1.0 / 32.0, 5.0 / 32.0, 10.0 / 32.0, 10.0 / 32.0, 5.0 / 32.0, 1.0 / 32.0];
    let taps = |i: usize| {
        let clamped = move |tap: usize| (2 * i + tap).clamp(2, SIDE + 1) - 2;
        WEIGHTS.iter().enumerate().map(move |(tap, &weight)| (clamped(tap), weight))
    };
    std::array::from_fn(|i| {
        let across =
            |y: usize| taps(i % HALF_SIDE).map(|(x, weight)| weight * plane[y * SIDE + x]).sum::<f32>();
        taps(i / HALF_SIDE).map(|(y, weight)| weight * across(y)).sum::<f32>().round() as u8
    })
}

/// The middle of a plane at its size.
fn center_crop(plane: &[f32; SIDE * SIDE]) -> [f32; SIDE * SIDE] {
    let half = SIDE as f32 / 2.0;
    let source_position = |at: usize| {
        let at = (at as f32 + 0.5 - half) * CENTER_FRACTION + half - 0.5;
        (at as usize, at.fract())
    };
    std::array::from_fn(|at| {
        let ((y, down), (x, right)) = (source_position(at / SIDE), source_position(at % SIDE));
        let row = |y: usize| plane[y * SIDE + x] * (1.0 - right) + plane[y * SIDE + x + 1] * right;
        row(y) * (1.0 - down) + row(y + 1) * down
    })
}
