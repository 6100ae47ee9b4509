//! Inverse DCT of 8 x 8 blocks to 8 x 8, 4 x 4, 2 x 2 or 1 x 1 samples.
//!
//! Source: libjpeg's `jidctint.c` (Loeffler, Ligtenberg, Moschytz) and `jidctred.c`, bit for bit: fixed-point
//! integers with 13 fractional bits; the column pass keeps 2 fractional bits. Sums wrap around only in
//! damaged files.

use pulp::{Simd, WithSimd};

/// One number for each of 8 columns (in the first pass) or 8 rows (in the second). The lanes are computed in
/// parallel by SIMD instructions.
type Lanes = [i32; 8];

/// Runs the column pass or the row pass of an inverse DCT: applies the one-dimensional transform `f` to each
/// of the 8 lanes. `input[i]` holds input `i` of all lanes, and the result holds the outputs in the same way.
/// The compiler vectorizes the loop over lanes.
#[inline(always)]
fn map_lanes<const OUT: usize>(input: &[Lanes; 8], f: impl Fn([i32; 8]) -> [i32; OUT]) -> [Lanes; OUT] {
    let mut out = [[0; 8]; OUT];
    for lane in 0..8 {
        let outputs = f([0, 1, 2, 3, 4, 5, 6, 7].map(|input_index| input[input_index][lane]));
        for (lanes, output) in out.iter_mut().zip(outputs) {
            lanes[lane] = output;
        }
    }
    out
}

/// Transposes the result of an inverse DCT's column pass for the row pass: from `ROWS` rows, one number per
/// column, to 8 columns, one number per row. The lanes beyond `ROWS` are 0.
#[inline(always)]
fn transpose<const ROWS: usize>(rows: &[Lanes; ROWS]) -> [Lanes; 8] {
    let mut out = [[0; 8]; 8];
    for (lane, row) in rows.iter().enumerate() {
        for (column, &value) in out.iter_mut().zip(row) {
            column[lane] = value;
        }
    }
    out
}

/// Sum of `values`. It wraps around on overflow, which happens only in damaged files.
#[inline(always)]
fn sum<const N: usize>(values: [i32; N]) -> i32 {
    values.into_iter().fold(0, i32::wrapping_add)
}

/// Product that wraps around on overflow, which happens only in damaged files.
#[inline(always)]
fn mul(value: i32, factor: i32) -> i32 {
    value.wrapping_mul(factor)
}

/// `value / 2^bits`, rounded to the nearest whole number.
#[inline(always)]
fn round_shift(value: i32, bits: u32) -> i32 {
    value.wrapping_add(1 << (bits - 1)) >> bits
}

/// The last step of a one-dimensional inverse DCT. `even` and `odd` are the parts that come from the inputs
/// with even and odd index. Returns `even + odd`, the first half of the outputs, and `even - odd`, the second
/// half in reverse order; both are divided by `2^bits`.
#[inline(always)]
fn butterfly<const HALF: usize>(even: [i32; HALF], odd: [i32; HALF], bits: u32) -> [[i32; HALF]; 2] {
    let mut out = [[0; HALF]; 2];
    for (index, (even, odd)) in even.into_iter().zip(odd).enumerate() {
        out[0][index] = round_shift(even.wrapping_add(odd), bits);
        out[1][index] = round_shift(even.wrapping_sub(odd), bits);
    }
    out
}

/// One-dimensional inverse DCT of 8 coefficients `x` to 8 outputs, divided by `2^bits`: of a column or a row
/// of a block, for an image that is decoded at full size. The factors are those of libjpeg's `jidctint.c`,
/// times 2^13 (4433 is `FIX_0_541196100`, and so on), and so are the names of the terms.
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

/// One-dimensional inverse DCT of 8 coefficients `x` to 4 outputs, divided by `2^bits`: of a column or a row
/// of a block, for an image that is decoded at half its size. The factors are those of libjpeg's
/// `jidctred.c`, times 2^13 (15137 is `FIX_1_847759065`); like there, `bits` is 1 higher, and `x[4]` is not
/// used.
#[inline(always)]
fn idct4(x: [i32; 8], bits: u32) -> [i32; 4] {
    let first = mul(x[0], 1 << 14);
    let z = sum([mul(x[2], 15137), mul(x[6], -6270)]);
    let outer = sum([mul(x[7], -4176), mul(x[5], -4926), mul(x[3], 7373), mul(x[1], 20995)]);
    let inner = sum([mul(x[7], -1730), mul(x[5], 11893), mul(x[3], -17799), mul(x[1], 8697)]);
    let [[a, b], [d, c]] = butterfly([sum([first, z]), first.wrapping_sub(z)], [outer, inner], bits);
    [a, b, c, d]
}

/// One-dimensional inverse DCT of 8 coefficients `x` to 2 outputs, divided by `2^bits`: of a column or a row
/// of a block, for an image that is decoded at a quarter of its size. The factors are those of libjpeg's
/// `jidctred.c`, times 2^13; like there, `bits` is 2 higher, and `x[2]`, `x[4]` and `x[6]` are not used.
#[inline(always)]
fn idct2(x: [i32; 8], bits: u32) -> [i32; 2] {
    let odd = sum([mul(x[7], -5906), mul(x[5], 6967), mul(x[3], -10426), mul(x[1], 29692)]);
    let [[a], [b]] = butterfly([mul(x[0], 1 << 15)], [odd], bits);
    [a, b]
}

