//! Fitting heads on rows of the feature matrix.

use std::time::Instant;

use headstock_heads::{
    ConfiguredHead, FeatureMatrix, FitContext, Fitted, Head, HeadShape, Logits, Tensors, TrainingSet,
};

use crate::error::TrainError;
use crate::features::ViewIndex;
use crate::progress::Progress;
use crate::sample_features::SampleFeatures;
use crate::samples::SampleSet;

/// Bytes from which on the memory that a fit takes is worth a line.
const LOG_MEMORY_FROM_BYTES: u64 = 1 << 30;

/// Fits heads on samples that are named by their numbers.
pub(crate) struct HeadFitter<'a> {
    pub(crate) samples: &'a SampleSet,
    pub(crate) features: &'a mut SampleFeatures,
    /// Augmented views of each photo to fit on, beside the plain one.
    pub(crate) n_views: ViewIndex,
    pub(crate) progress: &'a dyn Progress,
}

impl HeadFitter<'_> {
    /// Says what a fit on so many photos takes, where that is much.
    pub(crate) fn log_memory(&self, head: &dyn ConfiguredHead, photos: usize) {
        let (samples, features) = (photos * (self.n_views as usize + 1), self.features.width());
        let shape = HeadShape { samples, features, classes: self.samples.classes.len() };
        let (own, held) = (head.memory_bytes(shape), 4 * (samples * features) as u64);
        if own.saturating_add(held) >= LOG_MEMORY_FROM_BYTES {
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
        let copies = self.n_views as usize + 1;
        let labels = self.samples.labels(rows).repeat(copies);
        let groups = self.samples.groups_or_singletons(rows).repeat(copies);
        let width = self.features.width();
        let values = self.features.gather(rows, self.n_views)?;
        let features = FeatureMatrix::new(&values, width)?;
        let data = TrainingSet::new(features, &labels, self.samples.classes.len())?.with_groups(&groups)?;
        self.progress.begin_run(what, 0, "steps");
        let context =
            FitContext { on_step: &|done, total| self.progress.set_position(done, total), warm_start: start };
        let started = Instant::now();
        let fitted = head.fit(&data, &context);
        self.progress.train_to_end();
        Ok((fitted?, started.elapsed().as_secs_f64()))
    }
}

/// The head's logits of the plain view of some rows.
pub(crate) fn eval_logits(
    head: &dyn Head,
    matrix: &SampleFeatures,
    rows: &[usize],
) -> Result<Logits, TrainError> {
    let mut values = Vec::with_capacity(rows.len() * matrix.width());
    matrix.append(rows, 0, &mut values)?;
    Ok(head.logits(FeatureMatrix::new(&values, matrix.width())?)?)
}

/// Parameters that a fit chose, as a run keeps them.
pub(crate) fn owned_params(chosen: Vec<(&'static str, f64)>) -> Vec<(String, f64)> {
    chosen.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
