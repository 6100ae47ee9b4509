//! `cargo xtask parity`: compares the accuracy and time of the heads with those of scikit-learn's
//! classifiers, on photos and on synthetic features.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{page, python, step, train};

/// The page that the script prints.
const PAGE: &str = "docs/parity.md";
/// Trains the heads and scikit-learn's classifiers on the same features, and prints a page in Markdown.
const SCRIPT: &str = "reference/parity/parity.py";

/// Arguments of the command.
#[derive(Debug, PartialEq)]
pub(crate) struct ParityOptions {
    /// The `headstock.toml` of the data set; the demo's by default.
    config: PathBuf,
    /// The other arguments, which are passed to the script.
    script_args: Vec<OsString>,
    /// Whether only some heads are compared (`--only`), which is not enough for the whole page.
    is_partial: bool,
}

impl ParityOptions {
    /// Parses the arguments `[CONFIG] [--slow] [--large] [--only HEAD,HEAD] [--repeats N]`. The flags go to
    /// the script. They mean: compare with slow classifiers, too; use a large synthetic data set, too;
    /// compare only these heads; fit each head N times to measure the time.
    pub(crate) fn parse(arguments: &[OsString]) -> Result<Self> {
        let mut config = None;
        let mut options = Self { config: PathBuf::new(), script_args: Vec::new(), is_partial: false };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match &*word.to_string_lossy() {
                "--large" | "--slow" => options.script_args.push(word.clone()),
                name @ ("--only" | "--repeats") => {
                    let Some(value) = words.next() else { bail!("`{name}` needs a value") };
                    options.is_partial |= name == "--only";
                    options.script_args.extend([word.clone(), value.clone()]);
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

/// Compares all heads with scikit-learn's classifiers by a Python script, and writes its output as
/// `docs/parity.md`. If only some heads are compared, prints their part and leaves the page as it is.
pub(crate) fn run(options: &ParityOptions) -> Result<()> {
    let binary = train::build()?;
    let python = python::prepare(&python::ORACLES)?;
    let mut script = Command::new(python);
    script.arg(step::workspace().join(SCRIPT)).arg(binary).arg(&options.config).args(&options.script_args);
    if options.is_partial {
        return step::run("parity of some heads", &mut script);
    }
    let page_text = step::run_for_stdout(PAGE, &mut script)?;
    page::write_page(&step::workspace().join(PAGE), &page_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<ParityOptions> {
        ParityOptions::parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn without_a_config_the_config_of_the_demo_is_used() {
        let options = parse(&["--large"]).unwrap();
        assert_eq!(options.config, step::workspace().join("demo/headstock.toml"));
        assert_eq!((options.script_args, options.is_partial), (vec![OsString::from("--large")], false));
    }

    #[test]
    fn some_heads_make_a_partial_page() {
        let options = parse(&["--repeats", "5", "pets.toml", "--only", "svm,ridge"]).unwrap();
        assert_eq!((options.config, options.is_partial), (PathBuf::from("pets.toml"), true));
        assert_eq!(options.script_args, ["--repeats", "5", "--only", "svm,ridge"]);
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
