//! Classification heads: what learns a user's classes from frozen features.
//!
//! A head is two types. A *configuration* ([`HeadConfig`]) is what `[head]` in `headstock.toml` holds: serde, checked,
//! with defaults, and it knows how to fit. A *fitted head* ([`Head`]) turns features `[N, F]` into logits `[N, C]`.
//! The [`Registry`] finds a configuration by its name; nothing registers itself behind your back.
//! [`check_head`](conformance::check_head) is the suite that every head passes, ours and yours.

mod affine;
mod check;
pub mod conformance;
pub mod data;
pub mod differentiable;
pub mod error;
pub mod head;
pub mod linear;
pub mod mlp;
mod product;
mod random;
pub mod registry;
mod solver;
mod standardize;
pub mod svm;
mod vector;

pub use conformance::{check_head, check_head_with};
pub use data::{ClassWeight, Features, Logits, TrainingSet};
pub use differentiable::{Differentiable, Mode};
pub use error::HeadError;
pub use head::{FitContext, Fitted, Head, HeadConfig, History, Parameter, Tensors};
pub use registry::{ConfiguredHead, FittedHead, HeadKind, Registry, RegistryError};
