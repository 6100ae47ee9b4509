//! Conformal sets: the smallest sets of classes that contain the true class with a given frequency.
//!
//! A score measures how badly a class fits a photo's probabilities. Among `n + 1` exchangeable photos every
//! rank of the last one's score is equally likely. So the set of classes whose score is at most the
//! `⌈(n + 1) coverage⌉`-th smallest of the `n` calibration scores contains the true class of a new photo with
//! probability at least `coverage`, for any head. Better probabilities give smaller sets.
//!
//! The `n` photos must not be among those that the head was fitted on: use held-out photos, or predict each
//! photo with a head that was fitted without it. Coverage holds on average over photos, not for each class,
//! and needs photos from the same distribution.

use serde::{Deserialize, Serialize};

use crate::calibration::check_labels;
use crate::error::HeadError;
use crate::random::KeyedRng;

/// How the score of a class is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConformalMethod {
    /// Least ambiguous set-valued classifier: the negative probability. Smallest sets on average (Sadinle,
    /// Lei and Wasserman 2019, *Least Ambiguous Set-Valued Classifiers with Bounded Error Levels*; its score
    /// is one higher, which would lose small probabilities to rounding). Hard photos may get an empty set.
    #[default]
    Lac,
    /// Adaptive prediction sets: the total probability of all more probable classes plus a random share of
    /// the class's own. Harder photos get larger sets (Romano, Sesia and Candès 2020, *Classification with
    /// Valid and Adaptive Coverage*). The random number is derived from the bits of the photo's
    /// probabilities, so a photo always gets the same set.
    Aps,
}

impl ConformalMethod {
    /// Name of the method.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lac => "lac",
            Self::Aps => "aps",
        }
    }

    /// The score of each class, `[C]`, from the probabilities of a photo, `[C]`.
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

/// Conformity scores of the true classes of the calibration photos, for each method.
#[derive(Clone, Debug, PartialEq)]
pub struct ConformalScores {
    lac: Vec<f32>,
    aps: Vec<f32>,
}

impl ConformalScores {
    /// Computes the scores from `probabilities` `[N, C]` (row-major) of photos that the head was not fitted
    /// on, and their labels `[N]`.
    ///
    /// ```
    /// use headstock_heads::conformal::{ConformalMethod, ConformalScores};
    ///
    /// // 19 photos: all but one are predicted correctly with probability 0.9.
    /// let row = [0.9, 0.08, 0.02];
    /// let labels: Vec<u32> = (0..19).map(|photo| u32::from(photo == 0)).collect();
    /// let conformal = ConformalScores::fit(&row.repeat(19), &labels)?;
    /// assert_eq!(conformal.set_predictor(0.9, ConformalMethod::Lac)?.predict(&row), [0]);
    /// assert_eq!(conformal.set_predictor(0.95, ConformalMethod::Lac)?.predict(&row), [0, 1]);
    /// # Ok::<(), headstock_heads::HeadError>(())
    /// ```
    ///
    /// # Errors
    /// [`HeadError::Data`] for no rows, rows of unequal length, a label that is not below `C`, or a value
    /// that is not a probability.
    pub fn fit(probabilities: &[f32], labels: &[u32]) -> Result<Self, HeadError> {
        let classes = probabilities.len() / labels.len().max(1);
        let rows = probabilities.len().checked_div(classes).unwrap_or_default();
        if rows * classes != probabilities.len() {
            return Err(HeadError::Data(format!(
                "{} probabilities do not divide into {} rows, one per label",
                probabilities.len(),
                labels.len()
            )));
        }
        check_labels(rows, classes, labels)?;
        if let Some(index) = probabilities.iter().position(|p| !(0.0..=1.0).contains(p)) {
            let (row, class) = (index / classes, index % classes);
            return Err(HeadError::Data(format!(
                "{} is not a probability (row {row}, class {class})",
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

    /// Restores from the [`scores`](Self::scores) of each method.
    ///
    /// # Errors
    /// [`HeadError::Data`] if the scores are empty, not finite, not ascending, or differ in number.
    pub fn from_scores(lac: Vec<f32>, aps: Vec<f32>) -> Result<Self, HeadError> {
        for (scores, method) in [(&lac, ConformalMethod::Lac), (&aps, ConformalMethod::Aps)] {
            if scores.is_empty() || scores.iter().any(|score| !score.is_finite()) || !scores.is_sorted() {
                let name = method.as_str();
                return Err(HeadError::Data(format!(
                    "the {name} scores must be finite numbers in ascending order, and at least one"
                )));
            }
        }
        if lac.len() != aps.len() {
            return Err(HeadError::Data(format!(
                "there are {} lac scores, but {} aps scores",
                lac.len(),
                aps.len()
            )));
        }
        Ok(Self { lac, aps })
    }

    /// The scores of a method, ascending, `[N]`.
    #[must_use]
    pub fn scores(&self, method: ConformalMethod) -> &[f32] {
        match method {
            ConformalMethod::Lac => &self.lac,
            ConformalMethod::Aps => &self.aps,
        }
    }

    /// A predictor of sets that contain the true class with frequency `coverage`. With fewer than
    /// `coverage / (1 - coverage)` scores (9 for 0.9) the coverage cannot be guaranteed, and every set
    /// contains all classes.
    ///
    /// # Errors
    /// [`HeadError::Data`] when `coverage` is not between 0 and 1.
    pub fn set_predictor(&self, coverage: f64, method: ConformalMethod) -> Result<SetPredictor, HeadError> {
        if !(coverage > 0.0 && coverage < 1.0) {
            return Err(HeadError::Data(format!(
                "a coverage of {coverage} is not possible: it must be between 0 and 1, such as 0.9"
            )));
        }
        let scores = self.scores(method);
        // Subtracting an epsilon keeps whole numbers whole despite rounding.
        let rank = ((scores.len() + 1) as f64 * coverage - 1e-9).ceil().max(1.0) as usize;
        Ok(SetPredictor { method, threshold: scores.get(rank - 1).copied() })
    }
}

/// Predicts conformal sets for one coverage and method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SetPredictor {
    method: ConformalMethod,
    /// The highest score in a set; `None` includes all classes.
    threshold: Option<f32>,
}

impl SetPredictor {
    /// The set of classes for a photo's probabilities `[C]`, the most probable first; ties are broken by the
    /// lowest class. The set may be empty.
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
