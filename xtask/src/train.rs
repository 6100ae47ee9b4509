//! `cargo xtask train`: builds the program and trains, by default on the demo.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::{build_cost, step};

/// The config of the bundled photos.
pub(crate) const DEMO: &str = "demo/headstock.toml";

/// Builds the release binary of headstock and runs `headstock train` with `arguments` in the current folder,
/// by default on the demo. Returns the exit status of the training.
pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    let binary = step::target_dir()?.join("release").join(step::BINARY);
    let is_first_build = !binary.exists();
    let usage = step::run_timed("build", &mut step::cli_cargo("build"))?;
    if is_first_build {
        build_cost::log_beside_recorded(&binary, &usage)?;
    }
    let cwd = env::current_dir().context("failed to get the current folder")?;
    let mut command = step::cli_cargo("run");
    command.args(["--quiet", "--"]).args(train_arguments(arguments, step::workspace(), &cwd));
    let status = command.status().context("failed to start cargo")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Builds the release binary of headstock and returns its path, for commands that measure it.
pub(crate) fn build() -> Result<PathBuf> {
    step::run("build", &mut step::cli_cargo("build"))?;
    Ok(step::target_dir()?.join("release").join(step::BINARY))
}

/// The arguments for the headstock binary: `train`, then `--config` with the config of the demo if
/// `arguments` have no `--config`, then `arguments`. The path of the demo is relative if it is in `cwd`, the
/// current folder, so that messages are short.
fn train_arguments(arguments: &[OsString], workspace: &Path, cwd: &Path) -> Vec<OsString> {
    let is_config_flag =
        |word: &OsString| word == "--config" || word.as_encoded_bytes().starts_with(b"--config=");
    let mut words = vec![OsString::from("train")];
    if !arguments.iter().any(is_config_flag) {
        let demo = workspace.join(DEMO);
        let demo = demo.strip_prefix(cwd).map(Path::as_os_str).unwrap_or(demo.as_os_str());
        words.extend([OsStr::new("--config"), demo].map(OsStr::to_owned));
    }
    words.extend_from_slice(arguments);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments_from(cwd: &str, arguments: &[&str]) -> Vec<OsString> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        train_arguments(&arguments, Path::new("/headstock"), Path::new(cwd))
    }

    #[test]
    fn without_a_config_the_demo_is_used_from_any_folder() {
        assert_eq!(
            arguments_from("/headstock", &["--head", "svm"]),
            ["train", "--config", "demo/headstock.toml", "--head", "svm"]
        );
        assert_eq!(arguments_from("/headstock/demo", &[]), ["train", "--config", "headstock.toml"]);
        assert_eq!(
            arguments_from("/headstock/cli", &[]),
            ["train", "--config", "/headstock/demo/headstock.toml"]
        );
    }

    #[test]
    fn a_given_config_is_passed_on() {
        for typed in [&["--config", "pets.toml"][..], &["--head", "svm", "--config=pets.toml"]] {
            assert_eq!(arguments_from("/headstock/pets", typed), [&["train"], typed].concat());
        }
    }
}
