//! Type-check of the CUDA build on a machine without CUDA.

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::step;

/// A script in place of `nvcc`, the compiler of CUDA kernels. It prints a version, which `cudarc` reads, and
/// creates empty output files, which `candle-kernels` includes: a type-check needs the files but not their
/// contents.
const FAKE_NVCC_SCRIPT: &str = r#"#!/bin/sh
# Replaces nvcc in a type-check of `--features cuda`, which runs no kernel.
case " $* " in *" --version "*)
    echo "nvcc: NVIDIA (R) Cuda compiler driver"
    echo "Copyright (c) 2005-2025 NVIDIA Corporation"
    echo "Built on a stand-in"
    echo "Cuda compilation tools, release 13.0, V13.0.88"
    exit 0 ;;
esac
while [ $# -gt 0 ]; do
    case "$1" in
        -o) shift; : > "$1" ;;
        --output-file) shift; : > "$1" ;;
        --output-directory|-odir) shift; dir="$1" ;;
        *.cu) file=$(basename "$1" .cu) ; files="$files $file" ;;
    esac
    shift
done
if [ -n "$dir" ]; then for file in $files; do : > "$dir/$file.ptx"; done; fi
"#;

/// Type-checks `--features cuda`, whose dependencies call `nvcc` in their build scripts, with a fake `nvcc`
/// first in `PATH`. Skipped with a message on other platforms than Linux on x86-64.
pub(crate) fn check() -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        step::log("\n== CUDA type-check: skipped, only supported on Linux x86-64");
        return Ok(());
    }
    let folder = step::target_dir()?.join("nvcc-stand-in");
    write_fake_nvcc(&folder).with_context(|| format!("failed to write {}", folder.display()))?;
    let folder = fs::canonicalize(&folder)?;
    let path = step::env_var("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(folder).chain(env::split_paths(&path)))?;
    step::run(
        "CUDA type-check",
        step::checked_cargo("check")
            .args(["--package", "headstock-cli", "--features", "cuda"])
            .env("PATH", path)
            // Compute capability 8.0 (Ampere); the build scripts would otherwise ask the GPU.
            .env("CUDA_COMPUTE_CAP", "80"),
    )
}

/// Writes an executable `folder/nvcc` that compiles nothing, so that the build scripts of the CUDA crates run
/// on a machine without CUDA.
fn write_fake_nvcc(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let nvcc = folder.join("nvcc");
    fs::write(&nvcc, FAKE_NVCC_SCRIPT)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&nvcc, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
