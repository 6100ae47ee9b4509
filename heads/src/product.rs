//! Products of a feature matrix with weights, in `f64`, tiled for registers and caches.
//!
//! Each value is summed in an order that depends on the length of its sum alone, and products are not fused with sums. So
//! the bits depend neither on the threads, nor on how many rows come at once, nor on the processor.

use std::array::from_fn;
use std::ops::Range;

use rayon::prelude::*;

use crate::data::Features;
use crate::vector::Vectors;

/// Independent sums that a dot product runs over: one AVX-512 register of `f64`.
const LANES: usize = 8;
/// Rows in a tile of dot products; with `CLASSES`, the tile's sums take 8 AVX-512 registers, which hides the latency of the
/// addition and leaves registers for the operands.
const ROWS: usize = 4;
/// Classes in a tile of dot products.
const CLASSES: usize = 2;
/// Features in a tile of [`transposed`]: a cache line of `f32`, two AVX-512 registers of sums.
const COLUMNS: usize = 16;
/// Classes in a tile of [`transposed`].
const TRANSPOSED_CLASSES: usize = 4;
/// Features that a thread takes at a time in [`transposed`].
const PANEL_COLUMNS: usize = 64;
/// Rows that stay in the first-level cache while all classes pass over them in [`transposed`].
const PANEL_ROWS: usize = 96;

/// `rows · weightᵀ`: `rows` `[n, F]` and `weight` `[C, F]` to `out` `[n, C]`.
pub(crate) fn rows_by_weights<W: Copy + Into<f64>>(
    rows: &[f32],
    weight: &[W],
    width: usize,
    out: &mut [f64],
) {
    let classes = weight.len() / width;
    Vectors::new().dispatch(
        #[inline(always)]
        || {
            let mut tiles = rows.chunks_exact(ROWS * width);
            let mut out_tiles = out.chunks_exact_mut(ROWS * classes);
            for (tile, out) in tiles.by_ref().zip(out_tiles.by_ref()) {
                row_tile::<ROWS, W>(tile, weight, width, out);
            }
            let rest = tiles
                .remainder()
                .chunks_exact(width)
                .zip(out_tiles.into_remainder().chunks_exact_mut(classes));
            for (row, out) in rest {
                row_tile::<1, W>(row, weight, width, out);
            }
        },
    );
}

/// `R` rows by all classes.
#[inline(always)]
fn row_tile<const R: usize, W: Copy + Into<f64>>(rows: &[f32], weight: &[W], width: usize, out: &mut [f64]) {
    let classes = weight.len() / width;
    let rows: [&[f32]; R] = from_fn(|r| &rows[r * width..(r + 1) * width]);
    let weight_of = |class: usize| &weight[class * width..(class + 1) * width];
    let mut class = 0;
    while class + CLASSES <= classes {
        let sums = dots::<R, CLASSES, W>(rows, from_fn(|c| weight_of(class + c)));
        for (r, sums) in sums.iter().enumerate() {
            out[r * classes + class..][..CLASSES].copy_from_slice(sums);
        }
        class += CLASSES;
    }
    for class in class..classes {
        for (r, [sum]) in dots::<R, 1, W>(rows, [weight_of(class)]).into_iter().enumerate() {
            out[r * classes + class] = sum;
        }
    }
}

/// The dot products of `R` rows with `C` weights of the same length.
#[inline(always)]
fn dots<const R: usize, const C: usize, W: Copy + Into<f64>>(
    rows: [&[f32]; R],
    weights: [&[W]; C],
) -> [[f64; C]; R] {
    let rows = rows.map(|row| row.as_chunks::<LANES>());
    let weights = weights.map(|weight| weight.as_chunks::<LANES>());
    let mut sums = [[[0.0f64; LANES]; C]; R];
    for block in 0..rows[0].0.len() {
        let weight: [[f64; LANES]; C] = from_fn(|c| weights[c].0[block].map(Into::into));
        for r in 0..R {
            let row = rows[r].0[block].map(f64::from);
            for c in 0..C {
                for lane in 0..LANES {
                    sums[r][c][lane] += row[lane] * weight[c][lane];
                }
            }
        }
    }
    from_fn(|r| {
        from_fn(|c| {
            let rest = rows[r].1.iter().zip(weights[c].1);
            sums[r][c].iter().sum::<f64>() + rest.map(|(&x, &w)| f64::from(x) * w.into()).sum::<f64>()
        })
    })
}

