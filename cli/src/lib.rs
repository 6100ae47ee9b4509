//! The command `headstock` as a library: your own program can add heads to [`App`] and run it.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     headstock_cli::App::new().run() // add your own head with .with_head::<MyConfig>()
//! }
//! ```

/// Exists only for `cargo test --doc`, which compiles and runs the code of this chapter, its documentation.
#[cfg(doctest)]
#[doc = include_str!("../../docs/write-a-head.md")]
struct WriteAHead;

mod app;
mod args;
mod commands;
mod hints;
mod messages;
mod output;
mod progress;
mod progress_lines;

pub use app::App;
