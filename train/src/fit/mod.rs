//! Training: features, fit, calibration, test, and a run.

mod calibrate;
mod finish;
mod learn;
mod record;
mod warm;

use std::path::PathBuf;
use std::time::Instant;

use headstock_heads::{Fitted, Tensors};

use self::calibrate::calibrate;
pub(crate) use self::calibrate::{Calibrated, FOLDS, crossed, judge};
pub(crate) use self::finish::Learned;
pub(crate) use self::learn::{Learner, logits, owned};
pub(crate) use self::record::{backbone as backbone_record, settings as resolved};
use crate::config::Settings;
use crate::error::TrainError;
use crate::prepared::Prepared;
use crate::progress::Progress;
use crate::run::{Model, Reserved, Run, RunMetrics, RunPlace, Seconds};
use crate::tune;

/// What training ended with.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
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
    place: &RunPlace,
    progress: &dyn Progress,
) -> Result<Outcome, TrainError> {
    if !settings.options.tune.is_off() {
        if start.is_some() {
            return Err(TrainError::Usage(
                "--warm starts the head of a frozen backbone: leave it out, or set tune.from=head".into(),
            ));
        }
        return tune::train(settings, place, progress);
    }
    let place = place.reserve(&settings.source)?;
    Prepared::after(start, settings, progress)?.train(settings, start, place, progress)
}

impl Prepared {
    /// Fits the head of `settings` on the training part, calibrates and tests it and writes a run. But for the head they are the
    /// settings that this was made of, and so is the run to `start` from.
    ///
    /// # Errors
    /// [`TrainError`]; nothing is written then.
    pub fn train(
        &mut self,
        settings: &Settings,
        start: Option<&Run>,
        place: Reserved<'_>,
        progress: &dyn Progress,
    ) -> Result<Outcome, TrainError> {
        let backbone = self.stock.as_ref().map(record::backbone);
        let (mut tensors, mut earlier) = (None, None);
        if let Some(run) = start {
            tensors = warm::tensors(run, settings, backbone.as_ref().map(|(_, record)| record), self)?;
            // A head that is fitted from nothing has nothing of what the run was trained on.
            if tensors.is_some() {
                earlier = run.trained_on(progress)?;
            }
        }
        let Self { samples, matrix, train, .. } = self;
        let mut learner = Learner { samples, matrix, views: self.views, progress };
        let what = format!("fitting {}", settings.head.kind());
        learner.tell_memory(settings.head.as_ref(), train.len());
        let (Fitted { head, history, chosen }, fit) =
            learner.fit(settings.head.as_ref(), tensors.as_ref(), train, &what)?;

        let started = Instant::now();
        let fixed = settings.head.with_chosen(&chosen)?;
        let calibrated = calibrate(&mut learner, fixed.as_ref(), train, settings.options.calibration)?;
        let calibration = started.elapsed().as_secs_f64();
        let learned = Learned {
            head,
            tuned: Tensors::new(),
            backbone,
            history,
            chosen: owned(chosen),
            calibrated,
            earlier,
            samples: train.len(),
            computed: matrix.computed(),
            seconds: Seconds { features: self.seconds, fit, calibration, ..Seconds::default() },
        };
        let test = |model: &Model| logits(model.head.as_ref(), &self.matrix, &self.test);
        self.finish(settings, learned, test, |files| place.write(settings.head.kind(), files))
    }
}

#[cfg(test)]
mod tests;
