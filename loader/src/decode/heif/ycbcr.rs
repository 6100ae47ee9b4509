//! Y'CbCr planes to RGB as libavif does it, which Pillow reads AVIF with: chroma is interpolated.

use image::{DynamicImage, RgbImage, RgbaImage};
use libheif_rs::{Chroma, ColorSpace, Image, MatrixCoefficients, Plane};

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
            let (near, far) = if self.halves_columns { neighbors(x, last) } else { (x, x) };
            let (near_row, far_row) = (&self.near, &self.far);
            // Weights 9, 3, 3, 1 of 16; where an axis has full resolution, both neighbors are the sample itself.
            (9 * near_row[near] + 3 * near_row[far] + 3 * far_row[near] + far_row[far] + 8) / 16
        }));
    }
}

/// The weights of red and blue in luma.
fn luma_weights(matrix: MatrixCoefficients) -> Option<(f32, f32)> {
    use MatrixCoefficients as Matrix;
    match matrix {
        Matrix::ITU_R_BT_709_5 => Some((0.2126, 0.0722)),
        Matrix::Unspecified | Matrix::ITU_R_BT_470_6_System_B_G | Matrix::ITU_R_BT_601_6 => {
            Some((0.299, 0.114))
        }
        Matrix::US_FCC_T47 => Some((0.3, 0.11)),
        Matrix::SMPTE_240M => Some((0.212, 0.087)),
        Matrix::ITU_R_BT_2020_2_NonConstantLuminance => Some((0.2627, 0.0593)),
        _ => None,
    }
}

/// Converts a decoded image with Y'CbCr or monochrome planes to 8-bit RGB, or RGBA if it has alpha. `None` for other planes, and
/// for matrices that this function does not know.
pub(super) fn to_rgb(image: &Image) -> Option<DynamicImage> {
    let (halves_columns, halves_rows, has_chroma) = match image.color_space()? {
        ColorSpace::YCbCr(Chroma::C420) => (true, true, true),
        ColorSpace::YCbCr(Chroma::C422) => (true, false, true),
        ColorSpace::YCbCr(Chroma::C444) => (false, false, true),
        ColorSpace::Monochrome => (false, false, false),
        _ => return None,
    };
    let profile = image.color_profile_nclx();
    let matrix =
        profile.as_ref().map_or(MatrixCoefficients::Unspecified, |profile| profile.matrix_coefficients());
    let is_full_range = profile.as_ref().is_none_or(|profile| profile.full_range_flag() != 0);
    let (red, blue) = luma_weights(matrix).or((!has_chroma).then_some((0.299, 0.114)))?;
    let planes = image.planes();
    let luma = Samples::new(planes.y?)?;
    let (width, height) = (luma.plane.width, luma.plane.height);
    let chroma = |plane: Option<Plane<_>>| {
        let samples = Samples::new(plane?)?;
        let size = (samples.plane.width, samples.plane.height);
        let halved = |size: u32, halves: bool| if halves { size.div_ceil(2) } else { size };
        let expected = (halved(width, halves_columns), halved(height, halves_rows));
        let rows = ChromaRows { samples, halves_rows, halves_columns, near: Vec::new(), far: Vec::new() };
        (size == expected).then_some(rows)
    };
    let mut chroma = if has_chroma { Some((chroma(planes.cb)?, chroma(planes.cr)?)) } else { None };
    let alpha = match planes.a {
        Some(plane) => {
            Some(Samples::new(plane).filter(|a| (a.plane.width, a.plane.height) == (width, height))?)
        }
        None => None,
    };

    // The range of the values: all, or in video 16 to 235 of 255 for luma and 16 to 240 for chroma.
    let unit = (luma.max + 1.0) / 256.0;
    let (black, luma_scale, chroma_scale) = if is_full_range {
        (0.0, 255.0 / luma.max, 255.0 / luma.max)
    } else {
        (16.0 * unit, 255.0 / (219.0 * unit), 255.0 / (224.0 * unit))
    };
    let gray = 128.0 * unit;
    let green = 1.0 - red - blue;
    let n_channels = if alpha.is_some() { 4 } else { 3 };
    let mut pixels = Vec::with_capacity(n_channels * width as usize * height as usize);
    let (mut luma_row, mut cb_row, mut cr_row, mut alpha_row) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for y in 0..height as usize {
        luma.read_row(y, &mut luma_row);
        if let Some((cb, cr)) = &mut chroma {
            cb.read_row(y, width as usize, &mut cb_row);
            cr.read_row(y, width as usize, &mut cr_row);
        }
        if let Some(alpha) = &alpha {
            alpha.read_row(y, &mut alpha_row);
        }
        for x in 0..width as usize {
            let luma = (luma_row[x] as f32 - black) * luma_scale;
            let offset = |row: &[u32]| row.get(x).map_or(0.0, |&value| (value as f32 - gray) * chroma_scale);
            let (cb, cr) = (offset(&cb_row), offset(&cr_row));
            let (red_offset, blue_offset) = (2.0 * (1.0 - red) * cr, 2.0 * (1.0 - blue) * cb);
            let green_offset = -(red * red_offset + blue * blue_offset) / green;
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
