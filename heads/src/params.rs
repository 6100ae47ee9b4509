//! Keys of `[head]` that the heads fitted by AdamW with `LrSchedule::WarmupCosine` share.

use crate::check::{require_at_least_one, require_fraction, require_non_negative, require_positive};
use crate::error::HeadError;
use crate::solver::gradient::{self, EarlyStopping, LrSchedule, Recipe};

/// The values of the shared keys, copied from the head's configuration, whose fields describe them.
pub(crate) struct AdamWParams {
    pub(crate) lr: f64,
    pub(crate) weight_decay: f64,
    pub(crate) epochs: u64,
    pub(crate) batch_size: u64,
    pub(crate) validation: f64,
    pub(crate) patience: u64,
    pub(crate) seed: u64,
}

impl AdamWParams {
    /// Checks that every value is in the range of its key, as a part of the head's own check.
    pub(crate) fn check(&self) -> Result<(), HeadError> {
        require_positive("lr", self.lr)?;
        require_non_negative("weight_decay", self.weight_decay)?;
        require_at_least_one("epochs", self.epochs)?;
        require_at_least_one("batch_size", self.batch_size)?;
        require_fraction("validation", self.validation)?;
        require_at_least_one("patience", self.patience)
    }

    /// The settings with which [`gradient::fit`] trains a head on `samples` samples by AdamW. Small sets get
    /// smaller batches, so that an epoch has enough steps; a `validation` of 0 turns early stopping off.
    pub(crate) fn recipe(&self, samples: usize) -> Recipe {
        let early_stopping = EarlyStopping { validation: self.validation, patience: self.patience };
        Recipe {
            lr: self.lr,
            schedule: LrSchedule::WarmupCosine,
            weight_decay: self.weight_decay,
            // Weight decay takes the place of an L2 penalty.
            penalty: 0.0,
            epochs: self.epochs,
            batch_size: gradient::effective_batch_size(self.batch_size, samples),
            seed: self.seed,
            early_stopping: (self.validation > 0.0).then_some(early_stopping),
        }
    }
}
