//! The two traits of a head.

use std::collections::BTreeMap;
use std::fmt::Debug;

use candle_core::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::data::{FeatureMatrix, Logits, TrainingSet};
use crate::differentiable::Differentiable;
use crate::error::HeadError;

/// The tensors of a fitted head by name, as `model.safetensors` keeps them.
pub type Tensors = BTreeMap<String, Tensor>;

/// A key of `[head]` and what it does, for `headstock heads NAME`.
pub type HyperparameterInfo = (&'static str, &'static str);

/// The configuration of a head: the table `[head]` without `kind`.
///
/// Deserialise with `#[serde(deny_unknown_fields, default)]`, so that a misspelt key is an error and every
/// key has a default.
pub trait HeadConfig: Clone + Debug + Default + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name in `head.kind`.
    const KIND: &'static str;
    /// One line for `headstock heads`.
    const ABOUT: &'static str;
    /// Every key with a line about it, in the order in which they are shown.
    const PARAMETERS: &'static [HyperparameterInfo];
    /// Whether a fit starts from [`FitContext::start`] where that is given.
    const SUPPORTS_WARM_START: bool = false;
    /// What fitting gives.
    type Head: Head;

    /// Checks the values of the parameters, before any work is done.
    ///
    /// # Errors
    /// [`HeadError::Parameter`], which names the key.
    fn check(&self) -> Result<(), HeadError>;

    /// Fits on features. The result depends on the configuration and the data alone.
    ///
    /// # Errors
    /// When the data cannot be learned from or the solver diverges.
    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<Self::Head>, HeadError>;

    /// Puts a fitted head together from the tensors that [`Head::tensors`] gave.
    ///
    /// # Errors
    /// [`HeadError::Tensor`] for one that is missing or misshapen.
    fn load(&self, tensors: &Tensors) -> Result<Self::Head, HeadError>;

    /// Configurations that `compare` tries in place of this one: a small grid over what matters most.
    fn grid(&self) -> Vec<Self> {
        vec![self.clone()]
    }

    /// About how many bytes a fit takes beside the features, so that a user hears of it before the work starts; 0 for
    /// a head that needs next to nothing.
    fn memory_bytes(&self, shape: HeadShape) -> u64 {
        let _ = shape;
        0
    }

    /// The head as a function that gradients pass through, which fine-tuning a backbone needs; nothing for a
    /// head that has no such form.
    fn differentiable(&self) -> Option<&dyn Differentiable> {
        None
    }
}

/// A fitted head.
pub trait Head: Send + Sync + 'static {
    /// Number of features it takes, `F`.
    fn width(&self) -> usize;

    /// Number of classes it tells apart, `C`.
    fn classes(&self) -> usize;

    /// Features `[N, F]` to logits `[N, C]`. A row's logits do not depend on the other rows.
    ///
    /// # Errors
    /// [`HeadError::Width`] when the features have another width.
    fn logits(&self, features: FeatureMatrix<'_>) -> Result<Logits, HeadError>;

    /// Its tensors, as they are saved.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    fn tensors(&self) -> Result<Tensors, HeadError>;
}

/// A fitted head and how the fit went.
#[derive(Debug)]
pub struct Fitted<H: ?Sized> {
    /// The head.
    pub head: Box<H>,
    /// A row per epoch or iteration.
    pub history: History,
    /// Parameters that the configuration left to the fit, such as `C = "auto"`, and what it chose.
    pub chosen: Vec<(&'static str, f64)>,
}

impl<H> Fitted<H> {
    /// A head that was fitted in one step, without a history.
    pub fn without_history(head: H) -> Self {
        Self::with_history(head, History::default())
    }

    /// A head and how its fit went.
    pub fn with_history(head: H, history: History) -> Self {
        Self { head: Box::new(head), history, chosen: Vec::new() }
    }

    /// Adds a parameter that the fit chose.
    #[must_use]
    pub fn with_chosen(mut self, parameter: &'static str, value: Option<f64>) -> Self {
        self.chosen.extend(value.map(|value| (parameter, value)));
        self
    }
}

/// What `history.csv` holds: named columns and a row per epoch or iteration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Names of the columns, `epoch` or `iteration` first.
    pub columns: Vec<&'static str>,
    /// The rows, each as long as `columns`.
    pub rows: Vec<Vec<f64>>,
}

/// How much there is to fit on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Number of samples, `N`.
    pub samples: usize,
    /// Number of features, `F`.
    pub features: usize,
    /// Number of classes, `C`.
    pub classes: usize,
}

/// What surrounds a fit.
#[derive(Clone, Copy)]
pub struct FitContext<'a> {
    /// Called after each epoch or iteration with (done, at most).
    pub on_step: &'a (dyn Fn(u64, u64) + Sync),
    /// The tensors of a head of the same kind that was fitted on like data, for a head that can start from one
    /// ([`HeadConfig::SUPPORTS_WARM_START`]). It takes as many features; its classes are the first of those to fit, and there may be
    /// fewer.
    pub warm_start: Option<&'a Tensors>,
}

impl<'a> FitContext<'a> {
    /// A context that reports to nobody.
    #[must_use]
    pub fn silent() -> Self {
        Self { on_step: &|_, _| {}, warm_start: None }
    }

    /// The same, and a head to start from.
    #[must_use]
    pub fn with_warm_start(self, warm_start: &'a Tensors) -> Self {
        Self { warm_start: Some(warm_start), ..self }
    }
}
