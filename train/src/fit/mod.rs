//! Training: features, fit, calibration, test, and a run.

mod calibrate;
mod head_fitter;
mod record;
mod test_and_write;
mod warm_start;

use std::path::PathBuf;
use std::time::Instant;

use headstock_heads::{Fitted, Tensors};

use self::calibrate::calibrate_by_folds;
pub(crate) use self::calibrate::{CalibrationResult, MAX_FOLDS, cross_calibrate, evaluate_calibration};
pub(crate) use self::head_fitter::{HeadFitter, eval_logits, owned_params};
pub(crate) use self::record::{backbone_record, resolved_config};
pub(crate) use self::test_and_write::TrainedModel;
use crate::config::Settings;
use crate::error::TrainError;
use crate::finetune;
use crate::prepared_data::PreparedData;
use crate::progress::Progress;
use crate::run::{Model, PhaseSeconds, Run, RunDir, RunMetrics, RunReservation};

/// What training ended with.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOutcome {
    /// The run's folder.
    pub folder: PathBuf,
    /// Its figures.
    pub metrics: RunMetrics,
    /// A photo of the test part, to try the run on; none where photos are no files.
    pub example: Option<PathBuf>,
}

/// Trains as `settings` say and writes a run. With a run to `start` from, its classes keep their numbers and new ones come
/// after them; a head of the same kind on the same features begins with its weights, where it can.
///
/// # Errors
/// [`TrainError`]; nothing is written then but features, which the next try finds.
pub fn train(
    settings: &Settings,
    start: Option<&Run>,
    place: &RunDir,
    progress: &dyn Progress,
) -> Result<TrainOutcome, TrainError> {
    if !settings.options.tune.is_off() {
        if start.is_some() {
            return Err(TrainError::Usage(
                "--warm starts the head of a frozen backbone: leave it out, or set tune.from=head".into(),
            ));
        }
        return finetune::start_finetune(settings, place, progress);
    }
    let place = place.reserve(&settings.source)?;
    PreparedData::with_classes_of(start, settings, progress)?.train(settings, start, place, progress)
}

impl PreparedData {
    /// Fits the head of `settings` on the training part, calibrates and tests it and writes a run. But for the head they are the
    /// settings that this was made of, and so is the run to `start` from.
    ///
    /// # Errors
    /// [`TrainError`]; nothing is written then.
    pub fn train(
        &mut self,
        settings: &Settings,
        start: Option<&Run>,
        place: RunReservation<'_>,
        progress: &dyn Progress,
    ) -> Result<TrainOutcome, TrainError> {
        let backbone = self.pretrained.as_ref().map(backbone_record);
        let (mut tensors, mut earlier) = (None, None);
        if let Some(run) = start {
            tensors = warm_start::warm_start_tensors(
                run,
                settings,
                backbone.as_ref().map(|(_, record)| record),
                self,
            )?;
            // A head that is fitted from nothing has nothing of what the run was trained on.
            if tensors.is_some() {
                earlier = run.trained_on_hashes(progress)?;
            }
        }
        let Self { samples, features: matrix, train, .. } = self;
        let mut learner = HeadFitter { samples, features: matrix, n_views: self.n_views, progress };
        let what = format!("fitting {}", settings.head.kind());
        learner.log_memory(settings.head.as_ref(), train.len());
        let (Fitted { head, history, chosen }, fit) =
            learner.fit(settings.head.as_ref(), tensors.as_ref(), train, &what)?;

        let started = Instant::now();
        let fixed = settings.head.with_chosen(&chosen)?;
        let calibrated =
            calibrate_by_folds(&mut learner, fixed.as_ref(), train, settings.options.calibration)?;
        let calibration = started.elapsed().as_secs_f64();
        let learned = TrainedModel {
            head,
            tuned_tensors: Tensors::new(),
            backbone,
            history,
            chosen_params: owned_params(chosen),
            calibration: calibrated,
            previously_trained_on: earlier,
            n_train_samples: train.len(),
            n_computed: matrix.computed(),
            seconds: PhaseSeconds { features: self.seconds, fit, calibration, ..PhaseSeconds::default() },
        };
        let test = |model: &Model| eval_logits(model.head.as_ref(), &self.features, &self.test);
        self.test_and_write(settings, learned, test, |files| place.write(settings.head.kind(), files))
    }
}

#[cfg(test)]
mod tests;
