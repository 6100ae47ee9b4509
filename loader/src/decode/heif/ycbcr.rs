//! Y'CbCr planes to RGB as libavif does it, which Pillow reads AVIF with: chroma is interpolated.

use image::{DynamicImage, RgbImage, RgbaImage};
use libheif_rs::{Chroma, ColorProfileNCLX, Image, MatrixCoefficients, Plane};

/// A plane of samples, as libheif stores it.
struct Samples<'a> {
    plane: Plane<&'a [u8]>,
    /// The largest value.
    max: f32,
}

impl<'a> Samples<'a> {
    fn new(plane: Plane<&'a [u8]>) -> Option<Self> {
        let max = (1u32.checked_shl(plane.bits_per_pixel.into())? - 1) as f32;
        let n_bytes = if plane.bits_per_pixel > 8 { 2 } else { 1 };
        let row_length = n_bytes * plane.width as usize;
        let is_complete = plane.height > 0
            && plane.width > 0
            && row_length <= plane.stride
            && (plane.height as usize - 1) * plane.stride + row_length <= plane.data.len();
        is_complete.then_some(Self { plane, max })
    }

    /// The samples of row `y`.
    fn read_row(&self, y: usize, row: &mut Vec<u32>) {
        row.clear();
        let (start, width) = (y * self.plane.stride, self.plane.width as usize);
        if self.plane.bits_per_pixel > 8 {
            let bytes = self.plane.data[start..][..2 * width].chunks_exact(2);
            row.extend(bytes.map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]]))));
        } else {
            row.extend(self.plane.data[start..][..width].iter().map(|&byte| u32::from(byte)));
        }
    }

    fn last_row(&self) -> usize {
        self.plane.height as usize - 1
    }
}

/// The two neighbors of position `i` of `n_luma` samples among the `n_chroma` of half the resolution, which lie between
/// pairs of them: the nearer, which counts three times, and the farther one.
fn neighbors(i: usize, last: usize) -> (usize, usize) {
    let near = (i / 2).min(last);
    let far = if i.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(last) };
    (near, far)
}

/// A plane of chroma, of which rows are read at the resolution of luma.
struct ChromaRows<'a> {
    samples: Samples<'a>,
    halves_rows: bool,
    halves_columns: bool,
    near: Vec<u32>,
    far: Vec<u32>,
}

impl ChromaRows<'_> {
    /// Interpolates row `y` of luma's resolution, `width` samples, into `row`.
    fn read_row(&mut self, y: usize, width: usize, row: &mut Vec<u32>) {
        let (near_row, far_row) =
            if self.halves_rows { neighbors(y, self.samples.last_row()) } else { (y, y) };
        self.samples.read_row(near_row, &mut self.near);
        self.samples.read_row(far_row, &mut self.far);
        let last = self.near.len() - 1;
        row.clear();
        row.extend((0..width).map(|x| {
            let (near, far) = match self.halves_columns {
                // libyuv, which libavif converts with, takes the last column as it is.
                true if x + 1 == width => (last, last),
                true => neighbors(x, last),
                false => (x, x),
            };
            let (near_row, far_row) = (&self.near, &self.far);
            // Weights 9, 3, 3, 1 of 16; where an axis has full resolution, both neighbors are the sample itself.
            (9 * near_row[near] + 3 * near_row[far] + 3 * far_row[near] + far_row[far] + 8) / 16
        }));
    }
}

/// The weights of red and blue in luma, of BT.601.
const RED: f32 = 0.299;
const BLUE: f32 = 0.114;

/// Whether colors are described by the matrix of BT.601, as sRGB photos are.
fn is_bt601(matrix: MatrixCoefficients) -> bool {
    use MatrixCoefficients as Matrix;
    matches!(matrix, Matrix::Unspecified | Matrix::ITU_R_BT_470_6_System_B_G | Matrix::ITU_R_BT_601_6)
}

/// Converts a decoded image with Y'CbCr planes to 8-bit RGB, or RGBA if it has alpha. The chroma is subsampled as `chroma` says,
/// and the colors are described by `profile`. libheif has already widened values of the range for video to the full range. `None`
/// for other planes, and for other matrices than that of BT.601.
pub(super) fn to_rgb(image: &Image, chroma: Chroma, profile: &ColorProfileNCLX) -> Option<DynamicImage> {
    let (halves_columns, halves_rows) = match chroma {
        Chroma::C420 => (true, true),
        Chroma::C422 => (true, false),
        Chroma::C444 => (false, false),
    };
    if !is_bt601(profile.matrix_coefficients()) {
        return None;
    }
    let planes = image.planes();
    let luma = Samples::new(planes.y?)?;
    let (width, height) = (luma.plane.width, luma.plane.height);
    let chroma_rows = |plane: Option<Plane<_>>| {
        let samples = Samples::new(plane?)?;
        let size = (samples.plane.width, samples.plane.height);
        let halved = |size: u32, halves: bool| if halves { size.div_ceil(2) } else { size };
        let expected = (halved(width, halves_columns), halved(height, halves_rows));
        let rows = ChromaRows { samples, halves_rows, halves_columns, near: Vec::new(), far: Vec::new() };
        (size == expected).then_some(rows)
    };
    let (mut cb, mut cr) = (chroma_rows(planes.cb)?, chroma_rows(planes.cr)?);
    let alpha = match planes.a {
        Some(plane) => {
            Some(Samples::new(plane).filter(|a| (a.plane.width, a.plane.height) == (width, height))?)
        }
        None => None,
    };

    let scale = 255.0 / luma.max;
    let gray = (luma.max + 1.0) / 2.0;
    let green = 1.0 - RED - BLUE;
    let n_channels = if alpha.is_some() { 4 } else { 3 };
    let mut pixels = Vec::with_capacity(n_channels * width as usize * height as usize);
    let (mut luma_row, mut cb_row, mut cr_row, mut alpha_row) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for y in 0..height as usize {
        luma.read_row(y, &mut luma_row);
        cb.read_row(y, width as usize, &mut cb_row);
        cr.read_row(y, width as usize, &mut cr_row);
        if let Some(alpha) = &alpha {
            alpha.read_row(y, &mut alpha_row);
        }
        for x in 0..width as usize {
            let luma = luma_row[x] as f32 * scale;
            let offset = |row: &[u32]| (row[x] as f32 - gray) * scale;
            let red_offset = 2.0 * (1.0 - RED) * offset(&cr_row);
            let blue_offset = 2.0 * (1.0 - BLUE) * offset(&cb_row);
            let green_offset = -(RED * red_offset + BLUE * blue_offset) / green;
            pixels.extend([red_offset, green_offset, blue_offset].map(|offset| to_u8(luma + offset)));
            if let Some(alpha) = &alpha {
                pixels.push(to_u8(alpha_row[x] as f32 * 255.0 / alpha.max));
            }
        }
    }
    if alpha.is_some() {
        RgbaImage::from_raw(width, height, pixels).map(DynamicImage::from)
    } else {
        RgbImage::from_raw(width, height, pixels).map(DynamicImage::from)
    }
}

/// The nearest of the values 0 to 255.
fn to_u8(value: f32) -> u8 {
    (value + 0.5).clamp(0.0, 255.0) as u8
}
