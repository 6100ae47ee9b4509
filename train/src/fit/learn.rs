//! Fitting heads on rows of the feature matrix.

use headstock_heads::{ConfiguredHead, Features, FitContext, Fitted, Head, Logits, TrainingSet};

use crate::error::TrainError;
use crate::features::View;
use crate::matrix::Matrix;
use crate::progress::Progress;
use crate::samples::Samples;

/// Fits heads on samples that are named by their numbers.
pub(super) struct Learner<'a> {
    pub(super) samples: &'a Samples,
    pub(super) matrix: &'a Matrix,
    /// Augmented views of each photo to fit on, beside the plain one.
    pub(super) views: View,
    pub(super) progress: &'a dyn Progress,
}

impl Learner<'_> {
    /// Fits `head` on the plain view of each of `rows` and on its augmented ones; progress is told as `what`.
    pub(super) fn fit(
        &self,
        head: &dyn ConfiguredHead,
        rows: &[usize],
        what: &str,
    ) -> Result<Fitted<dyn Head>, TrainError> {
        let copies = self.views as usize + 1;
        let mut values = Vec::with_capacity(rows.len() * copies * self.matrix.width());
        for view in 0..=self.views {
            self.matrix.append(rows, view, &mut values)?;
        }
        let labels = self.samples.labels(rows).repeat(copies);
        let photos = (0..rows.len() as u32).collect::<Vec<_>>().repeat(copies);
        let features = Features::new(&values, self.matrix.width())?;
        let data = TrainingSet::new(features, &labels, self.samples.classes.len())?.with_photos(&photos)?;
        self.progress.begin(what, 0, "steps");
        let context = FitContext { on_step: &|done, total| self.progress.reach(done, total), start: None };
        let fitted = head.fit(&data, &context);
        self.progress.end();
        Ok(fitted?)
    }
}

/// The head's logits of the plain view of some rows.
pub(crate) fn logits(head: &dyn Head, matrix: &Matrix, rows: &[usize]) -> Result<Logits, TrainError> {
    let mut values = Vec::with_capacity(rows.len() * matrix.width());
    matrix.append(rows, 0, &mut values)?;
    Ok(head.logits(Features::new(&values, matrix.width())?)?)
}
