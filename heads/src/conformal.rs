//! Conformal sets: the smallest sets of classes that contain the true class with a given frequency.
//!
//! A score measures how badly a class fits an image's probabilities. Among `n + 1` exchangeable images every
//! rank of the last one's score is equally likely. So the set of classes whose score is at most the
//! `⌈(n + 1) coverage⌉`-th smallest of the `n` calibration scores contains the true class of a new image with
//! probability at least `coverage`, for any head. Better probabilities give smaller sets.
//!
//! The `n` images must not be among those that the head was fitted on: use held-out images, or predict each
//! image with a head that was fitted without it. Coverage holds on average over images, not for each class,
//! and needs images from the same distribution.

use headstock_split::KeyedRng;
use serde::{Deserialize, Serialize};

use crate::calibration::check_labels;
use crate::error::HeadError;

/// How the score of a class is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConformalMethod {
    /// Least ambiguous set-valued classifier: the negative probability. Smallest sets on average (Sadinle,
    /// Lei and Wasserman 2019, *Least Ambiguous Set-Valued Classifiers with Bounded Error Levels*; its score
    /// is one higher, which would lose small probabilities to rounding). Hard images may get an empty set.
    #[default]
    Lac,
    /// Adaptive prediction sets: the total probability of all more probable classes plus a random share of
    /// the class's own. Harder images get larger sets (Romano, Sesia and Candès 2020, *Classification with
    /// Valid and Adaptive Coverage*). The random number is derived from the bits of the image's
    /// probabilities, so an image always gets the same set.
    Aps,
}

impl ConformalMethod {
    /// The name of the method in the config and in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lac => "lac",
            Self::Aps => "aps",
        }
    }

    /// The conformal score of each class, `[C]`, from the probabilities `[C]` of one image. A higher score
    /// means that the class fits the image worse; a conformal set has the classes with scores up to a
    /// threshold.
    ///
    /// `lac`: the negative probability. `aps`: the total probability of all more probable classes plus a
    /// random share of the class's own.
    fn scores(self, probabilities: &[f32]) -> Vec<f32> {
        match self {
            Self::Lac => probabilities.iter().map(|p| -p).collect(),
            Self::Aps => {
                // The random number depends on the probabilities only: the same image gets the same set.
                let key: Vec<u64> = probabilities.iter().map(|p| u64::from(p.to_bits())).collect();
                let random_share = 1.0 - KeyedRng::new(&key).uniform();
                let mut most_probable_first: Vec<usize> = (0..probabilities.len()).collect();
                most_probable_first.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
                let mut scores = vec![0.0; probabilities.len()];
                let mut sum_before = 0.0;
                for class in most_probable_first {
                    let probability = f64::from(probabilities[class]);
                    scores[class] = (sum_before + random_share * probability) as f32;
                    sum_before += probability;
                }
                scores
            }
        }
    }
}

/// The scores of the true classes of the calibration images, for each method: what is saved with a run. From
/// them [`set_predictor`](Self::set_predictor) chooses the threshold of the conformal sets.
#[derive(Clone, Debug, PartialEq)]
pub struct ConformalScores {
    /// Scores of `lac`, ascending, `[N]`.
    lac: Vec<f32>,
    /// Scores of `aps`, ascending, `[N]`.
    aps: Vec<f32>,
}

impl ConformalScores {
    /// Computes the score of the true class of each calibration image, for each method, from `probabilities`
    /// `[N, C]` (row-major) of images that the head was not fitted on, and their labels `[N]`.
    ///
    /// ```
    /// use headstock_heads::conformal::{ConformalMethod, ConformalScores};
    ///
    /// // 19 images: all but one are predicted correctly with probability 0.9.
    /// let row = [0.9, 0.08, 0.02];
    /// let labels: Vec<u32> = (0..19).map(|image| u32::from(image == 0)).collect();
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
                "{} probabilities cannot be divided evenly among {} labels: for each label there must be a \
                 row with one probability per class",
                probabilities.len(),
                labels.len()
            )));
        }
        check_labels(rows, classes, labels)?;
        if let Some(index) = probabilities.iter().position(|p| !(0.0..=1.0).contains(p)) {
            let (row, class) = (index / classes, index % classes);
            return Err(HeadError::Data(format!(
                "{} is not a probability (row {row}, class {class}): probabilities must be from 0 to 1",
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

    /// Restores saved scores of the methods `lac` and `aps`, as [`scores`](Self::scores) gave them.
    ///
    /// # Errors
    /// [`HeadError::Data`] if the scores are empty, not finite, not ascending, or differ in number.
    pub fn from_scores(lac: Vec<f32>, aps: Vec<f32>) -> Result<Self, HeadError> {
        for (scores, method) in [(&lac, ConformalMethod::Lac), (&aps, ConformalMethod::Aps)] {
            if scores.is_empty() || scores.iter().any(|score| !score.is_finite()) || !scores.is_sorted() {
                let name = method.as_str();
                return Err(HeadError::Data(format!(
                    "the file is damaged (the saved scores for conformal sets by the method {name} are \
                     missing, not finite or not in ascending order): train again"
                )));
            }
        }
        if lac.len() != aps.len() {
            return Err(HeadError::Data(format!(
                "the file is damaged (there are {} saved scores for conformal sets by the method lac, but {} \
                 by aps): train again",
                lac.len(),
                aps.len()
            )));
        }
        Ok(Self { lac, aps })
    }

    /// The scores of the true classes of the `N` calibration images by one method, ascending: to be saved.
    #[must_use]
    pub fn scores(&self, method: ConformalMethod) -> &[f32] {
        match method {
            ConformalMethod::Lac => &self.lac,
            ConformalMethod::Aps => &self.aps,
        }
    }

    /// A predictor of conformal sets: sets of classes that contain the true class of a new image with a
    /// probability of at least `coverage`. Its threshold is the `⌈(N + 1) coverage⌉`-th smallest score of the
    /// `N` calibration images. With fewer than `coverage / (1 - coverage)` images (9 for 0.9) the coverage
    /// cannot be guaranteed, and every set contains all classes.
    ///
    /// # Errors
    /// [`HeadError::Data`] when `coverage` is not between 0 and 1.
    pub fn set_predictor(&self, coverage: f64, method: ConformalMethod) -> Result<SetPredictor, HeadError> {
        if !(coverage > 0.0 && coverage < 1.0) {
            return Err(HeadError::Data(format!(
                "a coverage of {coverage} is not possible: the coverage must be between 0 and 1, such as 0.9"
            )));
        }
        let scores = self.scores(method);
        // A product that is a whole number may be slightly higher by rounding; it must not be rounded up.
        let rank = ((scores.len() + 1) as f64 * coverage - 1e-9).ceil().max(1.0) as usize;
        Ok(SetPredictor { method, threshold: scores.get(rank - 1).copied() })
    }
}

/// Predicts conformal sets for one coverage and method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SetPredictor {
    method: ConformalMethod,
    /// A set has the classes with at most this score; `None` stands for all classes.
    threshold: Option<f32>,
}

impl SetPredictor {
    /// The conformal set of an image with these probabilities `[C]`: the classes whose score is at most the
    /// threshold, the most probable first; ties are broken by the lowest class. The set may be empty.
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
