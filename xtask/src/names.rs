//! Checks of names: no identifier has a retired word, and a type name stands for one thing.
//!
//! A retired word is one that the glossary in `CONTRIBUTING.md` replaces by a standard term. A fault is a
//! line for the user that says what is wrong and where.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use proc_macro2::{LexError, LineColumn, TokenStream, TokenTree};

use crate::source_files::{read_file, rust_files};

/// Has the table of terms; its last column has the words that a term replaces.
const GLOSSARY: &str = "CONTRIBUTING.md";

/// Starts the row of the glossary whose words are refused only as the whole name of a function.
const FUNCTIONS: &str = "| names of functions |";

/// Exceptions: type names that may be defined twice in a crate or be public in two crates, each with the
/// reason.
const REPEATED: [(&str, &str); 0] = [];

/// Adds a fault to `faults` for each identifier of `packages` with a retired word, and for each type name
/// that is defined twice in a package or is `pub` in two of them. Types in test files are not compared.
pub(crate) fn check(packages: &[&str], faults: &mut Vec<String>) -> Result<()> {
    let retired = RetiredWords::parse(&read_file(Path::new(GLOSSARY))?)
        .with_context(|| format!("{GLOSSARY}: no table has the columns `term` and `not`"))?;
    let mut public = BTreeMap::new();
    for package in packages {
        let mut types = BTreeMap::new();
        for path in rust_files(Path::new(package))? {
            let file = path.display().to_string();
            let tokens = tokenize(&read_file(&path)?).with_context(|| format!("{file} is not Rust"))?;
            faults.extend(retired.check(&tokens).map(|(line, fault)| format!("{file}:{line}: {fault}")));
            if file.contains("tests") {
                continue;
            }
            for (line, name, is_public) in type_definitions(&tokens) {
                types.entry(name.clone()).or_insert_with(Vec::new).push(format!("{file}:{line}"));
                if is_public {
                    public.entry(name).or_insert_with(Vec::new).push(format!("{file}:{line}"));
                }
            }
        }
        report_repeated(&types, faults);
    }
    report_repeated(&public, faults);
    Ok(())
}

/// Adds a fault for each type name that is defined more than once and is not in [`REPEATED`]. `types` has the
/// places of each name's definitions, as `FILE:LINE`.
fn report_repeated(types: &BTreeMap<String, Vec<String>>, faults: &mut Vec<String>) {
    for (name, definitions) in types {
        if definitions.len() > 1 && REPEATED.iter().all(|(allowed, _)| allowed != name) {
            faults.push(format!("{}: `{name}` is defined more than once", definitions.join(", ")));
        }
    }
}

/// The words in the last column of the glossary, which its terms replace: identifiers may not have them.
#[derive(Debug, PartialEq)]
struct RetiredWords {
    /// In lower case; refused as a word of any identifier.
    words: BTreeSet<String>,
    /// Refused as the whole name of a function.
    functions: BTreeSet<String>,
}

impl RetiredWords {
    /// Reads the words that identifiers may not have (retired words) from `page`, the text of [`GLOSSARY`]:
    /// those in backquotes in the last column of the table that has the columns `term` and `not`. A row that
    /// starts with [`FUNCTIONS`] has whole names of functions, the other rows have words. `None` if there is
    /// no such table or no word of either kind.
    fn parse(page: &str) -> Option<Self> {
        let mut retired = Self { words: BTreeSet::new(), functions: BTreeSet::new() };
        let rows =
            page.lines().skip_while(|line| !(line.starts_with("| term |") && line.ends_with("| not |")));
        for row in rows.take_while(|line| line.starts_with('|')).skip(2) {
            let set = if row.starts_with(FUNCTIONS) { &mut retired.functions } else { &mut retired.words };
            // Of the parts between backquotes, every second one is a word.
            let cell = row.trim_end_matches('|').rsplit('|').next()?;
            set.extend(cell.split('`').skip(1).step_by(2).filter(|word| !word.is_empty()).map(str::to_owned));
        }
        (!retired.words.is_empty() && !retired.functions.is_empty()).then_some(retired)
    }

    /// The faults of a file with the given tokens: the line and a message for each identifier that has a
    /// retired word, or that names a function and is retired for functions.
    fn check<'a>(&'a self, tokens: &'a [Token]) -> impl Iterator<Item = (usize, String)> + 'a {
        tokens.iter().enumerate().filter_map(|(index, token)| {
            let name = &token.text;
            let word = split_words(name).into_iter().find(|word| self.words.contains(word));
            let is_function = index.checked_sub(1).is_some_and(|before| tokens[before].text == "fn");
            let fault = match word {
                Some(word) => format!("`{name}` has the retired word `{word}`; {GLOSSARY} has the term"),
                None if is_function && self.functions.contains(name) => {
                    format!("a function is called `{name}`, which does not say what it does")
                }
                None => return None,
            };
            Some((token.line, fault))
        })
    }
}

