//! Saving and restoring the state of a training.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Trainer, TrainerConfig};
use crate::error::TrainError;
use crate::finetune::checkpoint_file::{self, NamedArrays};
use crate::finetune::ema::Ema;
use crate::finetune::model::FinetuneModel;
use crate::finetune::optimizer::OptimizerState;
use crate::run::RunInProgress;

/// Checkpoint of the last saved step.
const LAST_CHECKPOINT: &str = "last.safetensors";
/// Model values of the best epoch.
const BEST_CHECKPOINT: &str = "best.safetensors";
/// Prefixes of array names in a checkpoint, besides the model's values.
const OPTIMIZER_PREFIX: &str = "optimizer.";
const EMA_PREFIX: &str = "average.";

/// The state of a training. The serialized names are those of the checkpoint format.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TrainState {
    #[serde(rename = "origin")]
    pub(super) fingerprint: String,
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
    pub(super) best: Option<BestEpoch>,
    /// Optimizer steps of each parameter.
    #[serde(rename = "made")]
    pub(super) parameter_steps: BTreeMap<String, u64>,
    /// Updates of the EMA.
    #[serde(rename = "followed")]
    pub(super) ema_updates: u64,
    pub(super) history: Vec<Vec<f64>>,
}

/// The epoch with the lowest log-loss on the held-out samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BestEpoch {
    pub(super) epoch: u64,
    pub(super) loss: f64,
}

/// The state before the first step.
pub(super) fn initial_state(config: &TrainerConfig<'_>) -> TrainState {
    TrainState {
        fingerprint: config.fingerprint.clone(),
        chosen_params: config.chosen_params.clone(),
        ..TrainState::default()
    }
}

/// Whether the run has a checkpoint to resume from.
pub(in crate::finetune) fn has_checkpoint(run: &RunInProgress) -> bool {
    run.checkpoint_path(LAST_CHECKPOINT).exists()
}

impl Trainer<'_> {
    /// Saves everything needed to resume from here.
    pub(super) fn save_checkpoint(&mut self) -> Result<(), TrainError> {
        let Self { config, model, optimizer_states, ema, state, .. } = self;
        let Some(run) = config.run else { return Ok(()) };
        let steps = optimizer_states.iter().map(|(name, state)| (name.clone(), state.n_steps()));
        state.parameter_steps = steps.collect();
        state.ema_updates = ema.as_ref().map_or(0, Ema::updates);
        let values = model.named_values_mut();
        let mut arrays: NamedArrays<'_> =
            values.iter().map(|(name, values)| (name.clone(), &**values)).collect();
        for (name, state) in optimizer_states.iter() {
            let array_name = |buffer| format!("{OPTIMIZER_PREFIX}{buffer}.{name}");
            arrays.extend(state.named_buffers().map(|(buffer, values)| (array_name(buffer), values)));
        }
        if let Some(ema) = ema {
            let averages = values.iter().zip(ema.values());
            let named =
                averages.map(|((name, _), values)| (format!("{EMA_PREFIX}{name}"), values.as_slice()));
            arrays.extend(named);
        }
        checkpoint_file::save(&run.checkpoint_path(LAST_CHECKPOINT), state, &arrays)?;
        self.last_saved = Instant::now();
        Ok(())
    }

    /// Restores the last checkpoint, if there is one.
    pub(super) fn load_checkpoint(&mut self) -> Result<(), TrainError> {
        let Some(run) = self.config.run else { return Ok(()) };
        let path = run.checkpoint_path(LAST_CHECKPOINT);
        let Some((state, mut arrays)) = checkpoint_file::load::<TrainState>(&path)? else { return Ok(()) };
        if state.fingerprint != self.config.fingerprint {
            return Err(TrainError::Usage(format!(
                "{} cannot be resumed: its settings, photos or weights have changed since it began; start a new run under \
                 another name",
                run.folder().display()
            )));
        }
        copy_into_model(&mut self.model, &arrays)?;
        for (name, &n_steps) in &state.parameter_steps {
            let len = arrays.get(name).map_or(0, Vec::len);
            let state = OptimizerState::restore(self.optimizer, len, n_steps, |buffer| {
                arrays.remove(&format!("{OPTIMIZER_PREFIX}{buffer}.{name}"))
            });
            self.optimizer_states.insert(name.clone(), state.map_err(TrainError::format(&path))?);
        }
        if let Some(ema) = &mut self.ema {
            let names = self.model.named_values_mut();
            let values = names
                .iter()
                .map(|(name, _)| arrays.remove(&format!("{EMA_PREFIX}{name}")).unwrap_or_default());
            ema.restore(state.ema_updates, values.collect()).map_err(TrainError::format(&path))?;
        }
        self.state = state;
        Ok(())
    }

    /// Saves the current model as the best so far.
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

    /// Restores the best model.
    pub(super) fn load_best(&mut self) -> Result<(), TrainError> {
        let saved = self.config.run.map(|run| run.checkpoint_path(BEST_CHECKPOINT));
        let saved = saved.map(|path| checkpoint_file::load::<BestEpoch>(&path)).transpose()?.flatten();
        let (_, values) =
            saved.ok_or_else(|| TrainError::Data("the checkpoint of the best epoch is missing".into()))?;
        copy_into_model(&mut self.model, &values)
    }
}

/// Overwrites the model's values with saved ones.
fn copy_into_model(
    model: &mut FinetuneModel<'_>,
    saved: &BTreeMap<String, Vec<f32>>,
) -> Result<(), TrainError> {
    for (name, values) in model.named_values_mut() {
        match saved.get(&name).filter(|saved| saved.len() == values.len()) {
            Some(saved) => values.copy_from_slice(saved),
            None => {
                return Err(TrainError::Data(format!(
                    "the checkpoint has no `{name}` of {} values: it belongs to another model",
                    values.len()
                )));
            }
        }
    }
    Ok(())
}
