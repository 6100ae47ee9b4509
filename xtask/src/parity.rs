//! `cargo xtask parity`: the heads beside scikit-learn's, on photos of yours and on made-up features.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{page, python, step, train};

const PAGE: &str = "docs/parity.md";
const SCRIPT: &str = "reference/parity/parity.py";

/// What to compare.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    /// Of the data set of photos; the demo's where none was named.
    config: PathBuf,
    /// What the script is told beside it.
    passed_on: Vec<OsString>,
    /// Whether some heads were picked: what is made then is no whole page.
    part: bool,
}

impl Options {
    pub(crate) fn parse(arguments: &[OsString]) -> Result<Self> {
        let mut config = None;
        let mut options = Self { config: PathBuf::new(), passed_on: Vec::new(), part: false };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match &*word.to_string_lossy() {
                "--large" | "--slow" => options.passed_on.push(word.clone()),
                name @ ("--only" | "--repeats") => {
                    let Some(value) = words.next() else { bail!("`{name}` needs a value") };
                    options.part |= name == "--only";
                    options.passed_on.extend([word.clone(), value.clone()]);
                }
                name if name.starts_with('-') => bail!("parity takes no `{name}`"),
                _ if config.is_none() => config = Some(PathBuf::from(word)),
                extra => bail!("parity takes one config, and `{extra}` is a second one"),
            }
        }
        options.config = config.unwrap_or_else(|| step::workspace().join(train::DEMO));
        Ok(options)
    }
}

/// Measures, and writes the page anew; with some heads only, prints what it would hold. The page that is there stays until the
/// new one is whole.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = train::build()?;
    let python = python::ready(&python::ORACLES)?;
    let mut script = Command::new(python);
    script.arg(step::workspace().join(SCRIPT)).arg(binary).arg(&options.config).args(&options.passed_on);
    if options.part {
        return step::run("parity of some heads", &mut script);
    }
    let made = step::output(PAGE, &mut script)?;
    page::write(&step::workspace().join(PAGE), &made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options> {
        Options::parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn without_a_config_it_is_the_demos() {
        let options = parse(&["--large"]).unwrap();
        assert_eq!(options.config, step::workspace().join("demo/headstock.toml"));
        assert_eq!((options.passed_on, options.part), (vec![OsString::from("--large")], false));
    }

    #[test]
    fn a_page_of_some_heads_is_a_part() {
        let options = parse(&["--repeats", "5", "pets.toml", "--only", "svm,ridge"]).unwrap();
        assert_eq!((options.config, options.part), (PathBuf::from("pets.toml"), true));
        assert_eq!(options.passed_on, ["--repeats", "5", "--only", "svm,ridge"]);
    }

    #[test]
    fn other_words_are_refused_by_name() {
        for (words, part) in [
            (&["--only"][..], "`--only` needs a value"),
            (&["--heads", "svm"], "no `--heads`"),
            (&["a.toml", "b.toml"], "`b.toml` is a second one"),
        ] {
            let error = parse(words).unwrap_err().to_string();
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }
}
