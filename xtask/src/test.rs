//! `cargo xtask test`: everything that must hold.

use std::path::Path;
use std::process::{self, Command};
use std::{env, fs};

use anyhow::{Context, Result};

use crate::{cuda, new_head, step, tidy};

pub(crate) fn run() -> Result<()> {
    let cargo = step::cargo;
    step::run("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    tidy::run()?;
    step::run("lints", &mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step::run(
        "documentation",
        cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    step::run("tests", &mut cargo(&["test", "--workspace"]))?;
    let example = Path::new("examples/external-head");
    step::run("external example", &mut outside(example, "test")?)?;
    step::run(
        "external example, its command",
        outside(example, "run")?.args(["--", "heads", "nearest-mean-example"]),
    )?;
    made_head()?;
    cuda::check()?;
    step::say("\nall checks passed");
    Ok(())
}

/// A cargo command on a crate outside the workspace, in the workspace's target folder, so that nothing is compiled twice.
fn outside(folder: &Path, command: &str) -> Result<Command> {
    let mut cargo = step::cargo(&[command, "--quiet", "--manifest-path"]);
    cargo.arg(folder.join("Cargo.toml")).arg("--target-dir").arg(step::target_dir()?);
    Ok(cargo)
}

/// What `new-head` makes passes its own test.
fn made_head() -> Result<()> {
    let folder = env::temp_dir().join(format!("headstock-made-head-{}", process::id()));
    let name = "made-by-new-head";
    let outcome = new_head::make(name, &folder)
        .and_then(|()| step::run("head made by new-head", &mut outside(&folder, "test")?));
    fs::remove_dir_all(&folder).with_context(|| format!("failed to remove {}", folder.display()))?;
    outcome
}
