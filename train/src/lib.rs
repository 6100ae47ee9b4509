//! Training and evaluation: from settings to a run, and from a run to its metrics.
//!
//! [`config`] reads `headstock.toml` into [`Settings`](config::Settings). [`train`] reads the data set,
//! computes the features that are not cached yet, fits the head, calibrates and tests it, and writes a run.
//! [`Run::open`] opens a run and [`evaluate()`] tests it again; `headstock_inference` applies it to new
//! images. [`extract()`] writes features for other tools.
//!
//! ```
//! use std::path::Path;
//! use headstock_train::config::{Config, Registries};
//! use headstock_train::{RunDir, train};
//!
//! # let folder = tempfile::tempdir()?;
//! # let features = concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/feature_file/separable.npz");
//! # std::fs::copy(features, folder.path().join("x.npz"))?;
//! let config = "version = 1\n[data]\nfeatures = \"x.npz\"\n";
//! let settings = Config::parse(config, "example", folder.path())?.resolve(&Registries::builtin())?;
//! let outcome = train(&settings, None, &RunDir::Named(folder.path().join("run")), &())?;
//! assert_eq!(outcome.metrics.test[&headstock_train::metrics::Accuracy], 1.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod activations;
mod atomic_write;
mod benchmark;
mod bootstrap;
pub mod compare;
pub mod config;
mod csv_table;
pub mod doctor;
mod error;
mod evaluate;
mod extract;
pub mod feature_file;
pub mod features;
mod finetune;
mod fit;
mod html_page;
mod in_memory_features;
pub mod metrics;
mod prepared_data;
mod report;
pub mod run;
mod sample_features;
pub mod samples;
mod signature_cache;
mod statistics;
mod temp_folder;
#[cfg(test)]
mod tests;
mod trained_on;
mod training;

pub use benchmark::{Throughput, measure_throughput};
pub use error::{Remedy, TrainError, UnreadableImages};
pub use evaluate::{Evaluation, evaluate};
pub use extract::{ExtractSummary, extract};
pub use finetune::{FinetuneSpeed, LrCurve, LrPoint, find_lr, measure_finetune_speed, resume};
pub use fit::TrainOutcome;
pub use prepared_data::PreparedData;
pub use run::{Run, RunDir, RunReservation};
pub use training::train;

/// Runs the examples of `docs/library.md`.
#[cfg(doctest)]
#[doc = include_str!("../../docs/library.md")]
struct LibraryPage;
