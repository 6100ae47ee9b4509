//! `cargo xtask coverage`: calibration error and coverage of the heads on a data set.

use std::ffi::{OsStr, OsString};
use std::process::Command;

use anyhow::Result;

use crate::page::PageSection;
use crate::{python, step, train};

const TABLES: PageSection = PageSection { page: "docs/calibration.md", name: "coverage" };

/// Measures `heads`, or all heads, on the data set of `config`, and writes the tables of the page.
pub(crate) fn run(config: &OsStr, heads: &[OsString]) -> Result<()> {
    TABLES.check()?;
    let binary = train::build()?;
    let python = python::prepare(&python::ORACLES)?;
    let script = step::workspace().join("reference/coverage/coverage.py");
    let tables = step::run_for_stdout(
        "coverage",
        Command::new(python).arg(script).arg(binary).arg(config).args(heads),
    )?;
    TABLES.write(&String::from_utf8(tables)?)
}
