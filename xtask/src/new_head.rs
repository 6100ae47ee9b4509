//! `cargo xtask new-head`: a crate with a head of yours, made from `examples/external-head`.
//!
//! The example's own files are the template, so what is made is what the example's tests hold.

mod name;

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::step;
use name::Name;

const MANIFEST: &str = include_str!("../../examples/external-head/Cargo.toml");
const LOCK: &str = include_str!("../../examples/external-head/Cargo.lock");
const FORMAT: &str = include_str!("../../examples/external-head/rustfmt.toml");
const MAIN: &str = include_str!("../../examples/external-head/src/main.rs");

/// The names in these files.
const PACKAGE: &str = "external-head";
const KIND: &str = "nearest-mean-example";
const TYPE: &str = "NearestMean";

const IGNORED: &str = "/target\n/runs\n.headstock/\n";

/// Makes the crate in `folder`, by default one called as the head, and says what to type next.
pub(crate) fn run(name: &str, folder: Option<PathBuf>) -> Result<()> {
    let folder = folder.unwrap_or_else(|| PathBuf::from(name));
    make(name, &folder)?;
    step::say(&next(name, &folder));
    Ok(())
}

/// Makes the crate in `folder`, which is new or empty.
pub(crate) fn make(name: &str, folder: &Path) -> Result<()> {
    write(&checked(name)?, folder)
}

fn checked(name: &str) -> Result<Name> {
    Name::parse(name, &MAIN.replace(TYPE, ""), step::workspace())
}

fn write(name: &Name, folder: &Path) -> Result<()> {
    let files = files(name, step::workspace())?;
    if occupied(folder)? {
        bail!(
            "{} is there already and not empty: name another folder after the head's name",
            folder.display()
        );
    }
    for (path, text) in files {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| format!("failed to make {}", parent.display()))?;
        File::create_new(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

fn occupied(folder: &Path) -> Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("failed to look into {}", folder.display())),
    }
}

/// The crate's files, with paths to the checkout of headstock in `workspace`.
fn files(name: &Name, workspace: &Path) -> Result<[(&'static str, String); 5]> {
    let path = |package: &str| -> Result<String> {
        let path = workspace.join(package);
        let path = path.to_str().with_context(|| format!("{} is no UTF-8", path.display()))?;
        // A string of JSON is one of TOML too.
        Ok(format!("path = {}", serde_json::to_string(path)?))
    };
    let package = (format!("name = \"{PACKAGE}\""), format!("name = \"{name}\""));
    let manifest = replaced(
        MANIFEST,
        &[
            package.clone(),
            // Yours to choose.
            ("license = \"MIT OR Apache-2.0\"\n".into(), String::new()),
            ("# A workspace of its own, as yours would be.\n".into(), String::new()),
            ("path = \"../../cli\"".into(), path("cli")?),
            ("path = \"../../heads\"".into(), path("heads")?),
        ],
    )?;
    let main = replaced(MAIN, &[(KIND.into(), name.kind().into()), (TYPE.into(), name.type_name())])?;
    Ok([
        ("Cargo.toml", manifest),
        // The versions that headstock is tested with.
        ("Cargo.lock", replaced(LOCK, &[package])?),
        ("rustfmt.toml", FORMAT.into()),
        (".gitignore", IGNORED.into()),
        ("src/main.rs", main),
    ])
}

/// `text` with each first of a pair replaced by the second; one that is not there is an error.
fn replaced(text: &str, pairs: &[(String, String)]) -> Result<String> {
    let mut text = text.to_owned();
    for (from, to) in pairs {
        if !text.contains(from) {
            bail!(
                "examples/external-head has no `{}`: xtask/src/new_head.rs must follow it",
                from.trim_end()
            );
        }
        text = text.replace(from, to);
    }
    Ok(text)
}

fn next(name: &str, folder: &Path) -> String {
    let workspace = step::workspace();
    let [demo, chapter] = ["demo/headstock.toml", "docs/write-a-head.md"].map(|file| workspace.join(file));
    format!(
        "made the head `{name}` in {folder}: the nearest mean, to start from

next:
  cd {folder}
  cargo test                        # the laws that every head keeps
  cargo run --release -- heads {name}
  cargo run --release -- train --head {name} --config {demo}

src/main.rs is yours to change; {chapter} says how.",
        folder = folder.display(),
        demo = demo.display(),
        chapter = chapter.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_files_are_a_template_that_leaves_no_name_of_its_own() {
        let files = files(&checked("wide-5").unwrap(), Path::new("/home/a \"b\"/headstock")).unwrap();
        for (path, text) in &files {
            for example in [PACKAGE, KIND, TYPE, "../.."] {
                assert!(!text.contains(example), "{path} has {example}");
            }
        }
        let [(_, manifest), (_, lock), .., (_, main)] = &files;
        assert!(manifest.contains("name = \"wide-5\"") && lock.contains("name = \"wide-5\""));
        assert!(
            manifest.contains(r#"headstock-cli = { path = "/home/a \"b\"/headstock/cli" }"#),
            "{manifest}"
        );
        assert!(main.contains("const KIND: &'static str = \"wide-5\";") && main.contains("struct Wide5 {"));
        assert!(main.lines().count() <= 60);
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = std::env::temp_dir().join(format!("headstock-new-head-{}", std::process::id()));
        let made = folder.join("deep/wide");
        let outcome = (make("wide", &made), make("other", &made));
        let main = fs::read_to_string(made.join("src/main.rs")).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        outcome.0.unwrap();
        let error = outcome.1.unwrap_err().to_string();
        assert!(error.contains("deep/wide is there already and not empty"), "{error}");
        assert!(main.contains("\"wide\""));
    }
}
