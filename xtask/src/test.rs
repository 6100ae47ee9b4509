//! `cargo xtask test`: all checks.

use std::path::Path;
use std::process::{self, Command};
use std::{env, fs};

use anyhow::{Context, Result};

use crate::{cuda, new_head, step, tidy};

/// Runs all checks that a change must pass: formatting, the source (`tidy`), lints, docs, tests, the example
/// crates outside the workspace, a crate from `new-head`, and the CUDA type-check. Stops at the first failure.
pub(crate) fn run() -> Result<()> {
    step::run("format", &mut step::cargo(&["fmt", "--all", "--check"]))?;
    tidy::run()?;
    let mut lints = step::checked_cargo("clippy");
    step::run("lints", lints.args(["--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let mut documentation = step::checked_cargo("doc");
    documentation.args(["--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    step::run("documentation", &mut documentation)?;
    // Compiled for itself, so that the times say what compiling takes and what the tests take.
    step::run("tests, compiled", step::checked_cargo("test").args(["--workspace", "--no-run", "--quiet"]))?;
    step::run("tests", step::checked_cargo("test").arg("--workspace"))?;
    let head = Path::new("examples/external-head");
    step::run("external head", &mut cargo_outside(head, "test")?)?;
    step::run(
        "external head, its command",
        cargo_outside(head, "run")?.args(["--", "heads", "nearest-mean-example"]),
    )?;
    check_external_source()?;
    check_new_head()?;
    cuda::check()?;
    step::log_times();
    step::log("\nall checks passed");
    Ok(())
}

/// A cargo command, not yet started, that tests or runs the crate in `folder`, which is outside the
/// workspace; `command` is `test` or `run`. It uses the target folder of the workspace, so that the crates
/// from crates.io are not compiled again.
fn cargo_outside(folder: &Path, command: &str) -> Result<Command> {
    let mut cargo = step::checked_cargo(command);
    cargo
        .args(["--config", "xtask/outside.toml", "--quiet", "--manifest-path"])
        .arg(folder.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(step::target_dir()?);
    Ok(cargo)
}

/// Tests the data source of `examples/external-source`, and splits its photos with its command.
fn check_external_source() -> Result<()> {
    let source = Path::new("examples/external-source");
    step::run("external source", &mut cargo_outside(source, "test")?)?;
    let split = env::temp_dir().join(format!("headstock-external-source-{}.csv", process::id()));
    let config = source.join("headstock.toml");
    let outcome = step::run(
        "external source, its command",
        cargo_outside(source, "run")?.args(["--", "split", "--config"]).arg(config).arg("--out").arg(&split),
    );
    let removed = fs::remove_file(&split).with_context(|| format!("failed to remove {}", split.display()));
    outcome.and(removed)
}

/// Checks that `cargo xtask new-head`, which creates a crate for a user's own head, creates one that works:
/// creates it in a temporary folder, runs its tests, and removes the folder, also if they failed.
fn check_new_head() -> Result<()> {
    let folder = env::temp_dir().join(format!("headstock-new-head-{}", process::id()));
    let name = "created-by-new-head";
    let outcome = new_head::create_crate(name, &folder)
        .and_then(|()| step::run("head created by new-head", &mut cargo_outside(&folder, "test")?));
    let removed =
        fs::remove_dir_all(&folder).with_context(|| format!("failed to remove {}", folder.display()));
    outcome.and(removed)
}
