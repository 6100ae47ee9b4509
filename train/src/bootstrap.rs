//! Bootstrap confidence intervals of metrics.

use rand_mt::Mt64;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::metrics::WeightedMetric;

/// A confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}

/// Number of bootstrap resamples.
pub(crate) const N_RESAMPLES: usize = 2000;

/// The fraction of resamples inside an interval.
pub(crate) const COVERAGE: f64 = 0.95;

/// What a bootstrap resample draws: single samples, or whole groups of samples.
pub(crate) struct BootstrapUnits {
    /// The unit of each sample.
    unit_of_sample: Vec<usize>,
    pub(crate) n_units: usize,
    seed: u32,
}

impl BootstrapUnits {
    /// Defines what a bootstrap resample draws with replacement, for confidence intervals of metrics: single
    /// samples, of which there are `n_samples`; or, if `groups` has the group of each sample, whole groups,
    /// because samples of a group are not independent. `seed` determines the random resamples.
    pub(crate) fn new(n_samples: usize, groups: Option<&[u32]>, seed: u32) -> Self {
        let unit_of_sample: Vec<usize> = match groups {
            Some(groups) => {
                let mut distinct = groups.to_vec();
                distinct.sort_unstable();
                distinct.dedup();
                // Units are 0, 1, 2 and so on: the position of the group among the sorted ones.
                groups.iter().map(|group| distinct.partition_point(|known| known < group)).collect()
            }
            None => (0..n_samples).collect(),
        };
        let n_units = unit_of_sample.iter().max().map_or(0, |max| max + 1);
        Self { unit_of_sample, n_units, seed }
    }

    /// How often each sample occurs in bootstrap resample number `resample`. The counts are the weights of
    /// the samples in a metric of the resample, for its confidence interval. A resample draws as many units
    /// (samples, or whole groups of samples) as there are, with replacement. Its random numbers depend only
    /// on the seed and its number, so that resamples can be drawn in parallel.
    pub(crate) fn resample_counts(&self, resample: usize) -> Vec<u32> {
        let mut random = Mt64::new(u64::from(self.seed) << 32 | resample as u64);
        let mut unit_counts = vec![0; self.n_units];
        for _ in 0..self.n_units {
            // A random unit: 64 random bits, scaled to `0..n_units`. With at most 2^32 units the bias is
            // below 2^-32.
            unit_counts[((u128::from(random.next_u64()) * self.n_units as u128) >> 64) as usize] += 1;
        }
        self.unit_of_sample.iter().map(|&unit| unit_counts[unit]).collect()
    }
}

/// The confidence interval of a metric: percentiles over bootstrap resamples (Efron and Tibshirani 1993, chapter 13).
/// `metric` computes its value from the weight of each sample.
pub(crate) fn metric_interval(metric: &WeightedMetric, units: &BootstrapUnits) -> Interval {
    let resamples = (0..N_RESAMPLES).into_par_iter();
    percentile_interval(resamples.map(|resample| metric(&units.resample_counts(resample))).collect())
}

/// The bootstrap confidence interval from the `values` of a statistic in all resamples: the central interval
/// that contains the fraction [`COVERAGE`] of them.
pub(crate) fn percentile_interval(mut values: Vec<f64>) -> Interval {
    values.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - COVERAGE) / 2.0;
    Interval { low: quantile(&values, tail), high: quantile(&values, 1.0 - tail) }
}

/// The value below which `fraction` of the `sorted` values are, for the bounds of an interval. Interpolates
/// linearly between the two nearest values, as `numpy.quantile` does.
fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    let position = fraction * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    below + (above - below) * position.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resample_has_n_samples_and_depends_on_its_seed_and_number() {
        let units = BootstrapUnits::new(1000, None, 3);
        let weights = units.resample_counts(5);
        assert_eq!(weights.iter().sum::<u32>(), 1000);
        // A sample is not drawn with probability 1 / e.
        let left_out = weights.iter().filter(|&&weight| weight == 0).count();
        assert!((310..430).contains(&left_out), "{left_out}");
        assert_eq!(weights, BootstrapUnits::new(1000, None, 3).resample_counts(5));
        assert_ne!(weights, units.resample_counts(6));
        assert_ne!(weights, BootstrapUnits::new(1000, None, 4).resample_counts(5));
    }

    #[test]
    fn groups_are_drawn_whole() {
        let groups = [9, 4, 4, 9, 7, 7, 7, 4];
        let units = BootstrapUnits::new(groups.len(), Some(&groups), 0);
        for resample in 0..50 {
            let weights = units.resample_counts(resample);
            let counts_in_group = |group: u32| {
                let mut found: Vec<u32> =
                    groups.iter().zip(&weights).filter(|(g, _)| **g == group).map(|(_, w)| *w).collect();
                found.dedup();
                found
            };
            let drawn = [counts_in_group(4), counts_in_group(7), counts_in_group(9)].concat();
            assert_eq!(drawn.len(), 3, "{weights:?}");
            assert_eq!(drawn.iter().sum::<u32>(), 3, "{weights:?}");
        }
    }
}
