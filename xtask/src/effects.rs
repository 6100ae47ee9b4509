//! Checks that a test shows the effect of each config key, hyperparameter and flag: tests have markers with
//! their names.
//!
//! A marker is a comment directly above a test's attribute: `// effect: tune.ema_decay, tune.momentum`. A
//! name is that of a config key, a hyperparameter or a flag, or of a combination of them that acts only
//! together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;

use crate::source_files::{read_file, rust_files};
use crate::step;

/// Lists every name, one per line; written by a test of `cli`.
const KEYS_FILE: &str = "cli/tests/keys.txt";

/// Lists names of combinations that only act together, such as `features.views x head.linear.C`; written by
/// hand.
const COMBINED_KEYS_FILE: &str = "cli/tests/keys_together.txt";

/// Starts the comment that names what the test below it shows.
const MARKER: &str = "// effect: ";

/// The packages with marked tests.
const PACKAGES: [&str; 9] =
    ["split", "engine", "hub", "backbone", "heads", "loader", "inference", "train", "cli"];

/// `cargo xtask keys`: prints each config key, hyperparameter and flag with the tests that show its effect.
pub(crate) fn run() -> Result<()> {
    let (names, tests, _) = collect_effects()?;
    for name in &names {
        let shown_by = tests.get(name).map_or_else(|| "no test".to_owned(), |tests| tests.join(", "));
        step::log(&format!("{name}: {shown_by}"));
    }
    Ok(())
}

/// Adds a fault for each config key, hyperparameter or flag that no test is marked with, and for each marker
/// (`// effect: NAME`) that is not above a test or has an unknown name.
pub(crate) fn check(faults: &mut Vec<String>) -> Result<()> {
    let (names, tests, misplaced) = collect_effects()?;
    faults.extend(misplaced);
    for name in names.iter().filter(|name| !tests.contains_key(*name)) {
        faults.push(format!(
            "{KEYS_FILE}: no test shows the effect of `{name}`: mark one with `{MARKER}{name}`"
        ));
    }
    for (name, tests) in tests.iter().filter(|(name, _)| !names.contains(*name)) {
        faults.push(format!("{}: `{MARKER}{name}` is not in {KEYS_FILE} or {COMBINED_KEYS_FILE}", tests[0]));
    }
    Ok(())
}

/// The tests that show the effect of each name, as `FILE FUNCTION`.
type TestsByKey = BTreeMap<String, Vec<String>>;

/// Reads the lists of names and the markers (`// effect: NAME`) of all tests. Returns all names in the lists,
/// the tests of each name in a marker, and a fault for each marker that is not above a test.
fn collect_effects() -> Result<(BTreeSet<String>, TestsByKey, Vec<String>)> {
    let (mut names, mut tests, mut misplaced) = (BTreeSet::new(), TestsByKey::new(), Vec::new());
    for list in [KEYS_FILE, COMBINED_KEYS_FILE] {
        names.extend(parse_names(&read_file(Path::new(list))?).map(str::to_owned));
    }
    for package in PACKAGES {
        for file in rust_files(Path::new(package))? {
            let location = file.display().to_string();
            for (effects, test) in parse_markers(&read_file(&file)?) {
                match test {
                    Some(test) => {
                        for name in effects {
                            tests.entry(name).or_default().push(format!("{location} {test}"));
                        }
                    }
                    None => {
                        misplaced.push(format!(
                            "{location}: `{MARKER}{}` is not above a test",
                            effects.join(", ")
                        ));
                    }
                }
            }
        }
    }
    Ok((names, tests, misplaced))
}

/// The names in the text of a list file: its lines, trimmed, without empty ones and comments.
fn parse_names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Finds the markers (`// effect: NAME, NAME`) in the text of a Rust file. Returns for each the names in it
/// and the name of the test function directly below, or `None` if there is no test.
fn parse_markers(text: &str) -> Vec<(Vec<String>, Option<String>)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let marked =
        lines.iter().enumerate().filter_map(|(index, line)| Some((index, line.strip_prefix(MARKER)?)));
    marked
        .map(|(index, names)| {
            let names = names.split(',').map(|name| name.trim().to_owned()).collect();
            (names, test_below(&lines[index + 1..]))
        })
        .collect()
}

/// The name of the test function that the trimmed `lines` below a marker begin with, after comments and
/// attributes; `None` if no attribute is `#[test]` or no function follows.
fn test_below(lines: &[&str]) -> Option<String> {
    let above = lines.iter().take_while(|line| line.starts_with("//") || line.starts_with("#["));
    let count = above.clone().count();
    let is_test = above.clone().any(|line| *line == "#[test]");
    let name = lines.get(count)?.strip_prefix("fn ")?.split(['(', '<']).next()?;
    is_test.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_belongs_to_the_test_below_it() {
        let text = "\
// effect: tune.ema_decay, tune.lr
// effect: tune.momentum
/// What it proves.
#[test]
fn steps_are_pytorchs() {}

    // effect: split.seed
    #[test]
    fn a_law(seed: u64) {}

// effect: split.fold
fn helper() {}

// effect: data.csv

#[test]
fn far_away() {}
";
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let expected = [
            (owned(&["tune.ema_decay", "tune.lr"]), Some("steps_are_pytorchs".to_owned())),
            (owned(&["tune.momentum"]), Some("steps_are_pytorchs".to_owned())),
            (owned(&["split.seed"]), Some("a_law".to_owned())),
            (owned(&["split.fold"]), None),
            (owned(&["data.csv"]), None),
        ];
        assert_eq!(parse_markers(text), expected);
    }

    #[test]
    fn comments_and_empty_lines_are_no_names() {
        let names: Vec<&str> = parse_names("# [tune]\n\n tune.ema_decay \ntune.lr\n").collect();
        assert_eq!(names, ["tune.ema_decay", "tune.lr"]);
    }
}
