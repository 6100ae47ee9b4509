//! The command `headstock`, as a library: a binary elsewhere adds its heads to [`App`] and runs it.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     headstock_cli::App::new().run() // with_head::<MyConfig>() before it adds yours
//! }
//! ```

/// The code of the chapter, compiled and run.
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
