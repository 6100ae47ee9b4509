//! Inverse DCT of 8 x 8 blocks to 8 x 8, 4 x 4, 2 x 2 or 1 x 1 samples.
//!
//! Source: libjpeg's `jidctint.c` (Loeffler, Ligtenberg, Moschytz) and `jidctred.c`, bit for bit: fixed-point
//! integers with 13 fractional bits; the column pass keeps 2 fractional bits. Sums wrap around only in
//! damaged files.

use pulp::{Arch, Simd, WithSimd};

/// One number for each of 8 columns or rows.
type Lanes = [i32; 8];

/// Applies `f` to 8 inputs in every lane. The compiler vectorizes the loop over lanes.
#[inline(always)]
fn map_lanes<const OUT: usize>(input: &[Lanes; 8], f: impl Fn([i32; 8]) -> [i32; OUT]) -> [Lanes; OUT] {
    let mut out = [[0; 8]; OUT];
    for lane in 0..8 {
        let outputs = f([0, 1, 2, 3, 4, 5, 6, 7].map(|input_index| input[input_index][lane]));
        for (row, output) in out.iter_mut().zip(outputs) {
            row[lane] = output;
        }
    }
    out
}

#[inline(always)]
fn transpose<const ROWS: usize>(rows: &[Lanes; ROWS]) -> [Lanes; 8] {
    let mut out = [[0; 8]; 8];
    for (column, row) in rows.iter().enumerate() {
        for (out, &value) in out.iter_mut().zip(row) {
            out[column] = value;
        }
    }
    out
}

#[inline(always)]
fn sum<const N: usize>(values: [i32; N]) -> i32 {
    values.into_iter().fold(0, i32::wrapping_add)
}

#[inline(always)]
fn mul(a: i32, factor: i32) -> i32 {
    a.wrapping_mul(factor)
}

/// `a / 2^bits`, rounded.
#[inline(always)]
fn round_shift(a: i32, bits: u32) -> i32 {
    a.wrapping_add(1 << (bits - 1)) >> bits
}

/// `even + odd` and `even - odd`, scaled down by `2^bits`: the first half of the outputs, and the second half
/// reversed.
#[inline(always)]
fn butterfly<const HALF: usize>(even: [i32; HALF], odd: [i32; HALF], bits: u32) -> [[i32; HALF]; 2] {
    let mut out = [[0; HALF]; 2];
    for (index, (even, odd)) in even.into_iter().zip(odd).enumerate() {
        out[0][index] = round_shift(even.wrapping_add(odd), bits);
        out[1][index] = round_shift(even.wrapping_sub(odd), bits);
    }
    out
}

/// 8 outputs of 8 inputs, scaled down by `2^bits`.
#[inline(always)]
fn idct8(x: [i32; 8], bits: u32) -> [i32; 8] {
    let z = mul(sum([x[2], x[6]]), 4433);
    let (low, high) = (sum([z, mul(x[6], -15137)]), sum([z, mul(x[2], 6270)]));
    let plus = mul(sum([x[0], x[4]]), 1 << 13);
    let minus = mul(x[0].wrapping_sub(x[4]), 1 << 13);
    let even = [sum([plus, high]), sum([minus, low]), minus.wrapping_sub(low), plus.wrapping_sub(high)];

    let z5 = mul(sum([x[1], x[3], x[5], x[7]]), 9633);
    let z1 = mul(sum([x[7], x[1]]), -7373);
    let z2 = mul(sum([x[5], x[3]]), -20995);
    let z3 = sum([mul(sum([x[7], x[3]]), -16069), z5]);
    let z4 = sum([mul(sum([x[5], x[1]]), -3196), z5]);
    let odd = [
        sum([mul(x[1], 12299), z1, z4]),
        sum([mul(x[3], 25172), z2, z3]),
        sum([mul(x[5], 16819), z2, z4]),
        sum([mul(x[7], 2446), z1, z3]),
    ];
    let [[a, b, c, d], [h, g, f, e]] = butterfly(even, odd, bits);
    [a, b, c, d, e, f, g, h]
}

/// 4 outputs of 8 inputs, scaled down by `2^bits`.
#[inline(always)]
fn idct4(x: [i32; 8], bits: u32) -> [i32; 4] {
    let first = mul(x[0], 1 << 14);
    let z = sum([mul(x[2], 15137), mul(x[6], -6270)]);
    let outer = sum([mul(x[7], -4176), mul(x[5], -4926), mul(x[3], 7373), mul(x[1], 20995)]);
    let inner = sum([mul(x[7], -1730), mul(x[5], 11893), mul(x[3], -17799), mul(x[1], 8697)]);
    let [[a, b], [d, c]] = butterfly([sum([first, z]), first.wrapping_sub(z)], [outer, inner], bits);
    [a, b, c, d]
}

/// 2 outputs of 8 inputs, scaled down by `2^bits`.
#[inline(always)]
fn idct2(x: [i32; 8], bits: u32) -> [i32; 2] {
    let odd = sum([mul(x[7], -5906), mul(x[5], 6967), mul(x[3], -10426), mul(x[1], 29692)]);
    let [[a], [b]] = butterfly([mul(x[0], 1 << 15)], [odd], bits);
    [a, b]
}

