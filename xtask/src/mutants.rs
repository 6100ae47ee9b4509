//! `cargo xtask mutants`: how many of the faults that cargo-mutants puts into the code the tests notice, in a sample that a seed
//! chooses.
//!
//! Each fault is tried on a copy of the tree: first by the tests of its own crate, and where those pass by those of the crates that
//! build on it. A fault that makes the tests run without end is noticed, too.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, iter};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::step;

/// The crates that are tried unless some are named, each with those that build on it.
const PACKAGES: [(&str, &[&str]); 6] = [
    ("engine", &["backbone", "train", "cli"]),
    ("backbone", &["train", "cli"]),
    ("heads", &["train", "cli"]),
    ("loader", &["train", "cli"]),
    ("train", &["cli"]),
    ("cli", &[]),
];

/// What is to be tried.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Another seed, other faults.
    seed: u64,
    /// Faults a crate.
    count: usize,
    packages: Vec<usize>,
}

impl Options {
    /// `[--seed N] [--count N] [PACKAGE...]`
    pub(crate) fn parse(words: &[OsString]) -> Result<Self> {
        let mut options = Self { seed: 0, count: 40, packages: Vec::new() };
        let mut words = words.iter().map(|word| word.to_string_lossy());
        while let Some(word) = words.next() {
            let mut number = || -> Result<u64> {
                let value = words.next().with_context(|| format!("{word} takes a number"))?;
                value.parse().with_context(|| format!("{word} takes a number, not `{value}`"))
            };
            match &*word {
                "--seed" => options.seed = number()?,
                "--count" => options.count = number()? as usize,
                name => {
                    let package = PACKAGES.iter().position(|(package, _)| *package == name);
                    options.packages.push(package.with_context(|| format!("there is no crate `{name}`"))?);
                }
            }
        }
        if options.packages.is_empty() {
            options.packages = (0..PACKAGES.len()).collect();
        }
        Ok(options)
    }
}

/// Tries the faults, and prints those that no test notices.
pub(crate) fn run(options: &Options) -> Result<()> {
    let installed = step::quietly("cargo mutants", &mut step::cargo(&["mutants", "--version"]));
    if !installed.is_ok_and(|output| output.status.success()) {
        bail!("cargo-mutants is not installed: cargo install cargo-mutants --locked");
    }
    let folder = step::target_dir()?.join("mutants");
    let mut lines = Vec::new();
    for &package in &options.packages {
        let (package, above) = PACKAGES[package];
        let chosen = sample(listed(package)?, options.seed, options.count);
        let folder = folder.join(package);
        let own = attempt(package, &[package], &chosen, &folder.join("own"))?;
        let missed = attempt(package, above, &own.missed, &folder.join("above"))?.missed;
        let (tried, noticed) = (own.tried, own.tried - missed.len());
        lines.push(format!("{package}: {noticed} of {tried} noticed, {} by its own tests", own.noticed()));
        lines.extend(missed.into_iter().map(|name| format!("  not noticed: {name}")));
    }
    step::say(&format!("\nseed {}\n{}", options.seed, lines.join("\n")));
    Ok(())
}

/// A fault by its name, and the function that it is in.
type Mutant = (String, String);

