//! `cargo xtask tuning`: the figures of `docs/tuning.md`, measured beside PyTorch on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::page::Place;
use crate::{python, step, train};

const PAGE: &str = "docs/tuning.md";
const SCRIPT: &str = "reference/tuning/page.py";
const WEIGHTS: &str = "demo/backbone";

/// What is measured, and where it stands on the page.
const THROUGHPUT: Place = Place { page: PAGE, part: "throughput" };
const SEEDS: Place = Place { page: PAGE, part: "seeds" };
const SPLITS: Place = Place { page: PAGE, part: "splits" };

/// Writes how fast steps are; with a config that has a test folder also what the same tuning comes to, and with a second one that
/// has none what it gains over frozen heads.
pub(crate) fn run(configs: &[PathBuf]) -> Result<()> {
    if configs.len() > 2 {
        bail!("tuning takes a config with a test folder, and one without");
    }
    let binary = train::build()?;
    let python = python::ready(&python::ORACLES)?;
    let write = |place: Place, what: &str, of: &Path| -> Result<()> {
        place.check()?;
        let script = step::workspace().join(SCRIPT);
        let mut command = Command::new(&python);
        let made = step::output(what, command.arg(script).arg(what).arg(&binary).arg(of))?;
        place.write(&String::from_utf8_lossy(&made))
    };
    write(THROUGHPUT, "throughput", Path::new(WEIGHTS))?;
    for (place, what, config) in [(SEEDS, "seeds", configs.first()), (SPLITS, "splits", configs.get(1))] {
        if let Some(config) = config {
            write(place, what, config)?;
        }
    }
    Ok(())
}
