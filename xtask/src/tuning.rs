//! `cargo xtask tuning`: the measurements of `docs/tuning.md`, compared with PyTorch on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::page::PageSection;
use crate::{python, step, train};

const PAGE: &str = "docs/tuning.md";
const SCRIPT: &str = "reference/tuning/page.py";
const WEIGHTS: &str = "demo/backbone";

/// Sections of the page, one for each mode of the script.
const THROUGHPUT: PageSection = PageSection { page: PAGE, name: "throughput" };
const SEEDS: PageSection = PageSection { page: PAGE, name: "seeds" };
const SPLITS: PageSection = PageSection { page: PAGE, name: "splits" };

/// Writes the speed of steps; with a config that has a test folder also the accuracy of both programs, and
/// with a second config that has none the gain over frozen heads.
pub(crate) fn run(configs: &[PathBuf]) -> Result<()> {
    if configs.len() > 2 {
        bail!("tuning takes at most two configs: one with a test folder, and one without");
    }
    let binary = train::build()?;
    let python = python::prepare(&python::ORACLES)?;
    let write = |section: PageSection, mode: &str, input: &Path| -> Result<()> {
        section.check()?;
        let script = step::workspace().join(SCRIPT);
        let mut command = Command::new(&python);
        let table = step::run_for_stdout(mode, command.arg(script).arg(mode).arg(&binary).arg(input))?;
        section.write(&String::from_utf8_lossy(&table))
    };
    write(THROUGHPUT, "throughput", Path::new(WEIGHTS))?;
    for (section, mode, config) in [(SEEDS, "seeds", configs.first()), (SPLITS, "splits", configs.get(1))] {
        if let Some(config) = config {
            write(section, mode, config)?;
        }
    }
    Ok(())
}
