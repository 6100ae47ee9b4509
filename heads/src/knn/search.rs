//! The nearest stored rows, exactly.
//!
//! A product in `f32` gives every distance with a bound on its error; the rows that may be among the nearest by those
//! bounds are few, and their distances are computed in `f64`. So the neighbours are those of the `f64` distances,
//! whatever rounding and the other rows of a call do to the product.

use std::collections::BinaryHeap;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::{Arch, Simd, WithSimd};

use super::bounds::{self, Bounds, LANES, Lanes, bounds, is_beyond};
use super::norm;
use crate::data::Features;
use crate::metric::{Metric, inverse};
use crate::vector::Vectors;

/// Stored rows in a product: enough that the rows asked for, which are packed anew for each product, cost little.
const STORED: usize = 1024;

/// A stored row and how far it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Its number.
    pub row: usize,
    /// How far it is, by the metric: with angles `1 - cos`.
    pub distance: f64,
}

/// Rows to search in.
pub(super) struct Search<'a> {
    pub(super) stored: Features<'a>,
    /// The length of each stored row, `[N]`.
    pub(super) norms: &'a [f64],
    pub(super) metric: Metric,
    /// How many to find.
    pub(super) k: usize,
}

/// What is known of a row that is asked for.
struct Asked {
    norm: f64,
    part: bounds::Asked,
    /// The `k` smallest upper bounds so far, the largest first.
    nearest: BinaryHeap<Upper>,
    /// The `k`-th smallest upper bound: no neighbour is farther.
    limit: f64,
    /// Rows that may be neighbours, with a lower bound.
    candidates: Vec<(f64, usize)>,
}

impl Search<'_> {
    /// The `k` nearest rows of each of `rows` `[n, F]`, the nearest first; of those as far the lowest row. A row that is not
    /// finite has none.
    pub(super) fn nearest(&self, rows: &[f32]) -> Vec<Vec<Neighbour>> {
        let (width, arch) = (self.stored.width(), Arch::new());
        let bounds = Bounds::new(self.metric, width);
        let start = |row: &[f32]| {
            let norm = norm(row);
            Asked {
                norm,
                part: bounds.asked(norm),
                nearest: BinaryHeap::with_capacity(self.k + 1),
                limit: f64::INFINITY,
                candidates: Vec::new(),
            }
        };
        let mut asked: Vec<Asked> = rows.chunks_exact(width).map(start).collect();
        let mut lanes: Vec<Lanes> = asked.chunks(LANES).map(side_by_side).collect();
        // The products of a stored row stand side by side, so that it is looked at for many rows at once.
        let stride = lanes.len() * LANES;
        let mut products = vec![0.0f32; stride * STORED.min(self.stored.len())];
        for (block, first) in self.stored.as_slice().chunks(STORED * width).zip((0..).step_by(STORED)) {
            let count = block.len() / width;
            let products = &mut products[..stride * count];
            matmul(
                MatMut::from_column_major_slice_with_stride_mut(products, asked.len(), count, stride),
                Accum::Replace,
                MatRef::from_row_major_slice(rows, asked.len(), width),
                MatRef::from_row_major_slice(block, count, width).transpose(),
                1.0,
                Par::Seq,
            );
            let (asked, lanes, k) = (&mut asked, &mut lanes, self.k);
            arch.dispatch(Narrow { bounds: &bounds, norms: self.norms, k, asked, lanes, first, products });
        }
        let rows = rows.chunks_exact(width);
        asked.into_iter().zip(rows).map(|(asked, row)| self.settle(&asked, row)).collect()
    }

    /// The nearest among the candidates by their distance in `f64`.
    fn settle(&self, asked: &Asked, row: &[f32]) -> Vec<Neighbour> {
        let near = asked.candidates.iter().filter(|(lower, _)| *lower <= asked.limit);
        let mut near: Vec<Neighbour> = near
            .map(|&(_, stored)| Neighbour { row: stored, distance: self.distance(asked.norm, row, stored) })
            .collect();
        near.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.row.cmp(&b.row)));
        near.truncate(self.k);
        near
    }

    fn distance(&self, norm: f64, row: &[f32], stored: usize) -> f64 {
        let (vectors, other) = (Vectors::new(), self.stored.row(stored));
        match self.metric {
            Metric::Euclidean => vectors.squared_distance(row, other).sqrt(),
            Metric::Cosine => {
                let scale = inverse(norm) * inverse(self.norms[stored]);
                let distance = 1.0 - vectors.dot(row, other) * scale;
                let rounding = row.len() as f64 * f64::EPSILON;
                if distance <= rounding { 0.0 } else { distance }
            }
        }
    }
}

