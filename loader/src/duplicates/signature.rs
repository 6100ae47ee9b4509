//! Compact image signatures for comparison.

use std::f64::consts::PI;
use std::sync::LazyLock;

use image::RgbImage;

use crate::transform::{Resampling, resize};

/// Height and width of the luma.
pub(super) const SIDE: usize = 32;
/// Height and width of the smoothed luma and the chroma.
pub(super) const HALF_SIDE: usize = SIDE / 2;
/// Side of the center crop as a fraction of the image.
const CENTER_FRACTION: f32 = 0.93;
/// Number of bits of a hash for even horizontal frequencies, and as many for odd ones.
pub(super) const BITS_PER_PARITY: usize = 64;
/// Standard deviation of the luma below which an image is flat.
const MIN_CONTRAST: f32 = 1.5;
/// Maximum mean absolute difference of luma and chroma of equal flat images.
const MAX_FLAT_DISTANCE: f32 = 1.5;

/// Whether an image is mirrored before it is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flip {
    None,
    Horizontal,
}

/// A 1.8 kB summary of an image for finding near-duplicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Luma, `[SIDE, SIDE]`.
    luma: [u8; SIDE * SIDE],
    /// Smoothed luma, `[HALF_SIDE, HALF_SIDE]`.
    half_luma: [u8; HALF_SIDE * HALF_SIDE],
    /// Chroma Cb and Cr, `[2, HALF_SIDE, HALF_SIDE]`.
    chroma: [[u8; HALF_SIDE * HALF_SIDE]; 2],
    /// Hashes of the whole image and of its center crop.
    pub(super) hashes: [PerceptualHash; 2],
}

/// A hash that is similar for images that look similar: the signs of low DCT frequencies, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PerceptualHash {
    /// Signs of frequencies that do not change when the image is mirrored.
    pub(super) even: u64,
    /// Signs of frequencies that are inverted when the image is mirrored.
    pub(super) odd: u64,
}

impl Signature {
    /// Computes the signature by which near-duplicates of `image`, `[H, W, 3]`, are found: luma, chroma and
    /// perceptual hashes of the image resized to 32 x 32 pixels.
    #[must_use]
    pub fn new(image: &RgbImage) -> Self {
        let side = SIDE as u32;
        let small = match image.dimensions() {
            (0, _) | (_, 0) => RgbImage::new(side, side),
            _ => resize(image, (side, side), Resampling::Bilinear),
        };
        let mut luma = [0; SIDE * SIDE];
        let mut chroma_sums = [[0.0; HALF_SIDE * HALF_SIDE]; 2];
        for ((x, y, pixel), luma) in small.enumerate_pixels().zip(&mut luma) {
            let [red, green, blue] = pixel.0.map(f32::from);
            // YCbCr as in JPEG.
            let gray = 0.299 * red + 0.587 * green + 0.114 * blue;
            *luma = gray.round() as u8;
            let block = y as usize / 2 * HALF_SIDE + x as usize / 2;
            chroma_sums[0][block] += (blue - gray) / 1.772;
            chroma_sums[1][block] += (red - gray) / 1.402;
        }
        let chroma = chroma_sums.map(|sums| sums.map(|sum| (sum / 4.0 + 128.0).round() as u8));
        Self::from_planes(luma, chroma)
    }

    /// Builds a signature from luma and chroma (Cb and Cr), which are all that is saved; computes the
    /// smoothed luma and the hashes from the luma.
    fn from_planes(luma: [u8; SIDE * SIDE], chroma: [[u8; HALF_SIDE * HALF_SIDE]; 2]) -> Self {
        let plane = luma.map(f32::from);
        let hashes = [PerceptualHash::from_luma(&plane), PerceptualHash::from_luma(&center_crop(&plane))];
        Self { luma, half_luma: half_size(&plane), chroma, hashes }
    }

    /// Serializes the signature for [`from_bytes`](Self::from_bytes).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.luma.as_slice(), self.chroma.as_flattened()].concat()
    }

    /// Deserializes the result of [`to_bytes`](Self::to_bytes); `None` for another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (luma, chroma) = bytes.split_first_chunk()?;
        let (chroma, []) = chroma.as_chunks() else { return None };
        Some(Self::from_planes(*luma, chroma.try_into().ok()?))
    }

    /// The luma, `[SIDE, SIDE]`, mirrored by `flip`.
    pub(super) fn luma(&self, flip: Flip) -> Vec<f32> {
        plane_to_f32(&self.luma, SIDE, flip)
    }

    /// Whether the image has no contrast, so that it cannot be aligned.
    pub(super) fn is_flat(&self) -> bool {
        let count = self.luma.len() as f32;
        let mean = self.luma.iter().map(|&value| f32::from(value)).sum::<f32>() / count;
        let squares: f32 = self.luma.iter().map(|&value| (f32::from(value) - mean).powi(2)).sum();
        squares / count < MIN_CONTRAST * MIN_CONTRAST
    }

    /// The smoothed luma, `[HALF_SIDE, HALF_SIDE]`, mirrored by `flip`.
    pub(super) fn half_luma(&self, flip: Flip) -> Vec<f32> {
        plane_to_f32(&self.half_luma, HALF_SIDE, flip)
    }

    /// The chroma planes Cb and Cr, `[2, HALF_SIDE, HALF_SIDE]`, mirrored by `flip`.
    pub(super) fn chroma(&self, flip: Flip) -> [Vec<f32>; 2] {
        self.chroma.each_ref().map(|plane| plane_to_f32(plane, HALF_SIDE, flip))
    }

    /// Similarity of two flat images, which cannot be aligned: 1 minus the largest mean absolute difference
    /// of luma, Cb and Cr, divided by 255. `None` if this difference is above [`MAX_FLAT_DISTANCE`], so that
    /// the colors differ.
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

