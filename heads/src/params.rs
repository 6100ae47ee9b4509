//! Keys of `[head]` that several heads have.

use crate::check::{require_at_least_one, require_fraction, require_non_negative, require_positive};
use crate::error::HeadError;
use crate::head::HyperparameterInfo;
use crate::solver::gradient::{self, EarlyStopping, LrSchedule, Recipe};

pub(crate) const CLASS_WEIGHT: HyperparameterInfo =
    ("class_weight", "\"none\", or \"balanced\": a rare class counts as much as a frequent one");
pub(crate) const STANDARDIZE: HyperparameterInfo =
    ("standardize", "bring each feature to mean 0 and variance 1 first");

// Of heads that AdamW fits along `Schedule::WarmCosine`.

pub(crate) const LR: HyperparameterInfo =
    ("lr", "learning rate of AdamW: up to it in a tenth of the steps, then down along a cosine");
pub(crate) const WEIGHT_DECAY: HyperparameterInfo = ("weight_decay", "decoupled weight decay of AdamW");
pub(crate) const EPOCHS: HyperparameterInfo = ("epochs", "passes over the samples, at most");
pub(crate) const BATCH_SIZE: HyperparameterInfo =
    ("batch_size", "samples in a step, at most: an epoch has 16 steps or more");
pub(crate) const VALIDATION: HyperparameterInfo =
    ("validation", "part of each class's photos held out to see when to stop; 0 runs all epochs");
pub(crate) const PATIENCE: HyperparameterInfo =
    ("patience", "epochs without a lower loss on what is held out, after which to stop");

/// What these keys are set to.
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
    /// Whether each is in its range.
    pub(crate) fn check(&self) -> Result<(), HeadError> {
        require_positive(LR.0, self.lr)?;
        require_non_negative(WEIGHT_DECAY.0, self.weight_decay)?;
        require_at_least_one(EPOCHS.0, self.epochs)?;
        require_at_least_one(BATCH_SIZE.0, self.batch_size)?;
        require_fraction(VALIDATION.0, self.validation)?;
        require_at_least_one(PATIENCE.0, self.patience)
    }

    /// How to fit on so many samples.
    pub(crate) fn recipe(&self, samples: usize) -> Recipe {
        let early_stopping = EarlyStopping { validation: self.validation, patience: self.patience };
        Recipe {
            lr: self.lr,
            schedule: LrSchedule::WarmupCosine,
            weight_decay: self.weight_decay,
            penalty: 0.0,
            epochs: self.epochs,
            batch_size: gradient::effective_batch_size(self.batch_size, samples),
            seed: self.seed,
            early_stopping: (self.validation > 0.0).then_some(early_stopping),
        }
    }
}
