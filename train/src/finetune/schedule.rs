//! How the learning rate changes from step to step.

use std::f64::consts::PI;

/// The course of the learning rate after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Schedule {
    /// It stays.
    Constant,
    /// It falls at once after every so many epochs, counted from the end of the warm-up, as PyTorch's `StepLR`.
    Step {
        /// Epochs between two falls, at least 1.
        every_epochs: u64,
        /// What it is multiplied by.
        gamma: f64,
    },
    /// Down to near 0 along half a cosine (Loshchilov and Hutter, ICLR 2017), as PyTorch's `CosineAnnealingLR` step by step.
    Cosine,
    /// Up from a 25th and down to a 250,000th, both along half a cosine (Smith and Topin 2019), as PyTorch's `OneCycleLR`. The
    /// momentum stays as it is.
    OneCycle,
}

/// What a warm-up starts from, as in torchvision's training script.
const WARMUP_START_FACTOR: f64 = 0.01;
/// Part of all steps in which the rate of [`Schedule::OneCycle`] rises, PyTorch's and fastai's.
const ONE_CYCLE_RISE: f64 = 0.3;
/// What the highest rate of [`Schedule::OneCycle`] is of its first, and its first of its last: PyTorch's.
const ONE_CYCLE_DIVISORS: [f64; 2] = [25.0, 1e4];

/// The learning rate of every step of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct WarmupSchedule {
    /// The course after the warm-up.
    pub(super) schedule: Schedule,
    /// Part of all steps, from 0 to 1, in which the rate rises along a line from a hundredth (PyTorch's `LinearLR`, then the
    /// schedule by `SequentialLR`). [`Schedule::OneCycle`] rises by itself: there it is the part of that rise, 0.3 without it.
    pub(super) warmup_fraction: Option<f64>,
    /// Steps of the whole run.
    pub(super) total_steps: u64,
    /// Steps of an epoch, at least 1.
    pub(super) steps_per_epoch: u64,
}

impl WarmupSchedule {
    /// What the highest rate is multiplied by in the step after `done` others.
    #[must_use]
    pub(super) fn lr_factor(&self, done: u64) -> f64 {
        if self.schedule == Schedule::OneCycle {
            return self.one_cycle(done);
        }
        let warm = (self.warmup_fraction.unwrap_or(0.0) * self.total_steps as f64).round() as u64;
        if done < warm {
            return WARMUP_START_FACTOR + (1.0 - WARMUP_START_FACTOR) * done as f64 / warm as f64;
        }
        let at = done - warm;
        match self.schedule {
            Schedule::Constant | Schedule::OneCycle => 1.0,
            Schedule::Step { every_epochs: every, gamma } => {
                let falls = at / every.max(1).saturating_mul(self.steps_per_epoch.max(1));
                gamma.powf(falls as f64)
            }
            Schedule::Cosine => {
                0.5 * (1.0 + (PI * at as f64 / self.total_steps.saturating_sub(warm).max(1) as f64).cos())
            }
        }
    }

    fn one_cycle(&self, done: u64) -> f64 {
        let top = self.warmup_fraction.unwrap_or(ONE_CYCLE_RISE) * self.total_steps as f64 - 1.0;
        let at = done as f64;
        let first = 1.0 / ONE_CYCLE_DIVISORS[0];
        let (from, to, part) = if at <= top {
            (first, 1.0, if top > 0.0 { at / top } else { 1.0 })
        } else {
            // A rise of no step has its top before the first one.
            (1.0, first / ONE_CYCLE_DIVISORS[1], (at - top) / (self.total_steps as f64 - 1.0 - top))
        };
        to + (from - to) / 2.0 * ((PI * part).cos() + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finetune::golden::Golden;

    #[test]
    fn every_rate_is_pytorchs() {
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
            let oracle = golden.doubles(&format!("schedule.{name}"));
            assert_eq!(oracle.len(), 70, "{name}");
            let rates =
                WarmupSchedule { schedule, warmup_fraction: warmup, total_steps: 70, steps_per_epoch: 7 };
            for (done, oracle) in oracle.iter().enumerate() {
                let ours = rates.lr_factor(done as u64);
                assert!((ours - oracle).abs() <= 1e-12, "{name}, step {done}: {ours}, expected {oracle}");
            }
        }
    }

    #[test]
    fn every_step_has_a_rate_above_0_however_few_there_are() {
        let schedules = [
            Schedule::Constant,
            Schedule::Step { every_epochs: 1, gamma: 0.5 },
            Schedule::Cosine,
            Schedule::OneCycle,
        ];
        for schedule in schedules {
            for warmup in [None, Some(0.0), Some(0.1), Some(0.5), Some(1.0)] {
                for steps in 1..12 {
                    let rates = WarmupSchedule {
                        schedule,
                        warmup_fraction: warmup,
                        total_steps: steps,
                        steps_per_epoch: 2,
                    };
                    let found: Vec<f64> = (0..steps).map(|done| rates.lr_factor(done)).collect();
                    assert!(found.iter().all(|rate| (1e-7..=1.0).contains(rate)), "{rates:?}: {found:?}");
                }
            }
        }
    }
}
