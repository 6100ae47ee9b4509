//! Conformal sets: as many classes as it takes to hold the true one with a stated frequency.
//!
//! A score says how badly a class goes with a photo's probabilities. Among `n + 1` photos of one kind the score of the
//! last is as likely to be at any rank as at any other; so a set of the classes whose score is at most the
//! `⌈(n + 1) coverage⌉`-th smallest of `n` photos holds the true class of a new one with a probability of at least
//! `coverage`, whatever the head and its probabilities are worth. Better ones make smaller sets.
//!
//! The `n` photos must be none that the head was fitted on: held out, or each predicted by a head that was fitted without
//! it. The promise is one on average over photos, not for each class, and it needs photos of the same kind.

use serde::{Deserialize, Serialize};

use crate::calibration::check_labels;
use crate::error::HeadError;
use crate::random::KeyedRng;

/// What the score of a class is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConformalMethod {
    /// Its probability, negative: the smallest sets on average (Sadinle, Lei and Wasserman 2019, *Least Ambiguous
    /// Set-Valued Classifiers with Bounded Error Levels*, whose score is one more: small probabilities would be lost in it
    /// to rounding). Hard photos may get an empty set.
    #[default]
    Lac,
    /// The probabilities of all classes before it, and a random share of its own: sets that are larger for harder photos
    /// (Romano, Sesia and Candès 2020, *Classification with Valid and Adaptive Coverage*). The random number is made of
    /// the bits of the photo's own probabilities: the same photo has the same set whatever is beside it.
    Aps,
}

impl ConformalMethod {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lac => "lac",
            Self::Aps => "aps",
        }
    }

    /// The score of each class, `[C]`.
    fn scores(self, row: &[f32]) -> Vec<f32> {
        match self {
            Self::Lac => row.iter().map(|p| -p).collect(),
            Self::Aps => {
                let key: Vec<u64> = row.iter().map(|p| u64::from(p.to_bits())).collect();
                let random_share = 1.0 - KeyedRng::new(&key).uniform();
                let mut order: Vec<usize> = (0..row.len()).collect();
                order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
                let mut scores = vec![0.0; row.len()];
                let mut mass_before = 0.0;
                for class in order {
                    let probability = f64::from(row[class]);
                    scores[class] = (mass_before + random_share * probability) as f32;
                    mass_before += probability;
                }
                scores
            }
        }
    }
}

/// The scores of the true classes of some photos, by each method.
#[derive(Clone, Debug, PartialEq)]
pub struct ConformalScores {
    lac: Vec<f32>,
    aps: Vec<f32>,
}

impl ConformalScores {
    /// Takes the scores of `probabilities` `[N, C]`, row-major, of photos that the head was not fitted on, and their
    /// labels `[N]`.
    ///
    /// ```
    /// use headstock_heads::conformal::{Conformal, SetMethod};
    ///
    /// // 19 photos: all but one are told with 0.9, one is told wrong.
    /// let row = [0.9, 0.08, 0.02];
    /// let labels: Vec<u32> = (0..19).map(|photo| u32::from(photo == 0)).collect();
    /// let conformal = Conformal::fit(&row.repeat(19), &labels)?;
    /// assert_eq!(conformal.sets(0.9, SetMethod::Lac)?.of(&row), [0]);
    /// assert_eq!(conformal.sets(0.95, SetMethod::Lac)?.of(&row), [0, 1]);
    /// # Ok::<(), headstock_heads::HeadError>(())
    /// ```
    ///
    /// # Errors
    /// [`HeadError::Data`] for no row, rows that are not of one length, a label that is not below `C`, and a value that
    /// is no probability.
    pub fn fit(probabilities: &[f32], labels: &[u32]) -> Result<Self, HeadError> {
        let classes = probabilities.len() / labels.len().max(1);
        let rows = probabilities.len().checked_div(classes).unwrap_or_default();
        if rows * classes != probabilities.len() {
            return Err(HeadError::Data(format!(
                "{} probabilities are not a row for each of {} labels",
                probabilities.len(),
                labels.len()
            )));
        }
        check_labels(rows, classes, labels)?;
        if let Some(index) = probabilities.iter().position(|p| !(0.0..=1.0).contains(p)) {
            let (row, class) = (index / classes, index % classes);
            return Err(HeadError::Data(format!(
                "{} in row {row} is no probability of class {class}",
                probabilities[index]
            )));
        }
        let sorted_scores = |method: ConformalMethod| {
            let rows = probabilities.chunks_exact(classes).zip(labels);
            let mut sorted: Vec<f32> = rows.map(|(row, &label)| method.scores(row)[label as usize]).collect();
            sorted.sort_by(f32::total_cmp);
            sorted
        };
        Ok(Self { lac: sorted_scores(ConformalMethod::Lac), aps: sorted_scores(ConformalMethod::Aps) })
    }

