//! The two traits of a head: its configuration, which fits it, and the fitted head.

use std::fmt::Debug;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::data::{FeatureMatrix, Logits, TrainingSet};
use crate::differentiable::Differentiable;
use crate::error::HeadError;
use crate::tensors::Tensors;

/// The configuration of a head: the table `[head]` without `kind`.
///
/// Derive `Deserialize` with `#[serde(deny_unknown_fields, default)]`, so that a misspelled key is an error
/// and every key has a default. Derive `JsonSchema` as well: the doc comments of the fields are the
/// descriptions that `headstock heads NAME` prints.
pub trait HeadConfig:
    Clone + Debug + Default + Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static
{
    /// The name in `head.kind`.
    const KIND: &'static str;
    /// One-line description for `headstock heads`.
    const ABOUT: &'static str;
    /// Whether a fit uses [`FitContext::warm_start`].
    const SUPPORTS_WARM_START: bool = false;
    /// The fitted type.
    type Head: Head;

    /// Validates the values of the keys. The program calls this when it reads the config, before any work is
    /// done.
    ///
    /// # Errors
    /// [`HeadError::Parameter`], which names the key.
    fn check(&self) -> Result<(), HeadError>;

    /// Fits a head on the features and labels of `data`. The result depends on the configuration, the data
    /// and the warm start of `context` only.
    ///
    /// # Errors
    /// When the data is invalid or the solver diverges.
    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<Self::Head>, HeadError>;

    /// Restores a fitted head from the tensors that [`Head::tensors`] returned, which the program saves.
    ///
    /// # Errors
    /// [`HeadError::Tensor`] for a tensor that is missing or misshapen.
    fn load(&self, tensors: &Tensors) -> Result<Self::Head, HeadError>;

    /// The configurations that the command `compare` fits to find the best: this one with a few values of its
    /// most important keys. By default this one only.
    fn candidate_configs(&self) -> Vec<Self> {
        vec![self.clone()]
    }

    /// Estimated memory of a fit on data of this shape in bytes, besides the features; 0 if it is negligible.
    /// The program tells the user before a large fit starts, and `compare` runs fewer large fits at a time.
    fn memory_bytes(&self, shape: HeadShape) -> u64 {
        let _ = shape;
        0
    }

    /// The head as a differentiable function, required for fine-tuning a backbone; `None` if it is not
    /// differentiable.
    fn differentiable(&self) -> Option<&dyn Differentiable> {
        None
    }
}

/// A fitted head.
pub trait Head: Send + Sync + 'static {
    /// Number of features that the head expects of each sample, `F`.
    fn width(&self) -> usize;

    /// Number of classes that the head distinguishes, `C`.
    fn classes(&self) -> usize;

    /// Computes the logits `[N, C]` of features `[N, F]`, with which classes are predicted. A row's logits do
    /// not depend on the other rows.
    ///
    /// # Errors
    /// [`HeadError::Width`] when the features have another width.
    fn logits(&self, features: FeatureMatrix<'_>) -> Result<Logits, HeadError>;

    /// The tensors to save in `model.safetensors`; [`HeadConfig::load`] restores the head from them.
    ///
    /// # Errors
    /// When a tensor cannot be created.
    fn tensors(&self) -> Result<Tensors, HeadError>;
}

/// A fitted head and the record of its fit.
#[derive(Debug)]
pub struct Fitted<H: ?Sized> {
    /// The head.
    pub head: Box<H>,
    /// One row per epoch or iteration.
    pub history: History,
    /// Names and values of the hyperparameters that the fit chose, such as `C` for `C = "auto"`.
    pub chosen: Vec<(&'static str, f64)>,
}

impl<H> Fitted<H> {
    /// The result of a fit without epochs or iterations, such as one in closed form: `head` with an empty
    /// history.
    pub fn without_history(head: H) -> Self {
        Self::with_history(head, History::default())
    }

    /// The result of a fit with epochs or iterations: `head` and one row of `history` for each of them.
    pub fn with_history(head: H, history: History) -> Self {
        Self { head: Box::new(head), history, chosen: Vec::new() }
    }

    /// Records that the fit chose `value` for a hyperparameter; does nothing for `None` (the value was
    /// fixed).
    #[must_use]
    pub fn with_chosen(mut self, parameter: &'static str, value: Option<f64>) -> Self {
        self.chosen.extend(value.map(|value| (parameter, value)));
        self
    }
}

/// The contents of `history.csv`: named columns and one row per epoch or iteration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Names of the columns; the first is `epoch` or `iteration`.
    pub columns: Vec<&'static str>,
    /// The rows, each as long as `columns`.
    pub rows: Vec<Vec<f64>>,
}

/// The size of a training set, from which the memory of a fit is estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Number of samples, `N`.
    pub samples: usize,
    /// Number of features, `F`.
    pub features: usize,
    /// Number of classes, `C`.
    pub classes: usize,
}

/// Progress callback and warm start of a fit.
#[derive(Clone, Copy)]
pub struct FitContext<'a> {
    /// Called after each epoch or iteration with (done, maximum).
    pub on_step: &'a (dyn Fn(u64, u64) + Sync),
    /// The tensors of an earlier head of the same kind, for heads that support warm starts
    /// ([`HeadConfig::SUPPORTS_WARM_START`]). The earlier head must have the same number of features; its
    /// classes must come first among those of the data, in the same order.
    pub warm_start: Option<&'a Tensors>,
}

impl<'a> FitContext<'a> {
    /// A context that reports no progress and has no warm start.
    #[must_use]
    pub fn silent() -> Self {
        Self { on_step: &|_, _| {}, warm_start: None }
    }

    /// Sets the tensors of the earlier head to start from.
    #[must_use]
    pub fn with_warm_start(self, warm_start: &'a Tensors) -> Self {
        Self { warm_start: Some(warm_start), ..self }
    }
}
