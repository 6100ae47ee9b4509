//! Fits a head on frozen features, calibrates and tests it, and writes the run.

mod calibrate;
mod head_fitter;
mod test_and_write;
mod warm_start;

use std::path::PathBuf;
use std::time::Instant;

use headstock_heads::{Fitted, Tensors};
use headstock_inference::{BackboneRecord, Model, Progress};

use self::calibrate::calibrate_by_folds;
pub(crate) use self::calibrate::{
    CalibrationResult, MAX_FOLDS, count_groups_per_class, cross_calibrate, evaluate_calibration, scatter,
};
pub(crate) use self::head_fitter::{HeadFitter, eval_logits, owned_params};
pub(crate) use self::test_and_write::{TrainedModel, resolved_config};
use crate::config::Settings;
use crate::error::TrainError;
use crate::prepared_data::PreparedData;
use crate::run::{PhaseSeconds, Run, RunMetrics, RunReservation};

/// The result of training.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOutcome {
    /// The run's folder.
    pub folder: PathBuf,
    /// The run's metrics.
    pub metrics: RunMetrics,
    /// A test image to try the run on; `None` for features and for images inside Parquet or tar files.
    pub example: Option<PathBuf>,
}

impl PreparedData {
    /// Fits the head of `settings` on the prepared training samples, calibrates and tests it, and writes a
    /// run into the reserved folder. `settings` may differ only in the head from those that this data was
    /// prepared with. `warm_run` is the run that the data was prepared with, from which the head starts (see
    /// [`train`](fn@crate::train)).
    ///
    /// # Errors
    /// [`TrainError`]; no run is written then.
    pub fn train(
        &mut self,
        settings: &Settings,
        warm_run: Option<&Run>,
        reservation: RunReservation<'_>,
        progress: &dyn Progress,
    ) -> Result<TrainOutcome, TrainError> {
        let backbone = self.pretrained.as_ref().map(|pretrained| {
            (pretrained.checkpoint().preprocessing().clone(), BackboneRecord::new(pretrained))
        });
        let (mut tensors, mut previously_trained_on) = (None, None);
        if let Some(run) = warm_run {
            let record = backbone.as_ref().map(|(_, record)| record);
            tensors = warm_start::warm_start_tensors(run, settings, record, self)?;
            // If the head cannot start from the run, it does not depend on the run's training data.
            if tensors.is_some() {
                previously_trained_on = run.trained_on_hashes(progress)?;
            }
        }
        let Self { samples, features, train, .. } = self;
        let mut fitter = HeadFitter { samples, features, n_augmented: self.n_augmented, progress };
        let task = format!("fitting {}", settings.head.kind());
        fitter.log_memory(settings.head.as_ref(), train.len());
        let (Fitted { head, history, chosen }, fit) =
            fitter.fit(settings.head.as_ref(), tensors.as_ref(), train, &task)?;

        let started = Instant::now();
        let fixed_head = settings.head.with_chosen(&chosen)?;
        let calibration = calibrate_by_folds(&mut fitter, fixed_head.as_ref(), train, settings.calibration)?;
        let seconds = PhaseSeconds {
            features: self.seconds,
            fit,
            calibration: started.elapsed().as_secs_f64(),
            ..PhaseSeconds::default()
        };
        let trained = TrainedModel {
            head,
            tuned_tensors: Tensors::new(),
            backbone,
            history,
            chosen_params: owned_params(chosen),
            calibration,
            previously_trained_on,
            n_train_samples: train.len(),
            n_computed: features.computed(),
            seconds,
        };
        let test = |model: &Model| eval_logits(model.head.as_ref(), &self.features, &self.test);
        self.test_and_write(settings, trained, test, |files| reservation.write(settings.head.kind(), files))
    }
}

#[cfg(test)]
mod tests;
