//! Runs other programs, such as cargo and git, as steps of an xtask command. The name of a step is printed
//! before its program runs, and is in its error messages.

use std::cell::RefCell;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

thread_local! {
    /// The steps that [`run`] has run, with the time that each took.
    static TIMES: RefCell<Vec<(String, Usage)>> = const { RefCell::new(Vec::new()) };
}

/// Time that passed, and CPU time that the ended child processes of this program took, with their own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    wall: Duration,
    cpu: Option<Duration>,
}

impl Usage {
    /// The time since the start of the system or another fixed point.
    fn now() -> Self {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        Self { wall: START.elapsed(), cpu: children_cpu_time() }
    }

    fn since(self, start: &Self) -> Self {
        let cpu = self.cpu.zip(start.cpu).map(|(end, start)| end.saturating_sub(start));
        Self { wall: self.wall - start.wall, cpu }
    }

    /// The time that passed, in minutes.
    pub(crate) fn wall_minutes(&self) -> f64 {
        self.wall.as_secs_f64() / 60.0
    }

    /// The CPU time in minutes; `None` where the system does not say it.
    pub(crate) fn cpu_minutes(&self) -> Option<f64> {
        self.cpu.map(|cpu| cpu.as_secs_f64() / 60.0)
    }
}

/// The CPU time of the ended child processes, from Linux's `/proc/self/stat`; `None` on other systems.
fn children_cpu_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // After the name of the program, in parentheses, are the fields from the third on; `cutime` and `cstime`
    // are the 16th and 17th, in hundredths of a second (see proc_pid_stat(5)).
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(13);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks()? + ticks()?) * 10))
}

/// The file name of the program.
pub(crate) const BINARY: &str = if cfg!(windows) { "headstock.exe" } else { "headstock" };

/// Prints the steps that have run, with their minutes, so that a change that makes them longer is seen.
pub(crate) fn log_times() {
    let row = |name: &str, usage: &Usage| {
        let cpu = usage.cpu_minutes().map_or_else(|| "-".into(), |cpu| format!("{cpu:.1}"));
        log(&format!("{name:<34}{:>8.1}{cpu:>8}", usage.wall_minutes()));
    };
    log(&format!("\n{:<34}{:>8}{:>8}", "minutes", "wall", "CPU"));
    TIMES.with_borrow(|times| {
        for (name, usage) in times {
            row(name, usage);
        }
        let total = times.iter().fold(Usage::default(), |sum, (_, usage)| Usage {
            wall: sum.wall + usage.wall,
            cpu: Some(sum.cpu.unwrap_or_default() + usage.cpu.unwrap_or_default()),
        });
        row("in all", &total);
    });
}

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

/// A cargo command, not yet started: `command` in the release profile, with debug assertions and overflow
/// checks in the packages of this workspace.
pub(crate) fn checked_cargo(command: &str) -> Command {
    cargo(&["--config", "xtask/checked.toml", command, "--release"])
}

/// The command `cargo build` or `cargo run`, as `subcommand` says, for the release binary of headstock
/// (package `headstock-cli`). It works in any current folder, because it names the manifest of the workspace.
pub(crate) fn cli_cargo(subcommand: &str) -> Command {
    let mut cargo = cargo(&[subcommand, "--release", "--package", "headstock-cli", "--manifest-path"]);
    cargo.arg(workspace().join("Cargo.toml"));
    cargo
}

/// A command that runs `program` from `PATH` with `arguments`; the caller starts it.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs `command` as a step, whose output the user sees: prints `name` as a heading, waits until the command
/// ends, and fails unless its exit status is 0.
pub(crate) fn run(name: &str, command: &mut Command) -> Result<()> {
    run_timed(name, command).map(drop)
}

/// Runs `command` like [`run`], and returns the time that it took.
pub(crate) fn run_timed(name: &str, command: &mut Command) -> Result<Usage> {
    log_step(name);
    let start = Usage::now();
    let status = command.status().with_context(|| start_error(name, command))?;
    let usage = Usage::now().since(&start);
    TIMES.with_borrow_mut(|times| times.push((name.to_owned(), usage)));
    check_status(name, command, status)?;
    Ok(usage)
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
