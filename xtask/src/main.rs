//! The project's own commands: `cargo xtask train`, `test`, `golden`, `ci`. They shell out and link nothing of the product.

mod ci;
mod cuda;
mod golden;
mod parity;
mod python;
mod step;
mod test;
mod tidy;
mod train;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  train [ARGS]   build the release binary and train; without --config on the bundled photos (demo/)
  test           everything that must hold: formatting, lints, docs, tests, the external example, the CUDA type-check
  golden         make every golden file in reference/ anew, with the tools pinned in reference/requirements.txt
  parity CONFIG  write docs/parity.md: the heads beside scikit-learn's on the data set of a config
  ci             clone the committed tree into a new folder and run .ci/run there
";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            step::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .context("failed to enter the workspace's folder")?;
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let rest: Vec<String> = args.collect();
    match (command.as_deref(), rest.as_slice()) {
        (Some("train"), arguments) => return train::run(arguments),
        (Some("parity"), [config]) => parity::run(config)?,
        (Some("parity"), _) => bail!("parity takes a config\n\n{HELP}"),
        (Some("test"), []) => test::run()?,
        (Some("golden"), []) => golden::run()?,
        (Some("ci"), []) => ci::run()?,
        (Some("help" | "--help" | "-h"), _) => step::say(HELP),
        (Some(command @ ("test" | "golden" | "ci")), [extra, ..]) => {
            bail!("{command} takes no `{extra}`\n\n{HELP}")
        }
        (Some(other), _) => bail!("there is no command `{other}`\n\n{HELP}"),
        (None, _) => bail!("which command?\n\n{HELP}"),
    }
    Ok(ExitCode::SUCCESS)
}