/// Takes the products with the stored rows from `first` on into account.
///
/// An operation of its own, not a closure: it has to be inlined for the processor's instructions.
struct Narrow<'a> {
    bounds: &'a Bounds,
    norms: &'a [f64],
    k: usize,
    asked: &'a mut [Asked],
    lanes: &'a mut [Lanes],
    first: usize,
    products: &'a [f32],
}

impl WithSimd for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { bounds, norms, k, asked, lanes, first, products } = self;
        for (products, row) in products.chunks_exact(lanes.len() * LANES).zip(first..) {
            let (products, stored) = (products.as_chunks::<LANES>().0, bounds.stored(norms[row]));
            for ((asked, lanes), products) in asked.chunks_mut(LANES).zip(&mut *lanes).zip(products) {
                if lanes.may_neighbour(stored, products) {
                    for (asked, &product) in asked.iter_mut().zip(products) {
                        asked.look(row, stored, product, k);
                    }
                    *lanes = side_by_side(asked);
                }
            }
        }
    }
}

fn side_by_side(asked: &[Asked]) -> Lanes {
    Lanes::of(asked.iter().map(|asked| (asked.part, asked.limit)))
}

impl Asked {
    /// Takes the product with a stored row into account.
    fn look(&mut self, row: usize, stored: bounds::Stored, product: f32, k: usize) {
        let (lower, upper) = bounds(self.part, stored, product);
        if !self.norm.is_finite() || is_beyond(lower, self.limit) {
            return;
        }
        if !lower.is_finite() {
            // The product left the range of f32: nothing is known but that the row must be looked at.
            self.candidates.push((f64::NEG_INFINITY, row));
            return;
        }
        self.candidates.push((lower, row));
        self.nearest.push(Upper(upper));
        if self.nearest.len() > k {
            self.nearest.pop();
        }
        if let (true, Some(Upper(largest))) = (self.nearest.len() == k, self.nearest.peek()) {
            self.limit = *largest;
        }
    }
}

/// An upper bound, ordered.
#[derive(Clone, Copy, PartialEq)]
struct Upper(f64);

impl Eq for Upper {}

impl PartialOrd for Upper {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Upper {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Keyed;

    fn found(stored: &[f32], width: usize, metric: Metric, k: usize, asked: &[f32]) -> Vec<Vec<Neighbour>> {
        let norms: Vec<f64> = stored.chunks_exact(width).map(norm).collect();
        Search { stored: Features::rows_of(stored, width), norms: &norms, metric, k }.nearest(asked)
    }

