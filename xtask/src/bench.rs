//! `cargo xtask bench`: throughput compared with other engines on this machine for the README, and the time
//! of each layer for `docs/engine.md`.
//!
//! In every round each engine runs once, one after the other and each in a separate process, so that a drift
//! of the machine's speed affects all of them. Ratios compare runs of the same round.

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

const README_SECTION: PageSection = PageSection { page: "README.md", name: "bench" };
const ONNX_SCRIPT: &str = "reference/throughput/trunk.py";

/// Length of the measurement.
#[derive(Debug, PartialEq)]
pub(crate) struct BenchOptions {
    rounds: usize,
    /// Seconds per engine and round.
    seconds: f64,
}

impl BenchOptions {
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

fn parse_number<T: std::str::FromStr>(name: &str, value: &str, is_valid: fn(&T) -> bool) -> Result<T> {
    let number = value.parse().ok().filter(is_valid);
    number.with_context(|| format!("{name} {value}: give a number above 0, and at most 3600 seconds"))
}

/// Measures, and writes the tables in the README and in `docs/engine.md`.
pub(crate) fn run(options: &BenchOptions) -> Result<()> {
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

/// Measures each run in each round. A run that the machine does not support is refused in the first round.
fn measure(programs: &BenchPrograms, rounds: usize) -> Result<Results> {
    let start = |run| (run, Outcome::Measured(Vec::new()));
    let mut results: Vec<_> = plan::all_runs().into_iter().map(start).collect();
    for round in 1..=rounds {
        step::log(&format!("\n== round {round} of {rounds}"));
        for (run, outcome) in &mut results {
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
    Ok(Results(results))
}

/// Name of the processor on Linux; elsewhere the architecture.
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
