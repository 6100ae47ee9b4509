//! Products of a feature matrix with weights, in `f64`.
//!
//! Every value is summed one term after the other, in the order of the features or of the samples, each product
//! fused with its sum; a vector register holds values that stand side by side, never parts of one sum. So the
//! bits depend neither on the threads, nor on how many rows come at once, nor on the processor.

use std::array::from_fn;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::data::Features;

/// Values side by side in a tile: two AVX-512 registers, four AVX ones.
const LANES: usize = 16;
/// Columns that a thread takes at a time in [`transposed`]: 256 bytes of each row.
const COLUMNS: usize = 4 * LANES;
/// Features of [`LANES`] classes that stay in the first-level cache while all rows pass over them in
/// [`PackedWeights::times`].
const STEPS: usize = 128;
/// Samples whose columns stay in the first-level cache while all classes pass over them in [`transposed`].
const BLOCK: usize = 64;

/// Adds `Σ_k a_k b_k` to the tile `sums` `[R, LANES]`: `a` has `R` rows of at least `K` factors, and
/// `b` `[K, LANES]` what they multiply.
///
/// A row of sums takes `V` registers. `R V` is about 8: enough to hide the latency of an addition, and they
/// fit.
#[inline(always)]
fn add<S: Simd, A: Copy + Into<f64>, const R: usize, const V: usize>(
    simd: S,
    a: [&[A]; R],
    b: &[f64],
    sums: &mut [[f64; LANES]],
) {
    let b = S::as_simd_f64s(b).0;
    let steps = b.len() / V;
    let a = a.map(|row| &row[..steps]);
    let mut registers = [[simd.splat_f64s(0.0); V]; R];
    for r in 0..R {
        registers[r].copy_from_slice(S::as_simd_f64s(&sums[r]).0);
    }
    for (k, b) in b.chunks_exact(V).enumerate() {
        for r in 0..R {
            let a = simd.splat_f64s(a[r][k].into());
            for v in 0..V {
                registers[r][v] = simd.mul_add_f64s(a, b[v], registers[r][v]);
            }
        }
    }
    for r in 0..R {
        S::as_mut_simd_f64s(&mut sums[r]).0.copy_from_slice(&registers[r]);
    }
}

/// Weights `[C, F]`, laid out for products with rows of features: by 16 classes, and within those by feature.
#[derive(Clone, Debug)]
pub(crate) struct PackedWeights {
    panels: Vec<f64>,
    width: usize,
    classes: usize,
}

impl PackedWeights {
    /// Packs `weight` `[C, F]`.
    pub(crate) fn new<W: Copy + Into<f64>>(weight: &[W], width: usize) -> Self {
        let classes = weight.len() / width;
        let mut panels = vec![0.0; classes.div_ceil(LANES) * LANES * width];
        for (class, weight) in weight.chunks_exact(width).enumerate() {
            let panel = &mut panels[class / LANES * LANES * width..][class % LANES..];
            for (packed, &w) in panel.iter_mut().step_by(LANES).zip(weight) {
                *packed = w.into();
            }
        }
        Self { panels, width, classes }
    }

    /// `rows · weightᵀ`: `rows` `[n, F]` to `out` `[n, C]`, on this thread.
    pub(crate) fn times(&self, rows: &[f32], out: &mut [f64]) {
        Arch::new().dispatch(Times { weights: self, rows, out });
    }

    #[inline(always)]
    fn tiles<S: Simd, const R: usize, const V: usize>(&self, simd: S, rows: &[f32], out: &mut [f64]) {
        let mut sums = vec![[0.0; LANES]; rows.len() / self.width];
        for (panel, first) in self.panels.chunks_exact(LANES * self.width).zip((0..).step_by(LANES)) {
            sums.fill([0.0; LANES]);
            for (panel, start) in panel.chunks(STEPS * LANES).zip((0..).step_by(STEPS)) {
                let row = |i: usize| &rows[i * self.width..(i + 1) * self.width][start..];
                let mut tiles = sums.chunks_exact_mut(R);
                let mut i = 0;
                for sums in tiles.by_ref() {
                    add::<S, f32, R, V>(simd, from_fn(|r| row(i + r)), panel, sums);
                    i += R;
                }
                for sums in tiles.into_remainder().chunks_exact_mut(1) {
                    add::<S, f32, 1, V>(simd, [row(i)], panel, sums);
                    i += 1;
                }
            }
            let classes = first..self.classes.min(first + LANES);
            for (out, sums) in out.chunks_exact_mut(self.classes).zip(&sums) {
                out[classes.clone()].copy_from_slice(&sums[..classes.len()]);
            }
        }
    }
}

struct Times<'a> {
    weights: &'a PackedWeights,
    rows: &'a [f32],
    out: &'a mut [f64],
}

impl WithSimd for Times<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match LANES / S::F64_LANES {
            2 => self.weights.tiles::<S, 4, 2>(simd, self.rows, self.out),
            4 => self.weights.tiles::<S, 2, 4>(simd, self.rows, self.out),
            8 => self.weights.tiles::<S, 1, 8>(simd, self.rows, self.out),
            _ => self.weights.tiles::<S, 1, LANES>(simd, self.rows, self.out),
        }
    }
}

/// `factorsᵀ · features`: `factors` `[N, C]` and `features` `[N, F]` to `[C, F]`, in parallel over `F`.
pub(crate) fn transposed(factors: &[f64], features: Features<'_>) -> Vec<f64> {
    transposed_on(Arch::new(), factors, features)
}

