//! Python environments for golden files and comparisons; the product does not use them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::step;

/// A virtual environment in the target folder, and its pinned requirements.
pub(crate) struct Venv {
    folder: &'static str,
    requirements: &'static str,
}

/// The reference implementations.
pub(crate) const ORACLES: Venv =
    Venv { folder: "reference-venv", requirements: "reference/requirements.txt" };

/// The inference engines that ours is compared with.
pub(crate) const ENGINES: Venv =
    Venv { folder: "throughput-venv", requirements: "reference/throughput/requirements.txt" };

/// Creates the environment if necessary and installs its requirements. Returns the path of its Python.
pub(crate) fn prepare(venv: &Venv) -> Result<PathBuf> {
    let folder = step::target_dir()?.join(venv.folder);
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.exists() {
        step::run("virtual environment", Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    step::run(
        "requirements",
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(step::workspace().join(venv.requirements)),
    )?;
    Ok(python)
}
