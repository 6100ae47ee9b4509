//! What a build of the program costs: CPU time, crates, and the size of the binary, as `docs/building.md`
//! records them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::page::PageSection;
use crate::source_files::read_file;
use crate::step::{self, Usage};

/// The last recorded costs, and the crates that cost most.
const SECTION: PageSection = PageSection { page: "docs/building.md", name: "build-cost" };

/// How many crates the page lists.
const N_LISTED: usize = 10;

/// The cost of a build from nothing.
struct BuildCost {
    /// CPU time and wall time in minutes; `None` where the system does not say the CPU time.
    cpu: Option<f64>,
    wall: f64,
    /// Crates that are compiled, of this workspace and from crates.io.
    crates: usize,
    /// The size of the binary in 10^6 bytes.
    megabytes: f64,
}

impl BuildCost {
    /// The header of [`row`](Self::row).
    const HEADER: &str = "| CPU-minutes | minutes | crates | MB |\n|---|---|---|---|\n";

    /// The cost of the build that made `binary` and took `usage`.
    fn measure(binary: &Path, usage: &Usage) -> Result<Self> {
        let size = fs::metadata(binary).with_context(|| format!("failed to find {}", binary.display()))?;
        let bytes = u32::try_from(size.len()).unwrap_or(u32::MAX);
        let (cpu, wall) = (usage.cpu_minutes(), usage.wall_minutes());
        Ok(Self { cpu, wall, crates: count_crates()?, megabytes: f64::from(bytes) / 1e6 })
    }

    /// A row of a Markdown table.
    fn row(&self) -> String {
        let cpu = self.cpu.map_or_else(|| "-".into(), |cpu| format!("{cpu:.1}"));
        format!("| {cpu} | {:.1} | {} | {:.1} |\n", self.wall, self.crates, self.megabytes)
    }
}

/// `cargo xtask build-cost`: builds the program from nothing in a folder of its own, prints the cost, and
/// writes it into `docs/building.md` with the crates that cost most.
pub(crate) fn run() -> Result<()> {
    SECTION.check()?;
    let folder = step::target_dir()?.join("build-cost");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("failed to remove {}", folder.display()))?;
    }
    let mut build = step::cli_cargo("build");
    build.arg("--timings").arg("--target-dir").arg(&folder).env("CARGO_INCREMENTAL", "0");
    let usage = step::run_timed("build from nothing", &mut build)?;
    let cost = BuildCost::measure(&folder.join("release").join(step::BINARY), &usage)?;
    let timings = read_file(&folder.join("cargo-timings/cargo-timing.html"))?;
    let slowest = slowest_crates(&timings).context("cargo-timing.html has no times")?;
    SECTION.write(&format!("{}{}\n{slowest}", BuildCost::HEADER, cost.row()))?;
    step::log(&format!("{}{}written to {}", BuildCost::HEADER, cost.row(), SECTION.page));
    fs::remove_dir_all(&folder).with_context(|| format!("failed to remove {}", folder.display()))
}

/// Prints the cost of the build that made `binary` and took `usage` under the recorded one, so that a change
/// that makes it larger is seen.
pub(crate) fn log_beside_recorded(binary: &Path, usage: &Usage) -> Result<()> {
    let cost = BuildCost::measure(binary, usage)?;
    let page = read_file(&step::workspace().join(SECTION.page))?;
    let after = page.split_once(BuildCost::HEADER).map_or("", |(_, after)| after);
    let recorded = after.lines().next().unwrap_or("nothing");
    step::log(&format!("\n{}{}recorded in {}:\n{recorded}", BuildCost::HEADER, cost.row(), SECTION.page));
    Ok(())
}

/// The number of crates that are compiled for the program, with those that run while it is compiled.
fn count_crates() -> Result<usize> {
    let mut tree = step::cargo(&["tree", "--package", "headstock-cli", "--edges", "normal,build"]);
    tree.args(["--prefix", "none", "--format", "{p}", "--manifest-path"]);
    let output = step::capture_output("cargo tree", tree.arg(step::workspace().join("Cargo.toml")))?;
    let text = String::from_utf8(output.stdout).context("cargo tree: output that is not UTF-8")?;
    let crates = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, words.next()?))
    });
    Ok(crates.collect::<BTreeSet<_>>().len())
}

/// A Markdown table of the crates that took longest, from the page that `cargo build --timings` writes. The
/// seconds of all parts of a crate are added: its build script and the compiler.
fn slowest_crates(timings: &str) -> Option<String> {
    let (_, rest) = timings.split_once("const UNIT_DATA = ")?;
    let (units, _) = rest.split_once("];")?;
    let units: Vec<Value> = serde_json::from_str(&format!("{units}]")).ok()?;
    let mut crates: Vec<(String, f64)> = Vec::new();
    for unit in &units {
        let (name, seconds) = (unit["name"].as_str()?, unit["duration"].as_f64()?);
        match crates.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += seconds,
            None => crates.push((name.to_owned(), seconds)),
        }
    }
    let total: f64 = crates.iter().map(|(_, seconds)| seconds).sum();
    crates.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut table = String::from("| crate | seconds | part of all |\n|---|---|---|\n");
    for (name, seconds) in crates.iter().take(N_LISTED) {
        table += &format!("| {name} | {seconds:.0} | {:.0} % |\n", 100.0 * seconds / total);
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_crate_are_added_and_the_slowest_come_first() {
        let page = r#"x const UNIT_DATA = [
            {"name": "a", "duration": 1.0}, {"name": "b", "duration": 2.4}, {"name": "a", "duration": 6.5}];
            const CONCURRENCY_DATA = [];"#;
        let table = slowest_crates(page).unwrap();
        assert!(table.ends_with("|---|---|---|\n| a | 8 | 76 % |\n| b | 2 | 24 % |\n"), "{table}");
        assert_eq!(slowest_crates("const UNIT_DATA = [1];"), None);
    }
}