/// Splits an identifier at `_` and at capitals into words in lower case, to compare each with the retired
/// words: `n`, `told` and `ones` of `n_ToldOnes`.
fn split_words(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut after_lowercase = false;
    for letter in identifier.chars() {
        if letter == '_' || (letter.is_uppercase() && after_lowercase) {
            words.push(String::new());
        }
        if letter != '_' {
            words.last_mut().expect("there is a first word").extend(letter.to_lowercase());
        }
        after_lowercase = letter.is_lowercase() || letter.is_ascii_digit();
    }
    words
}

/// The definitions of structs, enums, unions, traits and type aliases in a file, to find names that two types
/// share: the line, the name, and whether it is `pub` for other crates, because a public name must be unique
/// in the workspace and any other name in its crate. Associated types, which are indented, are left out: many
/// implementations have an `Output`.
fn type_definitions(tokens: &[Token]) -> impl Iterator<Item = (usize, String, bool)> {
    tokens.windows(3).filter_map(|window| {
        let [before, keyword, name] = window else { return None };
        let is_type = matches!(keyword.text.as_str(), "struct" | "enum" | "union" | "trait")
            || (keyword.text == "type" && (keyword.column == 0 || before.column == 0));
        let is_name = name.text.starts_with(char::is_uppercase) && name.line == keyword.line;
        let is_public = before.text == "pub" && before.line == keyword.line;
        (is_type && is_name).then(|| (name.line, name.text.clone(), is_public))
    })
}

/// An identifier or keyword of Rust with its position: lines count from 1, columns from 0. `pub(crate)` is
/// two tokens, `pub` and `crate`.
#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
    column: usize,
}

/// The identifiers and keywords of a Rust file in their order, to check its names. The words in comments and
/// literals are none of them: `proc-macro2` leaves out comments and makes a literal of each doc comment.
fn tokenize(source: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let stream =
        source.parse().map_err(|error: LexError| anyhow!("line {}: {error}", error.span().start().line))?;
    add_identifiers(stream, &mut tokens);
    Ok(tokens)
}

/// Appends the identifiers of `stream`, also those in parentheses, brackets and braces, to `tokens`.
fn add_identifiers(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        match tree {
            TokenTree::Group(group) => add_identifiers(group.stream(), tokens),
            TokenTree::Ident(identifier) => {
                let LineColumn { line, column } = identifier.span().start();
                tokens.push(Token { text: identifier.to_string(), line, column });
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "| term | meaning | known from | not |\n|---|---|---|---|\n| feature cache | features on the disk | | `kept` |\n\
                        | names of functions | | | `of`, `by` |\n\nand `other` words\n";

    fn faults(source: &str) -> Vec<(usize, String)> {
        RetiredWords::parse(PAGE).unwrap().check(&tokenize(source).unwrap()).collect()
    }

    #[test]
    fn a_retired_word_is_refused_in_any_case_and_place_of_an_identifier() {
        for source in
            ["let kept = 1;", "struct KeptIn;", "fn all_kept() {}", "const KEPT: u32 = 1;", "x.kept()"]
        {
            assert_eq!(faults(source).len(), 1, "{source}");
        }
        assert_eq!(faults("\n\nlet is_kept = 1;")[0].0, 3);
        assert!(faults("let keptin = kep + skept;").is_empty());
    }

    #[test]
    fn comments_and_strings_may_have_any_word() {
        let source = "// kept\n/* kept */ let a = \"kept \\\" kept\"; let b = r#\"kept \" kept\"#; let c = \
                      b\"kept\"; let k = '\\'';";
        assert!(faults(source).is_empty(), "{:?}", faults(source));
        let lifetimes = "fn f<'a>(x: &'a str, y: &'a str) -> char { '\"' } let kept = 'k';";
        assert_eq!(faults(lifetimes).len(), 1);
    }

    #[test]
    fn prepositions_alone_are_no_names_of_functions() {
        assert_eq!(faults("fn of() {}").len(), 1);
        assert_eq!(faults("pub(crate) const fn by<T>(x: T) {}").len(), 1);
        assert!(faults("fn of_class(by: u32) { of(by) }").is_empty());
    }

    #[test]
    fn a_page_without_the_table_is_an_error() {
        assert_eq!(RetiredWords::parse("# Contributing\n"), None);
        assert_eq!(RetiredWords::parse(&PAGE.replace("`kept`", "")), None);
    }

    #[test]
    fn types_are_found_but_not_associated_ones() {
        let source = "pub struct A;\npub(crate) enum B {}\ntype C = A;\npub type D = A;\nimpl X for A {\n    \
                      type Head = B;\n}\n";
        let found: Vec<_> =
            type_definitions(&tokenize(source).unwrap()).map(|(_, name, public)| (name, public)).collect();
        let expected = [("A", true), ("B", false), ("C", false), ("D", true)];
        assert_eq!(found, expected.map(|(name, public)| (name.to_owned(), public)));
    }

    #[test]
    fn a_type_that_is_defined_twice_is_a_fault() {
        let mut faults = Vec::new();
        let types = [("A", vec!["a.rs:1".to_owned(), "b.rs:2".to_owned()]), ("B", vec!["b.rs:3".to_owned()])];
        report_repeated(&types.map(|(name, places)| (name.to_owned(), places)).into(), &mut faults);
        assert_eq!(faults, ["a.rs:1, b.rs:2: `A` is defined more than once"]);
    }
}
