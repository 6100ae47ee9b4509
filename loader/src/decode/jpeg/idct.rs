//! Coefficients of 8 x 8 blocks to samples: all of them, or a half, a quarter or an eighth along each axis.
//!
//! Source: libjpeg's `jidctint.c` (Loeffler, Ligtenberg, Moschytz) and `jidctred.c`, to the bit: whole numbers with 13 bits
//! behind the point, columns first and kept with 2 bits. Of damaged files sums may wrap around.

use pulp::{Arch, Simd, WithSimd};

/// One number in each of 8 columns or rows.
type Lanes = [i32; 8];

/// What `f` makes of 8 inputs, in every lane. The lanes are the outer loop, so that they become vectors.
#[inline(always)]
fn every_lane<const OUT: usize>(input: &[Lanes; 8], f: impl Fn([i32; 8]) -> [i32; OUT]) -> [Lanes; OUT] {
    let mut out = [[0; 8]; OUT];
    for lane in 0..8 {
        let outputs = f([0, 1, 2, 3, 4, 5, 6, 7].map(|at| input[at][lane]));
        for (row, output) in out.iter_mut().zip(outputs) {
            row[lane] = output;
        }
    }
    out
}

#[inline(always)]
fn transposed<const ROWS: usize>(rows: &[Lanes; ROWS]) -> [Lanes; 8] {
    let mut out = [[0; 8]; 8];
    for (at, row) in rows.iter().enumerate() {
        for (out, &value) in out.iter_mut().zip(row) {
            out[at] = value;
        }
    }
    out
}

#[inline(always)]
fn sum<const N: usize>(values: [i32; N]) -> i32 {
    values.into_iter().fold(0, i32::wrapping_add)
}

#[inline(always)]
fn times(a: i32, factor: i32) -> i32 {
    a.wrapping_mul(factor)
}

/// Without `bits` bits behind the point, rounded.
#[inline(always)]
fn rounded(a: i32, bits: u32) -> i32 {
    a.wrapping_add(1 << (bits - 1)) >> bits
}

/// Sums and differences, without `bits` bits: the first half of the outputs, and the other half backwards.
#[inline(always)]
fn folded<const HALF: usize>(even: [i32; HALF], odd: [i32; HALF], bits: u32) -> [[i32; HALF]; 2] {
    let mut out = [[0; HALF]; 2];
    for (at, (even, odd)) in even.into_iter().zip(odd).enumerate() {
        out[0][at] = rounded(even.wrapping_add(odd), bits);
        out[1][at] = rounded(even.wrapping_sub(odd), bits);
    }
    out
}

/// The 8 outputs of 8 inputs; `bits` are taken off the end.
#[inline(always)]
fn eight(x: [i32; 8], bits: u32) -> [i32; 8] {
    let z = times(sum([x[2], x[6]]), 4433);
    let (low, high) = (sum([z, times(x[6], -15137)]), sum([z, times(x[2], 6270)]));
    let plus = times(sum([x[0], x[4]]), 1 << 13);
    let minus = times(x[0].wrapping_sub(x[4]), 1 << 13);
    let even = [sum([plus, high]), sum([minus, low]), minus.wrapping_sub(low), plus.wrapping_sub(high)];

    let z5 = times(sum([x[1], x[3], x[5], x[7]]), 9633);
    let z1 = times(sum([x[7], x[1]]), -7373);
    let z2 = times(sum([x[5], x[3]]), -20995);
    let z3 = sum([times(sum([x[7], x[3]]), -16069), z5]);
    let z4 = sum([times(sum([x[5], x[1]]), -3196), z5]);
    let odd = [
        sum([times(x[1], 12299), z1, z4]),
        sum([times(x[3], 25172), z2, z3]),
        sum([times(x[5], 16819), z2, z4]),
        sum([times(x[7], 2446), z1, z3]),
    ];
    let [[a, b, c, d], [h, g, f, e]] = folded(even, odd, bits);
    [a, b, c, d, e, f, g, h]
}

/// The 4 outputs of 8 inputs.
#[inline(always)]
fn four(x: [i32; 8], bits: u32) -> [i32; 4] {
    let first = times(x[0], 1 << 14);
    let z = sum([times(x[2], 15137), times(x[6], -6270)]);
    let outer = sum([times(x[7], -4176), times(x[5], -4926), times(x[3], 7373), times(x[1], 20995)]);
    let inner = sum([times(x[7], -1730), times(x[5], 11893), times(x[3], -17799), times(x[1], 8697)]);
    let [[a, b], [d, c]] = folded([sum([first, z]), first.wrapping_sub(z)], [outer, inner], bits);
    [a, b, c, d]
}

