//! The command `headstock` as a library: another binary adds its heads to [`App`] and runs it.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     headstock_cli::App::new().run() // add your own head with .with_head::<MyConfig>()
//! }
//! ```

/// Compiles and runs the code of the chapter on writing a head.
#[cfg(doctest)]
#[doc = include_str!("../../docs/write-a-head.md")]
struct WriteAHead;

mod app;
mod args;
mod commands;
mod messages;
mod output;
mod progress;

pub use app::App;
