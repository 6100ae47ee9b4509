//! Running other programs as steps, with messages on stderr.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Prints a line on stderr. Stdout is for the programs that are run.
#[expect(clippy::print_stderr, reason = "all messages of xtask are printed here")]
pub(crate) fn log(line: &str) {
    eprintln!("{line}");
}

/// An environment variable.
#[expect(clippy::disallowed_methods, reason = "cargo passes its paths by environment variables")]
pub(crate) fn env_var(name: &str) -> Option<OsString> {
    env::var_os(name)
}

/// The `cargo` that runs this program, with `arguments`.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env_var("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

/// Runs `command` as a named step; fails unless its exit status is 0.
pub(crate) fn run(name: &str, command: &mut Command) -> Result<()> {
    log_step(name);
    let status = command.status();
    check_status(name, command, status.with_context(|| start_error(name, command))?)
}

/// Runs `command` like [`run`] and returns its stdout.
pub(crate) fn run_for_stdout(name: &str, command: &mut Command) -> Result<Vec<u8>> {
    log_step(name);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| start_error(name, command))?;
    check_status(name, command, output.status)?;
    Ok(output.stdout)
}

/// Runs `command` silently and returns its output and exit status.
pub(crate) fn capture_output(name: &str, command: &mut Command) -> Result<Output> {
    command.output().with_context(|| start_error(name, command))
}

/// The folder of the workspace.
pub(crate) fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The target folder of cargo, in which this program is `debug/xtask`.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let executable = env::current_exe().context("failed to get the path of this program")?;
    let folder = executable.parent().and_then(Path::parent);
    Ok(folder.with_context(|| format!("{} is not in a target folder", executable.display()))?.to_path_buf())
}

/// Prints the name of a step.
pub(crate) fn log_step(name: &str) {
    log(&format!("\n== {name}"));
}

fn start_error(name: &str, command: &Command) -> String {
    format!("{name}: failed to start {}", command.get_program().display())
}

fn check_status(name: &str, command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{name} failed ({status}): {}", format_command(command));
    }
    Ok(())
}

fn format_command(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
