//! Exponential moving average of parameters.

use pulp::Arch;
use rayon::prelude::*;

use super::BLOCK_LEN;

/// Exponential moving average (EMA) of parameters and BatchNorm running statistics, as timm's `ModelEmaV3`.
/// It starts as a copy of the model, and its decay ramps up, as in TensorFlow's `ExponentialMovingAverage`
/// with `num_updates`; with the full decay from the start, the average of a short run would mostly be its
/// start.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ema {
    max_decay: f64,
    pub(super) updates: u64,
    /// The average of each array of the model, in the order of the model's named values.
    pub(super) values: Vec<Vec<f32>>,
}

impl Ema {
    /// Starts the averages as a copy of `parameters`, the arrays of the model. `max_decay`, from 0 to below
    /// 1, is the limit of the decay.
    #[must_use]
    pub(super) fn new<'a>(max_decay: f64, parameters: impl IntoIterator<Item = &'a [f32]>) -> Self {
        Self { max_decay, updates: 0, values: parameters.into_iter().map(<[f32]>::to_vec).collect() }
    }

    /// Updates the exponential moving averages (EMA) with `parameters`, the model's arrays after an optimizer
    /// step, in the same order as in [`new`](Self::new): `average += (1 - decay) * (value - average)`. pulp's
    /// `dispatch` runs the loop with the vector instructions that the processor has.
    ///
    /// # Panics
    /// If the number or lengths of `parameters` differ from those of the averages.
    pub(super) fn update<'a>(&mut self, parameters: impl IntoIterator<Item = &'a [f32]>) {
        // Weight of the new values in the average.
        let weight = (1.0 - decay_after(self.max_decay, self.updates)) as f32;
        let mut parameters = parameters.into_iter();
        for averages in &mut self.values {
            let values = parameters.next().expect("as many parameters as averages");
            assert_eq!(averages.len(), values.len(), "equal lengths");
            averages.par_chunks_mut(BLOCK_LEN).zip(values.par_chunks(BLOCK_LEN)).for_each(
                |(averages, values)| {
                    Arch::new().dispatch(
                        #[inline(always)]
                        || {
                            for (average, value) in averages.iter_mut().zip(values) {
                                *average += weight * (value - *average);
                            }
                        },
                    );
                },
            );
        }
        assert!(parameters.next().is_none(), "as many parameters as averages");
        self.updates += 1;
    }
}

/// Decay of the update after `updates` earlier ones: `(1 + updates) / (10 + updates)`, at most `max_decay`.
fn decay_after(max_decay: f64, updates: u64) -> f64 {
    let updates = updates as f64;
    max_decay.min((1.0 + updates) / (10.0 + updates))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finetune::golden::{Golden, assert_agree};

    #[test]
    fn averages_equal_timms() {
        let golden = Golden::load();
        let names = ["weight", "bias", "running_mean", "running_var"];
        let values_over_time = names.map(|name| golden.floats(&format!("average.{name}.values")));
        let expected = names.map(|name| golden.floats(&format!("average.{name}")));
        let length = golden.numbers("average.length")[0] as usize;
        let parts_at =
            |step: usize| values_over_time.iter().map(move |values| &values[step * length..][..length]);
        let mut ema = Ema::new(0.6, parts_at(0));
        let steps = expected[0].len() / length;
        assert_eq!(steps, 20);
        for step in 0..steps {
            ema.update(parts_at(step + 1));
            for ((ours, expected), name) in ema.values.iter().zip(&expected).zip(names) {
                assert_agree(
                    ours,
                    &expected[step * length..][..length],
                    1e-6,
                    &format!("{name}, step {step}"),
                );
            }
        }
    }

    #[test]
    fn a_restored_average_continues_with_the_same_bits() {
        let (start, steps) = ([1.0f32, 2.0], [[3.0f32, 5.0], [4.0, -1.0]]);
        let mut uninterrupted = Ema::new(0.9, [&start[..]]);
        uninterrupted.update([&steps[0][..]]);
        let mut resumed = Ema::new(0.9, [&start[..]]);
        (resumed.updates, resumed.values) = (uninterrupted.updates, uninterrupted.values.clone());
        for ema in [&mut uninterrupted, &mut resumed] {
            ema.update([&steps[1][..]]);
        }
        assert_eq!(uninterrupted, resumed);
    }
}
