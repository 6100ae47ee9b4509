//! What of a course is saved, to go on from.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Course, Setup};
use crate::error::TrainError;
use crate::run::Unfinished;
use crate::tune::average::Average;
use crate::tune::checkpoint::{self, Arrays};
use crate::tune::network::Network;
use crate::tune::optimiser::State;

/// Where the last checkpoint is kept.
const LAST: &str = "last.safetensors";
/// What the best epoch ended with.
const BEST: &str = "best.safetensors";
/// Prefixes of what a checkpoint holds beside the values themselves.
const STATE: &str = "optimizer.";
const AVERAGE: &str = "average.";

/// Where a tuning is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) origin: String,
    pub(super) chosen: Vec<(String, f64)>,
    /// Epochs done.
    pub(super) epoch: u64,
    /// Batches of the next one done.
    pub(super) batches: usize,
    /// Steps done in all.
    pub(super) steps: u64,
    /// The sum of the losses of the epoch's photos so far.
    pub(super) loss: f64,
    pub(super) best: Option<Best>,
    /// Steps that each parameter has made.
    pub(super) made: BTreeMap<String, u64>,
    /// Steps that the average has followed.
    pub(super) followed: u64,
    pub(super) history: Vec<Vec<f64>>,
}

/// The epoch with the lowest loss on what is held out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Best {
    pub(super) epoch: u64,
    pub(super) loss: f64,
}

/// Where a tuning is before its first step.
pub(super) fn beginning(setup: &Setup<'_>) -> Position {
    Position { origin: setup.origin.clone(), chosen: setup.chosen.clone(), ..Position::default() }
}

/// Whether training has come so far that it can go on.
pub(in crate::tune) fn has_begun(unfinished: &Unfinished) -> bool {
    unfinished.checkpoint(LAST).exists()
}

impl Course<'_> {
    /// Saves all that is needed to go on from here.
    pub(super) fn save(&mut self) -> Result<(), TrainError> {
        let Self { setup, network, states, average, position, .. } = self;
        let Some(unfinished) = setup.unfinished else { return Ok(()) };
        position.made = states.iter().map(|(name, state)| (name.clone(), state.done())).collect();
        position.followed = average.as_ref().map_or(0, Average::updates);
        let values = network.values();
        let mut arrays: Arrays<'_> = values.iter().map(|(name, values)| (name.clone(), &**values)).collect();
        for (name, state) in states.iter() {
            arrays.extend(state.state().map(|(part, values)| (format!("{STATE}{part}.{name}"), values)));
        }
        if let Some(average) = average {
            let named = values.iter().zip(average.values());
            arrays.extend(named.map(|((name, _), values)| (format!("{AVERAGE}{name}"), values.as_slice())));
        }
        checkpoint::save(&unfinished.checkpoint(LAST), position, &arrays)?;
        self.saved = Instant::now();
        Ok(())
    }

    /// Takes up the last checkpoint, where there is one.
    pub(super) fn load(&mut self) -> Result<(), TrainError> {
        let Some(unfinished) = self.setup.unfinished else { return Ok(()) };
        let path = unfinished.checkpoint(LAST);
        let Some((position, mut arrays)) = checkpoint::load::<Position>(&path)? else { return Ok(()) };
        if position.origin != self.setup.origin {
            return Err(TrainError::Usage(format!(
                "{} cannot go on: its settings, photos or weights are not those that it began with; train anew, under another \
                 name",
                unfinished.folder().display()
            )));
        }
        put(&mut self.network, &arrays)?;
        for (name, &done) in &position.made {
            let length = arrays.get(name).map_or(0, Vec::len);
            let state = State::restore(self.optimiser, length, done, |part| {
                arrays.remove(&format!("{STATE}{part}.{name}"))
            });
            self.states.insert(name.clone(), state.map_err(TrainError::format(&path))?);
        }
        if let Some(average) = &mut self.average {
            let names = self.network.values();
            let values =
                names.iter().map(|(name, _)| arrays.remove(&format!("{AVERAGE}{name}")).unwrap_or_default());
            average.restore(position.followed, values.collect()).map_err(TrainError::format(&path))?;
        }
        self.position = position;
        Ok(())
    }

    /// Keeps what is trained now as the best so far.
    pub(super) fn save_best(&mut self, best: Best) -> Result<(), TrainError> {
        if let Some(unfinished) = self.setup.unfinished {
            let values = self.network.values();
            let arrays: Arrays<'_> = values.iter().map(|(name, values)| (name.clone(), &**values)).collect();
            checkpoint::save(&unfinished.checkpoint(BEST), &best, &arrays)?;
        }
        self.position.best = Some(best);
        Ok(())
    }

    /// Takes up what was the best.
    pub(super) fn load_best(&mut self) -> Result<(), TrainError> {
        let kept = self.setup.unfinished.map(|unfinished| unfinished.checkpoint(BEST));
        let kept = kept.map(|path| checkpoint::load::<Best>(&path)).transpose()?.flatten();
        let (_, values) =
            kept.ok_or_else(|| TrainError::Data("the checkpoint of the best epoch is gone".into()))?;
        put(&mut self.network, &values)
    }
}

/// Puts values that were kept in the place of the network's.
fn put(network: &mut Network<'_>, kept: &BTreeMap<String, Vec<f32>>) -> Result<(), TrainError> {
    for (name, values) in network.values() {
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
