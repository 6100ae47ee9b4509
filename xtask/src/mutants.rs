//! `cargo xtask mutants`: mutation testing with cargo-mutants, on a random sample of mutants. A mutant is the
//! code with one fault put in; it is missed if all tests still pass.
//!
//! Each mutant is tested on a copy of the tree, first with the tests of its own crate, then with those of the
//! crates that depend on it. A mutant that makes the tests time out counts as caught.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, iter};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::step;

/// The crates to test, without the prefix `headstock-`, each with the crates that depend on it.
const PACKAGES: [(&str, &[&str]); 9] = [
    ("split", &["backbone", "heads", "loader", "inference", "train", "cli"]),
    ("engine", &["backbone", "inference", "train", "cli"]),
    ("hub", &["backbone", "inference", "train", "cli"]),
    ("backbone", &["inference", "train", "cli"]),
    ("heads", &["inference", "train", "cli"]),
    ("loader", &["inference", "train", "cli"]),
    ("inference", &["train", "cli"]),
    ("train", &["cli"]),
    ("cli", &[]),
];

/// Arguments of the command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MutantsOptions {
    /// Random seed of the sample.
    seed: u64,
    /// At most so many mutants per crate.
    count: usize,
    /// The crates, as indices in `PACKAGES`; all by default.
    packages: Vec<usize>,
}

impl MutantsOptions {
    /// Parses the arguments `[--seed N] [--count N] [CRATE...]`; the default is a sample of 40 mutants (the
    /// code with one fault put in) of each crate in [`PACKAGES`], drawn with seed 0.
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
                    let index = PACKAGES.iter().position(|(package, _)| *package == name);
                    options.packages.push(index.with_context(|| format!("there is no crate `{name}`"))?);
                }
            }
        }
        if options.packages.is_empty() {
            options.packages = (0..PACKAGES.len()).collect();
        }
        Ok(options)
    }
}

/// Measures how many faults the tests find. For each crate, tests a sample of its mutants (the code with one
/// fault put in) with its own tests, then those whose fault no test found (the missed ones) with the tests of
/// the crates that depend on it, and prints the mutants that all tests missed.
pub(crate) fn run(options: &MutantsOptions) -> Result<()> {
    let installed = step::capture_output("cargo mutants", &mut step::cargo(&["mutants", "--version"]));
    if !installed.is_ok_and(|output| output.status.success()) {
        bail!("cargo-mutants is not installed: cargo install cargo-mutants --locked");
    }
    let mutants_folder = step::target_dir()?.join("mutants");
    let mut lines = Vec::new();
    for &index in &options.packages {
        let (package, dependents) = PACKAGES[index];
        let chosen = sample(list_mutants(package)?, options.seed, options.count);
        let folder = mutants_folder.join(package);
        let own_results = test_mutants(package, &[package], &chosen, &folder.join("own"))?;
        let missed = test_mutants(package, dependents, &own_results.missed, &folder.join("above"))?.missed;
        let tried = own_results.tried;
        let caught = tried - missed.len();
        lines.push(format!(
            "{package}: {caught} of {tried} mutants caught, {} by its own tests",
            own_results.n_caught()
        ));
        lines.extend(missed.into_iter().map(|name| format!("  missed: {name}")));
    }
    step::log(&format!("\nseed {}\n{}", options.seed, lines.join("\n")));
    Ok(())
}

/// A fault that cargo-mutants can put into the code.
#[derive(Clone)]
struct Mutant {
    /// The place and the change in words, as cargo-mutants prints and selects it.
    name: String,
    /// The file and the name of the mutated function.
    function: String,
}

