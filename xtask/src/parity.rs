//! `cargo xtask parity`: the heads beside scikit-learn's, on a data set of yours.

use std::fs::File;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{python, step, train};

const PAGE: &str = "docs/parity.md";

/// Writes the page anew from the data set that `config` names.
pub(crate) fn run(config: &str) -> Result<()> {
    let binary = train::build()?;
    let python = python::environment()?;
    let page = File::create(PAGE).with_context(|| format!("failed to write {PAGE}"))?;
    let mut command = Command::new(python);
    command.arg("reference/parity/parity.py").arg(binary).arg(config).stdout(page);
    step::run(PAGE, &mut command)
}
