//! A candidate in a fold, and in all of them.

use std::cmp::Ordering;
use std::time::Instant;

use headstock_heads::{
    Calibration, CalibrationMethod, ConfiguredHead, FeatureMatrix, FitContext, Fitted, HeadError, Logits,
    Tensors, TrainingSet,
};
use headstock_loader::SplitIndices;

use super::bootstrap::Compared;
use super::heard::hearing;
use super::outcome::{Chosen, Criterion, Judged};
use crate::metrics::Predictions;
use crate::score::{Figures, Score};

/// What came of trying something.
pub(super) enum Attempt<T> {
    Done(T),
    Failed(String),
    LeftOut,
}

impl<T> Attempt<T> {
    pub(super) fn map<U>(self, with: impl FnOnce(T) -> U) -> Attempt<U> {
        match self {
            Self::Done(value) => Attempt::Done(with(value)),
            Self::Failed(error) => Attempt::Failed(error),
            Self::LeftOut => Attempt::LeftOut,
        }
    }
}

impl Attempt<Vec<Trial>> {
    /// Adds a fold. Once a candidate has failed or is left out, it stays so.
    pub(super) fn add(&mut self, fold: Attempt<Trial>) {
        if let Self::Done(trials) = self {
            match fold {
                Attempt::Done(trial) => trials.push(trial),
                Attempt::Failed(error) => *self = Self::Failed(error),
                Attempt::LeftOut => *self = Self::LeftOut,
            }
        }
    }
}

