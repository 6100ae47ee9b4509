//! The average of parameters over steps.

use pulp::Arch;
use rayon::prelude::*;
use thiserror::Error;

use super::BLOCK_LEN;

/// The exponential moving average of parameters and of BatchNorm's running statistics, as timm's `ModelEmaV3`. It starts as what is
/// trained starts, and forgets sooner at first, as TensorFlow's `ExponentialMovingAverage` does when it is told the step: a short run
/// would else be an average of its start.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ema {
    max_decay: f64,
    updates: u64,
    values: Vec<Vec<f32>>,
}

/// What an average is to go on from is not of what is trained.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "the average has {found} values for part {part}, which has {expected}: it was kept for another network"
)]
pub(super) struct EmaError {
    /// Number of the part.
    pub(super) part: usize,
    /// Values of the part.
    pub(super) expected: usize,
    /// Values that were kept.
    pub(super) found: usize,
}

impl Ema {
    /// The average of what is trained before its first step; `decay`, from 0 to below 1, is what each step leaves of it in the end.
    #[must_use]
    pub(super) fn new<'a>(decay: f64, parts: impl IntoIterator<Item = &'a [f32]>) -> Self {
        Self { max_decay: decay, updates: 0, values: parts.into_iter().map(<[f32]>::to_vec).collect() }
    }

    /// Goes on from values that were kept after so many updates.
    ///
    /// # Errors
    /// [`AverageError`] when they are not as many as those of the average.
    pub(super) fn restore(&mut self, updates: u64, values: Vec<Vec<f32>>) -> Result<(), EmaError> {
        for part in 0..self.values.len().max(values.len()) {
            let [expected, found] =
                [&self.values, &values].map(|values| values.get(part).map_or(0, Vec::len));
            if expected != found {
                return Err(EmaError { part, expected, found });
            }
        }
        (self.updates, self.values) = (updates, values);
        Ok(())
    }

    /// The parts, in the order in which they came.
    #[must_use]
    pub(super) fn values(&self) -> &[Vec<f32>] {
        &self.values
    }

    /// The parts, to change places with what is trained.
    pub(super) fn values_mut(&mut self) -> &mut [Vec<f32>] {
        &mut self.values
    }

    /// Updates so far.
    #[must_use]
    pub(super) fn updates(&self) -> u64 {
        self.updates
    }

    /// Takes in what is trained, after a step.
    ///
    /// # Panics
    /// For parts of another number or length.
    pub(super) fn update<'a>(&mut self, parts: impl IntoIterator<Item = &'a [f32]>) {
        let weight = (1.0 - decay_after(self.max_decay, self.updates)) as f32;
        let mut parts = parts.into_iter();
        for average in &mut self.values {
            let part = parts.next().expect("as many parts as the average has");
            assert_eq!(average.len(), part.len(), "parts of the same lengths");
            average.par_chunks_mut(BLOCK_LEN).zip(part.par_chunks(BLOCK_LEN)).for_each(
                |(average, values)| {
                    Arch::new().dispatch(
                        #[inline(always)]
                        || {
                            for (average, value) in average.iter_mut().zip(values) {
                                *average += weight * (value - *average);
                            }
                        },
                    );
                },
            );
        }
        assert!(parts.next().is_none(), "as many parts as the average has");
        self.updates += 1;
    }
}

/// What the update after `updates` others leaves of the average, at most `most`.
fn decay_after(most: f64, updates: u64) -> f64 {
    let updates = updates as f64;
    most.min((1.0 + updates) / (10.0 + updates))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finetune::golden::{Golden, assert_agree};

    #[test]
    fn every_average_is_timms() {
        let golden = Golden::load();
        let names = ["weight", "bias", "running_mean", "running_var"];
        let courses = names.map(|name| golden.floats(&format!("average.{name}.values")));
        let oracles = names.map(|name| golden.floats(&format!("average.{name}")));
        let length = golden.numbers("average.length")[0] as usize;
        let at = |step: usize| courses.iter().map(move |course| &course[step * length..][..length]);
        let mut average = Ema::new(0.6, at(0));
        let steps = oracles[0].len() / length;
        assert_eq!(steps, 20);
        for step in 0..steps {
            average.update(at(step + 1));
            for ((ours, oracle), name) in average.values().iter().zip(&oracles).zip(names) {
                assert_agree(ours, &oracle[step * length..][..length], 1e-6, &format!("{name}, step {step}"));
            }
        }
    }

    #[test]
    fn an_average_goes_on_from_where_it_was_kept() {
        let (start, steps) = ([1.0f32, 2.0], [[3.0f32, 5.0], [4.0, -1.0]]);
        let mut whole = Ema::new(0.9, [&start[..]]);
        whole.update([&steps[0][..]]);
        let mut other = Ema::new(0.9, [&start[..]]);
        other.restore(whole.updates(), whole.values().to_vec()).unwrap();
        for average in [&mut whole, &mut other] {
            average.update([&steps[1][..]]);
        }
        assert_eq!(whole, other);
        let refused = other.restore(1, vec![vec![0.0; 3]]);
        assert_eq!(refused, Err(EmaError { part: 0, expected: 2, found: 3 }));
        assert!(other.restore(1, Vec::new()).is_err());
    }
}
