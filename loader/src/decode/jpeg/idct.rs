//! Coefficients of 8 x 8 blocks to samples: all of them, or a half, a quarter or an eighth along each axis.
//!
//! Source: libjpeg's `jidctint.c` (Loeffler, Ligtenberg, Moschytz) and `jidctred.c`, to the bit: whole numbers with 13 bits
//! behind the point, columns first and kept with 2 bits. Of damaged files sums may wrap around.

use pulp::{Arch, Simd, WithSimd};

/// One number in each of 8 columns or rows.
type Lanes = [i32; 8];

#[inline(always)]
fn each(f: impl Fn(usize) -> i32) -> Lanes {
    std::array::from_fn(f)
}

#[inline(always)]
fn add(a: Lanes, b: Lanes) -> Lanes {
    each(|i| a[i].wrapping_add(b[i]))
}

#[inline(always)]
fn sub(a: Lanes, b: Lanes) -> Lanes {
    each(|i| a[i].wrapping_sub(b[i]))
}

#[inline(always)]
fn times(a: Lanes, factor: i32) -> Lanes {
    each(|i| a[i].wrapping_mul(factor))
}

/// Without `bits` bits behind the point, rounded.
#[inline(always)]
fn rounded(a: Lanes, bits: u32) -> Lanes {
    each(|i| a[i].wrapping_add(1 << (bits - 1)) >> bits)
}

#[inline(always)]
fn transposed(a: [Lanes; 8]) -> [Lanes; 8] {
    std::array::from_fn(|row| each(|column| a[column][row]))
}

/// The 8 outputs of 8 inputs, in every lane; `bits` are taken off the end.
#[inline(always)]
fn eight(x: [Lanes; 8], bits: u32) -> [Lanes; 8] {
    let z = times(add(x[2], x[6]), 4433);
    let (low, high) = (add(z, times(x[6], -15137)), add(z, times(x[2], 6270)));
    let sum = times(add(x[0], x[4]), 1 << 13);
    let difference = times(sub(x[0], x[4]), 1 << 13);
    let even = [add(sum, high), add(difference, low), sub(difference, low), sub(sum, high)];

    let z5 = times(add(add(x[7], x[3]), add(x[5], x[1])), 9633);
    let z1 = times(add(x[7], x[1]), -7373);
    let z2 = times(add(x[5], x[3]), -20995);
    let z3 = add(times(add(x[7], x[3]), -16069), z5);
    let z4 = add(times(add(x[5], x[1]), -3196), z5);
    let odd = [
        add(times(x[1], 12299), add(z1, z4)),
        add(times(x[3], 25172), add(z2, z3)),
        add(times(x[5], 16819), add(z2, z4)),
        add(times(x[7], 2446), add(z1, z3)),
    ];
    std::array::from_fn(|i| match i {
        0..4 => rounded(add(even[i], odd[i]), bits),
        _ => rounded(sub(even[7 - i], odd[7 - i]), bits),
    })
}

/// The 4 outputs of 8 inputs.
#[inline(always)]
fn four(x: [Lanes; 8], bits: u32) -> [Lanes; 4] {
    let first = times(x[0], 1 << 14);
    let even = add(times(x[2], 15137), times(x[6], -6270));
    let (outer, inner) = (add(first, even), sub(first, even));
    let odd_inner =
        add(add(times(x[7], -1730), times(x[5], 11893)), add(times(x[3], -17799), times(x[1], 8697)));
    let odd_outer =
        add(add(times(x[7], -4176), times(x[5], -4926)), add(times(x[3], 7373), times(x[1], 20995)));
    [
        rounded(add(outer, odd_outer), bits),
        rounded(add(inner, odd_inner), bits),
        rounded(sub(inner, odd_inner), bits),
        rounded(sub(outer, odd_outer), bits),
    ]
}

/// The 2 outputs of 8 inputs.
#[inline(always)]
fn two(x: [Lanes; 8], bits: u32) -> [Lanes; 2] {
    let first = times(x[0], 1 << 15);
    let odd = add(add(times(x[7], -5906), times(x[5], 6967)), add(times(x[3], -10426), times(x[1], 29692)));
    [rounded(add(first, odd), bits), rounded(sub(first, odd), bits)]
}

/// Samples are centred on 128.
#[inline(always)]
fn sample(value: i32) -> u8 {
    value.wrapping_add(128).clamp(0, 255) as u8
}

#[inline(always)]
fn dequantised(block: &[i16; 64], steps: &[i32; 64]) -> [Lanes; 8] {
    std::array::from_fn(|row| {
        each(|column| i32::from(block[row * 8 + column]).wrapping_mul(steps[row * 8 + column]))
    })
}

/// `SIDE` rows of `SIDE` samples of a block, for 8, 4 and 2.
#[inline(always)]
fn samples<const SIDE: usize>(block: &[i16; 64], steps: &[i32; 64]) -> [[u8; SIDE]; SIDE] {
    let input = dequantised(block, steps);
    let mut out = [[0; SIDE]; SIDE];
    // Columns, and then with rows and columns exchanged the same along rows.
    let turn =
        |rows: &[Lanes]| transposed(std::array::from_fn(|row| rows.get(row).copied().unwrap_or([0; 8])));
    let mut write = |columns: &[Lanes]| {
        for (x, column) in columns.iter().enumerate() {
            for (row, &value) in out.iter_mut().zip(column) {
                row[x] = sample(value);
            }
        }
    };
    match SIDE {
        8 => write(&eight(turn(&eight(input, 11)), 18)),
        4 => write(&four(turn(&four(input, 12)), 19)),
        _ => write(&two(turn(&two(input, 13)), 20)),
    }
    out
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
    fn all<const SIDE: usize>(self) {
        for (at, block) in self.blocks.iter().enumerate() {
            let samples =
                if SIDE == 1 || block[1..].iter().fold(0, |any, &coefficient| any | coefficient) == 0 {
                    let first = i32::from(block[0]).wrapping_mul(self.steps[0]);
                    [[sample(first.wrapping_add(4) >> 3); SIDE]; SIDE]
                } else {
                    samples::<SIDE>(block, self.steps)
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
