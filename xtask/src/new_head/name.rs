//! What a head may be called.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::tidy;

/// Rust's words, of all editions, that are lower-case.
const KEYWORDS: [&str; 51] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop",
    "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static",
    "struct", "super", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual",
    "where", "while", "yield",
];

/// Names of packages that a crate cannot have: its dependencies', Rust's own crates', and folders that cargo makes.
const TAKEN: [&str; 12] = [
    "alloc",
    "build",
    "core",
    "deps",
    "examples",
    "headstock-cli",
    "headstock-heads",
    "incremental",
    "proc-macro",
    "serde",
    "std",
    "test",
];

/// A head's name in `head.kind`, which is the name of its package too: words of small letters and digits, joined by
/// hyphens.
#[derive(Debug)]
pub(crate) struct Name(String);

impl Name {
    /// Checks a name. `source` is the text that its type stands in, `workspace` the folder of the built-in heads' source.
    pub(crate) fn parse(name: &str, source: &str, workspace: &Path) -> Result<Self> {
        let word = |word: &str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        if !name.starts_with(|first: char| first.is_ascii_lowercase()) || !name.split('-').all(word) {
            let better = kebab(name).map_or(String::new(), |name| format!("; `{name}` would do"));
            bail!(
                "`{name}` is no name for a head: begin with a letter, and use small letters, digits and single hyphens \
                 between words{better}"
            );
        }
        if KEYWORDS.contains(&name) {
            bail!("`{name}` is a word of Rust's, which no package can be called: choose another name");
        }
        if TAKEN.contains(&name) {
            bail!(
                "a package cannot be called `{name}`, which is taken by Rust, cargo or a dependency: choose another name"
            );
        }
        if builtin(workspace)?.iter().any(|kind| kind == name) {
            bail!("headstock has a head called `{name}`, and a name is given once: choose another name");
        }
        let name = Self(name.to_owned());
        let type_name = name.type_name();
        if source.split(|c: char| !c.is_alphanumeric()).any(|word| word == type_name) {
            bail!(
                "the type of `{name}` would be `{type_name}`, which its source uses already: choose another name"
            );
        }
        Ok(name)
    }

    /// As it stands in a config.
    pub(crate) fn kind(&self) -> &str {
        &self.0
    }

    /// The type of its configuration: `NearestMean` for `nearest-mean`.
    pub(crate) fn type_name(&self) -> String {
        let capital = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
        self.0.split('-').map(capital).collect()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `MyHead`, `my_head` and `my head` as a name would have it; nothing where that leads to none.
fn kebab(name: &str) -> Option<String> {
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

/// The names of the built-in heads, as their source gives them.
fn builtin(workspace: &Path) -> Result<Vec<String>> {
    let mut kinds = Vec::new();
    for file in tidy::rust_files(&workspace.join("heads/src"))? {
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

    fn parse(name: &str) -> Result<Name> {
        Name::parse(name, "use headstock_heads::{Affine, HeadError};", step::workspace())
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
            ("MyHead", "`my-head` would do"),
            ("my_head", "`my-head` would do"),
            (" my  head ", "`my-head` would do"),
            ("5nn", "begin with a letter"),
            ("", "`` is no name for a head"),
            ("a--b", "`a-b` would do"),
            ("a-", "`a` would do"),
            ("köpfe", "small letters"),
            ("../head", "`head` would do"),
            ("match", "a word of Rust's"),
            ("self", "a word of Rust's"),
            ("serde", "taken by Rust, cargo or a dependency"),
            ("linear", "headstock has a head called `linear`"),
            ("svm", "headstock has a head called `svm`"),
            ("mlp", "headstock has a head called `mlp`"),
            ("affine", "would be `Affine`, which its source uses already"),
            ("head-error", "would be `HeadError`, which its source uses already"),
        ] {
            let error = parse(name).expect_err(name).to_string();
            assert!(error.contains(reason), "{name}: {error}");
        }
    }
}
