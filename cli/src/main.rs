//! The command `headstock`, with the built-in heads.

use std::process::ExitCode;

/// Runs the command that the arguments of the program name; [`headstock_cli::App::run`] lists the exit codes.
fn main() -> ExitCode {
    headstock_cli::App::new().run()
}
