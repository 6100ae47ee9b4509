//! Fitting heads on rows of the feature matrix.

use std::time::Instant;

use headstock_heads::{
    ConfiguredHead, FeatureMatrix, FitContext, Fitted, Head, HeadShape, Logits, Tensors, TrainingSet,
};

use crate::error::TrainError;
use crate::progress::Progress;
use crate::sample_features::SampleFeatures;
use crate::samples::SampleSet;

/// Memory use of a fit from which it is logged.
const LOG_MEMORY_FROM_BYTES: u64 = 1 << 30;

/// Fits heads on samples given by their row indices.
pub(crate) struct HeadFitter<'a> {
    pub(crate) samples: &'a SampleSet,
    pub(crate) features: &'a mut SampleFeatures,
    /// Number of augmented views of each sample to fit on, besides view 0.
    pub(crate) n_augmented: u32,
    pub(crate) progress: &'a dyn Progress,
}

impl HeadFitter<'_> {
    /// Logs the memory that a fit on `n_rows` samples takes, if it is large.
    pub(crate) fn log_memory(&self, head: &dyn ConfiguredHead, n_rows: usize) {
        let samples = n_rows * (self.n_augmented as usize + 1);
        let features = self.features.width();
        let shape = HeadShape { samples, features, classes: self.samples.classes.len() };
        let head_bytes = head.memory_bytes(shape);
        let feature_bytes = 4 * (samples * features) as u64;
        if head_bytes.saturating_add(feature_bytes) >= LOG_MEMORY_FROM_BYTES {
            let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
            tracing::info!(
                "fitting `{}` takes about {:.1} GiB of memory, in addition to {:.1} GiB of features",
                head.kind(),
                gib(head_bytes),
                gib(feature_bytes)
            );
        }
    }

    /// Fits `head` on view 0 and the augmented views of `rows`. Views of a sample and samples of a group form
    /// a group of the training set. `task` names the fit in progress reports. Returns the head and the
    /// duration of the fit in seconds.
    pub(crate) fn fit(
        &mut self,
        head: &dyn ConfiguredHead,
        warm_start: Option<&Tensors>,
        rows: &[usize],
        task: &str,
    ) -> Result<(Fitted<dyn Head>, f64), TrainError> {
        let n_views = self.n_augmented as usize + 1;
        let labels = self.samples.labels(rows).repeat(n_views);
        let groups = self.samples.groups_or_singletons(rows).repeat(n_views);
        let width = self.features.width();
        let values = self.features.gather(rows, self.n_augmented)?;
        let features = FeatureMatrix::new(&values, width)?;
        let data = TrainingSet::new(features, &labels, self.samples.classes.len())?.with_groups(&groups)?;
        self.progress.begin(task, 0, "steps");
        let context =
            FitContext { on_step: &|done, total| self.progress.set_position(done, total), warm_start };
        let started = Instant::now();
        let fitted = head.fit(&data, &context);
        self.progress.end();
        Ok((fitted?, started.elapsed().as_secs_f64()))
    }
}

/// The head's logits of view 0 of `rows`, `[rows.len(), C]`.
pub(crate) fn eval_logits(
    head: &dyn Head,
    features: &SampleFeatures,
    rows: &[usize],
) -> Result<Logits, TrainError> {
    let mut values = Vec::with_capacity(rows.len() * features.width());
    features.append(rows, 0, &mut values)?;
    Ok(head.logits(FeatureMatrix::new(&values, features.width())?)?)
}

/// Converts the hyperparameters chosen by a fit to the form that a run stores.
pub(crate) fn owned_params(chosen: Vec<(&'static str, f64)>) -> Vec<(String, f64)> {
    chosen.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
