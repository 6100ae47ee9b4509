//! Coefficients of 8 x 8 blocks to samples: all of them, or a half, a quarter or an eighth along each axis.
//!
//! Source: libjpeg's `jidctint.c` (Loeffler, Ligtenberg, Moschytz) and `jidctred.c`, to the bit: whole numbers with 13 bits
//! behind the point, columns first and kept with 2 bits. Of damaged files sums may wrap around.

use pulp::{Arch, Simd, WithSimd};

/// One number in each of 8 columns or rows.
type Lanes = [i32; 8];

/// What `f` makes of 8 inputs, in every lane. The lanes are the outer loop, so that they become vectors.
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
fn wrapping_sum<const N: usize>(values: [i32; N]) -> i32 {
    values.into_iter().fold(0, i32::wrapping_add)
}

#[inline(always)]
fn wrapping_mul(a: i32, factor: i32) -> i32 {
    a.wrapping_mul(factor)
}

/// Without `bits` bits behind the point, rounded.
#[inline(always)]
fn round_shift(a: i32, bits: u32) -> i32 {
    a.wrapping_add(1 << (bits - 1)) >> bits
}

/// Sums and differences, without `bits` bits: the first half of the outputs, and the other half backwards.
#[inline(always)]
fn butterfly<const HALF: usize>(even: [i32; HALF], odd: [i32; HALF], bits: u32) -> [[i32; HALF]; 2] {
    let mut out = [[0; HALF]; 2];
    for (index, (even, odd)) in even.into_iter().zip(odd).enumerate() {
        out[0][index] = round_shift(even.wrapping_add(odd), bits);
        out[1][index] = round_shift(even.wrapping_sub(odd), bits);
    }
    out
}

/// The 8 outputs of 8 inputs; `bits` are taken off the end.
#[inline(always)]
fn idct8(x: [i32; 8], bits: u32) -> [i32; 8] {
    let z = wrapping_mul(wrapping_sum([x[2], x[6]]), 4433);
    let (low, high) =
        (wrapping_sum([z, wrapping_mul(x[6], -15137)]), wrapping_sum([z, wrapping_mul(x[2], 6270)]));
    let plus = wrapping_mul(wrapping_sum([x[0], x[4]]), 1 << 13);
    let minus = wrapping_mul(x[0].wrapping_sub(x[4]), 1 << 13);
    let even = [
        wrapping_sum([plus, high]),
        wrapping_sum([minus, low]),
        minus.wrapping_sub(low),
        plus.wrapping_sub(high),
    ];

    let z5 = wrapping_mul(wrapping_sum([x[1], x[3], x[5], x[7]]), 9633);
    let z1 = wrapping_mul(wrapping_sum([x[7], x[1]]), -7373);
    let z2 = wrapping_mul(wrapping_sum([x[5], x[3]]), -20995);
    let z3 = wrapping_sum([wrapping_mul(wrapping_sum([x[7], x[3]]), -16069), z5]);
    let z4 = wrapping_sum([wrapping_mul(wrapping_sum([x[5], x[1]]), -3196), z5]);
    let odd = [
        wrapping_sum([wrapping_mul(x[1], 12299), z1, z4]),
        wrapping_sum([wrapping_mul(x[3], 25172), z2, z3]),
        wrapping_sum([wrapping_mul(x[5], 16819), z2, z4]),
        wrapping_sum([wrapping_mul(x[7], 2446), z1, z3]),
    ];
    let [[a, b, c, d], [h, g, f, e]] = butterfly(even, odd, bits);
    [a, b, c, d, e, f, g, h]
}

/// The 4 outputs of 8 inputs.
#[inline(always)]
fn idct4(x: [i32; 8], bits: u32) -> [i32; 4] {
    let first = wrapping_mul(x[0], 1 << 14);
    let z = wrapping_sum([wrapping_mul(x[2], 15137), wrapping_mul(x[6], -6270)]);
    let outer = wrapping_sum([
        wrapping_mul(x[7], -4176),
        wrapping_mul(x[5], -4926),
        wrapping_mul(x[3], 7373),
        wrapping_mul(x[1], 20995),
    ]);
    let inner = wrapping_sum([
        wrapping_mul(x[7], -1730),
        wrapping_mul(x[5], 11893),
        wrapping_mul(x[3], -17799),
        wrapping_mul(x[1], 8697),
    ]);
    let [[a, b], [d, c]] = butterfly([wrapping_sum([first, z]), first.wrapping_sub(z)], [outer, inner], bits);
    [a, b, c, d]
}

/// The 2 outputs of 8 inputs.
#[inline(always)]
fn idct2(x: [i32; 8], bits: u32) -> [i32; 2] {
    let odd = wrapping_sum([
        wrapping_mul(x[7], -5906),
        wrapping_mul(x[5], 6967),
        wrapping_mul(x[3], -10426),
        wrapping_mul(x[1], 29692),
    ]);
    let [[a], [b]] = butterfly([wrapping_mul(x[0], 1 << 15)], [odd], bits);
    [a, b]
}

/// Samples are centred on 128.
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

/// Samples in rows, of columns in lanes.
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

/// `SIDE` rows of `SIDE` samples of a block. Columns come first, and then the same along rows.
trait ScaledIdct<const SIDE: usize> {
    fn samples(block: &[i16; 64], quant_table: &[i32; 64]) -> [[u8; SIDE]; SIDE];
}

/// A side of a block.
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

/// What each sample is of a block that has a first coefficient only.
#[inline(always)]
fn dc_value(block: &[i16; 64], quant_table: &[i32; 64]) -> i32 {
    i32::from(block[0]).wrapping_mul(quant_table[0]).wrapping_add(4) >> 3
}

/// A row of blocks that becomes `side` rows of samples.
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
