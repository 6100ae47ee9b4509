//! Fits a head on frozen features, calibrates and tests it, and writes the run.

mod calibrate;
mod cross_validation;
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
use self::cross_validation::cross_validate;
pub(crate) use self::cross_validation::cross_validation_folds;
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

        // The fit from scratch, to show what the warm start changes.
        let cold_head = match &tensors {
            // Without a test set there is nothing to show it on.
            Some(_) if !settings.split.has_no_test_set() => {
                let task = format!("fitting {} from scratch, for comparison", settings.head.kind());
                Some(fitter.fit(settings.head.as_ref(), None, train, &task)?.0.head)
            }
            _ => None,
        };

        let started = Instant::now();
        let (head_config, method) = (settings.head.as_ref(), settings.calibration);
        let (calibration, out_of_fold) = if settings.split.has_no_test_set() {
            let (calibration, out_of_fold) =
                cross_validate(&mut fitter, head_config, train, method, &settings.split)?;
            (calibration, Some(out_of_fold))
        } else {
            let fixed_head = head_config.with_chosen(&chosen)?;
            (calibrate_by_folds(&mut fitter, fixed_head.as_ref(), train, method)?, None)
        };
        let seconds = PhaseSeconds {
            features: self.seconds,
            fit,
            calibration: started.elapsed().as_secs_f64(),
            ..PhaseSeconds::default()
        };
        let cold_logits =
            cold_head.map(|head| eval_logits(head.as_ref(), features, &self.test)).transpose()?;
        let trained = TrainedModel {
            head,
            tuned_tensors: Tensors::new(),
            backbone,
            history,
            chosen_params: owned_params(chosen),
            calibration,
            out_of_fold,
            previously_trained_on,
            cold_logits,
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
