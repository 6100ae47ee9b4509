//! `cargo xtask test`: everything that must hold.

use anyhow::Result;

use crate::{cuda, step, tidy};

const EXAMPLE: &str = "examples/external-head/Cargo.toml";

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
    let target = step::target_dir();
    step::run(
        "external example",
        // In the workspace's target folder, so that nothing is compiled twice.
        cargo(&["test", "--manifest-path", EXAMPLE, "--target-dir"]).arg(target),
    )?;
    cuda::check()?;
    step::say("\nall checks passed");
    Ok(())
}
