//! Classification heads: what learns a user's classes from frozen features.
//!
//! A head is two types. A *configuration* ([`HeadConfig`]) is what `[head]` in `headstock.toml` holds: serde,
//! checked, with defaults, and it knows how to fit. A *fitted head* ([`Head`]) turns features `[N, F]` into
//! logits `[N, C]`. The [`Registry`] finds a configuration by its name; nothing registers itself behind your
//! back. [`check_head`] is the suite that every head passes, ours and yours.
//!
//! ```
//! use headstock_heads::{Features, FitContext, Registry, TrainingSet};
//!
//! // Four photos with two features each, of two classes.
//! let features = [0.1, 2.0, 0.2, 1.5, 3.0, 0.3, 2.5, 0.1];
//! let data = TrainingSet::new(Features::new(&features, 2)?, &[0, 0, 1, 1], 2)?;
//!
//! let registry = Registry::builtin();
//! let config = registry.get("linear")?.configure("C = 10.0".parse()?)?;
//! let fitted = config.fit(&data, &FitContext::quiet())?;
//! let logits = fitted.head.logits(Features::new(&[2.8, 0.2], 2)?)?;
//! assert_eq!(logits.argmax(), [1]);
//! assert!(logits.softmax()[1] > 0.9);
//!
//! // What `model.safetensors` keeps is all that the head is.
//! let again = config.load(&fitted.head.tensors()?)?;
//! assert_eq!(again.logits(data.features())?, fitted.head.logits(data.features())?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Inside
//!
//! A head is a file or a folder: [`linear`], [`svm`], [`mlp`], [`cosine`], [`ridge`], [`lda`], [`nearest_mean`], [`knn`].
//! What they share has files of its own: the affine map that a linear layer is, standardising, in `dense` the linear
//! algebra of closed forms, and in `solver` what minimises an objective: L-BFGS, dual coordinate descent, and AdamW on
//! anything [`Differentiable`]. What makes logits honest serves all heads: [`calibration`] and [`conformal`] sets, fitted
//! on the logits that [`folds`] leave out. Nothing here depends on the number of threads: sums run
//! in a fixed order, and what is random is keyed by the seed and by what it is for.

pub mod affine;
mod auto;
pub mod calibration;
mod check;
pub mod conformal;
pub mod conformance;
pub mod cosine;
pub mod data;
mod dense;
pub mod differentiable;
pub mod error;
pub mod folds;
mod gemm;
pub mod head;
pub mod knn;
pub mod lda;
pub mod linear;
pub mod metric;
pub mod mlp;
pub mod nearest_mean;
mod params;
mod random;
pub mod registry;
pub mod regularization;
pub mod ridge;
mod solver;
mod standardize;
pub mod svm;
mod vector;

pub use affine::Affine;
pub use calibration::{Calibration, CalibrationMethod};
pub use conformal::{ConformalMethod, ConformalScores, SetPredictor};
pub use conformance::{check_head, check_head_with};
pub use data::{ClassWeight, FeatureMatrix, Logits, TrainingSet};
pub use differentiable::{Differentiable, ForwardMode};
pub use error::HeadError;
pub use head::{FitContext, Fitted, Head, HeadConfig, HeadShape, History, HyperparameterInfo, Tensors};
pub use metric::Metric;
pub use random::KeyedRng;
pub use registry::{ConfiguredHead, FittedHead, HeadKind, Registry, RegistryError};
pub use regularization::Regularization;
pub use solver::adamw::{AdamW, AdamWSlot};
pub use solver::gradient::{EarlyStopping, LrSchedule, Recipe, fit_by_gradients};
