//! The nearest stored rows, exactly.
//!
//! A product in `f32` gives every distance with a bound on its error; the rows that may be among the nearest by those
//! bounds are few, and their distances are computed in `f64`. So the neighbours are those of the `f64` distances,
//! whatever rounding and the other rows of a call do to the product.

use std::collections::BinaryHeap;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::data::Features;
use crate::metric::{Metric, inverse};
use crate::vector::Vectors;

/// Stored rows in a product.
const STORED: usize = 512;
/// Half the distance between 1 and the next `f32`.
const HALF_ULP: f64 = 1.0 / (1u64 << 24) as f64;
/// The smallest `f32` above 0: what a product that is below it may lose.
const SMALLEST: f64 = 1.401_298_464_324_817e-45;

/// A stored row and how far it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Neighbour {
    pub(super) row: usize,
    pub(super) distance: f64,
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
    /// The `k` smallest upper bounds so far, the largest first.
    nearest: BinaryHeap<Bound>,
    /// The `k`-th smallest upper bound: no neighbour is farther.
    limit: f64,
    /// Rows that may be neighbours, with a lower bound.
    candidates: Vec<(f64, usize)>,
}

impl Search<'_> {
    /// The `k` nearest rows of each of `rows` `[n, F]`, all finite, the nearest first; of those as far the lowest row.
    pub(super) fn nearest(&self, rows: &[f32]) -> Vec<Vec<Neighbour>> {
        let (width, vectors) = (self.stored.width(), Vectors::new());
        let start = |row: &[f32]| Asked {
            norm: vectors.dot(row, row).sqrt(),
            nearest: BinaryHeap::with_capacity(self.k + 1),
            limit: f64::INFINITY,
            candidates: Vec::new(),
        };
        let mut asked: Vec<Asked> = rows.chunks_exact(width).map(start).collect();
        let mut products = vec![0.0f32; asked.len() * STORED];
        for (block, first) in self.stored.as_slice().chunks(STORED * width).zip((0..).step_by(STORED)) {
            let count = block.len() / width;
            let out = &mut products[..asked.len() * count];
            matmul(
                MatMut::from_row_major_slice_mut(out, asked.len(), count),
                Accum::Replace,
                MatRef::from_row_major_slice(rows, asked.len(), width),
                MatRef::from_row_major_slice(block, count, width).transpose(),
                1.0,
                Par::Seq,
            );
            for (asked, products) in asked.iter_mut().zip(products.chunks_exact(count)) {
                self.narrow(asked, first, products);
            }
        }
        let rows = rows.chunks_exact(width);
        asked.into_iter().zip(rows).map(|(asked, row)| self.settle(&asked, row)).collect()
    }

    /// Takes the products of a row with stored ones from `first` on into account.
    fn narrow(&self, asked: &mut Asked, first: usize, products: &[f32]) {
        let bounds = self.bounds(asked.norm);
        for ((&product, &norm), row) in products.iter().zip(&self.norms[first..]).zip(first..) {
            let (distance, error) = bounds(f64::from(product), norm);
            if distance - error > asked.limit {
                continue;
            }
            if !distance.is_finite() {
                // The product left the range of f32: nothing is known but that it must be looked at.
                asked.candidates.push((f64::NEG_INFINITY, row));
                continue;
            }
            asked.candidates.push((distance - error, row));
            asked.nearest.push(Bound(distance + error));
            if asked.nearest.len() > self.k {
                asked.nearest.pop();
            }
            if let (true, Some(Bound(largest))) = (asked.nearest.len() == self.k, asked.nearest.peek()) {
                asked.limit = *largest;
            }
        }
    }

    /// From a product in `f32` and the stored row's length to something that grows with the distance, and how far off it may
    /// be.
    ///
    /// A sum of `F` products in any order is off by at most `γ |a| |b|`, `γ = F u / (1 - F u)` (Higham 2002, *Accuracy and
    /// Stability of Numerical Algorithms*, section 3.1); the last term is for the `f64` distances that decide.
    fn bounds(&self, asked: f64) -> impl Fn(f64, f64) -> (f64, f64) {
        let width = self.stored.width() as f64;
        let share = (width + 8.0) * HALF_ULP;
        let share = share / (1.0 - share.min(0.5));
        let (lost, exact) = (width * SMALLEST, 8.0 * width * f64::EPSILON);
        let (metric, unit) = (self.metric, inverse(asked));
        move |product, norm| match metric {
            Metric::Euclidean => {
                let error = 2.0 * (share * asked * norm + lost) + exact * (asked * asked + norm * norm);
                (norm * norm - 2.0 * product, error)
            }
            Metric::Cosine => {
                let scale = unit * inverse(norm);
                (-product * scale, share + lost * scale + exact)
            }
        }
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

/// An upper bound, ordered.
#[derive(Clone, Copy, PartialEq)]
struct Bound(f64);

impl Eq for Bound {}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bound {
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
        let vectors = Vectors::new();
        let norms: Vec<f64> = stored.chunks_exact(width).map(|row| vectors.dot(row, row).sqrt()).collect();
        Search { stored: Features::rows_of(stored, width), norms: &norms, metric, k }.nearest(asked)
    }

    proptest! {
        /// Rows on a coarse grid, so that many are as far as others; and of every size that f32 has.
        #[test]
        fn neighbours_are_those_that_a_look_at_every_row_finds(
            n in 1usize..700, width in 1usize..6, k in 1usize..20, exponent in -40i32..38, cosine: bool, key: u64,
        ) {
            let mut random = Keyed::new(&[key]);
            let size = 10f32.powi(exponent);
            let mut rows = |n: usize| -> Vec<f32> {
                (0..n * width).map(|_| (random.below(7) as f32 - 3.0) * size).collect()
            };
            let (stored, asked) = (rows(n), rows(5));
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
