//! What of a course is saved, to go on from.

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

/// Where the last checkpoint is kept.
const LAST_CHECKPOINT: &str = "last.safetensors";
/// What the best epoch ended with.
const BEST_CHECKPOINT: &str = "best.safetensors";
/// Prefixes of what a checkpoint holds beside the values themselves.
const OPTIMIZER_PREFIX: &str = "optimizer.";
const EMA_PREFIX: &str = "average.";

/// Where a tuning is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TrainState {
    pub(super) fingerprint: String,
    pub(super) chosen_params: Vec<(String, f64)>,
    /// Epochs done.
    pub(super) epochs_done: u64,
    /// Batches of the next one done.
    pub(super) batches_done: usize,
    /// Steps done in all.
    pub(super) steps_done: u64,
    /// The sum of the losses of the epoch's photos so far.
    pub(super) loss_sum: f64,
    pub(super) best: Option<BestEpoch>,
    /// Steps that each parameter has made.
    pub(super) parameter_steps: BTreeMap<String, u64>,
    /// Steps that the average has followed.
    pub(super) ema_updates: u64,
    pub(super) history: Vec<Vec<f64>>,
}

/// The epoch with the lowest loss on what is held out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BestEpoch {
    pub(super) epoch: u64,
    pub(super) loss: f64,
}

/// Where a tuning is before its first step.
pub(super) fn initial_state(setup: &TrainerConfig<'_>) -> TrainState {
    TrainState {
        fingerprint: setup.fingerprint.clone(),
        chosen_params: setup.chosen_params.clone(),
        ..TrainState::default()
    }
}

/// Whether training has come so far that it can go on.
pub(in crate::finetune) fn has_checkpoint(unfinished: &RunInProgress) -> bool {
    unfinished.checkpoint_path(LAST_CHECKPOINT).exists()
}

impl Trainer<'_> {
    /// Saves all that is needed to go on from here.
    pub(super) fn save_checkpoint(&mut self) -> Result<(), TrainError> {
        let Self {
            config: setup,
            model: network,
            optimizer_states: states,
            ema: average,
            state: position,
            ..
        } = self;
        let Some(unfinished) = setup.run else { return Ok(()) };
        position.parameter_steps =
            states.iter().map(|(name, state)| (name.clone(), state.n_steps())).collect();
        position.ema_updates = average.as_ref().map_or(0, Ema::updates);
        let values = network.named_values_mut();
        let mut arrays: NamedArrays<'_> =
            values.iter().map(|(name, values)| (name.clone(), &**values)).collect();
        for (name, state) in states.iter() {
            arrays.extend(
                state
                    .named_buffers()
                    .map(|(part, values)| (format!("{OPTIMIZER_PREFIX}{part}.{name}"), values)),
            );
        }
        if let Some(average) = average {
            let named = values.iter().zip(average.values());
            arrays
                .extend(named.map(|((name, _), values)| (format!("{EMA_PREFIX}{name}"), values.as_slice())));
        }
        checkpoint_file::save(&unfinished.checkpoint_path(LAST_CHECKPOINT), position, &arrays)?;
        self.last_saved = Instant::now();
        Ok(())
    }

    /// Takes up the last checkpoint, where there is one.
    pub(super) fn load_checkpoint(&mut self) -> Result<(), TrainError> {
        let Some(unfinished) = self.config.run else { return Ok(()) };
        let path = unfinished.checkpoint_path(LAST_CHECKPOINT);
        let Some((position, mut arrays)) = checkpoint_file::load::<TrainState>(&path)? else { return Ok(()) };
        if position.fingerprint != self.config.fingerprint {
            return Err(TrainError::Usage(format!(
                "{} cannot go on: its settings, photos or weights are not those that it began with; train anew, under another \
                 name",
                unfinished.folder().display()
            )));
        }
        copy_into_model(&mut self.model, &arrays)?;
        for (name, &done) in &position.parameter_steps {
            let length = arrays.get(name).map_or(0, Vec::len);
            let state = OptimizerState::restore(self.optimizer, length, done, |part| {
                arrays.remove(&format!("{OPTIMIZER_PREFIX}{part}.{name}"))
            });
            self.optimizer_states.insert(name.clone(), state.map_err(TrainError::format(&path))?);
        }
        if let Some(average) = &mut self.ema {
            let names = self.model.named_values_mut();
            let values = names
                .iter()
                .map(|(name, _)| arrays.remove(&format!("{EMA_PREFIX}{name}")).unwrap_or_default());
            average.restore(position.ema_updates, values.collect()).map_err(TrainError::format(&path))?;
        }
        self.state = position;
        Ok(())
    }

    /// Keeps what is trained now as the best so far.
    pub(super) fn save_best(&mut self, best: BestEpoch) -> Result<(), TrainError> {
        if let Some(unfinished) = self.config.run {
            let values = self.model.named_values_mut();
            let arrays: NamedArrays<'_> =
                values.iter().map(|(name, values)| (name.clone(), &**values)).collect();
            checkpoint_file::save(&unfinished.checkpoint_path(BEST_CHECKPOINT), &best, &arrays)?;
        }
        self.state.best = Some(best);
        Ok(())
    }

    /// Takes up what was the best.
    pub(super) fn load_best(&mut self) -> Result<(), TrainError> {
        let kept = self.config.run.map(|unfinished| unfinished.checkpoint_path(BEST_CHECKPOINT));
        let kept = kept.map(|path| checkpoint_file::load::<BestEpoch>(&path)).transpose()?.flatten();
        let (_, values) =
            kept.ok_or_else(|| TrainError::Data("the checkpoint of the best epoch is gone".into()))?;
        copy_into_model(&mut self.model, &values)
    }
}

/// Puts values that were kept in the place of the network's.
fn copy_into_model(
    network: &mut FinetuneModel<'_>,
    kept: &BTreeMap<String, Vec<f32>>,
) -> Result<(), TrainError> {
    for (name, values) in network.named_values_mut() {
        match kept.get(&name).filter(|kept| kept.len() == values.len()) {
            Some(kept) => values.copy_from_slice(kept),
            None => {
                return Err(TrainError::Data(format!(
                    "a checkpoint has no `{name}` of {} values: it is of another network",
                    values.len()
                )));
            }
        }
    }
    Ok(())
}
