//! `cargo xtask golden`: regenerates the golden files with the reference implementations.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{python, step};

/// Regenerates all golden files: the expected results that tests compare with, computed by scikit-learn,
/// PyTorch and others. Runs every `reference/*/make.py`, which write them, with the pinned Python packages.
/// Then lists the golden files that git reports as changed, for the user to review.
pub(crate) fn run() -> Result<()> {
    let reference = Path::new("reference");
    let python = python::prepare(&python::ORACLES)?;
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
