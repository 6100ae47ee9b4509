//! `cargo xtask parity`: the heads beside scikit-learn's, on a data set of yours.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::Result;

use crate::{page, python, step, train};

const PAGE: &str = "docs/parity.md";

/// Writes the page anew from the data set that `config` names. The page that is there stays until the new one is whole.
pub(crate) fn run(config: &OsStr) -> Result<()> {
    let binary = train::build()?;
    let python = python::ready(&python::ORACLES)?;
    let script = step::workspace().join("reference/parity/parity.py");
    let made = step::output(PAGE, Command::new(python).arg(script).arg(binary).arg(config))?;
    page::write(&step::workspace().join(PAGE), &made)
}
