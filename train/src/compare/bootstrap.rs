//! How sure a difference between two candidates is.

use rand_mt::Mt64;
use rayon::prelude::*;

use super::outcome::{Figure, Interval};
use crate::score::{Figures, Score};

/// Resamples that intervals are taken from.
pub(super) const RESAMPLES: usize = 2000;

/// The share of resamples that an interval holds.
pub(super) const COVERAGE: f64 = 0.95;

/// What is drawn: samples, or whole groups of them.
pub(super) struct Units {
    /// The unit that each sample belongs to, `[N]`.
    of: Vec<usize>,
    count: usize,
    seed: u32,
}

impl Units {
    /// Each sample alone, or all samples of a group together.
    pub(super) fn new(samples: usize, groups: Option<&[u32]>, seed: u32) -> Self {
        let of: Vec<usize> = match groups {
            Some(groups) => {
                let mut distinct = groups.to_vec();
                distinct.sort_unstable();
                distinct.dedup();
                groups.iter().map(|group| distinct.partition_point(|known| known < group)).collect()
            }
            None => (0..samples).collect(),
        };
        let count = of.iter().max().map_or(0, |last| last + 1);
        Self { of, count, seed }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// How often each sample is in a resample: as many units as there are, drawn with replacement, from a stream that
    /// belongs to the seed and the number of the resample.
    pub(super) fn draw(&self, resample: usize) -> Vec<u32> {
        let mut random = Mt64::new(u64::from(self.seed) << 32 | resample as u64);
        let mut drawn = vec![0; self.count];
        for _ in 0..self.count {
            // 64 bits over a range of at most 2^32: the bias is below 2^-32.
            drawn[((u128::from(random.next_u64()) * self.count as u128) >> 64) as usize] += 1;
        }
        self.of.iter().map(|&unit| drawn[unit]).collect()
    }
}

/// The figures of a candidate, each with the interval of its difference to the best's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Compared {
    pub(super) accuracy: Figure,
    pub(super) macro_f1: Figure,
    pub(super) log_loss: Figure,
    pub(super) ece: Figure,
}

/// The figures of each candidate, and percentile intervals of their differences to those of candidate `best` over
/// `resamples` (Efron and Tibshirani 1993, chapter 13), paired: a resample, `draw(number)`, is the same for all.
pub(super) fn compared(
    candidates: &[&[Score]],
    classes: usize,
    best: usize,
    resamples: usize,
    draw: impl Fn(usize) -> Vec<u32> + Sync,
) -> Vec<Compared> {
    const FIGURES: [fn(&Figures) -> f64; 4] = [|f| f.accuracy, |f| f.macro_f1, |f| f.log_loss, |f| f.ece];
    let resampled: Vec<Vec<Figures>> = (0..resamples)
        .into_par_iter()
        .map(|resample| {
            let weights = draw(resample);
            candidates.iter().map(|scores| Figures::of(scores, classes, |i| weights[i])).collect()
        })
        .collect();
    (0..candidates.len())
        .into_par_iter()
        .map(|candidate| {
            let figures = Figures::of(candidates[candidate], classes, |_| 1);
            let [accuracy, macro_f1, log_loss, ece] = FIGURES.map(|of| {
                let difference = |all: &Vec<Figures>| of(&all[candidate]) - of(&all[best]);
                Figure { value: of(&figures), to_best: interval(resampled.iter().map(difference).collect()) }
            });
            Compared { accuracy, macro_f1, log_loss, ece }
        })
        .collect()
}

/// The values between which [`COVERAGE`] of all lie.
fn interval(mut values: Vec<f64>) -> Interval {
    values.sort_unstable_by(f64::total_cmp);
    let outside = (1.0 - COVERAGE) / 2.0;
    Interval { low: quantile(&values, outside), high: quantile(&values, 1.0 - outside) }
}

/// `numpy.quantile` of sorted values.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use headstock_heads::Logits;
    use serde::Deserialize;

    use super::*;
    use crate::metrics::Predictions;

    #[derive(Deserialize)]
    struct Golden {
        classes: usize,
        labels: Vec<u32>,
        /// By candidate.
        logits: Vec<Vec<f32>>,
        best: usize,
        resamples: Vec<Vec<usize>>,
        /// By candidate and figure: value, low, high.
        figures: Vec<BTreeMap<String, [f64; 3]>>,
    }

    #[test]
    fn intervals_are_those_of_scikit_learn_and_numpy_on_the_same_resamples() {
        let text = include_str!("../../../reference/compare/bootstrap.json");
        let golden: Golden = serde_json::from_str(text).unwrap();
        let scores: Vec<Vec<Score>> = golden
            .logits
            .iter()
            .map(|logits| {
                let logits = Logits::new(logits.clone(), golden.classes).unwrap();
                Predictions::new(&logits).scores(&golden.labels)
            })
            .collect();
        let scores: Vec<&[Score]> = scores.iter().map(Vec::as_slice).collect();
        let draw = |resample: usize| {
            let mut weights = vec![0; golden.labels.len()];
            for &sample in &golden.resamples[resample] {
                weights[sample] += 1;
            }
            weights
        };
        let found = compared(&scores, golden.classes, golden.best, golden.resamples.len(), draw);
        assert_eq!(found.len(), golden.figures.len());
        for (number, (found, expected)) in found.iter().zip(&golden.figures).enumerate() {
            for (name, figure) in [
                ("accuracy", found.accuracy),
                ("macro_f1", found.macro_f1),
                ("log_loss", found.log_loss),
                ("ece", found.ece),
            ] {
                let Figure { value, to_best: Interval { low, high } } = figure;
                for (found, expected) in [value, low, high].iter().zip(expected[name]) {
                    // log_loss normalises probabilities once more, in single precision.
                    assert!((found - expected).abs() < 1e-6, "{number}, {name}: {figure:?}, {expected}");
                }
            }
        }
    }

    #[test]
    fn a_resample_has_as_many_samples_and_belongs_to_its_seed_and_number() {
        let units = Units::new(1000, None, 3);
        let weights = units.draw(5);
        assert_eq!(weights.iter().sum::<u32>(), 1000);
        // A sample is left out with probability 1 / e.
        let left_out = weights.iter().filter(|&&weight| weight == 0).count();
        assert!((310..430).contains(&left_out), "{left_out}");
        assert_eq!(weights, Units::new(1000, None, 3).draw(5));
        assert_ne!(weights, units.draw(6));
        assert_ne!(weights, Units::new(1000, None, 4).draw(5));
    }

    #[test]
    fn groups_are_drawn_whole() {
        let groups = [9, 4, 4, 9, 7, 7, 7, 4];
        let units = Units::new(groups.len(), Some(&groups), 0);
        for resample in 0..50 {
            let weights = units.draw(resample);
            let of = |group: u32| {
                let mut found: Vec<u32> =
                    groups.iter().zip(&weights).filter(|(g, _)| **g == group).map(|(_, w)| *w).collect();
                found.dedup();
                found
            };
            let drawn = [of(4), of(7), of(9)].concat();
            assert_eq!(drawn.len(), 3, "{weights:?}");
            assert_eq!(drawn.iter().sum::<u32>(), 3, "{weights:?}");
        }
    }
}
