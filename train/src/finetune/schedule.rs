//! Learning-rate schedules.

use std::f64::consts::PI;

use crate::config::ScheduleKind;

/// First factor of a warm-up, as in torchvision's training script.
const WARMUP_START_FACTOR: f64 = 0.01;
/// Share of all steps in which [`ScheduleKind::OneCycle`] rises, as PyTorch's and fastai's `pct_start`.
const ONE_CYCLE_RISE: f64 = 0.3;
/// Ratios of the peak of [`ScheduleKind::OneCycle`] to its first value, and of that to its last: PyTorch's
/// `div_factor` and `final_div_factor`.
const ONE_CYCLE_DIVISORS: [f64; 2] = [25.0, 1e4];

/// A schedule with a warm-up, as a factor of the peak learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Schedule {
    /// The shape after the warm-up.
    pub(super) kind: ScheduleKind,
    /// With [`ScheduleKind::Step`]: epochs between two drops, counted from the end of the warm-up, at least 1.
    pub(super) step_epochs: u64,
    /// With [`ScheduleKind::Step`]: factor of each drop.
    pub(super) step_gamma: f64,
    /// Share of all steps, from 0 to 1, in which the rate rises linearly from 1/100 (PyTorch's `LinearLR`,
    /// followed by the schedule as with `SequentialLR`). For [`ScheduleKind::OneCycle`] the share of its
    /// rise, 0.3 by default.
    pub(super) warmup_fraction: Option<f64>,
    /// Steps of the whole run.
    pub(super) total_steps: u64,
    /// Steps of an epoch, at least 1.
    pub(super) steps_per_epoch: u64,
}

impl Schedule {
    /// The factor, from 0 to 1, of the peak learning rates in the optimizer step that comes after
    /// `steps_done` steps: a linear rise during the warm-up, then the shape of the schedule.
    #[must_use]
    pub(super) fn lr_factor(&self, steps_done: u64) -> f64 {
        if self.kind == ScheduleKind::OneCycle {
            return self.one_cycle(steps_done);
        }
        let warmup_steps = (self.warmup_fraction.unwrap_or(0.0) * self.total_steps as f64).round() as u64;
        if steps_done < warmup_steps {
            return WARMUP_START_FACTOR
                + (1.0 - WARMUP_START_FACTOR) * steps_done as f64 / warmup_steps as f64;
        }
        let steps_after_warmup = steps_done - warmup_steps;
        match self.kind {
            // `OneCycle` has returned above.
            ScheduleKind::Constant | ScheduleKind::OneCycle => 1.0,
            // `step_gamma` to the power of the number of drops so far, as PyTorch's `StepLR`.
            ScheduleKind::Step => {
                let steps_between_drops = self.step_epochs.max(1).saturating_mul(self.steps_per_epoch.max(1));
                self.step_gamma.powf((steps_after_warmup / steps_between_drops) as f64)
            }
            // `(1 + cos(π t)) / 2`, where `t` is the share done of the steps after the warm-up (Loshchilov and
            // Hutter, ICLR 2017), as PyTorch's `CosineAnnealingLR` per step.
            ScheduleKind::Cosine => {
                let n_steps = self.total_steps.saturating_sub(warmup_steps).max(1);
                0.5 * (1.0 + (PI * steps_after_warmup as f64 / n_steps as f64).cos())
            }
        }
    }

    /// The factor of the learning rate in [`ScheduleKind::OneCycle`] (Smith and Topin 2019; PyTorch's
    /// `OneCycleLR` with constant momentum) when `steps_done` steps are done: along half a cosine from 1/25 up to 1 at `peak_step`, and along half a cosine down to
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
        let cases = [
            ("constant.warm", ScheduleKind::Constant, Some(0.1)),
            ("step", ScheduleKind::Step, None),
            ("step.warm", ScheduleKind::Step, Some(0.15)),
            ("cosine", ScheduleKind::Cosine, None),
            ("cosine.warm", ScheduleKind::Cosine, Some(0.1)),
            ("one-cycle", ScheduleKind::OneCycle, None),
            ("one-cycle.early", ScheduleKind::OneCycle, Some(0.1)),
        ];
        let golden = Golden::load();
        for (name, kind, warmup_fraction) in cases {
            let expected = golden.doubles(&format!("schedule.{name}"));
            assert_eq!(expected.len(), 70, "{name}");
            let schedule = Schedule {
                kind,
                step_epochs: 3,
                step_gamma: 0.1,
                warmup_fraction,
                total_steps: 70,
                steps_per_epoch: 7,
            };
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
        let kinds =
            [ScheduleKind::Constant, ScheduleKind::Step, ScheduleKind::Cosine, ScheduleKind::OneCycle];
        for kind in kinds {
            for warmup_fraction in [None, Some(0.0), Some(0.1), Some(0.5), Some(1.0)] {
                for steps in 1..12 {
                    let schedule = Schedule {
                        kind,
                        step_epochs: 1,
                        step_gamma: 0.5,
                        warmup_fraction,
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
