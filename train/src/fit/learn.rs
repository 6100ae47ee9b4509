//! Fitting heads on rows of the feature matrix.

use std::time::Instant;

use headstock_heads::{
    ConfiguredHead, FeatureMatrix, FitContext, Fitted, Head, HeadShape, Logits, Tensors, TrainingSet,
};

use crate::error::TrainError;
use crate::features::View;
use crate::matrix::Matrix;
use crate::progress::Progress;
use crate::samples::Samples;

/// Bytes from which on the memory that a fit takes is worth a line.
const WORTH_TELLING: u64 = 1 << 30;

/// Fits heads on samples that are named by their numbers.
pub(crate) struct Learner<'a> {
    pub(crate) samples: &'a Samples,
    pub(crate) matrix: &'a mut Matrix,
    /// Augmented views of each photo to fit on, beside the plain one.
    pub(crate) views: View,
    pub(crate) progress: &'a dyn Progress,
}

impl Learner<'_> {
    /// Says what a fit on so many photos takes, where that is much.
    pub(crate) fn tell_memory(&self, head: &dyn ConfiguredHead, photos: usize) {
        let (samples, features) = (photos * (self.views as usize + 1), self.matrix.width());
        let shape = HeadShape { samples, features, classes: self.samples.classes.len() };
        let (own, held) = (head.memory_bytes(shape), 4 * (samples * features) as u64);
        if own.saturating_add(held) >= WORTH_TELLING {
            let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
            tracing::info!(
                "fitting `{}` takes about {:.1} GiB of memory, beside {:.1} GiB of features",
                head.kind(),
                gib(own),
                gib(held)
            );
        }
    }

    /// Fits `head` on the plain view of each of `rows` and on its augmented ones, and tells it which of these belong together:
    /// the views of a photo, the photos of a group. Progress is told as `what`. The head, and the seconds that its fit took
    /// alone.
    pub(crate) fn fit(
        &mut self,
        head: &dyn ConfiguredHead,
        start: Option<&Tensors>,
        rows: &[usize],
        what: &str,
    ) -> Result<(Fitted<dyn Head>, f64), TrainError> {
        let copies = self.views as usize + 1;
        let labels = self.samples.labels(rows).repeat(copies);
        let groups = self.samples.tied(rows).repeat(copies);
        let width = self.matrix.width();
        let values = self.matrix.together(rows, self.views)?;
        let features = FeatureMatrix::new(&values, width)?;
        let data = TrainingSet::new(features, &labels, self.samples.classes.len())?.with_groups(&groups)?;
        self.progress.begin(what, 0, "steps");
        let context =
            FitContext { on_step: &|done, total| self.progress.reach(done, total), warm_start: start };
        let started = Instant::now();
        let fitted = head.fit(&data, &context);
        self.progress.end();
        Ok((fitted?, started.elapsed().as_secs_f64()))
    }
}

/// The head's logits of the plain view of some rows.
pub(crate) fn logits(head: &dyn Head, matrix: &Matrix, rows: &[usize]) -> Result<Logits, TrainError> {
    let mut values = Vec::with_capacity(rows.len() * matrix.width());
    matrix.append(rows, 0, &mut values)?;
    Ok(head.logits(FeatureMatrix::new(&values, matrix.width())?)?)
}

/// Parameters that a fit chose, as a run keeps them.
pub(crate) fn owned(chosen: Vec<(&'static str, f64)>) -> Vec<(String, f64)> {
    chosen.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
