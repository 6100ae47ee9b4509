//! The learning-rate range test (Smith, WACV 2017), as fastai's `lr_find`.

use headstock_inference::Progress;
use serde::Serialize;

use super::trainer::Trainer;
use super::{PreparedFinetune, with_trainer_config};
use crate::config::{Settings, TuneOptions};
use crate::error::TrainError;

/// Number of steps, each with a higher learning rate than the one before.
const STEPS: u64 = 100;
/// The head's learning rate in the first and in the last step.
const LR_RANGE: [f64; 2] = [1e-6, 10.0];
/// Decay of the moving average of the loss.
const SMOOTHING_DECAY: f64 = 0.9;
/// The test stops when the smoothed loss exceeds its lowest value by this factor.
const STOP_FACTOR: f64 = 4.0;

/// The result of a range test: the loss at rising learning rates, and suggestions for the learning rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LrCurve {
    /// One point per step, the lowest rate first.
    pub points: Vec<LrPoint>,
    /// The head's learning rate where the smoothed loss falls most steeply; `None` if it does not fall.
    pub steepest: Option<f64>,
    /// A tenth of the learning rate at which the smoothed loss is lowest; `None` if it does not fall.
    pub a_tenth_of_lowest: Option<f64>,
    /// Ratio of the learning rate of the backbone's last stage to the head's.
    pub backbone_share: f64,
}

/// A step of a range test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LrPoint {
    /// The head's learning rate.
    pub lr: f64,
    /// The loss before the step.
    pub loss: f64,
    /// Bias-corrected moving average of the loss.
    pub smoothed: f64,
}

/// Runs a learning-rate range test on the training images with the settings of `[tune]`, to help choose
/// `tune.lr`. The learning rates of the backbone stay in proportion to the head's.
///
/// # Errors
/// [`TrainError`]; [`TrainError::Usage`] if only the head is trained.
pub fn find_lr(settings: &Settings, progress: &dyn Progress) -> Result<LrCurve, TrainError> {
    let prepared_finetune = PreparedFinetune::prepare(settings, None, progress)?;
    with_trainer_config(&prepared_finetune, settings, None, progress, |config, model| {
        run_range_test(Trainer::new(config, model)?, &settings.tune, progress)
    })
}

/// Runs the learning-rate range test (Smith 2017), which shows good learning rates: trains for up to
/// [`STEPS`] steps with a learning rate that rises from step to step, stops early once the loss has grown far
/// above its lowest value, and returns the losses with suggested rates. `trainer` must not have trained
/// before and must have been made with `options`.
pub(super) fn run_range_test(
    trainer: Trainer<'_>,
    options: &TuneOptions,
    progress: &dyn Progress,
) -> Result<LrCurve, TrainError> {
    let (lr, backbone_lr) = options.learning_rates();
    let mut smoothed = SmoothedLoss::default();
    let should_stop = move |loss: f64| smoothed.push_and_check(loss);
    // The trainer takes a factor of the configured learning rates; `lr` is that of the head.
    let lr_factor = Box::new(move |steps_done| lr_at(steps_done) / lr);
    let losses = trainer.lr_range_test(lr_factor, STEPS, should_stop, progress)?;
    Ok(LrCurve { backbone_share: backbone_lr / lr, ..lr_curve(&losses) })
}

/// The head's learning rate in the step of the test after `steps_done` others: it rises geometrically from
/// the first to the last value of [`LR_RANGE`].
fn lr_at(steps_done: u64) -> f64 {
    let [first, last] = LR_RANGE;
    first * (last / first).powf(steps_done as f64 / (STEPS - 1) as f64)
}