/// What a candidate made of a fold.
pub(super) struct Trial {
    /// Of the samples tested, `[n, C]`.
    logits: Logits,
    pub(super) fit_seconds: f64,
    predict_seconds: f64,
    bytes: u64,
    chosen: Vec<(&'static str, f64)>,
    warnings: Vec<String>,
}

/// Fits a head and lets it predict.
pub(super) fn run(
    head: &dyn ConfiguredHead,
    training: &TrainingSet<'_>,
    tested: FeatureMatrix<'_>,
) -> Attempt<Trial> {
    let (trial, warnings) = hearing(|| fit_and_predict(head, training, tested));
    match trial {
        Ok(trial) => Attempt::Done(Trial { warnings, ..trial }),
        Err(error) => Attempt::Failed(error.to_string()),
    }
}

fn fit_and_predict(
    head: &dyn ConfiguredHead,
    training: &TrainingSet<'_>,
    tested: FeatureMatrix<'_>,
) -> Result<Trial, HeadError> {
    let started = Instant::now();
    let Fitted { head, chosen, .. } = head.fit(training, &FitContext::silent())?;
    let fit_seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let logits = head.logits(tested)?;
    let predict_seconds = started.elapsed().as_secs_f64();
    if logits.as_slice().iter().any(|logit| !logit.is_finite()) {
        return Err(HeadError::Diverged("it gives logits that are not finite".into()));
    }
    let bytes = bytes(&head.tensors()?);
    Ok(Trial { logits, fit_seconds, predict_seconds, bytes, chosen, warnings: Vec::new() })
}

fn bytes(tensors: &Tensors) -> u64 {
    tensors.values().map(|tensor| (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64).sum()
}

/// What a candidate made of all samples.
pub(super) struct Scored {
    /// Of each sample, `[N]`.
    pub(super) scores: Vec<Score>,
    temperatures: Vec<f64>,
    fit_seconds: f64,
    predict_seconds: f64,
    bytes: u64,
    chosen: Vec<Chosen>,
    warnings: Vec<String>,
}

impl Scored {
    /// Of a trial a fold.
    pub(super) fn new(trials: &[Trial], splits: &[SplitIndices], labels: &[u32]) -> Self {
        let tested: Vec<Vec<u32>> =
            splits.iter().map(|split| split.test.iter().map(|&sample| labels[sample]).collect()).collect();
        let mut scores = vec![Score::default(); labels.len()];
        let mut temperatures: Vec<f64> = Vec::with_capacity(trials.len());
        for (fold, trial) in trials.iter().enumerate() {
            let others = (0..trials.len()).filter(|&other| other != fold);
            let (mut logits, mut of_others) = (Vec::new(), Vec::new());
            for other in others {
                logits.extend_from_slice(trials[other].logits.as_slice());
                of_others.extend_from_slice(&tested[other]);
            }
            let calibration = Logits::new(logits, trial.logits.classes())
                .and_then(|logits| Calibration::fit(CalibrationMethod::Temperature, &logits, &of_others))
                .expect("logits are finite, and each has a label");
            temperatures.push(calibration.temperature().unwrap_or(1.0));
            let of_fold = Predictions::calibrated(&trial.logits, &calibration)
                .expect("logits are finite, of as many classes")
                .scores(&tested[fold]);
            for (&sample, score) in splits[fold].test.iter().zip(of_fold) {
                scores[sample] = score;
            }
        }
        let mut warnings: Vec<String> = trials.iter().flat_map(|trial| trial.warnings.clone()).collect();
        warnings.sort_unstable();
        warnings.dedup();
        Self {
            scores,
            temperatures,
            fit_seconds: median(trials.iter().map(|trial| trial.fit_seconds).collect()),
            predict_seconds: median(trials.iter().map(|trial| trial.predict_seconds).collect()),
            bytes: trials.iter().map(|trial| trial.bytes).max().unwrap_or(0),
            chosen: chosen(trials),
            warnings,
        }
    }

    /// Which of two is before the other: the better one; by the other figure where they are equal.
    pub(super) fn order(&self, other: &Self, by: Criterion, classes: usize) -> Ordering {
        let [a, b] = [self, other].map(|scored| Figures::of(&scored.scores, classes, |_| 1));
        let less_loss = a.log_loss.total_cmp(&b.log_loss);
        match by {
            Criterion::Accuracy => b.accuracy.total_cmp(&a.accuracy).then(less_loss),
            Criterion::MacroF1 => b.macro_f1.total_cmp(&a.macro_f1).then(less_loss),
            Criterion::LogLoss => less_loss.then(b.accuracy.total_cmp(&a.accuracy)),
        }
    }

    pub(super) fn judged(self, figures: &Compared, by: Criterion) -> Judged {
        let Compared { accuracy, macro_f1, log_loss, ece } = *figures;
        let judged = Judged {
            accuracy,
            macro_f1,
            log_loss,
            ece,
            tied: false,
            temperatures: self.temperatures,
            fit_seconds: self.fit_seconds,
            predict_seconds: self.predict_seconds,
            bytes: self.bytes,
            chosen: self.chosen,
            warnings: self.warnings,
        };
        let to_best = judged.by(by).to_best;
        Judged { tied: to_best.low <= 0.0 && to_best.high >= 0.0, ..judged }
    }
}

fn chosen(trials: &[Trial]) -> Vec<Chosen> {
    let first = trials.first().map(|trial| trial.chosen.as_slice()).unwrap_or_default();
    let of_all = |name: &str| {
        let all = trials.iter().flat_map(|trial| &trial.chosen);
        all.filter(|(parameter, _)| *parameter == name).map(|(_, value)| *value).collect()
    };
    first
        .iter()
        .map(|(parameter, _)| Chosen { parameter: (*parameter).to_owned(), values: of_all(parameter) })
        .collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(median(vec![5.0, 1.0, 3.0]), 3.0);
        assert_eq!(median(vec![8.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!((median(vec![4.0]), median(Vec::new())), (4.0, 0.0));
    }

    fn trial(logits: &[f32], seconds: f64, bytes: u64, chosen: f64, warning: &str) -> Trial {
        Trial {
            logits: Logits::new(logits.to_vec(), 2).unwrap(),
            fit_seconds: seconds,
            predict_seconds: seconds / 4.0,
            bytes,
            chosen: vec![("C", chosen)],
            warnings: vec![warning.into(), "always".into()],
        }
    }

    #[test]
    fn what_the_folds_give_is_put_together() {
        let splits = [[1, 2], [0, 3]].map(|test| SplitIndices { train: Vec::new(), test: test.to_vec() });
        let trials = [
            trial(&[3.0, 0.0, 0.0, 3.0], 4.0, 12, 0.5, "b"),
            trial(&[0.0, 3.0, 0.0, 1.0], 2.0, 16, 2.0, "a"),
        ];
        let scored = Scored::new(&trials, &splits, &[1, 0, 1, 0]);
        assert_eq!((scored.fit_seconds, scored.predict_seconds, scored.bytes), (3.0, 0.75, 16));
        assert_eq!(scored.chosen, [Chosen { parameter: "C".into(), values: vec![0.5, 2.0] }]);
        assert_eq!(scored.warnings, ["a", "always", "b"]);
        // Each row is where its sample is: only sample 3 is taken for the other class.
        let hits = Figures::of(&scored.scores, 2, |_| 1).accuracy;
        assert_eq!(hits, 0.75);
        assert_eq!(Figures::of(&scored.scores, 2, |sample| u32::from(sample == 3)).accuracy, 0.0);
        // By the first fold, both right and as sure: two right of two are worth a probability of 3 / 4.
        assert!((scored.temperatures[1] - 3.0 / 3f64.ln()).abs() < 1e-4, "{:?}", scored.temperatures);
        // By the second, of which one is right by 3 and one is wrong by 1: where the loss has no slope.
        let says = |by: f64| 1.0 / (1.0 + (-by / scored.temperatures[0]).exp());
        assert!((3.0 * (1.0 - says(3.0)) - says(1.0)).abs() < 1e-4, "{:?}", scored.temperatures);
    }

    #[test]
    fn a_candidate_that_failed_in_a_fold_has_failed() {
        let done = || Attempt::Done(trial(&[1.0, 0.0], 1.0, 1, 1.0, ""));
        let after = |folds: Vec<Attempt<Trial>>| {
            let mut all = Attempt::Done(Vec::new());
            folds.into_iter().for_each(|fold| all.add(fold));
            match all {
                Attempt::Done(trials) => format!("{} folds", trials.len()),
                Attempt::Failed(error) => error,
                Attempt::LeftOut => "left out".into(),
            }
        };
        assert_eq!(after(vec![done(), done()]), "2 folds");
        assert_eq!(after(vec![done(), Attempt::Failed("no".into()), done()]), "no");
        assert_eq!(after(vec![Attempt::Failed("no".into()), Attempt::LeftOut]), "no");
        assert_eq!(after(vec![Attempt::LeftOut, done()]), "left out");
    }

    #[test]
    fn bytes_are_those_of_all_tensors() {
        let zeros = |shape: (usize, usize), dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
        let tensors = Tensors::from([
            ("a".into(), zeros((3, 5), DType::F32)),
            ("b".into(), zeros((2, 2), DType::F64)),
            ("c".into(), zeros((7, 1), DType::U8)),
        ]);
        assert_eq!(bytes(&tensors), 60 + 32 + 7);
    }
}
