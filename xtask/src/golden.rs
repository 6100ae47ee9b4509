//! `cargo xtask golden`: the golden files, made anew by the tools that are their oracles.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::step;

pub(crate) fn run() -> Result<()> {
    let reference = Path::new("reference");
    let python = environment(reference)?;
    let mut scripts: Vec<PathBuf> = fs::read_dir(reference)
        .context("failed to list reference/")?
        .filter_map(|entry| entry.ok().map(|e| e.path().join("make.py")))
        .filter(|script| script.is_file())
        .collect();
    scripts.sort();
    for script in scripts {
        step::run(&script.display().to_string(), Command::new(&python).arg(&script))?;
    }
    step::run("what changed", Command::new("git").args(["status", "--short", "--", "reference"]))
}

/// A virtual environment with the pinned requirements; its Python.
fn environment(reference: &Path) -> Result<PathBuf> {
    let venv = reference.join(".venv");
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.exists() {
        step::run("virtual environment", Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    step::run(
        "requirements",
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(reference.join("requirements.txt")),
    )?;
    Ok(python)
}