/// The 2 outputs of 8 inputs.
#[inline(always)]
fn two(x: [i32; 8], bits: u32) -> [i32; 2] {
    let odd = sum([times(x[7], -5906), times(x[5], 6967), times(x[3], -10426), times(x[1], 29692)]);
    let [[a], [b]] = folded([times(x[0], 1 << 15)], [odd], bits);
    [a, b]
}

/// Samples are centred on 128.
#[inline(always)]
fn sample(value: i32) -> u8 {
    value.wrapping_add(128).clamp(0, 255) as u8
}

#[inline(always)]
fn dequantised(block: &[i16; 64], steps: &[i32; 64]) -> [Lanes; 8] {
    let mut out = [[0; 8]; 8];
    let values =
        block.iter().zip(steps).map(|(&coefficient, &step)| i32::from(coefficient).wrapping_mul(step));
    for (out, value) in out.as_flattened_mut().iter_mut().zip(values) {
        *out = value;
    }
    out
}

/// Samples in rows, of columns in lanes.
#[inline(always)]
fn in_rows<const SIDE: usize>(columns: &[Lanes; SIDE]) -> [[u8; SIDE]; SIDE] {
    let mut bytes = [[0; 8]; SIDE];
    for (bytes, column) in bytes.iter_mut().zip(columns) {
        for (byte, &value) in bytes.iter_mut().zip(column) {
            *byte = sample(value);
        }
    }
    let mut rows = [[0; SIDE]; SIDE];
    for (at, row) in rows.iter_mut().enumerate() {
        for (byte, column) in row.iter_mut().zip(&bytes) {
            *byte = column[at];
        }
    }
    rows
}

/// `SIDE` rows of `SIDE` samples of a block. Columns come first, and then the same along rows.
trait Samples<const SIDE: usize> {
    fn of(block: &[i16; 64], steps: &[i32; 64]) -> [[u8; SIDE]; SIDE];
}

/// A side of a block.
struct Side;

impl Samples<8> for Side {
    #[inline(always)]
    fn of(block: &[i16; 64], steps: &[i32; 64]) -> [[u8; 8]; 8] {
        let rows = every_lane(&dequantised(block, steps), |x| eight(x, 11));
        in_rows(&every_lane(&transposed(&rows), |x| eight(x, 18)))
    }
}

impl Samples<4> for Side {
    #[inline(always)]
    fn of(block: &[i16; 64], steps: &[i32; 64]) -> [[u8; 4]; 4] {
        let rows = every_lane(&dequantised(block, steps), |x| four(x, 12));
        in_rows(&every_lane(&transposed(&rows), |x| four(x, 19)))
    }
}

impl Samples<2> for Side {
    #[inline(always)]
    fn of(block: &[i16; 64], steps: &[i32; 64]) -> [[u8; 2]; 2] {
        let rows = every_lane(&dequantised(block, steps), |x| two(x, 13));
        in_rows(&every_lane(&transposed(&rows), |x| two(x, 20)))
    }
}

impl Samples<1> for Side {
    #[inline(always)]
    fn of(block: &[i16; 64], steps: &[i32; 64]) -> [[u8; 1]; 1] {
        [[sample(first(block, steps))]]
    }
}

/// What each sample is of a block that has a first coefficient only.
#[inline(always)]
fn first(block: &[i16; 64], steps: &[i32; 64]) -> i32 {
    i32::from(block[0]).wrapping_mul(steps[0]).wrapping_add(4) >> 3
}

/// A row of blocks that becomes `side` rows of samples.
pub(super) struct BlockRow<'a> {
    pub(super) blocks: &'a [[i16; 64]],
    pub(super) steps: &'a [i32; 64],
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
    fn all<const SIDE: usize>(self)
    where
        Side: Samples<SIDE>,
    {
        for (at, block) in self.blocks.iter().enumerate() {
            let samples = if block[1..].iter().fold(0, |any, &coefficient| any | coefficient) == 0 {
                [[sample(first(block, self.steps)); SIDE]; SIDE]
            } else {
                Side::of(block, self.steps)
            };
            for (row, samples) in samples.iter().enumerate() {
                self.out[row * self.stride + at * SIDE..][..SIDE].copy_from_slice(samples);
            }
        }
    }
}

impl WithSimd for BlockRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        match self.side {
            8 => self.all::<8>(),
            4 => self.all::<4>(),
            2 => self.all::<2>(),
            _ => self.all::<1>(),
        }
    }
}
