//! Classification heads: models that learn a user's classes from frozen features.
//!
//! A head has two types. A *configuration* ([`HeadConfig`]) is the table `[head]` of `headstock.toml`: serde,
//! validated, with defaults, and able to fit. A *fitted head* ([`Head`]) maps features `[N, F]` to logits
//! `[N, C]`. The [`Registry`] looks up configurations by name; heads are registered explicitly.
//! [`check_head`] is the conformance suite that every head must pass, built-in or custom.
//!
//! ```
//! use headstock_heads::{FeatureMatrix, FitContext, Registry, TrainingSet};
//!
//! // Four photos with two features each, of two classes.
//! let features = [0.1, 2.0, 0.2, 1.5, 3.0, 0.3, 2.5, 0.1];
//! let data = TrainingSet::new(FeatureMatrix::new(&features, 2)?, &[0, 0, 1, 1], 2)?;
//!
//! let registry = Registry::builtin();
//! let config = registry.get("linear")?.configure("C = 10.0".parse()?)?;
//! let fitted = config.fit(&data, &FitContext::silent())?;
//! let logits = fitted.head.logits(FeatureMatrix::new(&[2.8, 0.2], 2)?)?;
//! assert_eq!(logits.argmax(), [1]);
//! assert!(logits.softmax()[1] > 0.9);
//!
//! // The tensors, as saved in `model.safetensors`, fully describe the head.
//! let again = config.load(&fitted.head.tensors()?)?;
//! assert_eq!(again.logits(data.features())?, fitted.head.logits(data.features())?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Structure
//!
//! Each head is a file or a folder: [`linear`], [`svm`], [`mlp`], [`cosine`], [`ridge`], [`lda`],
//! [`nearest_mean`], [`knn`]. They share the affine map of linear layers, standardization, the linear algebra
//! of closed forms (`dense`) and the optimizers (`solver`): L-BFGS, dual coordinate descent, and AdamW for
//! anything [`Differentiable`]. [`calibration`] and [`conformal`] sets work with every head and are fitted on
//! held-out logits, see [`headstock_split::stratified_folds`]. Results do not depend on the number of
//! threads: sums run in a fixed order, and random numbers are derived from the seed and their purpose.

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
#[cfg(test)]
mod fixtures;
mod gemm;
pub mod head;
mod hyperparameter;
pub mod knn;
pub mod lda;
pub mod linear;
pub mod metric;
pub mod mlp;
pub mod nearest_mean;
mod params;
pub mod registry;
pub mod regularization;
pub mod ridge;
mod solver;
mod standardize;
pub mod svm;
mod tensors;
mod vector;

pub use affine::Affine;
pub use calibration::{Calibration, CalibrationMethod};
pub use conformal::{ConformalMethod, ConformalScores, SetPredictor};
pub use conformance::{check_head, check_head_with};
pub use data::{ClassWeight, FeatureMatrix, Logits, TrainingSet};
pub use differentiable::{Differentiable, ForwardMode};
pub use error::HeadError;
pub use head::{FitContext, Fitted, Head, HeadConfig, HeadShape, History};
pub use hyperparameter::Hyperparameter;
pub use metric::DistanceMetric;
pub use registry::{ConfiguredHead, FittedHead, HeadKind, Registry, RegistryError};
pub use regularization::Regularization;
pub use solver::adamw::{AdamW, AdamWSlot};
pub use solver::gradient::{EarlyStopping, LrSchedule, Recipe, fit_by_gradients};
pub use tensors::Tensors;
