//! `cargo xtask new-head`: creates a crate with a new head from `examples/external-head`.
//!
//! The files of the example are the template, so the tests of the example cover it.

mod name;

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::step;
use name::HeadName;

/// The files of the example.
const MANIFEST: &str = include_str!("../../examples/external-head/Cargo.toml");
const LOCK: &str = include_str!("../../examples/external-head/Cargo.lock");
const RUSTFMT: &str = include_str!("../../examples/external-head/rustfmt.toml");
const MAIN: &str = include_str!("../../examples/external-head/src/main.rs");

/// Names in these files that are replaced: of the package, of the head in `head.kind`, and of its type.
const PACKAGE: &str = "external-head";
const KIND: &str = "nearest-mean-example";
const TYPE: &str = "NearestMean";

/// The beginning of `.cargo/config.toml`; the path of the target folder follows.
const CARGO_CONFIG: &str = "\
# The builds of headstock: with the same [profile.release] and Cargo.lock, a release build compiles only the
# crates that headstock's did not.
[build]
";

/// Leaves out what cargo and headstock write: builds, runs and the feature cache.
const GITIGNORE: &str = "/target\n/runs\n.headstock/\n";

/// `cargo xtask new-head`: creates a crate with a new head called `name` in `folder` (default: a folder of
/// that name), and prints the next commands.
pub(crate) fn run(name: &str, folder: Option<PathBuf>) -> Result<()> {
    let folder = folder.unwrap_or_else(|| PathBuf::from(name));
    create_crate(name, &folder)?;
    step::log(&next_steps(name, &folder));
    Ok(())
}

/// Creates a crate with a new head called `name` in `folder`, which must be new or empty. The crate is a copy
/// of the example with the names replaced.
pub(crate) fn create_crate(name: &str, folder: &Path) -> Result<()> {
    write_crate(&parse_name(name)?, folder)
}

/// Checks the name of a new head. The name of its type must differ from all words in the source of the
/// example, except for the type that it replaces, or the copy would not compile.
fn parse_name(name: &str) -> Result<HeadName> {
    HeadName::parse(name, &MAIN.replace(TYPE, ""), step::workspace())
}

/// Writes the files of the crate of the head `name` into `folder`; fails if the folder is not new or empty,
/// so that no file of the user is overwritten.
fn write_crate(name: &HeadName, folder: &Path) -> Result<()> {
    let files = template_files(name, step::workspace())?;
    if is_non_empty(folder)? {
        bail!(
            "{} already exists and is not empty: give a different folder after the name of the head",
            folder.display()
        );
    }
    for (path, text) in files {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| format!("failed to create {}", parent.display()))?;
        File::create_new(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

/// Whether `folder` has entries; a folder that does not exist has none.
fn is_non_empty(folder: &Path) -> Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("failed to list {}", folder.display())),
    }
}

/// The files of the new crate as pairs of path and text: those of the example with the names replaced by
/// those of the head. The new crate depends on the crates of headstock in `workspace` by their paths.
fn template_files(name: &HeadName, workspace: &Path) -> Result<[(&'static str, String); 6]> {
    let quote_path = |name: &str| -> Result<String> {
        let path = workspace.join(name);
        let path = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
        // A JSON string is a TOML string, too.
        Ok(serde_json::to_string(path)?)
    };
    let path_entry = |package: &str| -> Result<String> { Ok(format!("path = {}", quote_path(package)?)) };
    // The text to replace, and its replacement.
    let package = (format!("name = \"{PACKAGE}\""), format!("name = \"{name}\""));
    let manifest = replace_all(
        MANIFEST,
        &[
            package.clone(),
            // The license is the choice of the user.
            ("license = \"MIT OR Apache-2.0\"\n".into(), String::new()),
            ("# A separate workspace, as yours would be.\n".into(), String::new()),
            ("path = \"../../cli\"".into(), path_entry("cli")?),
            ("path = \"../../heads\"".into(), path_entry("heads")?),
        ],
    )?;
    let main = replace_all(MAIN, &[(KIND.into(), name.kind().into()), (TYPE.into(), name.type_name())])?;
    Ok([
        ("Cargo.toml", manifest),
        // The dependency versions that headstock is tested with.
        ("Cargo.lock", replace_all(LOCK, &[package])?),
        ("rustfmt.toml", RUSTFMT.into()),
        (".cargo/config.toml", format!("{CARGO_CONFIG}target-dir = {}\n", quote_path("target")?)),
        (".gitignore", GITIGNORE.into()),
        ("src/main.rs", main),
    ])
}

/// Replaces texts in `text`, a file of the example: each pair is a text to find and its replacement. Fails if
/// a text is not found, because then the example has changed and this file must be updated.
fn replace_all(text: &str, pairs: &[(String, String)]) -> Result<String> {
    let mut text = text.to_owned();
    for (from, to) in pairs {
        if !text.contains(from) {
            bail!("examples/external-head has no `{}`: update xtask/src/new_head.rs", from.trim_end());
        }
        text = text.replace(from, to);
    }
    Ok(text)
}

/// The message after the crate was created in `folder`: what it is, and the commands to test and train the
/// head.
fn next_steps(name: &str, folder: &Path) -> String {
    let workspace = step::workspace();
    let [demo, chapter] = ["demo/headstock.toml", "docs/write-a-head.md"].map(|file| workspace.join(file));
    format!(
        "created the head `{name}` in {folder}, a nearest-mean classifier to start from

next:
  cd {folder}
  cargo test --release              # the conformance tests of heads
  cargo run --release -- heads {name}
  cargo run --release -- train --head {name} --config {demo}

A release build uses the crates that headstock's own has compiled (.cargo/config.toml names its target folder).
Edit src/main.rs; see {chapter}.",
        folder = folder.display(),
        demo = demo.display(),
        chapter = chapter.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_files_contain_no_name_of_the_example() {
        let files =
            template_files(&parse_name("wide-5").unwrap(), Path::new("/home/a \"b\"/headstock")).unwrap();
        for (path, text) in &files {
            for example in [PACKAGE, KIND, TYPE, "../.."] {
                assert!(!text.contains(example), "{path} has {example}");
            }
        }
        let [(_, manifest), (_, lock), _, (_, cargo_config), .., (_, main)] = &files;
        assert!(
            cargo_config.ends_with("\n[build]\ntarget-dir = \"/home/a \\\"b\\\"/headstock/target\"\n"),
            "the builds of headstock are shared: {cargo_config}"
        );
        assert!(manifest.contains("name = \"wide-5\"") && lock.contains("name = \"wide-5\""));
        assert!(
            manifest.contains(r#"headstock-cli = { path = "/home/a \"b\"/headstock/cli" }"#),
            "{manifest}"
        );
        assert!(main.contains("const KIND: &'static str = \"wide-5\";") && main.contains("struct Wide5 {"));
        assert!(main.lines().count() <= 60);
    }

    #[test]
    fn existing_files_are_not_overwritten() {
        let folder = std::env::temp_dir().join(format!("headstock-new-head-{}", std::process::id()));
        let head_folder = folder.join("deep/wide");
        let outcome = (create_crate("wide", &head_folder), create_crate("other", &head_folder));
        let main = fs::read_to_string(head_folder.join("src/main.rs")).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        outcome.0.unwrap();
        let error = outcome.1.unwrap_err().to_string();
        assert!(error.contains("deep/wide already exists and is not empty"), "{error}");
        assert!(main.contains("\"wide\""));
    }
}