fn transposed_on(arch: Arch, factors: &[f64], features: Features<'_>) -> Vec<f64> {
    let (width, classes) = (features.width(), factors.len() / features.len());
    let groups: Vec<Vec<f64>> = (0..width.div_ceil(COLUMNS))
        .into_par_iter()
        .map(|group| {
            let mut sums = vec![0.0; classes * COLUMNS];
            arch.dispatch(Columns { first: group * COLUMNS, factors, features, sums: &mut sums });
            sums
        })
        .collect();
    let mut out = Vec::with_capacity(classes * width);
    for class in 0..classes {
        // A class has every C-th piece of a group; the last one may stick out over the width.
        let pieces = groups.iter().flat_map(|sums| sums.chunks_exact(LANES).skip(class).step_by(classes));
        out.extend(pieces.flatten().take(width));
    }
    out
}

/// The columns of the transposed product from the first one on, `sums` `[COLUMNS / LANES, C, LANES]`.
struct Columns<'a> {
    first: usize,
    factors: &'a [f64],
    features: Features<'a>,
    sums: &'a mut [f64],
}

impl WithSimd for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match LANES / S::F64_LANES {
            2 => self.sum::<S, 4, 2>(simd),
            4 => self.sum::<S, 2, 4>(simd),
            8 => self.sum::<S, 1, 8>(simd),
            _ => self.sum::<S, 1, LANES>(simd),
        }
    }
}

impl Columns<'_> {
    #[inline(always)]
    fn sum<S: Simd, const R: usize, const V: usize>(self, simd: S) {
        let width = self.features.width();
        let classes = self.factors.len() / self.features.len();
        let blocks = self.features.as_slice().chunks(BLOCK * width).zip(self.factors.chunks(BLOCK * classes));
        let mut panel = [0.0; BLOCK * LANES];
        let mut by_class = vec![0.0; classes * BLOCK];
        for (rows, factors) in blocks {
            let samples = rows.len() / width;
            for (k, factors) in factors.chunks_exact(classes).enumerate() {
                for (by_class, &factor) in by_class.iter_mut().skip(k).step_by(BLOCK).zip(factors) {
                    *by_class = factor;
                }
            }
            let firsts = (self.first..width).step_by(LANES);
            for (sums, first) in self.sums.chunks_exact_mut(classes * LANES).zip(firsts) {
                let columns = first..width.min(first + LANES);
                for (panel, row) in panel.chunks_exact_mut(LANES).zip(rows.chunks_exact(width)) {
                    for (panel, &x) in panel.iter_mut().zip(&row[columns.clone()]) {
                        *panel = f64::from(x);
                    }
                }
                let panel = &panel[..samples * LANES];
                let sums = sums.as_chunks_mut::<LANES>().0;
                let factors = |class: usize| &by_class[class * BLOCK..(class + 1) * BLOCK];
                let mut tiles = sums.chunks_exact_mut(R);
                let mut class = 0;
                for sums in tiles.by_ref() {
                    add::<S, f64, R, V>(simd, from_fn(|r| factors(class + r)), panel, sums);
                    class += R;
                }
                for sums in tiles.into_remainder().chunks_exact_mut(1) {
                    add::<S, f64, 1, V>(simd, [factors(class)], panel, sums);
                    class += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Keyed;
    use crate::vector::processors;

    fn small_integers(n: usize, key: u64) -> Vec<f32> {
        let mut random = Keyed::new(&[key]);
        (0..n).map(|_| random.below(15) as f32 - 7.0).collect()
    }

    proptest! {
        /// Integers, so that every order of the sum gives the same value.
        #[test]
        fn products_of_any_shape_are_the_schoolbook_ones(n in 1usize..210, width in 1usize..150, classes in 1usize..40) {
            let (rows, weight) = (small_integers(n * width, 1), small_integers(classes * width, 2));
            let mut out = vec![f64::NAN; n * classes];
            PackedWeights::new(&weight, width).times(&rows, &mut out);
            let mut back = vec![0.0; classes * width];
            for i in 0..n {
                for c in 0..classes {
                    let expected: f32 = (0..width).map(|f| rows[i * width + f] * weight[c * width + f]).sum();
                    prop_assert_eq!(out[i * classes + c], f64::from(expected));
                    for f in 0..width {
                        back[c * width + f] += out[i * classes + c] * f64::from(rows[i * width + f]);
                    }
                }
            }
            prop_assert_eq!(transposed(&out, Features::new(&rows, width).unwrap()), back);
        }
    }

    const SHAPE: (usize, usize, usize) = (75, 37, 21);

    fn waves() -> (Vec<f32>, PackedWeights) {
        let (n, width, classes) = SHAPE;
        let weight: Vec<f64> = (0..classes * width).map(|i| (i as f64 * 1.3).cos()).collect();
        ((0..n * width).map(|i| (i as f32 * 0.7).sin()).collect(), PackedWeights::new(&weight, width))
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_among_others() {
        let (n, width, classes) = SHAPE;
        let (rows, weights) = waves();
        let mut together = vec![0.0; n * classes];
        weights.times(&rows, &mut together);
        for (row, expected) in rows.chunks_exact(width).zip(together.chunks_exact(classes)) {
            let mut alone = vec![0.0; classes];
            weights.times(row, &mut alone);
            assert_eq!(alone, expected);
        }
    }

    #[test]
    fn every_processor_gives_the_same_bits() {
        let (n, width, classes) = SHAPE;
        let (rows, weights) = waves();
        let features = Features::new(&rows, width).unwrap();
        let on = |arch: Arch| {
            let mut out = vec![0.0; n * classes];
            arch.dispatch(Times { weights: &weights, rows: &rows, out: &mut out });
            let back = transposed_on(arch, &out, features);
            (out, back)
        };
        for arch in processors() {
            assert_eq!(on(arch), on(Arch::new()), "{arch:?}");
        }
    }
}
