//! `cargo xtask audit`: checks of what the project depends on and runs on. They need tools beside Rust and a C
//! compiler, so they are not part of `cargo xtask test`; CI runs them.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::step;

/// The version of cargo-deny, which `deny.toml` is written for.
const CARGO_DENY: &str = "0.20.2";

/// Checks licenses, banned and duplicate crates and advisories with cargo-deny, that the code compiles with
/// the declared minimum version of Rust, and that it compiles for all targets of the toolchain. A line says
/// what was skipped because it is not installed.
pub(crate) fn run() -> Result<()> {
    install_cargo_deny()?;
    let deny = |checks: &[&str]| {
        let mut cargo = step::cargo(&["deny", "--log-level", "error", "check", "--hide-inclusion-graph"]);
        cargo.args(checks);
        cargo
    };
    step::run("licenses, bans, sources", &mut deny(&["licenses", "bans", "sources"]))?;
    let mut fetch = step::cargo(&["deny", "fetch", "db"]);
    if step::capture_output("advisories", &mut fetch)?.status.success() {
        step::run("advisories", &mut deny(&["advisories"]))?;
    } else {
        step::log("\n== advisories: skipped, the RustSec database cannot be reached");
    }
    check_minimum_rust()?;
    check_targets()?;
    step::log_times();
    Ok(())
}

/// Installs [`CARGO_DENY`], without optimisation, which would take most of the time.
fn install_cargo_deny() -> Result<()> {
    let installed = step::capture_output("cargo deny", &mut step::cargo(&["deny", "--version"]))?;
    if String::from_utf8_lossy(&installed.stdout).contains(CARGO_DENY) {
        return Ok(());
    }
    let mut install = step::cargo(&["install", "--quiet", "--locked", "--force", "--version", CARGO_DENY]);
    install.args(["--profile", "dev", "--no-default-features", "cargo-deny"]);
    install.env("CARGO_PROFILE_DEV_DEBUG", "false").env("CARGO_PROFILE_DEV_OPT_LEVEL", "0");
    // Its Cargo.toml is not in this workspace.
    step::run("install cargo-deny", install.current_dir(std::env::temp_dir()))
}

/// Type-checks the workspace with the version of Rust that `rust-version` declares, unless the checks already
/// run with it.
fn check_minimum_rust() -> Result<()> {
    let output = step::capture_output(
        "cargo metadata",
        &mut step::cargo(&["metadata", "--no-deps", "--format-version", "1"]),
    )?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata failed")?;
    let declared = metadata["packages"][0]["rust_version"].as_str().context("no rust-version is declared")?;
    let rustc = step::capture_output("rustc", &mut step::command("rustc", &["--version"]))?;
    let rustc = String::from_utf8_lossy(&rustc.stdout).into_owned();
    let used = rustc.split_whitespace().nth(1).unwrap_or_default();
    if used == declared || used.starts_with(&format!("{declared}.")) {
        step::log(&format!("\n== minimum Rust {declared}: this toolchain, {used}"));
        return Ok(());
    }
    let listed = step::capture_output("rustup", &mut step::command("rustup", &["toolchain", "list"]));
    let listed =
        listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let Some(toolchain) = listed.lines().find(|line| line.starts_with(declared)) else {
        step::log(&format!("\n== minimum Rust {declared}: skipped, not installed (this is {used})"));
        return Ok(());
    };
    let toolchain = toolchain.split_whitespace().next().unwrap_or(declared);
    let mut check =
        step::command("rustup", &["run", toolchain, "cargo", "check", "--release", "--workspace"]);
    step::run(&format!("minimum Rust {declared}"), &mut check)
}

/// Type-checks the program for each target whose standard library the toolchain has, except for the one of
/// this machine, which the tests cover.
fn check_targets() -> Result<()> {
    let installed = step::command("rustup", &["target", "list", "--installed"]).output();
    let installed = installed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let installed = installed.unwrap_or_default();
    let host = step::capture_output("rustc", &mut step::command("rustc", &["-vV"]))?;
    let host = String::from_utf8_lossy(&host.stdout).into_owned();
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let others: Vec<&str> = installed.lines().filter(|target| *target != host).collect();
    if others.is_empty() {
        step::log(&format!("\n== other targets: skipped, the toolchain has only {host}"));
    }
    for target in others {
        let mut check =
            step::cargo(&["check", "--release", "--package", "headstock-cli", "--target", target]);
        step::run(&format!("target {target}"), &mut check)?;
    }
    Ok(())
}
