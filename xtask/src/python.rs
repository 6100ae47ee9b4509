//! Python environments for golden files and comparisons; the product does not use them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::step;

/// A virtual environment in the target folder, and its pinned requirements.
pub(crate) struct Venv {
    /// Name of the folder in the target folder.
    folder: &'static str,
    /// Path of the requirements file in the workspace.
    requirements: &'static str,
}

/// The reference implementations that tests compare with: scikit-learn, Pillow, PyTorch and others.
pub(crate) const ORACLES: Venv =
    Venv { folder: "reference-venv", requirements: "reference/requirements.txt" };

/// The inference engines that headstock's is compared with in speed: ONNX Runtime and OpenVINO.
pub(crate) const ENGINES: Venv =
    Venv { folder: "throughput-venv", requirements: "reference/throughput/requirements.txt" };

/// Creates the virtual environment if it does not exist, and installs its requirements. Returns the path of
/// its Python interpreter, which runs scripts with them.
pub(crate) fn prepare(venv: &Venv) -> Result<PathBuf> {
    let folder = step::target_dir()?.join(venv.folder);
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.exists() {
        step::run("virtual environment", Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    step::run(
        "requirements",
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(step::workspace().join(venv.requirements)),
    )?;
    Ok(python)
}
