//! Saving and restoring the state of a training.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Trainer, TrainerConfig};
use crate::error::{Remedy, TrainError};
use crate::finetune::checkpoint_file::{self, NamedArrays};
use crate::finetune::model::FinetuneModel;
use crate::finetune::optimizer::OptimizerState;
use crate::run::RunInProgress;

/// The latest checkpoint, which training resumes from.
const LATEST_CHECKPOINT: &str = "last.safetensors";
/// Model values of the best epoch.
const BEST_CHECKPOINT: &str = "best.safetensors";
/// Prefixes of array names in a checkpoint, besides the model's values.
const OPTIMIZER_PREFIX: &str = "optimizer.";
const EMA_PREFIX: &str = "average.";

/// The state of a training. The serialized names are those of the checkpoint format.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TrainState {
    /// Fingerprint of everything that the training depends on; a resumed training must have the same.
    #[serde(rename = "origin")]
    pub(super) fingerprint: String,
    /// Hyperparameters chosen by the head's fit.
    #[serde(rename = "chosen")]
    pub(super) chosen_params: Vec<(String, f64)>,
    /// Epochs completed.
    #[serde(rename = "epoch")]
    pub(super) epochs_done: u64,
    /// Batches of the next epoch completed.
    #[serde(rename = "batches")]
    pub(super) batches_done: usize,
    /// Optimizer steps completed.
    #[serde(rename = "steps")]
    pub(super) steps_done: u64,
    /// Sum of the losses of the epoch's samples so far.
    #[serde(rename = "loss")]
    pub(super) loss_sum: f64,
    /// The best epoch so far; `None` before the first validation and without held-out samples.
    pub(super) best: Option<BestEpoch>,
    /// Optimizer steps of each parameter.
    #[serde(rename = "made")]
    pub(super) parameter_steps: BTreeMap<String, u64>,
    /// Updates of the EMA.
    #[serde(rename = "followed")]
    pub(super) ema_updates: u64,
    /// One row per completed epoch, for the run's history.
    pub(super) history: Vec<Vec<f64>>,
}

/// The epoch with the lowest log-loss on the held-out samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BestEpoch {
    /// Number of epochs completed when it was validated; 0 before fine-tuning.
    pub(super) epoch: u64,
    /// The log-loss.
    pub(super) loss: f64,
}

/// The state of a new training, before its first step: all counters are 0. The trainer also compares its
/// state with this one, to see whether the training begins or is resumed.
pub(super) fn initial_state(config: &TrainerConfig<'_>) -> TrainState {
    TrainState {
        fingerprint: config.fingerprint.clone(),
        chosen_params: config.chosen_params.clone(),
        ..TrainState::default()
    }
}

/// Whether the run has a checkpoint to resume from.
pub(in crate::finetune) fn has_checkpoint(run: &RunInProgress) -> bool {
    run.checkpoint_path(LATEST_CHECKPOINT).exists()
}

