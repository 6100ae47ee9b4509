//! The Python of oracles and of rivals: for golden files and comparisons, never for the product.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::step;

/// A virtual environment in the target folder and the requirements, pinned, that it is made from.
pub(crate) struct Environment {
    folder: &'static str,
    requirements: &'static str,
}

/// The tools that are oracles.
pub(crate) const ORACLES: Environment =
    Environment { folder: "reference-venv", requirements: "reference/requirements.txt" };

/// The engines that ours is measured beside.
pub(crate) const ENGINES: Environment =
    Environment { folder: "throughput-venv", requirements: "reference/throughput/requirements.txt" };

/// Makes the environment where it is not there yet, brings it up to its requirements; its Python.
pub(crate) fn ready(environment: &Environment) -> Result<PathBuf> {
    let venv = step::target_dir()?.join(environment.folder);
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.exists() {
        step::run("virtual environment", Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    step::run(
        "requirements",
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(step::workspace().join(environment.requirements)),
    )?;
    Ok(python)
}
