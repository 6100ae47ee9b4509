//! Rules of the house that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{docs, effects, names, step};

/// What each package may use of the others: arrows run down only.
const ALLOWED_DEPENDENCIES: [(&str, &[&str]); 7] = [
    ("engine", &[]),
    ("backbone", &["engine"]),
    ("heads", &[]),
    ("loader", &[]),
    ("train", &["backbone", "heads", "loader"]),
    ("cli", &["backbone", "heads", "loader", "train"]),
    ("xtask", &[]),
];

/// A module longer than this has more than one meaning.
const MAX_MODULE_LINES: usize = 600;

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

/// The chapter's first head is the example, which is compiled and run with its own test.
fn check_chapter(faults: &mut Vec<String>) -> Result<()> {
    let [page, example] = ["docs/write-a-head.md", "examples/external-head/src/main.rs"].map(Path::new);
    if !read_file(page)?.contains(&format!("```rust,no_run\n{}```\n", read_file(example)?)) {
        faults.push(format!("{}: its first head is not {} to the letter", page.display(), example.display()));
    }
    Ok(())
}

fn check_module_length(file: &Path, faults: &mut Vec<String>) -> Result<()> {
    let lines = read_file(file)?.lines().count();
    if lines > MAX_MODULE_LINES {
        faults.push(format!(
            "{}: {lines} lines, over {MAX_MODULE_LINES}: split it along its meaning",
            file.display()
        ));
    }
    Ok(())
}

/// The Rust files below a folder, sorted.
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

pub(crate) fn read_file(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))
}
