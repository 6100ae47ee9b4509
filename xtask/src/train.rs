//! `cargo xtask train`: the first run.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::step;

/// The bundled photos' config.
pub(crate) const DEMO: &str = "demo/headstock.toml";

/// Builds the release binary and runs its `train` in the folder where we are; its exit status is ours.
pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    step::run("build", &mut cargo("build"))?;
    let here = env::current_dir().context("failed to find out which folder this is")?;
    let mut command = cargo("run");
    command.args(["--quiet", "--"]).args(words(arguments, step::workspace(), &here));
    let status = command.status().context("failed to start cargo")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Builds the release binary and says where it is.
pub(crate) fn build() -> Result<PathBuf> {
    step::run("build", &mut cargo("build"))?;
    Ok(step::target_dir()?.join("release").join(format!("headstock{}", env::consts::EXE_SUFFIX)))
}

/// `cargo build` or `cargo run` of the release binary, from any folder.
fn cargo(command: &str) -> Command {
    let mut cargo = step::cargo(&[command, "--release", "--package", "headstock-cli", "--manifest-path"]);
    cargo.arg(step::workspace().join("Cargo.toml"));
    cargo
}

/// The binary's arguments: with no config among them, that of the demo, as it is called from `here`.
fn words(arguments: &[OsString], workspace: &Path, here: &Path) -> Vec<OsString> {
    let names_config =
        |word: &OsString| word == "--config" || word.as_encoded_bytes().starts_with(b"--config=");
    let mut words = vec![OsString::from("train")];
    if !arguments.iter().any(names_config) {
        let demo = workspace.join(DEMO);
        let demo = demo.strip_prefix(here).map(Path::as_os_str).unwrap_or(demo.as_os_str());
        words.extend([OsStr::new("--config"), demo].map(OsStr::to_owned));
    }
    words.extend_from_slice(arguments);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(here: &str, arguments: &[&str]) -> Vec<OsString> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        words(&arguments, Path::new("/headstock"), Path::new(here))
    }

    #[test]
    fn without_a_config_it_is_the_demos_from_whichever_folder() {
        assert_eq!(
            from("/headstock", &["--head", "svm"]),
            ["train", "--config", "demo/headstock.toml", "--head", "svm"]
        );
        assert_eq!(from("/headstock/demo", &[]), ["train", "--config", "headstock.toml"]);
        assert_eq!(from("/headstock/cli", &[]), ["train", "--config", "/headstock/demo/headstock.toml"]);
    }

    #[test]
    fn a_config_is_passed_on_as_it_was_typed() {
        for typed in [&["--config", "pets.toml"][..], &["--head", "svm", "--config=pets.toml"]] {
            assert_eq!(from("/headstock/pets", typed), [&["train"], typed].concat());
        }
    }
}
