//! Training: a fit of a head on frozen features, or fine-tuning.

use headstock_inference::Progress;

use crate::config::Settings;
use crate::error::{Remedy, TrainError};
use crate::finetune;
use crate::fit::TrainOutcome;
use crate::prepared_data::PreparedData;
use crate::run::{Run, RunDir};

/// Trains as `settings` say and writes a run. With a `warm_run` (warm start), the classes of that run keep
/// their labels and new classes come after them; a head of the same kind on the same features starts from the
/// run's weights, if the head supports it.
///
/// # Errors
/// [`TrainError`]; no run is written then, but computed features stay in the cache.
pub fn train(
    settings: &Settings,
    warm_run: Option<&Run>,
    run_dir: &RunDir,
    progress: &dyn Progress,
) -> Result<TrainOutcome, TrainError> {
    if !settings.tune.is_off() {
        if warm_run.is_some() {
            let problem = "a training can only start from an earlier run if the backbone is not fine-tuned";
            return Err(TrainError::Usage(problem.into()).with_remedy(Remedy::NoFinetuning));
        }
        return finetune::start_finetune(settings, run_dir, progress);
    }
    let reservation = run_dir.reserve(&settings.source)?;
    let mut prepared = PreparedData::prepare_with_classes_of(warm_run, settings, progress)?;
    prepared.train(settings, warm_run, reservation, progress)
}
