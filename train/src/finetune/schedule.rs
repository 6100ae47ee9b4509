//! Learning-rate schedules.

use std::f64::consts::PI;

/// Shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Schedule {
    /// A constant learning rate.
    Constant,
    /// Multiplied by `gamma` every `every_epochs` epochs, counted from the end of the warm-up, as PyTorch's
    /// `StepLR`.
    Step {
        /// Epochs between two drops, at least 1.
        every_epochs: u64,
        /// Factor of each drop.
        gamma: f64,
    },
    /// Down to near 0 along half a cosine (Loshchilov and Hutter, ICLR 2017), as PyTorch's
    /// `CosineAnnealingLR` per step.
    Cosine,
    /// Up from 1/25 and down to 1/250,000, both along half a cosine (Smith and Topin 2019), as PyTorch's
    /// `OneCycleLR` with constant momentum.
    OneCycle,
}

/// First factor of a warm-up, as in torchvision's training script.
const WARMUP_START_FACTOR: f64 = 0.01;
/// Share of all steps in which [`Schedule::OneCycle`] rises, as PyTorch's and fastai's `pct_start`.
const ONE_CYCLE_RISE: f64 = 0.3;
/// Ratios of the peak of [`Schedule::OneCycle`] to its first value, and of that to its last: PyTorch's
/// `div_factor` and `final_div_factor`.
const ONE_CYCLE_DIVISORS: [f64; 2] = [25.0, 1e4];

/// A schedule with a warm-up, as a factor of the peak learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct WarmupSchedule {
    /// The shape after the warm-up.
    pub(super) schedule: Schedule,
    /// Share of all steps, from 0 to 1, in which the rate rises linearly from 1/100 (PyTorch's `LinearLR`,
    /// followed by the schedule as with `SequentialLR`). For [`Schedule::OneCycle`] the share of its
    /// rise, 0.3 by default.
    pub(super) warmup_fraction: Option<f64>,
    /// Steps of the whole run.
    pub(super) total_steps: u64,
    /// Steps of an epoch, at least 1.
    pub(super) steps_per_epoch: u64,
}

impl WarmupSchedule {
    /// The factor, from 0 to 1, of the peak learning rates in the optimizer step that comes after
    /// `steps_done` steps: a linear rise during the warm-up, then the shape of the schedule.
    #[must_use]
    pub(super) fn lr_factor(&self, steps_done: u64) -> f64 {
        if self.schedule == Schedule::OneCycle {
            return self.one_cycle(steps_done);
        }
        let warmup_steps = (self.warmup_fraction.unwrap_or(0.0) * self.total_steps as f64).round() as u64;
        if steps_done < warmup_steps {
            return WARMUP_START_FACTOR
                + (1.0 - WARMUP_START_FACTOR) * steps_done as f64 / warmup_steps as f64;
        }
        let steps_after_warmup = steps_done - warmup_steps;
        match self.schedule {
            // `OneCycle` has returned above.
            Schedule::Constant | Schedule::OneCycle => 1.0,
            // `gamma` to the power of the number of drops so far.
            Schedule::Step { every_epochs, gamma } => {
                let n_drops =
                    steps_after_warmup / every_epochs.max(1).saturating_mul(self.steps_per_epoch.max(1));
                gamma.powf(n_drops as f64)
            }
            // `(1 + cos(π t)) / 2`, where `t` is the share done of the steps after the warm-up.
            Schedule::Cosine => {
                0.5 * (1.0
                    + (PI * steps_after_warmup as f64
                        / self.total_steps.saturating_sub(warmup_steps).max(1) as f64)
                        .cos())
            }
        }
    }

    /// The factor of the learning rate in [`Schedule::OneCycle`] (PyTorch's `OneCycleLR`) when `steps_done`
    /// steps are done: along half a cosine from 1/25 up to 1 at `peak_step`, and along half a cosine down to
    /// 1/250,000 in the last step. `start` and `end` are the factors at the ends of the current half, and
    /// `progress` is the share of it that is done.
    fn one_cycle(&self, steps_done: u64) -> f64 {
        let peak_step = self.warmup_fraction.unwrap_or(ONE_CYCLE_RISE) * self.total_steps as f64 - 1.0;
        let step = steps_done as f64;
        let [div_factor, final_div_factor] = ONE_CYCLE_DIVISORS;
        let (start, end, progress) = if step <= peak_step {
            (1.0 / div_factor, 1.0, if peak_step > 0.0 { step / peak_step } else { 1.0 })
        } else {
            // `peak_step` is -1 without warm-up: the factor falls from the first step on.
            let n_falling = self.total_steps as f64 - 1.0 - peak_step;
            (1.0, 1.0 / div_factor / final_div_factor, (step - peak_step) / n_falling)
        };
        end + (start - end) / 2.0 * ((PI * progress).cos() + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finetune::golden::Golden;

    #[test]
    fn learning_rates_equal_pytorchs() {
        let step = Schedule::Step { every_epochs: 3, gamma: 0.1 };
        let cases = [
            ("constant.warm", Schedule::Constant, Some(0.1)),
            ("step", step, None),
            ("step.warm", step, Some(0.15)),
            ("cosine", Schedule::Cosine, None),
            ("cosine.warm", Schedule::Cosine, Some(0.1)),
            ("one-cycle", Schedule::OneCycle, None),
            ("one-cycle.early", Schedule::OneCycle, Some(0.1)),
        ];
        let golden = Golden::load();
        for (name, schedule, warmup) in cases {
            let expected = golden.doubles(&format!("schedule.{name}"));
            assert_eq!(expected.len(), 70, "{name}");
            let schedule =
                WarmupSchedule { schedule, warmup_fraction: warmup, total_steps: 70, steps_per_epoch: 7 };
            for (steps_done, expected) in expected.iter().enumerate() {
                let ours = schedule.lr_factor(steps_done as u64);
                assert!(
                    (ours - expected).abs() <= 1e-12,
                    "{name}, step {steps_done}: {ours}, expected {expected}"
                );
            }
        }
    }

    #[test]
    fn every_step_has_a_positive_learning_rate_however_few_there_are() {
        let schedules = [
            Schedule::Constant,
            Schedule::Step { every_epochs: 1, gamma: 0.5 },
            Schedule::Cosine,
            Schedule::OneCycle,
        ];
        for schedule in schedules {
            for warmup in [None, Some(0.0), Some(0.1), Some(0.5), Some(1.0)] {
                for steps in 1..12 {
                    let schedule = WarmupSchedule {
                        schedule,
                        warmup_fraction: warmup,
                        total_steps: steps,
                        steps_per_epoch: 2,
                    };
                    let found: Vec<f64> =
                        (0..steps).map(|steps_done| schedule.lr_factor(steps_done)).collect();
                    assert!(found.iter().all(|rate| (1e-7..=1.0).contains(rate)), "{schedule:?}: {found:?}");
                }
            }
        }
    }
}
