//! `cargo xtask bench`: the README's figures, measured beside other engines on this machine, and each layer's in
//! `docs/engine.md`.
//!
//! In every round each engine runs once, in turn and in a process of its own, so that a drift of the machine's speed hits
//! all alike; what is compared is what ran in the same round.

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

use crate::page::Place;
use crate::{python, step, train};
use engine::Engines;
use table::{Circumstances, Outcome, Results};

const TABLE: Place = Place { page: "README.md", part: "bench" };
const TRUNK: &str = "reference/throughput/trunk.py";

/// How long to measure.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    rounds: usize,
    /// Of each engine in each round.
    seconds: f64,
}

impl Options {
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
                "--rounds" => options.rounds = number(name, &value?, |rounds| *rounds > 0)?,
                "--seconds" => options.seconds = number(name, &value?, |s| *s > 0.0 && *s <= 3600.0)?,
                _ => bail!("bench takes no `{name}`"),
            }
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str, fits: fn(&T) -> bool) -> Result<T> {
    let number = value.parse().ok().filter(fits);
    number.with_context(|| format!("{name} {value}: give a number above 0, of seconds up to 3600"))
}

/// Measures, and writes the tables between their marks in the README and in `docs/engine.md`.
pub(crate) fn run(options: &Options) -> Result<()> {
    TABLE.check()?;
    layers::check()?;
    let headstock = train::build()?;
    let python = python::ready(&python::ENGINES)?;
    let model = step::target_dir()?.join("throughput.onnx");
    let weights = Path::new(engine::WEIGHTS).join("model.safetensors");
    step::run("ONNX file", Command::new(&python).arg(TRUNK).arg(weights).arg(&model))?;

    let results = measure(&Engines { headstock, python, model, seconds: options.seconds }, options.rounds)?;
    let circumstances = Circumstances {
        cpu: cpu(),
        cores: thread::available_parallelism().map_or(1, usize::from),
        rounds: options.rounds,
        seconds: options.seconds,
    };
    let table = results.render(&circumstances);
    TABLE.write(&table)?;
    step::say(&format!("\n{table}\nwrote {}", TABLE.page));
    layers::write(&results, &circumstances)
}

fn measure(engines: &Engines, rounds: usize) -> Result<Results> {
    let start = |run| (run, Outcome::Measured(Vec::new()));
    let mut results: Vec<_> = plan::runs().into_iter().map(start).collect();
    for round in 1..=rounds {
        step::say(&format!("\n== round {round} of {rounds}"));
        for (run, outcome) in &mut results {
            let Outcome::Measured(known) = outcome else { continue };
            match engine::measure(engines, *run)? {
                Ok(figures) => {
                    step::say(&format!("{run}: {:.1} photos/s", figures.images_per_second));
                    known.push(figures);
                }
                Err(reason) if known.is_empty() && run.may_be_refused() => {
                    step::say(&format!("{run}: not measured: {reason}"));
                    *outcome = Outcome::Refused(reason);
                }
                Err(reason) => bail!("{run}: {reason}"),
            }
        }
    }
    Ok(Results(results))
}

/// The processor's name, where Linux tells it; else the architecture.
fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    name.map_or(std::env::consts::ARCH, |(_, name)| name.trim()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options> {
        Options::parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_length_is_what_was_typed_or_the_default() {
        assert_eq!(parse(&[]).unwrap(), Options { rounds: 5, seconds: 4.0 });
        assert_eq!(parse(&["--seconds", "0.5", "--rounds=3"]).unwrap(), Options { rounds: 3, seconds: 0.5 });
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
