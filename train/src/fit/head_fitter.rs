//! Fitting heads on rows of the feature matrix.

use std::time::Instant;

use headstock_heads::{
    ConfiguredHead, FeatureMatrix, FitContext, Fitted, Head, HeadError, HeadShape, Logits, Tensors,
    TrainingSet,
};
use headstock_inference::Progress;

use crate::error::TrainError;
use crate::sample_features::SampleFeatures;
use crate::samples::SampleSet;

/// Memory use of a fit at or above which it is logged.
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
    /// Logs an estimate of the memory that a fit of `head` on `n_rows` samples takes, if it is large. Called
    /// before the fit begins, so that the user can stop it.
    pub(crate) fn log_memory(&self, head: &dyn ConfiguredHead, n_rows: usize) {
        let samples = n_rows * (self.n_augmented as usize + 1);
        let features = self.features.width();
        let shape = HeadShape { samples, features, classes: self.samples.classes.len() };
        let head_bytes = head.memory_bytes(shape);
        // 4 bytes per `f32`.
        let feature_bytes = 4 * (samples * features) as u64;
        if head_bytes.saturating_add(feature_bytes) >= LOG_MEMORY_FROM_BYTES {
            let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
            tracing::info!(
                "fitting the head `{}` takes about {:.1} GiB of memory, in addition to {:.1} GiB of features",
                head.kind(),
                gib(head_bytes),
                gib(feature_bytes)
            );
        }
    }

    /// Fits `head` on the features of view 0 and the augmented views of the samples `rows` (indices). The fit
    /// starts from the tensors `warm_start` of an earlier run, if given. Views of a sample and samples of a
    /// group form a group of the head's training set, so that the head never validates on a view of what it
    /// is fitted on. `task` names the fit in progress reports. Returns the fitted head and the duration of
    /// the fit in seconds.
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
        let data = TrainingSet::new(features, &labels, self.samples.classes.len())
            .map_err(|error| name_sample(error, self.samples, rows))?
            .with_groups(&groups)?;
        // 0: the head reports the number of steps later.
        self.progress.begin(task, 0, "steps");
        let context =
            FitContext { on_step: &|done, total| self.progress.set_position(done, total), warm_start };
        let started = Instant::now();
        let fitted = head.fit(&data, &context);
        self.progress.end();
        Ok((fitted?, started.elapsed().as_secs_f64()))
    }
}

/// The error of a fit on the samples `rows` (indices) of `samples`, in which the row of a feature that is not
/// finite is replaced by the id of its sample. The rows of the fit are the samples, once for each view.
fn name_sample(error: HeadError, samples: &SampleSet, rows: &[usize]) -> TrainError {
    let HeadError::NotFinite { row, column, value } = error else { return error.into() };
    TrainError::Data(format!(
        "feature {column} of `{}` is {value}: features must be finite; leave out this photo, or choose \
         different weights or a different precision of the backbone",
        samples.rows[rows[row % rows.len()]].id
    ))
}

/// Computes the head's logits `[rows.len(), C]` of the samples `rows` (indices), to test or calibrate the
/// head. Only the evaluation view (view 0) of each sample counts.
pub(crate) fn eval_logits(
    head: &dyn Head,
    features: &SampleFeatures,
    rows: &[usize],
) -> Result<Logits, TrainError> {
    let mut values = Vec::with_capacity(rows.len() * features.width());
    // View 0 is the evaluation view.
    features.append(rows, 0, &mut values)?;
    Ok(head.logits(FeatureMatrix::new(&values, features.width())?)?)
}

/// Converts the hyperparameters chosen by a fit to the form that a run stores.
pub(crate) fn owned_params(chosen: Vec<(&'static str, f64)>) -> Vec<(String, f64)> {
    chosen.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
