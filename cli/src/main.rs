//! The command `headstock`.

use std::process::ExitCode;

fn main() -> ExitCode {
    headstock_cli::App::new().run()
}