    proptest! {
        /// Rows on a coarse grid, so that many are as far as others; and of every size that f32 has.
        #[test]
        fn neighbours_are_those_that_a_look_at_every_row_finds(
            n in prop_oneof![1usize..700, Just(STORED + 1)],
            asked in 1usize..40,
            width in 1usize..6,
            k in 1usize..20,
            exponent in -40i32..38,
            cosine: bool,
            key: u64,
        ) {
            let mut random = Keyed::new(&[key]);
            let size = 10f32.powi(exponent);
            let mut rows = |n: usize| -> Vec<f32> {
                (0..n * width).map(|_| (random.below(7) as f32 - 3.0) * size).collect()
            };
            let (stored, asked) = (rows(n), rows(asked));
            let metric = if cosine { Metric::Cosine } else { Metric::Euclidean };
            let found = found(&stored, width, metric, k, &asked);
            for (row, found) in asked.chunks_exact(width).zip(found) {
                let mut all: Vec<(f64, usize)> = stored
                    .chunks_exact(width)
                    .map(|other| {
                        let dot = |a: &[f32], b: &[f32]| -> f64 {
                            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
                        };
                        let difference: Vec<f32> = row.iter().zip(other).map(|(a, b)| a - b).collect();
                        let cosine = dot(row, other) / (dot(row, row) * dot(other, other)).sqrt();
                        let cosine = if cosine.is_nan() { 0.0 } else { cosine };
                        if metric == Metric::Cosine { 1.0 - cosine } else { dot(&difference, &difference).sqrt() }
                    })
                    .zip(0..)
                    .collect();
                all.sort_by(|a, b| a.0.total_cmp(&b.0));
                prop_assert_eq!(found.len(), k.min(n));
                for (found, (distance, _)) in found.iter().zip(&all) {
                    let of_found = all.iter().find(|(_, row)| *row == found.row).unwrap().0;
                    let tolerance = 1e-5 * distance + 1e-12;
                    prop_assert!((found.distance - distance).abs() <= tolerance, "{} {}", found.distance, distance);
                    prop_assert!((of_found - distance).abs() <= tolerance, "{of_found} {distance}");
                }
            }
        }
    }

    #[test]
    fn rows_that_differ_by_less_than_a_product_in_f32_resolves_are_told_apart() {
        let width = 300;
        let mut stored: Vec<f32> = (0..2000 * width).map(|i| 100.0 + ((i % width) as f32).sin()).collect();
        for (row, values) in stored.chunks_exact_mut(width).enumerate() {
            values[row % width] += 1e-3 * (2000 - row) as f32;
        }
        let asked: Vec<f32> = (0..width).map(|i| 100.0 + (i as f32).sin()).collect();
        let found = &found(&stored, width, Metric::Euclidean, 4, &asked)[0];
        let rows: Vec<usize> = found.iter().map(|neighbour| neighbour.row).collect();
        assert_eq!(rows, [1999, 1998, 1997, 1996]);
    }

    /// The second row's product is -1.5e38; on its way the sum may pass -4.5e38, which `f32` has not.
    #[test]
    fn a_product_that_leaves_the_range_of_f32_on_its_way_hides_no_neighbour() {
        let (low, high) = (-1.5e19, 1e19);
        for near in [[low, low, high, high], [low, high, low, high], [high, low, low, high]] {
            let stored = [[-2e19, 0.0, 0.0, 0.0], near].concat();
            let found = found(&stored, 4, Metric::Euclidean, 1, &[1.5e19; 4]);
            assert_eq!(found[0][0].row, 1, "{near:?}");
        }
    }

    #[test]
    fn a_row_that_is_not_finite_has_no_neighbours_and_changes_no_others() {
        let stored: Vec<f32> = (0..60).map(|i| (i as f32).sin()).collect();
        let mut asked: Vec<f32> = (0..40).map(|i| (i as f32).cos()).collect();
        for metric in [Metric::Euclidean, Metric::Cosine] {
            let whole = found(&stored, 2, metric, 3, &asked);
            (asked[7], asked[24]) = (f32::NAN, f32::NEG_INFINITY);
            let found = found(&stored, 2, metric, 3, &asked);
            for (row, (found, whole)) in found.iter().zip(whole).enumerate() {
                assert_eq!(*found, if [3, 12].contains(&row) { Vec::new() } else { whole }, "row {row}");
            }
        }
    }

    #[test]
    fn of_rows_as_far_the_lowest_is_nearest() {
        let stored = [2.0, 0.0, 1.0, 3.0, 1.0, 3.0];
        let rows = |k| -> Vec<usize> {
            found(&stored, 1, Metric::Euclidean, k, &[2.0])[0].iter().map(|neighbour| neighbour.row).collect()
        };
        assert_eq!(rows(3), [0, 2, 3]);
        assert_eq!(rows(9), [0, 2, 3, 4, 5, 1]);
    }
}