/// The faults that cargo-mutants knows for a crate.
fn listed(package: &str) -> Result<Vec<Mutant>> {
    let mut command = step::cargo(&["mutants", "--list", "--json", "--package"]);
    command.arg(full(package));
    let listed = step::quietly("cargo mutants --list", &mut command)?;
    let listed: Value = serde_json::from_slice(&listed.stdout)
        .with_context(|| format!("what cargo-mutants lists of {package} is no JSON"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mutants = listed.as_array().map_or(&[][..], Vec::as_slice).iter();
    Ok(mutants
        .map(|mutant| {
            let function = format!("{} {}", text(&mutant["file"]), mutant["function"]["function_name"]);
            (text(&mutant["name"]), function)
        })
        .collect())
}

/// So many faults, one a function at most, in an order that the seed and their names alone decide.
fn sample(mut mutants: Vec<Mutant>, seed: u64, count: usize) -> Vec<String> {
    mutants.sort_by_cached_key(|(name, _)| hash(seed, name));
    let mut functions = Vec::new();
    let mut chosen = Vec::new();
    for (name, function) in mutants {
        if chosen.len() < count && !functions.contains(&function) {
            functions.push(function);
            chosen.push(name);
        }
    }
    chosen
}

/// FNV-1a.
fn hash(seed: u64, name: &str) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(name.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What became of faults.
#[derive(Default)]
struct Attempt {
    /// Those that compile.
    tried: usize,
    missed: Vec<String>,
}

impl Attempt {
    fn noticed(&self) -> usize {
        self.tried - self.missed.len()
    }
}

/// Tries faults of a crate by the tests of others.
fn attempt(package: &str, testers: &[&str], mutants: &[String], folder: &Path) -> Result<Attempt> {
    if mutants.is_empty() || testers.is_empty() {
        return Ok(Attempt { tried: mutants.len(), missed: mutants.to_vec() });
    }
    fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let testers: Vec<String> = testers.iter().map(|tester| full(tester)).collect();
    let mut command = step::cargo(&["mutants", "--colors", "never", "--no-shuffle", "--package"]);
    command.arg(full(package)).arg("--test-package").arg(testers.join(","));
    command.args(mutants.iter().flat_map(|name| ["--re".to_owned(), format!("^{}$", escaped(name))]));
    // Dependencies are compiled once for all copies.
    command.arg("--output").arg(folder).env("CARGO_TARGET_DIR", folder.with_file_name("target"));
    step::announce(&format!("{} faults of {package}, by the tests of {}", mutants.len(), testers.join(", ")));
    let status = command.status().context("failed to start cargo mutants")?;
    // 0: all were noticed; 2: some were not; 3: some took too long.
    if !matches!(status.code(), Some(0 | 2 | 3)) {
        bail!("cargo mutants failed ({status})");
    }
    outcomes(&folder.join("mutants.out/outcomes.json"))
}

fn outcomes(file: &PathBuf) -> Result<Attempt> {
    let text = fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
    let outcomes: Value =
        serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", file.display()))?;
    let mut attempt = Attempt::default();
    for outcome in outcomes["outcomes"].as_array().into_iter().flatten() {
        let Some(name) = outcome["scenario"]["Mutant"]["name"].as_str() else { continue };
        match outcome["summary"].as_str() {
            Some("MissedMutant") => attempt.missed.push(name.to_owned()),
            Some("CaughtMutant" | "Timeout") => {}
            _ => continue,
        }
        attempt.tried += 1;
    }
    Ok(attempt)
}

/// A text as a regular expression that matches it alone.
fn escaped(text: &str) -> String {
    let escape = |c: char| c.is_ascii_punctuation() && c != '_';
    text.chars().flat_map(|c| iter::once('\\').filter(move |_| escape(c)).chain([c])).collect()
}

fn full(package: &str) -> String {
    format!("headstock-{package}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn options_name_the_seed_the_count_and_the_crates() {
        let options = Options::parse(&words(&["--count", "3", "heads", "--seed", "7", "cli"])).unwrap();
        assert_eq!(options, Options { seed: 7, count: 3, packages: vec![2, 5] });
        assert_eq!(Options::parse(&[]).unwrap().packages.len(), PACKAGES.len());
        for wrong in [&["--seed"][..], &["--count", "x"], &["head"]] {
            assert!(Options::parse(&words(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_sample_depends_on_the_seed_and_the_names_alone_and_takes_one_fault_a_function() {
        let all: Vec<Mutant> =
            (0..60).map(|i| (format!("fault {i}"), format!("function {}", i % 20))).collect();
        let chosen = sample(all.clone(), 1, 10);
        assert_eq!(chosen.len(), 10);
        let function = |name: &String| name[6..].parse::<usize>().unwrap() % 20;
        let mut functions: Vec<usize> = chosen.iter().map(function).collect();
        functions.sort_unstable();
        functions.dedup();
        assert_eq!(functions.len(), 10);
        let backwards: Vec<Mutant> = all.iter().rev().cloned().collect();
        assert_eq!(sample(backwards, 1, 10), chosen);
        assert_ne!(sample(all, 2, 10), chosen);
    }

    #[test]
    fn a_name_is_taken_to_the_letter() {
        assert_eq!(
            escaped("src/a.rs:1:2: replace a_b with (0, -1)"),
            r"src\/a\.rs\:1\:2\: replace a_b with \(0\, \-1\)"
        );
    }

    #[test]
    fn outcomes_count_what_compiles_and_name_what_is_missed() {
        let folder = std::env::temp_dir().join(format!("headstock-outcomes-{}", std::process::id()));
        let outcome = |name: &str, summary: &str| serde_json::json!({"scenario": {"Mutant": {"name": name}}, "summary": summary});
        let baseline = serde_json::json!({"scenario": "Baseline", "summary": "Success"});
        let all = [
            baseline,
            outcome("a", "CaughtMutant"),
            outcome("b", "MissedMutant"),
            outcome("c", "Unviable"),
            outcome("d", "Timeout"),
        ];
        fs::write(&folder, serde_json::json!({"outcomes": all}).to_string()).unwrap();
        let attempt = outcomes(&folder).unwrap();
        fs::remove_file(&folder).unwrap();
        assert_eq!((attempt.tried, attempt.noticed(), attempt.missed), (3, 2, vec!["b".to_owned()]));
    }
}
