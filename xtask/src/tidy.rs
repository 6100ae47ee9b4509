//! `cargo xtask tidy`: rules of this project that the compiler does not check.
//!
//! A check adds a fault, a line for the user that says what is wrong and where, for each violation that it
//! finds.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{docs, effects, names, step};

/// The packages of the workspace that each package may depend on.
const ALLOWED_DEPENDENCIES: [(&str, &[&str]); 9] = [
    ("split", &[]),
    ("engine", &[]),
    ("hub", &[]),
    ("backbone", &["engine", "hub", "split"]),
    ("heads", &["split"]),
    ("loader", &["split"]),
    ("train", &["backbone", "heads", "hub", "loader", "split"]),
    ("cli", &["backbone", "heads", "hub", "loader", "split", "train"]),
    ("xtask", &[]),
];

/// A longer module should be split by topic.
const MAX_MODULE_LINES: usize = 600;

/// Checks all rules, then fails with the list of all faults if there is one.
pub(crate) fn run() -> Result<()> {
    step::log("\n== tidy");
    let mut faults = Vec::new();
    for (package, allowed) in ALLOWED_DEPENDENCIES {
        check_dependencies(package, allowed, &mut faults)?;
        for file in rust_files(Path::new(package))? {
            check_module_length(&file, &mut faults)?;
        }
    }
    check_chapter(&mut faults)?;
    names::check(&ALLOWED_DEPENDENCIES.map(|(package, _)| package), &mut faults)?;
    docs::check(&mut faults)?;
    effects::check(&mut faults)?;
    if !faults.is_empty() {
        bail!("tidy:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// Adds a fault for each package of the workspace that `package` depends on but that is not in `allowed`. It
/// searches the lines of `Cargo.toml` for dependencies such as `headstock-engine.workspace = true`.
fn check_dependencies(package: &str, allowed: &[&str], faults: &mut Vec<String>) -> Result<()> {
    let manifest = Path::new(package).join("Cargo.toml");
    for line in read_file(&manifest)?.lines() {
        let Some(used) = line.strip_prefix("headstock-").and_then(|rest| rest.split(['.', ' ', '=']).next())
        else {
            continue;
        };
        if !allowed.contains(&used) {
            faults.push(format!("{}: {package} may not use {used}", manifest.display()));
        }
    }
    Ok(())
}

/// Adds a fault if the first code in `docs/write-a-head.md`, the chapter on writing a head, is not a copy of
/// the example crate: the tests of the example then also cover the text.
fn check_chapter(faults: &mut Vec<String>) -> Result<()> {
    let [page, example] = ["docs/write-a-head.md", "examples/external-head/src/main.rs"].map(Path::new);
    if !read_file(page)?.contains(&format!("```rust,no_run\n{}```\n", read_file(example)?)) {
        faults.push(format!("{}: the first head is not a copy of {}", page.display(), example.display()));
    }
    Ok(())
}

/// Adds a fault if a Rust file has more than [`MAX_MODULE_LINES`] lines.
fn check_module_length(file: &Path, faults: &mut Vec<String>) -> Result<()> {
    let lines = read_file(file)?.lines().count();
    if lines > MAX_MODULE_LINES {
        faults.push(format!("{}: {lines} lines, over {MAX_MODULE_LINES}: split it by topic", file.display()));
    }
    Ok(())
}

/// The paths of all Rust files in a folder and its subfolders, sorted, so that faults come in a fixed order.
pub(crate) fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The text of a file; the error names the file.
pub(crate) fn read_file(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))
}
