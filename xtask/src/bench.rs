//! `cargo xtask bench`: throughput compared with other engines on this machine for the README, and the time
//! of each layer for `docs/engine.md`.
//!
//! A run is an engine with its settings. In every round each run is measured once, one after the other and
//! each in a separate process, so that a drift of the machine's speed affects all of them. Ratios compare
//! runs of the same round.

mod engine;
mod layers;
mod plan;
mod table;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::page::PageSection;
use crate::{python, step, train};
use engine::BenchPrograms;
use table::{BenchSetup, Outcome, Results};

/// The table of the throughput.
const README_SECTION: PageSection = PageSection { page: "README.md", name: "bench" };
/// Writes the bundled weights as an ONNX file for the other engines.
const ONNX_SCRIPT: &str = "reference/throughput/trunk.py";

/// Arguments of the command: how long to measure.
#[derive(Debug, PartialEq)]
pub(crate) struct BenchOptions {
    /// How often each run is measured.
    rounds: usize,
    /// Seconds per run and round.
    seconds: f64,
}

impl BenchOptions {
    /// Parses the arguments `[--rounds N] [--seconds S]`, also `--rounds=N`; the default is 5 rounds of 4 s.
    pub(crate) fn parse(arguments: &[OsString]) -> Result<Self> {
        let mut options = Self { rounds: 5, seconds: 4.0 };
        let mut words = arguments.iter().map(|word| word.to_string_lossy());
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (&*word, words.next().map(Into::into)),
            };
            let value = value.with_context(|| format!("`{name}` needs a value"));
            match name {
                "--rounds" => options.rounds = parse_number(name, &value?, |rounds| *rounds > 0)?,
                "--seconds" => options.seconds = parse_number(name, &value?, |s| *s > 0.0 && *s <= 3600.0)?,
                _ => bail!("bench takes no `{name}`"),
            }
        }
        Ok(options)
    }
}

/// Parses `value`, the text given for the option `name`; fails if it is no number or `is_valid` is false for
/// it.
fn parse_number<T: std::str::FromStr>(name: &str, value: &str, is_valid: fn(&T) -> bool) -> Result<T> {
    let number = value.parse().ok().filter(is_valid);
    number.with_context(|| format!("{name} {value}: give a number above 0, and at most 3600 seconds"))
}

/// Measures the throughput of headstock and of the other engines and writes the table in the README; then
/// measures the time of each layer and writes the tables in `docs/engine.md`.
pub(crate) fn run(options: &BenchOptions) -> Result<()> {
    // A missing section fails before the long work.
    README_SECTION.check()?;
    layers::check()?;
    let headstock = train::build()?;
    let python = python::prepare(&python::ENGINES)?;
    let model = step::target_dir()?.join("throughput.onnx");
    let weights = Path::new(engine::WEIGHTS).join("model.safetensors");
    step::run("ONNX file", Command::new(&python).arg(ONNX_SCRIPT).arg(weights).arg(&model))?;

    let results =
        measure(&BenchPrograms { headstock, python, model, seconds: options.seconds }, options.rounds)?;
    let setup = BenchSetup {
        cpu: cpu_name(),
        cores: thread::available_parallelism().map_or(1, usize::from),
        rounds: options.rounds,
        seconds: options.seconds,
    };
    let table = results.render(&setup);
    README_SECTION.write(&table)?;
    step::log(&format!("\n{table}\nwrote {}", README_SECTION.page));
    layers::write(&results, &setup)
}

/// Measures each run of the plan once in each of `rounds` rounds. A run that the machine does not support
/// fails in the first round: its outcome is then the reason (*refused*), and it is not started again. Other
/// failures are errors.
fn measure(programs: &BenchPrograms, rounds: usize) -> Result<Results> {
    let unmeasured = |run| (run, Outcome::Measured(Vec::new()));
    let mut outcomes: Vec<_> = plan::all_runs().into_iter().map(unmeasured).collect();
    for round in 1..=rounds {
        step::log(&format!("\n== round {round} of {rounds}"));
        for (run, outcome) in &mut outcomes {
            let Outcome::Measured(measurements) = outcome else { continue };
            match engine::measure(programs, *run)? {
                Ok(measurement) => {
                    step::log(&format!("{run}: {:.1} photos/s", measurement.images_per_second));
                    measurements.push(measurement);
                }
                Err(reason) if measurements.is_empty() && run.may_be_refused() => {
                    step::log(&format!("{run}: not measured: {reason}"));
                    *outcome = Outcome::Refused(reason);
                }
                Err(reason) => bail!("{run}: {reason}"),
            }
        }
    }
    Ok(Results { outcomes })
}

/// Name of the processor on Linux, elsewhere the architecture; for the text above the tables.
fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    name.map_or(std::env::consts::ARCH, |(_, name)| name.trim()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<BenchOptions> {
        BenchOptions::parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_parsed_or_default() {
        assert_eq!(parse(&[]).unwrap(), BenchOptions { rounds: 5, seconds: 4.0 });
        assert_eq!(
            parse(&["--seconds", "0.5", "--rounds=3"]).unwrap(),
            BenchOptions { rounds: 3, seconds: 0.5 }
        );
    }

    #[test]
    fn other_words_are_refused_by_name() {
        for (words, part) in [
            (&["--rounds"][..], "`--rounds` needs a value"),
            (&["--rounds", "0"], "--rounds 0:"),
            (&["--rounds", "2.5"], "--rounds 2.5:"),
            (&["--seconds=nan"], "--seconds nan:"),
            (&["--seconds", "-1"], "--seconds -1:"),
            (&["--threads", "2"], "no `--threads`"),
            (&["fast"], "no `fast`"),
        ] {
            let error = parse(words).unwrap_err().to_string();
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }
}