/// Adds 128 and clamps to 0..=255.
#[inline(always)]
fn to_sample(value: i32) -> u8 {
    value.wrapping_add(128).clamp(0, 255) as u8
}

#[inline(always)]
fn dequantize(block: &[i16; 64], quant_table: &[i32; 64]) -> [Lanes; 8] {
    let mut out = [[0; 8]; 8];
    let values = block
        .iter()
        .zip(quant_table)
        .map(|(&coefficient, &quant)| i32::from(coefficient).wrapping_mul(quant));
    for (out, value) in out.as_flattened_mut().iter_mut().zip(values) {
        *out = value;
    }
    out
}

/// Converts to samples and transposes to rows.
#[inline(always)]
fn to_sample_rows<const SIDE: usize>(columns: &[Lanes; SIDE]) -> [[u8; SIDE]; SIDE] {
    let mut bytes = [[0; 8]; SIDE];
    for (bytes, column) in bytes.iter_mut().zip(columns) {
        for (byte, &value) in bytes.iter_mut().zip(column) {
            *byte = to_sample(value);
        }
    }
    let mut rows = [[0; SIDE]; SIDE];
    for (y, row) in rows.iter_mut().enumerate() {
        for (byte, column) in row.iter_mut().zip(&bytes) {
            *byte = column[y];
        }
    }
    rows
}

/// Inverse DCT of a block to `SIDE` rows of `SIDE` samples: first along columns, then along rows.
trait ScaledIdct<const SIDE: usize> {
    fn samples(block: &[i16; 64], quant_table: &[i32; 64]) -> [[u8; SIDE]; SIDE];
}

struct BlockIdct;

impl ScaledIdct<8> for BlockIdct {
    #[inline(always)]
    fn samples(block: &[i16; 64], quant_table: &[i32; 64]) -> [[u8; 8]; 8] {
        let rows = map_lanes(&dequantize(block, quant_table), |x| idct8(x, 11));
        to_sample_rows(&map_lanes(&transpose(&rows), |x| idct8(x, 18)))
    }
}

impl ScaledIdct<4> for BlockIdct {
    #[inline(always)]
    fn samples(block: &[i16; 64], quant_table: &[i32; 64]) -> [[u8; 4]; 4] {
        let rows = map_lanes(&dequantize(block, quant_table), |x| idct4(x, 12));
        to_sample_rows(&map_lanes(&transpose(&rows), |x| idct4(x, 19)))
    }
}

impl ScaledIdct<2> for BlockIdct {
    #[inline(always)]
    fn samples(block: &[i16; 64], quant_table: &[i32; 64]) -> [[u8; 2]; 2] {
        let rows = map_lanes(&dequantize(block, quant_table), |x| idct2(x, 13));
        to_sample_rows(&map_lanes(&transpose(&rows), |x| idct2(x, 20)))
    }
}

impl ScaledIdct<1> for BlockIdct {
    #[inline(always)]
    fn samples(block: &[i16; 64], quant_table: &[i32; 64]) -> [[u8; 1]; 1] {
        [[to_sample(dc_value(block, quant_table))]]
    }
}

/// The value of every sample of a block whose AC coefficients are all 0.
#[inline(always)]
fn dc_value(block: &[i16; 64], quant_table: &[i32; 64]) -> i32 {
    i32::from(block[0]).wrapping_mul(quant_table[0]).wrapping_add(4) >> 3
}

/// The job of transforming a row of blocks to `side` rows of samples.
pub(super) struct BlockRow<'a> {
    pub(super) blocks: &'a [[i16; 64]],
    pub(super) quant_table: &'a [i32; 64],
    pub(super) side: usize,
    /// `side` rows of `stride` samples.
    pub(super) out: &'a mut [u8],
    pub(super) stride: usize,
}

impl BlockRow<'_> {
    pub(super) fn transform(self, arch: Arch) {
        arch.dispatch(self);
    }

    #[inline(always)]
    fn transform_blocks<const SIDE: usize>(self)
    where
        BlockIdct: ScaledIdct<SIDE>,
    {
        for (column, block) in self.blocks.iter().enumerate() {
            let samples = if block[1..].iter().fold(0, |bits, &coefficient| bits | coefficient) == 0 {
                [[to_sample(dc_value(block, self.quant_table)); SIDE]; SIDE]
            } else {
                BlockIdct::samples(block, self.quant_table)
            };
            for (row, samples) in samples.iter().enumerate() {
                self.out[row * self.stride + column * SIDE..][..SIDE].copy_from_slice(samples);
            }
        }
    }
}

impl WithSimd for BlockRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        match self.side {
            8 => self.transform_blocks::<8>(),
            4 => self.transform_blocks::<4>(),
            2 => self.transform_blocks::<2>(),
            _ => self.transform_blocks::<1>(),
        }
    }
}