impl Trainer<'_> {
    /// Saves everything that is needed to resume the training from here as the run's latest checkpoint: the
    /// values of the model, the optimizer's buffers, the EMA and the state. Does nothing if the training has
    /// no run folder (a test, or a learning-rate range test).
    pub(super) fn save_checkpoint(&mut self) -> Result<(), TrainError> {
        let Self { config, model, optimizer_states, ema, state, .. } = self;
        let Some(run) = config.run else { return Ok(()) };
        let steps = optimizer_states.iter().map(|(name, state)| (name.clone(), state.n_steps));
        state.parameter_steps = steps.collect();
        state.ema_updates = ema.as_ref().map_or(0, |ema| ema.updates);
        let values = model.named_values_mut();
        let mut arrays: NamedArrays<'_> =
            values.iter().map(|(name, values)| (name.clone(), &**values)).collect();
        for (name, state) in optimizer_states.iter() {
            let array_name = |buffer| format!("{OPTIMIZER_PREFIX}{buffer}.{name}");
            arrays.extend(state.named_buffers().map(|(buffer, values)| (array_name(buffer), values)));
        }
        if let Some(ema) = ema {
            let names = values.iter().map(|(name, _)| format!("{EMA_PREFIX}{name}"));
            arrays.extend(names.zip(ema.values.iter().map(Vec::as_slice)));
        }
        checkpoint_file::save(&run.checkpoint_path(LATEST_CHECKPOINT), state, &arrays)?;
        self.last_saved = Instant::now();
        Ok(())
    }

    /// Resumes an interrupted training: restores what [`save_checkpoint`](Self::save_checkpoint) saved last
    /// into the model, the optimizer, the EMA and the state. Does nothing if there is no checkpoint.
    ///
    /// # Errors
    /// [`TrainError::Usage`] if the inputs of the training have changed; [`TrainError::Inference`] and
    /// [`TrainError::Data`] if the checkpoint is damaged or belongs to a different model.
    pub(super) fn load_checkpoint(&mut self) -> Result<(), TrainError> {
        let Some(run) = self.config.run else { return Ok(()) };
        let path = run.checkpoint_path(LATEST_CHECKPOINT);
        let Some((state, mut arrays)) = checkpoint_file::load::<TrainState>(&path)? else { return Ok(()) };
        if state.fingerprint != self.config.fingerprint {
            return Err(TrainError::Usage(format!(
                "{} cannot be resumed: its settings, photos or weights have changed since the run began; \
                 undo the changes, or start a new run in a different folder",
                run.folder.display()
            ))
            .with_remedy(Remedy::OtherRunFolder));
        }
        copy_into_model(&mut self.model, &mut arrays)?;
        let named_values = self.model.named_values_mut();
        let lengths: BTreeMap<&str, usize> =
            named_values.iter().map(|(name, values)| (name.as_str(), values.len())).collect();
        for (name, &n_steps) in &state.parameter_steps {
            let length = lengths.get(name.as_str()).copied().unwrap_or_default();
            let restored = OptimizerState::restore(self.optimizer, n_steps, |buffer| {
                take_array(&mut arrays, &format!("{OPTIMIZER_PREFIX}{buffer}.{name}"), length)
            });
            self.optimizer_states.insert(name.clone(), restored?);
        }
        if let Some(ema) = &mut self.ema {
            let averages = named_values
                .iter()
                .map(|(name, values)| take_array(&mut arrays, &format!("{EMA_PREFIX}{name}"), values.len()));
            (ema.updates, ema.values) = (state.ema_updates, averages.collect::<Result<_, _>>()?);
        }
        self.state = state;
        Ok(())
    }

    /// Saves the model's current values as those of the best epoch so far, `best`, for
    /// [`load_best`](Self::load_best). Without a run, only remembers the epoch.
    pub(super) fn save_best(&mut self, best: BestEpoch) -> Result<(), TrainError> {
        if let Some(run) = self.config.run {
            let values = self.model.named_values_mut();
            let arrays: NamedArrays<'_> =
                values.iter().map(|(name, values)| (name.clone(), &**values)).collect();
            checkpoint_file::save(&run.checkpoint_path(BEST_CHECKPOINT), &best, &arrays)?;
        }
        self.state.best = Some(best);
        Ok(())
    }

    /// Restores the model's values of the best epoch at the end of a training, so that the run gets these and
    /// not those of the last epoch.
    pub(super) fn load_best(&mut self) -> Result<(), TrainError> {
        let path = self.config.run.map(|run| run.checkpoint_path(BEST_CHECKPOINT)).unwrap_or_default();
        let (_, mut values) = checkpoint_file::load::<BestEpoch>(&path)?.ok_or_else(|| {
            TrainError::Data(format!(
                "the file {}, the checkpoint of the best epoch of the run, is missing: put the file back, or \
                 start a new run",
                path.display()
            ))
        })?;
        copy_into_model(&mut self.model, &mut values)
    }
}

/// Overwrites the model's values with the `saved` ones of the same names, which are removed from the map; an
/// error if one is missing or has a different length.
fn copy_into_model(
    model: &mut FinetuneModel<'_>,
    saved: &mut BTreeMap<String, Vec<f32>>,
) -> Result<(), TrainError> {
    for (name, values) in model.named_values_mut() {
        values.copy_from_slice(&take_array(saved, &name, values.len())?);
    }
    Ok(())
}

/// Takes the array `name` of `length` values out of those of a checkpoint.
fn take_array(
    arrays: &mut BTreeMap<String, Vec<f32>>,
    name: &str,
    length: usize,
) -> Result<Vec<f32>, TrainError> {
    arrays.remove(name).filter(|values| values.len() == length).ok_or_else(|| {
        TrainError::Data(format!(
            "the checkpoint has no `{name}` of {length} values, so it belongs to a different model: start a \
             new run"
        ))
    })
}
