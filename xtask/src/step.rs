//! Running other programs.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

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
    say(&format!("\n== {name}"));
    let status =
        command.status().with_context(|| format!("{name}: failed to start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{name} failed ({status}): {}", shown(command));
    }
    Ok(())
}

/// Where cargo puts what it builds, from the workspace's folder.
pub(crate) fn target_dir() -> PathBuf {
    variable("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from)
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