/// `factorsᵀ · features`: `factors` `[N, C]` and `features` `[N, F]` to `[C, F]`, in parallel over `F`.
pub(crate) fn transposed(factors: &[f64], features: Features<'_>) -> Vec<f64> {
    let (width, classes) = (features.width(), factors.len() / features.len());
    let panels: Vec<Vec<f64>> = (0..width.div_ceil(PANEL_COLUMNS))
        .into_par_iter()
        .map(|panel| {
            let columns = panel * PANEL_COLUMNS..width.min((panel + 1) * PANEL_COLUMNS);
            let mut out = vec![0.0; classes * columns.len()];
            Vectors::new().dispatch(
                #[inline(always)]
                || {
                    let rows = features.as_slice().chunks(PANEL_ROWS * width);
                    for (rows, factors) in rows.zip(factors.chunks(PANEL_ROWS * classes)) {
                        add_panel(rows, factors, width, columns.clone(), &mut out);
                    }
                },
            );
            out
        })
        .collect();
    let mut out = Vec::with_capacity(classes * width);
    for class in 0..classes {
        for panel in &panels {
            let columns = panel.len() / classes;
            out.extend_from_slice(&panel[class * columns..(class + 1) * columns]);
        }
    }
    out
}

/// Adds what `rows` `[n, F]` with `factors` `[n, C]` contribute to `columns` of the product, `out` `[C, columns]`.
#[inline(always)]
fn add_panel(rows: &[f32], factors: &[f64], width: usize, columns: Range<usize>, out: &mut [f64]) {
    let classes = out.len() / columns.len();
    let mut class = 0;
    while class < classes {
        let full = class + TRANSPOSED_CLASSES <= classes;
        let mut column = columns.start;
        while column < columns.end {
            let at = class * columns.len() + column - columns.start;
            if full && column + COLUMNS <= columns.end {
                add_tile::<TRANSPOSED_CLASSES, COLUMNS>(
                    rows,
                    factors,
                    (width, column),
                    (classes, class),
                    &mut out[at..],
                    columns.len(),
                );
                column += COLUMNS;
            } else if column + COLUMNS <= columns.end {
                for c in class..classes {
                    let at = c * columns.len() + column - columns.start;
                    add_tile::<1, COLUMNS>(
                        rows,
                        factors,
                        (width, column),
                        (classes, c),
                        &mut out[at..],
                        columns.len(),
                    );
                }
                column += COLUMNS;
            } else {
                for c in class..classes.min(class + TRANSPOSED_CLASSES) {
                    let at = c * columns.len() + column - columns.start;
                    add_tile::<1, 1>(
                        rows,
                        factors,
                        (width, column),
                        (classes, c),
                        &mut out[at..],
                        columns.len(),
                    );
                }
                column += 1;
            }
        }
        class += if full { TRANSPOSED_CLASSES } else { classes - class };
    }
}

/// `C` classes from the one given on, by `F` features from the one given on; `out` is the tile's corner, its rows `stride`
/// apart.
#[inline(always)]
fn add_tile<const C: usize, const F: usize>(
    rows: &[f32],
    factors: &[f64],
    (width, column): (usize, usize),
    (classes, class): (usize, usize),
    out: &mut [f64],
    stride: usize,
) {
    let mut sums: [[f64; F]; C] = from_fn(|c| from_fn(|f| out[c * stride + f]));
    for (row, factors) in rows.chunks_exact(width).zip(factors.chunks_exact(classes)) {
        let (row, factors) = (&row[column..column + F], &factors[class..class + C]);
        for c in 0..C {
            for f in 0..F {
                sums[c][f] += f64::from(row[f]) * factors[c];
            }
        }
    }
    for (c, sums) in sums.iter().enumerate() {
        out[c * stride..][..F].copy_from_slice(sums);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Keyed;

    fn small_integers(n: usize, key: u64) -> Vec<f32> {
        let mut random = Keyed::new(&[key]);
        (0..n).map(|_| random.below(15) as f32 - 7.0).collect()
    }

    proptest! {
        /// Integers, so that every order of the sum gives the same value.
        #[test]
        fn products_of_any_shape_are_the_schoolbook_ones(n in 1usize..210, width in 1usize..150, classes in 1usize..12) {
            let (rows, weight) = (small_integers(n * width, 1), small_integers(classes * width, 2));
            let mut out = vec![f64::NAN; n * classes];
            rows_by_weights(&rows, &weight, width, &mut out);
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

    #[test]
    fn a_row_has_the_same_bits_alone_and_among_others() {
        let (n, width, classes) = (11, 37, 5);
        let rows: Vec<f32> = (0..n * width).map(|i| (i as f32 * 0.7).sin()).collect();
        let weight: Vec<f64> = (0..classes * width).map(|i| (i as f64 * 1.3).cos()).collect();
        let mut together = vec![0.0; n * classes];
        rows_by_weights(&rows, &weight, width, &mut together);
        for (row, expected) in rows.chunks_exact(width).zip(together.chunks_exact(classes)) {
            let mut alone = vec![0.0; classes];
            rows_by_weights(row, &weight, width, &mut alone);
            assert_eq!(alone, expected);
        }
    }
}