    /// Back from the [`scores`](Self::scores) of each method.
    ///
    /// # Errors
    /// [`HeadError::Data`] where they are not numbers in ascending order, as many of one as of the other, or none.
    pub fn from_scores(lac: Vec<f32>, aps: Vec<f32>) -> Result<Self, HeadError> {
        for (scores, method) in [(&lac, ConformalMethod::Lac), (&aps, ConformalMethod::Aps)] {
            if scores.is_empty() || scores.iter().any(|score| !score.is_finite()) || !scores.is_sorted() {
                let name = method.as_str();
                return Err(HeadError::Data(format!(
                    "the scores of {name} are not numbers in ascending order"
                )));
            }
        }
        if lac.len() != aps.len() {
            return Err(HeadError::Data(format!(
                "there are {} scores of lac, but {} of aps",
                lac.len(),
                aps.len()
            )));
        }
        Ok(Self { lac, aps })
    }

    /// The scores by a method, ascending, `[N]`.
    #[must_use]
    pub fn scores(&self, method: ConformalMethod) -> &[f32] {
        match method {
            ConformalMethod::Lac => &self.lac,
            ConformalMethod::Aps => &self.aps,
        }
    }

    /// The sets that hold the true class with a frequency of `coverage`. Where there are too few scores to promise it
    /// (fewer than `coverage / (1 - coverage)`: 9 for 0.9) every set is all classes.
    ///
    /// # Errors
    /// [`HeadError::Data`] when `coverage` does not lie between 0 and 1.
    pub fn set_predictor(&self, coverage: f64, method: ConformalMethod) -> Result<SetPredictor, HeadError> {
        if !(coverage > 0.0 && coverage < 1.0) {
            return Err(HeadError::Data(format!(
                "a coverage of {coverage} cannot be promised: it must lie between 0 and 1, as 0.9 does"
            )));
        }
        let scores = self.scores(method);
        // What is a whole number but for rounding is that number.
        let rank = ((scores.len() + 1) as f64 * coverage - 1e-9).ceil().max(1.0) as usize;
        Ok(SetPredictor { method, threshold: scores.get(rank - 1).copied() })
    }
}

/// Makes sets of one coverage and method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SetPredictor {
    method: ConformalMethod,
    /// The highest score of a class in a set; without one all classes are.
    threshold: Option<f32>,
}

impl SetPredictor {
    /// The classes that go with a photo's probabilities, `[C]`; the most probable first, among equals the lowest
    /// number. There may be none.
    #[must_use]
    pub fn predict(&self, probabilities: &[f32]) -> Vec<u32> {
        let scores = self.method.scores(probabilities);
        let is_in_set =
            |class: &u32| self.threshold.is_none_or(|threshold| scores[*class as usize] <= threshold);
        let mut classes: Vec<u32> = (0..probabilities.len() as u32).filter(is_in_set).collect();
        classes.sort_by(|&a, &b| probabilities[b as usize].total_cmp(&probabilities[a as usize]));
        classes
    }
}

#[cfg(test)]
mod tests;
