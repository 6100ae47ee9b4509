//! `cargo xtask coverage`: how honest the heads' probabilities and sets are, on a data set of yours.

use std::ffi::{OsStr, OsString};
use std::process::Command;

use anyhow::Result;

use crate::{page, python, step, train};

const PAGE: &str = "docs/calibration.md";

/// Writes the page anew from the data set that `config` names, of `heads` or all of them. The page that is there stays until
/// the new one is whole.
pub(crate) fn run(config: &OsStr, heads: &[OsString]) -> Result<()> {
    let binary = train::build()?;
    let python = python::ready(&python::ORACLES)?;
    let script = step::workspace().join("reference/coverage/coverage.py");
    let made = step::output(PAGE, Command::new(python).arg(script).arg(binary).arg(config).args(heads))?;
    page::write(&step::workspace().join(PAGE), &made)
}
