//! Runs other programs, such as cargo and git, as steps of an xtask command. The name of a step is printed
//! before its program runs, and is in its error messages.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Prints a message on stderr. Stdout is left to the output of the programs that steps run.
#[expect(clippy::print_stderr, reason = "all messages of xtask are printed here")]
pub(crate) fn log(line: &str) {
    eprintln!("{line}");
}

/// The value of the environment variable `name`; `None` if it is not set. It is the only place in xtask where
/// the lint against reading environment variables is lifted.
#[expect(clippy::disallowed_methods, reason = "cargo passes its paths by environment variables")]
pub(crate) fn env_var(name: &str) -> Option<OsString> {
    env::var_os(name)
}

/// A command that runs cargo with `arguments`; the caller starts it. It is the cargo that started xtask,
/// which that cargo names in `CARGO`, so that the toolchain is the same. Without it, the one in `PATH` is
/// run.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env_var("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

/// Runs `command` as a step, whose output the user sees: prints `name` as a heading, waits until the command
/// ends, and fails unless its exit status is 0.
pub(crate) fn run(name: &str, command: &mut Command) -> Result<()> {
    log_step(name);
    let status = command.status();
    check_status(name, command, status.with_context(|| start_error(name, command))?)
}

/// Runs `command` as a step whose result is its stdout, which is returned and not printed; its stderr is
/// printed. Prints `name` as a heading, and fails unless the exit status is 0.
pub(crate) fn run_for_stdout(name: &str, command: &mut Command) -> Result<Vec<u8>> {
    log_step(name);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| start_error(name, command))?;
    check_status(name, command, output.status)?;
    Ok(output.stdout)
}

/// Runs `command` without printing anything, and returns its stdout, stderr and exit status. The caller
/// checks the status: for programs whose failure is a result. `name` is for the error message if it cannot
/// start.
pub(crate) fn capture_output(name: &str, command: &mut Command) -> Result<Output> {
    command.output().with_context(|| start_error(name, command))
}

/// The root folder of the cargo workspace, to which the paths of scripts and other files in the repository
/// are relative: the parent of the folder of the package xtask.
pub(crate) fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The target folder of cargo, with the built programs and with files that xtask generates, such as Python
/// environments. It is found from the path of the running program, `debug/xtask` in it, so that it is right
/// even if `CARGO_TARGET_DIR` moves it.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let executable = env::current_exe().context("failed to get the path of this program")?;
    let folder = executable.parent().and_then(Path::parent);
    Ok(folder.with_context(|| format!("{} is not in a target folder", executable.display()))?.to_path_buf())
}

/// Prints the name of a step as a heading, before its output.
pub(crate) fn log_step(name: &str) {
    log(&format!("\n== {name}"));
}

/// The error message if the program of step `name` cannot start, for example because it is not installed.
fn start_error(name: &str, command: &Command) -> String {
    format!("{name}: failed to start {}", command.get_program().display())
}

/// Fails unless `status`, the exit status of step `name`, is 0. The error has the command line of `command`,
/// so that the user can run it alone.
fn check_status(name: &str, command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{name} failed ({status}): {}", format_command(command));
    }
    Ok(())
}

/// The command line of `command`, its program and arguments separated by spaces, for an error message.
fn format_command(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