/// Builds the result of a range test from its `losses`, one before each step, up to the first that is not
/// finite: adds the learning rate of each step, smooths the losses, and finds the suggested learning rates.
/// `backbone_share` (ratio of the backbone's to the head's learning rate) is 1 here; the caller replaces it.
fn lr_curve(losses: &[f64]) -> LrCurve {
    let mut smoothed = SmoothedLoss::default();
    let points: Vec<LrPoint> = (0..)
        .zip(losses)
        .take_while(|(_, loss)| loss.is_finite())
        .map(|(steps_done, &loss)| LrPoint { lr: lr_at(steps_done), loss, smoothed: smoothed.push(loss) })
        .collect();
    let lowest = points.iter().min_by(|a, b| a.smoothed.total_cmp(&b.smoothed));
    // The first and the lowest point, if the smoothed loss falls at all.
    let falls = points.first().zip(lowest).filter(|(first, lowest)| lowest.smoothed < first.smoothed);
    // The largest fall of the smoothed loss in one step (a negative number), and the learning rate before it.
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

/// Exponential moving average of the loss, `sum / weight`. The division corrects the bias to 0 of the first
/// averages, as in Adam.
#[derive(Default)]
struct SmoothedLoss {
    /// Moving average of the losses that starts at 0.
    sum: f64,
    /// Total weight of the losses in `sum`: 0 at the start, close to 1 after many losses.
    weight: f64,
    /// Lowest average that [`push_and_check`](Self::push_and_check) has seen.
    lowest: Option<f64>,
}

impl SmoothedLoss {
    /// Adds the loss of the next step; returns the bias-corrected exponential moving average of all losses so
    /// far, which is less noisy than a single loss.
    fn push(&mut self, loss: f64) -> f64 {
        self.sum = SMOOTHING_DECAY * self.sum + (1.0 - SMOOTHING_DECAY) * loss;
        self.weight = SMOOTHING_DECAY * self.weight + (1.0 - SMOOTHING_DECAY);
        self.sum / self.weight
    }

    /// Adds the loss of the next step; returns whether the average exceeds [`STOP_FACTOR`] times its lowest
    /// value so far: the training diverges, and the test stops.
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
    fn the_test_stops_when_the_average_is_far_above_its_lowest_value() {
        let mut smoothed = SmoothedLoss::default();
        assert!([1.0, 0.9, 0.8, 2.0, 3.0].iter().all(|&loss| !smoothed.push_and_check(loss)));
        assert!((0..20).any(|_| smoothed.push_and_check(10.0)));
    }

    #[derive(serde::Deserialize)]
    struct FindLrReference {
        losses: Vec<f64>,
        smoothed: Vec<f64>,
        steepest: f64,
        a_tenth_of_lowest: f64,
        over: usize,
    }

    // effect: train --find-lr
    #[test]
    fn suggested_learning_rates_equal_numpys() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/tuning/loop.json");
        let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let reference: FindLrReference = serde_json::from_value(json["find_lr"].clone()).unwrap();
        let found = lr_curve(&reference.losses);
        assert_eq!(found.points.len(), 100);
        for ((point, loss), smoothed) in found.points.iter().zip(&reference.losses).zip(&reference.smoothed) {
            assert!(point.loss == *loss && (point.smoothed - smoothed).abs() < 1e-9, "{point:?}, {smoothed}");
        }
        let is_close = |found: Option<f64>, expected: f64| (found.unwrap() / expected - 1.0).abs() < 1e-9;
        assert!(
            is_close(found.steepest, reference.steepest),
            "{:?}, expected {}",
            found.steepest,
            reference.steepest
        );
        assert!(
            is_close(found.a_tenth_of_lowest, reference.a_tenth_of_lowest),
            "{:?}",
            found.a_tenth_of_lowest
        );
        let mut smoothed = SmoothedLoss::default();
        assert_eq!(
            reference.losses.iter().position(|&loss| smoothed.push_and_check(loss)),
            Some(reference.over)
        );
        // A non-finite loss ends the curve and changes nothing before it.
        let truncated =
            lr_curve(&[&reference.losses[..60], &[f64::INFINITY], &reference.losses[60..]].concat());
        assert_eq!(truncated.points, found.points[..60]);
    }

    #[test]
    fn learning_rates_grow_geometrically_over_the_range() {
        let ratios: Vec<f64> =
            (1..STEPS).map(|steps_done| lr_at(steps_done) / lr_at(steps_done - 1)).collect();
        assert!(ratios.iter().all(|ratio| (ratio - 1e7f64.powf(1.0 / 99.0)).abs() < 1e-9), "{ratios:?}");
        assert!((lr_at(0) - LR_RANGE[0]).abs() < 1e-18 && (lr_at(STEPS - 1) - LR_RANGE[1]).abs() < 1e-9);
    }
}
