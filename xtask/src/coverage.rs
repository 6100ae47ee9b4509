//! `cargo xtask coverage`: calibration error of the heads on a data set, and how often their conformal sets
//! contain the true class (the coverage).

use std::ffi::{OsStr, OsString};
use std::process::Command;

use anyhow::Result;

use crate::page::PageSection;
use crate::{python, step, train};

/// The section of the page that is measured.
const TABLES: PageSection = PageSection { page: "docs/calibration.md", name: "coverage" };

/// Measures calibration error and coverage of `heads`, or of all heads if it is empty, over random splits of
/// the data set in `config`, a `headstock.toml`. A Python script trains the heads and prints tables, which
/// are written into `docs/calibration.md`.
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
