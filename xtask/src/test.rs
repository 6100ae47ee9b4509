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
    // In the workspace's target folder, so that nothing is compiled twice.
    let target = step::target_dir()?;
    let example = |command: &str| {
        let mut cargo = cargo(&[command, "--quiet", "--manifest-path", EXAMPLE, "--target-dir"]);
        cargo.arg(&target);
        cargo
    };
    step::run("external example", &mut example("test"))?;
    step::run("external example, its command", example("run").args(["--", "heads", "nearest-mean-example"]))?;
    cuda::check()?;
    step::say("\nall checks passed");
    Ok(())
}