/// The sample of an inverse DCT output, which is centered on 0: adds 128 and clamps to 0..=255.
#[inline(always)]
fn to_sample(value: i32) -> u8 {
    value.wrapping_add(128).clamp(0, 255) as u8
}

/// Multiplies the coefficients of a row-major block by the quantization table, as the file stores them
/// divided. The products are the inputs of an inverse DCT's column pass: one [`Lanes`] per row of the block.
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

/// Ends the inverse DCT of a block: converts the outputs of the row pass to samples (pixels of one color
/// component) and transposes them back, from `SIDE` columns, one number per row, to `SIDE` rows. The lanes
/// beyond `SIDE` are dropped.
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
    /// The rows of samples of `block`: row-major coefficients that are not yet multiplied by `quant_table`.
    fn inverse_dct(block: &[i16; 64], quant_table: &[i32; 64]) -> [[u8; SIDE]; SIDE];
}

/// The type that implements [`ScaledIdct`] for the sides 8, 4, 2 and 1. The column pass removes 11 of the 13
/// fractional bits; the row pass removes the remaining 2, its own 13, and 3 for the factor 8 of a
/// two-dimensional DCT. Each halving of the side adds 1 to both.
struct BlockIdct;

impl ScaledIdct<8> for BlockIdct {
    #[inline(always)]
    fn inverse_dct(block: &[i16; 64], quant_table: &[i32; 64]) -> [[u8; 8]; 8] {
        let rows = map_lanes(&dequantize(block, quant_table), |x| idct8(x, 11));
        to_sample_rows(&map_lanes(&transpose(&rows), |x| idct8(x, 18)))
    }
}

impl ScaledIdct<4> for BlockIdct {
    #[inline(always)]
    fn inverse_dct(block: &[i16; 64], quant_table: &[i32; 64]) -> [[u8; 4]; 4] {
        let rows = map_lanes(&dequantize(block, quant_table), |x| idct4(x, 12));
        to_sample_rows(&map_lanes(&transpose(&rows), |x| idct4(x, 19)))
    }
}

impl ScaledIdct<2> for BlockIdct {
    #[inline(always)]
    fn inverse_dct(block: &[i16; 64], quant_table: &[i32; 64]) -> [[u8; 2]; 2] {
        let rows = map_lanes(&dequantize(block, quant_table), |x| idct2(x, 13));
        to_sample_rows(&map_lanes(&transpose(&rows), |x| idct2(x, 20)))
    }
}

impl ScaledIdct<1> for BlockIdct {
    #[inline(always)]
    fn inverse_dct(block: &[i16; 64], quant_table: &[i32; 64]) -> [[u8; 1]; 1] {
        [[to_sample(dc_value(block, quant_table))]]
    }
}

/// The inverse DCT output at every sample of a block whose AC coefficients are all 0: the dequantized DC
/// coefficient divided by 8, rounded.
#[inline(always)]
fn dc_value(block: &[i16; 64], quant_table: &[i32; 64]) -> i32 {
    i32::from(block[0]).wrapping_mul(quant_table[0]).wrapping_add(4) >> 3
}

/// The arguments of transforming a row of blocks of one component to `side` rows of samples.
/// [`pulp::Arch::dispatch`] runs it with the SIMD instructions of the processor.
pub(super) struct BlockRow<'a> {
    /// Row-major coefficients, not multiplied by `quant_table`.
    pub(super) blocks: &'a [[i16; 64]],
    pub(super) quant_table: &'a [i32; 64],
    /// A block becomes `side` x `side` samples; 8, 4, 2 or 1.
    pub(super) side: usize,
    /// `side` rows of `stride` samples.
    pub(super) out: &'a mut [u8],
    pub(super) stride: usize,
}

impl BlockRow<'_> {
    /// Computes the samples of all blocks (dequantization and inverse DCT) and puts them into `out`, side by
    /// side. `SIDE` is [`Self::side`] as a constant, so that the compiler unrolls the loops.
    #[inline(always)]
    fn transform_blocks<const SIDE: usize>(self)
    where
        BlockIdct: ScaledIdct<SIDE>,
    {
        for (column, block) in self.blocks.iter().enumerate() {
            // If all AC coefficients are 0, all samples are equal.
            let samples = if block[1..].iter().fold(0, |bits, &coefficient| bits | coefficient) == 0 {
                [[to_sample(dc_value(block, self.quant_table)); SIDE]; SIDE]
            } else {
                BlockIdct::inverse_dct(block, self.quant_table)
            };
            for (row, samples) in samples.iter().enumerate() {
                self.out[row * self.stride + column * SIDE..][..SIDE].copy_from_slice(samples);
            }
        }
    }
}

impl WithSimd for BlockRow<'_> {
    type Output = ();

    /// Computes the samples of all blocks (dequantization and inverse DCT) and puts them into `out`, side by
    /// side. `pulp` inlines this into a function that it compiles for the instruction set `S`.
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
