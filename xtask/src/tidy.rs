//! Rules of the house that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{effects, step};

/// What each package may use of the others: arrows run down only.
const MAY_USE: [(&str, &[&str]); 7] = [
    ("engine", &[]),
    ("backbone", &["engine"]),
    ("heads", &[]),
    ("loader", &[]),
    ("train", &["backbone", "heads", "loader"]),
    ("cli", &["backbone", "heads", "loader", "train"]),
    ("xtask", &[]),
];

/// A module longer than this has more than one meaning.
const LONGEST_MODULE: usize = 600;

pub(crate) fn run() -> Result<()> {
    step::say("\n== tidy");
    let mut faults = Vec::new();
    for (package, allowed) in MAY_USE {
        arrows(package, allowed, &mut faults)?;
        for file in rust_files(Path::new(package))? {
            module(&file, &mut faults)?;
        }
    }
    chapter(&mut faults)?;
    effects::check(&mut faults)?;
    if !faults.is_empty() {
        bail!("tidy:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

fn arrows(package: &str, allowed: &[&str], faults: &mut Vec<String>) -> Result<()> {
    let manifest = Path::new(package).join("Cargo.toml");
    for line in read(&manifest)?.lines() {
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
fn chapter(faults: &mut Vec<String>) -> Result<()> {
    let [page, example] = ["docs/write-a-head.md", "examples/external-head/src/main.rs"].map(Path::new);
    if !read(page)?.contains(&format!("```rust,no_run\n{}```\n", read(example)?)) {
        faults.push(format!("{}: its first head is not {} to the letter", page.display(), example.display()));
    }
    Ok(())
}

fn module(file: &Path, faults: &mut Vec<String>) -> Result<()> {
    let lines = read(file)?.lines().count();
    if lines > LONGEST_MODULE {
        faults.push(format!(
            "{}: {lines} lines, over {LONGEST_MODULE}: split it along its meaning",
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

pub(crate) fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))
}
