//! `cargo xtask train`: the first run.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::step;

const DEMO: &str = "demo/headstock.toml";

/// Builds the release binary and runs its `train`; its exit status is ours.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let binary = build()?;
    let mut command = Command::new(&binary);
    command.arg("train");
    let names_config = |word: &String| word == "--config" || word.starts_with("--config=");
    if !arguments.iter().any(names_config) {
        command.args(["--config", DEMO]);
    }
    let status =
        command.args(arguments).status().with_context(|| format!("failed to start {}", binary.display()))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Builds the release binary and says where it is.
pub(crate) fn build() -> Result<PathBuf> {
    step::run("build", &mut step::cargo(&["build", "--release", "--package", "headstock-cli"]))?;
    Ok(step::target_dir().join("release").join(format!("headstock{}", std::env::consts::EXE_SUFFIX)))
}
