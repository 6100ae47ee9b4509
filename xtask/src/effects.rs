//! Which test shows what a key, a parameter or a flag does: markers in the tests, held against the list of all names.
//!
//! A marker is a comment directly above a test's attribute: `// effect: tune.ema, tune.momentum`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;

use crate::step;
use crate::tidy::{read, rust_files};

/// Written by a test of the program from the types that read the config, the heads and the command line.
const KEYS: &str = "cli/tests/keys.txt";

/// Names that only act together, written by hand: `features.views x head.linear.C`.
const TOGETHER: &str = "cli/tests/keys_together.txt";

const MARKER: &str = "// effect:";

/// The packages that have tests of keys.
const PACKAGES: [&str; 6] = ["engine", "backbone", "heads", "loader", "train", "cli"];

/// Prints each name with the tests of its effect.
pub(crate) fn run() -> Result<()> {
    let (names, tests, _) = all()?;
    for name in &names {
        let shown_by = tests.get(name).map_or_else(|| "no test".to_owned(), |tests| tests.join(", "));
        step::say(&format!("{name}: {shown_by}"));
    }
    Ok(())
}

/// Names without a test of their effect, and markers that are wrong.
pub(crate) fn check(faults: &mut Vec<String>) -> Result<()> {
    let (names, tests, wrong) = all()?;
    faults.extend(wrong);
    for name in names.iter().filter(|name| !tests.contains_key(*name)) {
        faults.push(format!("{KEYS}: no test shows the effect of `{name}`: mark one with `{MARKER} {name}`"));
    }
    for (name, tests) in tests.iter().filter(|(name, _)| !names.contains(*name)) {
        faults.push(format!("{}: `{MARKER} {name}` names nothing in {KEYS} or {TOGETHER}", tests[0]));
    }
    Ok(())
}

type Tests = BTreeMap<String, Vec<String>>;

/// All names, the tests of each, and markers that stand above no test.
fn all() -> Result<(BTreeSet<String>, Tests, Vec<String>)> {
    let (mut names, mut tests, mut wrong) = (BTreeSet::new(), Tests::new(), Vec::new());
    for list in [KEYS, TOGETHER] {
        names.extend(listed(&read(Path::new(list))?).map(str::to_owned));
    }
    for package in PACKAGES {
        for file in rust_files(Path::new(package))? {
            let place = file.display().to_string();
            for (effects, test) in markers(&read(&file)?) {
                match test {
                    Some(test) => {
                        for name in effects {
                            tests.entry(name).or_default().push(format!("{place} {test}"));
                        }
                    }
                    None => {
                        wrong
                            .push(format!("{place}: `{MARKER} {}` stands above no test", effects.join(", ")));
                    }
                }
            }
        }
    }
    Ok((names, tests, wrong))
}

/// The names of a list: a line each, but for empty ones and comments.
fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// What the markers of a file name, each with the test that it stands above.
fn markers(text: &str) -> Vec<(Vec<String>, Option<String>)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let marked = lines.iter().enumerate().filter_map(|(at, line)| Some((at, line.strip_prefix(MARKER)?)));
    marked
        .map(|(at, names)| {
            let names = names.split(',').map(|name| name.trim().to_owned()).collect();
            (names, test_below(&lines[at + 1..]))
        })
        .collect()
}

/// The function that comments and attributes lead to, where one of them is `#[test]`.
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
    fn a_marker_names_the_test_below_it_and_none_where_there_is_no_test() {
        let text = "\
// effect: tune.ema, tune.lr
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
            (owned(&["tune.ema", "tune.lr"]), Some("steps_are_pytorchs".to_owned())),
            (owned(&["tune.momentum"]), Some("steps_are_pytorchs".to_owned())),
            (owned(&["split.seed"]), Some("a_law".to_owned())),
            (owned(&["split.fold"]), None),
            (owned(&["data.csv"]), None),
        ];
        assert_eq!(markers(text), expected);
    }

    #[test]
    fn comments_and_empty_lines_are_no_names() {
        let names: Vec<&str> = listed("# [tune]\n\n tune.ema \ntune.lr\n").collect();
        assert_eq!(names, ["tune.ema", "tune.lr"]);
    }
}