/// Converts a luma or chroma plane with rows of length `side` to `f32` for the comparison of two images, and
/// mirrors it if `flip` says so.
fn plane_to_f32(plane: &[u8], side: usize, flip: Flip) -> Vec<f32> {
    let mut plane: Vec<f32> = plane.iter().copied().map(f32::from).collect();
    if flip == Flip::Horizontal {
        plane.chunks_exact_mut(side).for_each(<[f32]>::reverse);
    }
    plane
}

impl PerceptualHash {
    /// Computes the perceptual hash of the luma `plane`, `[SIDE, SIDE]`; near-duplicates differ in few bits.
    /// Each bit is the sign of a low-frequency DCT coefficient, 1 if positive. Bits of even and of odd
    /// horizontal frequencies are separate because mirroring the image changes the sign of the odd ones only.
    fn from_luma(plane: &[f32; SIDE * SIDE]) -> Self {
        let sign_bits = |frequencies: &[(usize, usize)]| {
            frequencies.iter().fold(0, |bits, &(down, across)| {
                let rows = plane.chunks_exact(SIDE).zip(&COSINES[down]);
                let sum: f32 = rows
                    .map(|(row, weight)| {
                        weight * row.iter().zip(&COSINES[across]).map(|(v, w)| v * w).sum::<f32>()
                    })
                    .sum();
                bits << 1 | u64::from(sum > 0.0)
            })
        };
        let [even, odd] = &*FREQUENCIES;
        Self { even: sign_bits(even), odd: sign_bits(odd) }
    }
}

/// The lowest (vertical, horizontal) frequencies, without the mean: [`BITS_PER_PARITY`] with even horizontal
/// frequency, then as many with odd.
static FREQUENCIES: LazyLock<[Vec<(usize, usize)>; 2]> = LazyLock::new(|| {
    [0, 1].map(|parity| {
        let mut frequencies: Vec<(usize, usize)> = (0..SIDE)
            .flat_map(|down| (0..SIDE).map(move |across| (down, across)))
            .filter(|&(down, across)| across % 2 == parity && down + across > 0)
            .collect();
        frequencies.sort_by_key(|&(down, across)| (down + across, down));
        frequencies.truncate(BITS_PER_PARITY);
        frequencies
    })
});

/// DCT basis, `[frequency, SIDE]`.
static COSINES: LazyLock<[[f32; SIDE]; SIDE]> = LazyLock::new(|| {
    std::array::from_fn(|frequency| {
        std::array::from_fn(|position| {
            ((2 * position + 1) as f64 * frequency as f64 * PI / (2 * SIDE) as f64).cos() as f32
        })
    })
});

/// Downsamples a luma plane to half size for the coarse alignment, with enough smoothing to avoid aliasing.
/// Pixels beyond the edge repeat it.
fn half_size(plane: &[f32; SIDE * SIDE]) -> [u8; HALF_SIDE * HALF_SIDE] {
    /// Binomial weights centered between two pixels.
    const WEIGHTS: [f32; 6] = [1.0 / 32.0, 5.0 / 32.0, 10.0 / 32.0, 10.0 / 32.0, 5.0 / 32.0, 1.0 / 32.0];
    let taps = |i: usize| {
        // Output pixel `i` lies between pixels `2 i` and `2 i + 1`; six pixels around it count.
        let clamped = move |tap: usize| (2 * i + tap).clamp(2, SIDE + 1) - 2;
        WEIGHTS.iter().enumerate().map(move |(tap, &weight)| (clamped(tap), weight))
    };
    std::array::from_fn(|i| {
        let row_sum =
            |y: usize| taps(i % HALF_SIDE).map(|(x, weight)| weight * plane[y * SIDE + x]).sum::<f32>();
        taps(i / HALF_SIDE).map(|(y, weight)| weight * row_sum(y)).sum::<f32>().round() as u8
    })
}

/// The center crop of a luma plane ([`CENTER_FRACTION`] of each side), resized bilinearly to the full side.
/// Its hash finds copies that are slightly cropped.
fn center_crop(plane: &[f32; SIDE * SIDE]) -> [f32; SIDE * SIDE] {
    let half = SIDE as f32 / 2.0;
    let source_position = |pixel: usize| {
        let position = (pixel as f32 + 0.5 - half) * CENTER_FRACTION + half - 0.5;
        (position as usize, position.fract())
    };
    std::array::from_fn(|i| {
        let (y, y_fraction) = source_position(i / SIDE);
        let (x, x_fraction) = source_position(i % SIDE);
        let row = |y: usize| plane[y * SIDE + x] * (1.0 - x_fraction) + plane[y * SIDE + x + 1] * x_fraction;
        row(y) * (1.0 - y_fraction) + row(y + 1) * y_fraction
    })
}
