//! `cargo xtask tidy`: rules of this project that the compiler does not check.
//!
//! A check adds a fault, a line for the user that says what is wrong and where, for each violation that it
//! finds.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::source_files::{read_file, rust_files};
use crate::{circles, docs, effects, links, messages, names, step};

/// The packages of the workspace that each package may depend on.
const ALLOWED_DEPENDENCIES: [(&str, &[&str]); 11] = [
    ("split", &[]),
    ("engine", &[]),
    ("hub", &[]),
    ("backbone", &["engine", "hub", "split"]),
    ("heads", &["split"]),
    ("loader", &["split"]),
    ("inference", &["backbone", "heads", "hub", "loader"]),
    ("train", &["backbone", "heads", "hub", "inference", "loader", "split"]),
    ("cli", &["backbone", "heads", "hub", "inference", "loader", "split", "train"]),
    ("xtask", &[]),
    ("testing", &["backbone", "hub"]),
];

/// A longer module should be split by topic.
const MAX_MODULE_LINES: usize = 600;

/// Checks all rules, then fails with the list of all faults if there is one.
pub(crate) fn run() -> Result<()> {
    step::log("\n== tidy");
    let mut faults = Vec::new();
    check_dependencies(&mut faults)?;
    for (package, _) in ALLOWED_DEPENDENCIES {
        for file in rust_files(Path::new(package))? {
            check_module_length(&file, &mut faults)?;
        }
    }
    check_chapter(&mut faults)?;
    check_profiles(&mut faults)?;
    let packages = ALLOWED_DEPENDENCIES.map(|(package, _)| package);
    names::check(&packages, &mut faults)?;
    circles::check(&packages, &mut faults)?;
    let is_program = |package: &&str| ["cli", "xtask", "testing"].contains(package);
    let libraries: Vec<&str> = packages.into_iter().filter(|package| !is_program(package)).collect();
    messages::check(&libraries, &mut faults)?;
    docs::check(&mut faults)?;
    links::check(&mut faults)?;
    effects::check(&mut faults)?;
    if !faults.is_empty() {
        bail!("tidy:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// Adds a fault for each package of the workspace that is not in [`ALLOWED_DEPENDENCIES`], and for each that
/// depends on another package which the table does not allow. Dependencies of tests alone are free.
fn check_dependencies(faults: &mut Vec<String>) -> Result<()> {
    let mut command = step::cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let output = step::capture_output("cargo metadata", &mut command)?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata failed")?;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let folder = folder_of(&package["name"]);
        let Some((_, allowed)) = ALLOWED_DEPENDENCIES.iter().find(|(package, _)| *package == folder) else {
            faults.push(format!("{folder}: add the package to the table in xtask/src/tidy.rs"));
            continue;
        };
        // Packages of the workspace have a path.
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let used = dependencies.filter(|used| used["path"].is_string() && used["kind"] != "dev");
        for used in used.map(|used| folder_of(&used["name"])).filter(|used| !allowed.contains(used)) {
            faults.push(format!("{folder}/Cargo.toml: {folder} may not use {used}"));
        }
    }
    Ok(())
}

/// The folder of a package of the workspace.
fn folder_of(package: &Value) -> &str {
    let name = package.as_str().unwrap_or_default();
    name.strip_prefix("headstock-").unwrap_or(name)
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

/// Adds a fault for each manifest of an example crate that does not end in the release profile of the
/// workspace: `cargo xtask test` would then compile all crates again for the example.
fn check_profiles(faults: &mut Vec<String>) -> Result<()> {
    let workspace = read_file(Path::new("Cargo.toml"))?;
    let start = workspace.find("[profile.release]\n").context("Cargo.toml has no [profile.release]")?;
    for example in ["external-head", "external-source"] {
        let manifest = Path::new("examples").join(example).join("Cargo.toml");
        if !read_file(&manifest)?.ends_with(&workspace[start..]) {
            faults.push(format!(
                "{}: does not end in the lines from [profile.release] on of Cargo.toml",
                manifest.display()
            ));
        }
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
