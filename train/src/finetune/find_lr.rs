//! Which learning rates are worth trying: the range test (Smith, WACV 2017), as fastai's `lr_find` does it.

use serde::Serialize;

use super::trainer::Trainer;
use super::{PreparedFinetune, with_trainer_config};
use crate::config::{Settings, TuneOptions};
use crate::error::TrainError;
use crate::progress::Progress;

/// Steps, each with a higher rate than the one before.
const STEPS: u64 = 100;
/// The head's rate in the first step and in the last one.
const LR_RANGE: [f64; 2] = [1e-6, 10.0];
/// What of earlier losses is in the smoothed one.
const SMOOTHING_DECAY: f64 = 0.9;
/// How many times the lowest loss is too much.
const STOP_FACTOR: f64 = 4.0;

/// How the loss goes as the learning rate rises.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LrCurve {
    /// A step each, the lowest rate first.
    pub points: Vec<LrPoint>,
    /// The head's rate where the smoothed loss falls most steeply; none where it does not fall.
    pub steepest: Option<f64>,
    /// A tenth of the rate at which the smoothed loss is lowest; none where it does not fall.
    pub a_tenth_of_lowest: Option<f64>,
    /// What the rate of the backbone's last stage is of the head's.
    pub backbone_share: f64,
}

/// A step of a range test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LrPoint {
    /// The head's learning rate.
    pub lr: f64,
    /// The loss before the step.
    pub loss: f64,
    /// The moving average of the losses until here.
    pub smoothed: f64,
}

/// Tries learning rates from tiny to large on the training photos, as `[tune]` would train. The rates of the backbone keep their
/// shares of the head's.
///
/// # Errors
/// [`TrainError`]; [`TrainError::Usage`] where nothing is tuned.
pub fn find_lr(settings: &Settings, progress: &dyn Progress) -> Result<LrCurve, TrainError> {
    let ready = PreparedFinetune::new(settings, false, progress)?;
    with_trainer_config(&ready, settings, None, progress, |setup, network| {
        run_range_test(Trainer::new(setup, network)?, &settings.options.tune, progress)
    })
}

/// The curve of a course that has not begun.
pub(super) fn run_range_test(
    course: Trainer<'_>,
    options: &TuneOptions,
    progress: &dyn Progress,
) -> Result<LrCurve, TrainError> {
    let (lr, backbone_lr) = options.learning_rates();
    let mut average = SmoothedLoss::default();
    let is_over = move |loss: f64| average.push_and_check(loss);
    let losses = course.lr_range_test(Box::new(move |done| lr_at(done) / lr), STEPS, is_over, progress)?;
    Ok(LrCurve { backbone_share: backbone_lr / lr, ..lr_curve(&losses) })
}

fn lr_at(done: u64) -> f64 {
    let [first, last] = LR_RANGE;
    first * (last / first).powf(done as f64 / (STEPS - 1) as f64)
}

fn lr_curve(losses: &[f64]) -> LrCurve {
    let mut average = SmoothedLoss::default();
    let points: Vec<LrPoint> = (0..)
        .zip(losses)
        .take_while(|(_, loss)| loss.is_finite())
        .map(|(done, &loss)| LrPoint { lr: lr_at(done), loss, smoothed: average.push(loss) })
        .collect();
    let lowest = points.iter().min_by(|a, b| a.smoothed.total_cmp(&b.smoothed));
    let falls = points.first().zip(lowest).filter(|(first, lowest)| lowest.smoothed < first.smoothed);
    let steepest = points
        .windows(2)
        .map(|pair| (pair[1].smoothed - pair[0].smoothed, pair[0].lr))
        .min_by(|a, b| a.0.total_cmp(&b.0));
    LrCurve {
        steepest: falls.and(steepest).map(|(_, lr)| lr),
        a_tenth_of_lowest: falls.map(|(_, lowest)| lowest.lr / 10.0),
        points,
        backbone_share: 1.0,
    }
}

/// A moving average without the weight of its start.
#[derive(Default)]
struct SmoothedLoss {
    sum: f64,
    weight: f64,
    lowest: Option<f64>,
}

