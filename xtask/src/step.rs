//! Running other programs.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Prints a line on stderr: stdout belongs to the programs that are run.
#[expect(clippy::print_stderr, reason = "this is the one place where xtask speaks")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

/// A variable of the environment.
#[expect(clippy::disallowed_methods, reason = "cargo tells its commands where things are by the environment")]
pub(crate) fn variable(name: &str) -> Option<OsString> {
    env::var_os(name)
}

/// `cargo`, the one that runs us, with `arguments`.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(variable("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

/// Runs `command` as a named step; an exit status other than 0 is an error.
pub(crate) fn run(name: &str, command: &mut Command) -> Result<()> {
    announce(name);
    let status = command.status();
    ended_well(name, command, status.with_context(|| not_started(name, command))?)
}

/// As [`run`]; what the program writes to stdout.
pub(crate) fn output(name: &str, command: &mut Command) -> Result<Vec<u8>> {
    announce(name);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| not_started(name, command))?;
    ended_well(name, command, output.status)?;
    Ok(output.stdout)
}

/// Runs `command` without a word; what it writes to both streams, however it ends.
pub(crate) fn quietly(name: &str, command: &mut Command) -> Result<Output> {
    command.output().with_context(|| not_started(name, command))
}

/// The workspace's folder.
pub(crate) fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// Where cargo puts what it builds, as whatever sets it says: this program was built there too, as `debug/xtask`.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let own = env::current_exe().context("failed to find out where this program is")?;
    let folder = own.parent().and_then(Path::parent);
    Ok(folder.with_context(|| format!("{} is not in a target folder", own.display()))?.to_path_buf())
}

/// Says which step begins.
pub(crate) fn announce(name: &str) {
    say(&format!("\n== {name}"));
}

fn not_started(name: &str, command: &Command) -> String {
    format!("{name}: failed to start {}", command.get_program().display())
}

fn ended_well(name: &str, command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{name} failed ({status}): {}", shown(command));
    }
    Ok(())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
