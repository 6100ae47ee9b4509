//! `cargo xtask ci`: the checks on a clean clone.

use std::process::Command;

use anyhow::{Context, Result};

use crate::step;

/// Clones the repository into a temporary folder and runs its `.ci/run` there. The clone has only what is
/// committed, so the checks fail if they need a file that was forgotten in a commit. Removes the clone again.
pub(crate) fn run() -> Result<()> {
    let clone = std::env::temp_dir().join(format!("headstock-ci-{}", std::process::id()));
    step::run("clone", step::command("git", &["clone", "--quiet", "."]).arg(&clone))?;
    let outcome = step::run(
        ".ci/run",
        Command::new("bash").arg(".ci/run").current_dir(&clone).env_remove("CARGO_TARGET_DIR"),
    );
    let removed =
        std::fs::remove_dir_all(&clone).with_context(|| format!("failed to remove {}", clone.display()));
    outcome.and(removed)
}
