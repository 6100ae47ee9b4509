//! `cargo xtask tuning`: measures fine-tuning in headstock and in PyTorch on this machine, for
//! `docs/tuning.md`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::page::PageSection;
use crate::{python, step, train};

const PAGE: &str = "docs/tuning.md";
/// Measures and prints the text of a section; its first argument is a mode.
const SCRIPT: &str = "reference/tuning/page.py";
/// Folder of the weights of the network whose fine-tuning is timed.
const WEIGHTS: &str = "demo/backbone";

/// Sections of the page, one for each mode of the script, with the same name: the speed of fine-tuning steps,
/// the accuracy over some seeds, and the gain over some splits.
const THROUGHPUT: PageSection = PageSection { page: PAGE, name: "throughput" };
const SEEDS: PageSection = PageSection { page: PAGE, name: "seeds" };
const SPLITS: PageSection = PageSection { page: PAGE, name: "splits" };

/// Measures and writes the sections of `docs/tuning.md`: the speed of fine-tuning steps in headstock and
/// PyTorch; with a config (`headstock.toml`) that has a test folder, the test accuracy of both after
/// fine-tuning; with a second config, without a test folder, how much accuracy fine-tuning gains over the
/// best head on frozen features.
pub(crate) fn run(configs: &[PathBuf]) -> Result<()> {
    if configs.len() > 2 {
        bail!("tuning takes at most two configs: one with a test folder, and one without");
    }
    let binary = train::build()?;
    let python = python::prepare(&python::ORACLES)?;
    let write_section = |section: PageSection, mode: &str, input: &Path| -> Result<()> {
        section.check()?;
        let script = step::workspace().join(SCRIPT);
        let mut command = Command::new(&python);
        let table = step::run_for_stdout(mode, command.arg(script).arg(mode).arg(&binary).arg(input))?;
        section.write(&String::from_utf8_lossy(&table))
    };
    write_section(THROUGHPUT, "throughput", Path::new(WEIGHTS))?;
    for (section, mode, config) in [(SEEDS, "seeds", configs.first()), (SPLITS, "splits", configs.get(1))] {
        if let Some(config) = config {
            write_section(section, mode, config)?;
        }
    }
    Ok(())
}