impl SmoothedLoss {
    fn push(&mut self, loss: f64) -> f64 {
        self.sum = SMOOTHING_DECAY * self.sum + (1.0 - SMOOTHING_DECAY) * loss;
        self.weight = SMOOTHING_DECAY * self.weight + (1.0 - SMOOTHING_DECAY);
        self.sum / self.weight
    }

    /// Whether the average, with one more loss, is far above its lowest.
    fn push_and_check(&mut self, loss: f64) -> bool {
        let smoothed = self.push(loss);
        let lowest = self.lowest.map_or(smoothed, |lowest| lowest.min(smoothed));
        self.lowest = Some(lowest);
        smoothed > STOP_FACTOR * lowest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steepest_fall_and_the_lowest_point_are_found() {
        // Flat, down over ten steps, flat, up.
        let losses: Vec<f64> = (0..100)
            .map(|step| match step {
                0..40 => 2.0,
                40..50 => 2.0 - 0.15 * f64::from(step - 39),
                50..80 => 0.5,
                _ => 0.5 + 0.5 * f64::from(step - 79),
            })
            .collect();
        let curve = lr_curve(&losses);
        assert_eq!(curve.points.len(), 100);
        let steepest = curve.steepest.unwrap();
        assert!((lr_at(40)..lr_at(53)).contains(&steepest), "{steepest}");
        let lowest = 10.0 * curve.a_tenth_of_lowest.unwrap();
        assert!((lr_at(70)..lr_at(82)).contains(&lowest), "{lowest}");
        assert!(curve.points[99].smoothed > curve.points[0].smoothed);
    }

    #[test]
    fn a_loss_that_only_rises_suggests_nothing() {
        let losses: Vec<f64> = (0..10).map(f64::from).chain([f64::NAN]).collect();
        let curve = lr_curve(&losses);
        assert_eq!((curve.points.len(), curve.steepest, curve.a_tenth_of_lowest), (10, None, None));
    }

    #[test]
    fn a_test_is_over_where_the_average_is_far_above_its_lowest() {
        let mut average = SmoothedLoss::default();
        assert!([1.0, 0.9, 0.8, 2.0, 3.0].iter().all(|&loss| !average.push_and_check(loss)));
        assert!((0..20).any(|_| average.push_and_check(10.0)));
    }

    #[derive(serde::Deserialize)]
    struct Golden {
        losses: Vec<f64>,
        smoothed: Vec<f64>,
        steepest: f64,
        a_tenth_of_lowest: f64,
        over: usize,
    }

    // effect: train --find-lr
    #[test]
    fn the_rates_that_a_curve_suggests_are_numpys() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/tuning/loop.json");
        let all: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let golden: Golden = serde_json::from_value(all["find_lr"].clone()).unwrap();
        let found = lr_curve(&golden.losses);
        assert_eq!(found.points.len(), 100);
        for ((point, loss), smoothed) in found.points.iter().zip(&golden.losses).zip(&golden.smoothed) {
            assert!(point.loss == *loss && (point.smoothed - smoothed).abs() < 1e-9, "{point:?}, {smoothed}");
        }
        let near = |found: Option<f64>, expected: f64| (found.unwrap() / expected - 1.0).abs() < 1e-9;
        assert!(near(found.steepest, golden.steepest), "{:?}, expected {}", found.steepest, golden.steepest);
        assert!(near(found.a_tenth_of_lowest, golden.a_tenth_of_lowest), "{:?}", found.a_tenth_of_lowest);
        let mut average = SmoothedLoss::default();
        assert_eq!(golden.losses.iter().position(|&loss| average.push_and_check(loss)), Some(golden.over));
        // A loss that is not finite ends the curve, and changes nothing before it.
        let cut = lr_curve(&[&golden.losses[..60], &[f64::INFINITY], &golden.losses[60..]].concat());
        assert_eq!(cut.points, found.points[..60]);
    }

    #[test]
    fn rates_go_from_one_end_to_the_other() {
        let ratios: Vec<f64> = (1..STEPS).map(|done| lr_at(done) / lr_at(done - 1)).collect();
        assert!(ratios.iter().all(|ratio| (ratio - 1e7f64.powf(1.0 / 99.0)).abs() < 1e-9), "{ratios:?}");
        assert!((lr_at(0) - LR_RANGE[0]).abs() < 1e-18 && (lr_at(STEPS - 1) - LR_RANGE[1]).abs() < 1e-9);
    }
}