/// All mutants (versions of the code with one fault put in) that cargo-mutants can generate for a crate, from
/// its list in JSON; none is tested.
fn list_mutants(package: &str) -> Result<Vec<Mutant>> {
    let mut command = step::cargo(&["mutants", "--list", "--json", "--package"]);
    command.arg(package_name(package));
    let listed = step::capture_output("cargo mutants --list", &mut command)?;
    let listed: Value = serde_json::from_slice(&listed.stdout)
        .with_context(|| format!("the output of cargo mutants --list for {package} is not JSON"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mutants = listed.as_array().map_or(&[][..], Vec::as_slice).iter();
    Ok(mutants
        .map(|mutant| {
            let function = format!("{} {}", text(&mutant["file"]), mutant["function"]["function_name"]);
            Mutant { name: text(&mutant["name"]), function }
        })
        .collect())
}

/// Chooses at most `count` mutants (faults put into the code) at random, one per function, and returns their
/// names, because testing all would take too long. They are those with the lowest hashes of the seed and the
/// name, so the sample is the same in any order of `mutants`.
fn sample(mut mutants: Vec<Mutant>, seed: u64, count: usize) -> Vec<String> {
    mutants.sort_by_cached_key(|mutant| hash(seed, &mutant.name));
    let mut functions = Vec::new();
    let mut chosen = Vec::new();
    for Mutant { name, function } in mutants {
        if chosen.len() < count && !functions.contains(&function) {
            functions.push(function);
            chosen.push(name);
        }
    }
    chosen
}

/// FNV-1a hash of the seed and the name of a mutant, which gives a random but reproducible order.
fn hash(seed: u64, name: &str) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(name.bytes());
    // The offset basis and the prime of the 64-bit hash.
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Results of testing mutants.
#[derive(Default)]
struct MutantResults {
    /// Number of mutants that compile.
    tried: usize,
    /// Names of those that passed all tests.
    missed: Vec<String>,
}

impl MutantResults {
    /// The number of mutants that made a test fail or time out.
    fn n_caught(&self) -> usize {
        self.tried - self.missed.len()
    }
}

/// Tests `mutants` (versions of the crate `package` with one fault each), given by name, with the tests of
/// the crates `test_packages`. A mutant is missed if no test fails; without test crates, all count as missed.
/// cargo-mutants writes its output to `folder`.
fn test_mutants(
    package: &str,
    test_packages: &[&str],
    mutants: &[String],
    folder: &Path,
) -> Result<MutantResults> {
    if mutants.is_empty() || test_packages.is_empty() {
        return Ok(MutantResults { tried: mutants.len(), missed: mutants.to_vec() });
    }
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let test_packages: Vec<String> = test_packages.iter().map(|package| package_name(package)).collect();
    let mut command = step::cargo(&["mutants", "--colors", "never", "--no-shuffle", "--package"]);
    command.arg(package_name(package)).arg("--test-package").arg(test_packages.join(","));
    command.args(mutants.iter().flat_map(|name| ["--re".to_owned(), format!("^{}$", escape_regex(name))]));
    // A common target folder, so that dependencies are compiled once.
    command.arg("--output").arg(folder).env("CARGO_TARGET_DIR", folder.with_file_name("target"));
    step::log_step(&format!(
        "{} mutants of {package}, with the tests of {}",
        mutants.len(),
        test_packages.join(", ")
    ));
    let status = command.status().context("failed to start cargo mutants")?;
    // 0: all were caught; 2: some were missed; 3: some timed out.
    if !matches!(status.code(), Some(0 | 2 | 3)) {
        bail!("cargo mutants failed ({status})");
    }
    read_outcomes(&folder.join("mutants.out/outcomes.json"))
}

/// Reads from `file`, the `outcomes.json` that cargo-mutants wrote, how many mutants (faults put into the
/// code) were tested and which of them no test caught. Mutants that do not compile are not counted; one that
/// times out is caught.
fn read_outcomes(file: &PathBuf) -> Result<MutantResults> {
    let text = fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
    let outcomes: Value =
        serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    let mut results = MutantResults::default();
    for outcome in outcomes["outcomes"].as_array().into_iter().flatten() {
        let Some(name) = outcome["scenario"]["Mutant"]["name"].as_str() else { continue };
        match outcome["summary"].as_str() {
            Some("MissedMutant") => results.missed.push(name.to_owned()),
            Some("CaughtMutant" | "Timeout") => {}
            _ => continue,
        }
        results.tried += 1;
    }
    Ok(results)
}

/// A regular expression that matches exactly `text`: cargo-mutants selects mutants by regular expressions.
fn escape_regex(text: &str) -> String {
    let escape = |c: char| c.is_ascii_punctuation() && c != '_';
    text.chars().flat_map(|c| iter::once('\\').filter(move |_| escape(c)).chain([c])).collect()
}

/// The full name of a crate of the workspace: `headstock-heads` for `heads`.
fn package_name(package: &str) -> String {
    format!("headstock-{package}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn options_name_the_seed_the_count_and_the_crates() {
        let options =
            MutantsOptions::parse(&to_words(&["--count", "3", "heads", "--seed", "7", "cli"])).unwrap();
        assert_eq!(options, MutantsOptions { seed: 7, count: 3, packages: vec![4, 8] });
        assert_eq!(MutantsOptions::parse(&[]).unwrap().packages.len(), PACKAGES.len());
        for wrong in [&["--seed"][..], &["--count", "x"], &["head"]] {
            assert!(MutantsOptions::parse(&to_words(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_sample_depends_on_seed_and_names_only_and_takes_one_mutant_per_function() {
        let mutant = |i| Mutant { name: format!("fault {i}"), function: format!("function {}", i % 20) };
        let all: Vec<Mutant> = (0..60).map(mutant).collect();
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
    fn names_are_escaped_for_regular_expressions() {
        assert_eq!(
            escape_regex("src/a.rs:1:2: replace a_b with (0, -1)"),
            r"src\/a\.rs\:1\:2\: replace a_b with \(0\, \-1\)"
        );
    }

    #[test]
    fn outcomes_count_compiling_mutants_and_list_missed_ones() {
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
        let results = read_outcomes(&folder).unwrap();
        fs::remove_file(&folder).unwrap();
        assert_eq!((results.tried, results.n_caught(), results.missed), (3, 2, vec!["b".to_owned()]));
    }
}
