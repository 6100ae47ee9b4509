//! `cargo xtask photos`: speed of decoding and preprocessing, compared with Pillow.

use std::env::consts::EXE_SUFFIX;
use std::ffi::OsStr;
use std::process::Command;

use anyhow::Result;

use crate::{python, step};

/// The example program of the loader that preprocesses images, and the script that compares it with Pillow.
const EXAMPLE: &str = "photo_speed";
const SCRIPT: &str = "reference/throughput/photos.py";

/// Measures how many images of `folder` one core decodes, rotates, resizes and crops per second, with the
/// loader of headstock and with Pillow, and prints a table. `options` are passed to the Python script that
/// measures.
pub(crate) fn run(folder: &OsStr, options: &[impl AsRef<OsStr>]) -> Result<()> {
    let workspace = step::workspace();
    let mut build = step::cargo(&[
        "build",
        "--release",
        "--package",
        "headstock-loader",
        "--example",
        EXAMPLE,
        "--manifest-path",
    ]);
    step::run("build", build.arg(workspace.join("Cargo.toml")))?;
    let program = step::target_dir()?.join("release/examples").join(format!("{EXAMPLE}{EXE_SUFFIX}"));
    let python = python::prepare(&python::ORACLES)?;
    let mut script = Command::new(python);
    step::run("photos", script.arg(workspace.join(SCRIPT)).arg(program).arg(folder).args(options))
}
