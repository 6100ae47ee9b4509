//! The oracles' Python: for golden files and comparisons, never for the product.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::step;

/// A virtual environment with the pinned requirements; its Python.
pub(crate) fn environment() -> Result<PathBuf> {
    let venv = step::target_dir()?.join("reference-venv");
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.exists() {
        step::run("virtual environment", Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    step::run(
        "requirements",
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(step::workspace().join("reference/requirements.txt")),
    )?;
    Ok(python)
}
