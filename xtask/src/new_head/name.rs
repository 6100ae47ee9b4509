//! Names of new heads, and the checks of what the user typed.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::source_files::rust_files;

/// The lower-case keywords of all Rust editions.
const KEYWORDS: [&str; 51] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop",
    "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static",
    "struct", "super", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual",
    "where", "while", "yield",
];

/// Names that the new package may not have: those of its dependencies, of Rust's own crates, and of folders
/// of cargo.
const RESERVED: [&str; 13] = [
    "alloc",
    "build",
    "core",
    "deps",
    "examples",
    "headstock-cli",
    "headstock-heads",
    "incremental",
    "proc-macro",
    "schemars",
    "serde",
    "std",
    "test",
];

/// The name of a head in `head.kind` and of its package: words of lower-case letters and digits, joined by
/// hyphens.
#[derive(Debug)]
pub(crate) struct HeadName(String);

impl HeadName {
    /// Checks the name that the user typed. It must be valid for a head and a package, and no built-in head
    /// of headstock in the folder `workspace` may have it. The name of its type must not be a word of
    /// `source`, the Rust file that the type is added to. The error says what is wrong and may suggest a
    /// valid name.
    pub(crate) fn parse(name: &str, source: &str, workspace: &Path) -> Result<Self> {
        let is_word = |word: &str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        if !name.starts_with(|first: char| first.is_ascii_lowercase()) || !name.split('-').all(is_word) {
            let suggestion = to_kebab_case(name).map_or(String::new(), |name| format!("; `{name}` is valid"));
            bail!(
                "`{name}` is not a valid name for a head: start with a letter, and use lower-case letters, digits \
                 and single hyphens between words{suggestion}"
            );
        }
        if KEYWORDS.contains(&name) {
            bail!("`{name}` is a Rust keyword, which cannot be a package name: choose a different name");
        }
        if RESERVED.contains(&name) {
            bail!("`{name}` is reserved by Rust, cargo or a dependency: choose a different name");
        }
        if builtin_heads(workspace)?.iter().any(|kind| kind == name) {
            bail!("headstock already has a head named `{name}`: choose a different name");
        }
        let name = Self(name.to_owned());
        let type_name = name.type_name();
        if source.split(|c: char| !c.is_alphanumeric()).any(|word| word == type_name) {
            bail!(
                "the type of `{name}` would be `{type_name}`, which its source already uses: choose a different name"
            );
        }
        Ok(name)
    }

    /// The value of `head.kind` in a config, by which users choose the head.
    pub(crate) fn kind(&self) -> &str {
        &self.0
    }

    /// The name of the head's Rust type: `NearestMean` for `nearest-mean`.
    pub(crate) fn type_name(&self) -> String {
        let capital = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
        self.0.split('-').map(capital).collect()
    }
}

impl fmt::Display for HeadName {
    /// Writes the name as it was typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Converts an invalid name, such as `MyHead`, `my_head` or `my head`, to `my-head`, to suggest it in the
/// error; `None` if the result is not valid either.
fn to_kebab_case(name: &str) -> Option<String> {
    let mut out = String::new();
    for c in name.chars() {
        match c {
            'A'..='Z' if out.ends_with(|last: char| last.is_ascii_lowercase() || last.is_ascii_digit()) => {
                out.extend(['-', c.to_ascii_lowercase()]);
            }
            'a'..='z' | 'A'..='Z' | '0'..='9' => out.push(c.to_ascii_lowercase()),
            _ if out.is_empty() || out.ends_with('-') => {}
            _ => out.push('-'),
        }
    }
    let out = out.trim_end_matches('-');
    out.starts_with(|first: char| first.is_ascii_lowercase()).then(|| out.to_owned())
}

/// Names of the built-in heads, which a new head may not have. They are read from the lines `const KIND` in
/// the source in the folder `workspace`: this program links no crate of headstock.
fn builtin_heads(workspace: &Path) -> Result<Vec<String>> {
    let mut kinds = Vec::new();
    for file in rust_files(&workspace.join("heads/src"))? {
        if file.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
        let kind = |line: &str| {
            let value = line.trim().strip_prefix("const KIND: &'static str = \"")?.strip_suffix("\";")?;
            Some(value.to_owned())
        };
        kinds.extend(text.lines().filter_map(kind));
    }
    Ok(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step;

    fn parse(name: &str) -> Result<HeadName> {
        HeadName::parse(name, "use headstock_heads::{Affine, HeadError};", step::workspace())
    }

    #[test]
    fn a_name_of_words_gives_a_type() {
        for (name, type_name) in
            [("nearest-median", "NearestMedian"), ("knn-5", "Knn5"), ("x", "X"), ("a-1-b", "A1B")]
        {
            let name = parse(name).unwrap();
            assert_eq!(name.type_name(), type_name);
        }
    }

    #[test]
    fn other_names_are_refused_with_the_reason() {
        for (name, reason) in [
            ("MyHead", "`my-head` is valid"),
            ("my_head", "`my-head` is valid"),
            (" my  head ", "`my-head` is valid"),
            ("5nn", "start with a letter"),
            ("", "`` is not a valid name for a head"),
            ("a--b", "`a-b` is valid"),
            ("a-", "`a` is valid"),
            ("köpfe", "lower-case letters"),
            ("../head", "`head` is valid"),
            ("match", "a Rust keyword"),
            ("self", "a Rust keyword"),
            ("serde", "reserved by Rust, cargo or a dependency"),
            ("linear", "a head named `linear`"),
            ("svm", "a head named `svm`"),
            ("mlp", "a head named `mlp`"),
            ("affine", "would be `Affine`, which its source already uses"),
            ("head-error", "would be `HeadError`, which its source already uses"),
        ] {
            let error = parse(name).expect_err(name).to_string();
            assert!(error.contains(reason), "{name}: {error}");
        }
    }
}
