//! Checks of names: no identifier has a retired word, and a type name stands for one thing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};

use crate::tidy::{read_file, rust_files};

/// Has the table of terms; its last column has the words that a term replaces.
const GLOSSARY: &str = "CONTRIBUTING.md";

/// Starts the row whose words are refused as names of functions alone.
const FUNCTIONS: &str = "| names of functions |";

/// Type names that are defined twice in a crate or public in two crates, and why.
const REPEATED: [(&str, &str); 0] = [];

/// Adds a fault for each retired word in an identifier, and for each type name that is defined twice.
pub(crate) fn check(packages: &[&str], faults: &mut Vec<String>) -> Result<()> {
    let retired = RetiredWords::parse(&read_file(Path::new(GLOSSARY))?)
        .with_context(|| format!("{GLOSSARY}: no table has the columns `term` and `not`"))?;
    let mut public = BTreeMap::new();
    for package in packages {
        let mut types = BTreeMap::new();
        for path in rust_files(Path::new(package))? {
            let file = path.display().to_string();
            let tokens = tokens(&read_file(&path)?);
            faults.extend(retired.find(&tokens).map(|(line, fault)| format!("{file}:{line}: {fault}")));
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

fn report_repeated(types: &BTreeMap<String, Vec<String>>, faults: &mut Vec<String>) {
    for (name, definitions) in types {
        if definitions.len() > 1 && REPEATED.iter().all(|(allowed, _)| allowed != name) {
            faults.push(format!("{}: `{name}` is defined more than once", definitions.join(", ")));
        }
    }
}

/// The last column of the glossary.
#[derive(Debug, PartialEq)]
struct RetiredWords {
    /// In lower case; refused as a word of any identifier.
    words: BTreeSet<String>,
    /// Refused as the whole name of a function.
    functions: BTreeSet<String>,
}

impl RetiredWords {
    fn parse(page: &str) -> Option<Self> {
        let mut retired = Self { words: BTreeSet::new(), functions: BTreeSet::new() };
        let rows =
            page.lines().skip_while(|line| !(line.starts_with("| term |") && line.ends_with("| not |")));
        for row in rows.take_while(|line| line.starts_with('|')).skip(2) {
            let set = if row.starts_with(FUNCTIONS) { &mut retired.functions } else { &mut retired.words };
            let cell = row.trim_end_matches('|').rsplit('|').next()?;
            set.extend(cell.split('`').skip(1).step_by(2).filter(|word| !word.is_empty()).map(str::to_owned));
        }
        (!retired.words.is_empty() && !retired.functions.is_empty()).then_some(retired)
    }

    fn find<'a>(&'a self, tokens: &'a [Token]) -> impl Iterator<Item = (usize, String)> + 'a {
        tokens.iter().enumerate().filter_map(|(index, token)| {
            let name = &token.text;
            let word = words(name).into_iter().find(|word| self.words.contains(word));
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

/// `n_ToldOnes` to `n`, `told`, `ones`.
fn words(identifier: &str) -> Vec<String> {
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

/// A struct, enum, union, trait or type alias at the top of a module: its line, its name, and whether it is `pub`.
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

/// A word of Rust: an identifier or keyword, with its place counted from 1 for lines and from 0 for columns. `pub(crate)` is the words
/// `pub` and `crate`.
#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
    column: usize,
}

/// The words of a Rust file, without those in comments, strings and characters.
fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let (mut rest, mut line, mut column) = (source, 1, 0);
    while let Some(first) = rest.chars().next() {
        let is_word = first.is_alphabetic() || first == '_';
        let length = literal_or_comment(rest).unwrap_or_else(|| {
            let is_word_char = |letter: char| letter.is_alphanumeric() || letter == '_';
            if is_word_char(first) {
                rest.find(|letter| !is_word_char(letter)).unwrap_or(rest.len())
            } else {
                first.len_utf8()
            }
        });
        let text = &rest[..length];
        if is_word && !text.contains('"') {
            tokens.push(Token { text: text.to_owned(), line, column });
        }
        match text.rfind('\n') {
            Some(end) => (line, column) = (line + text.matches('\n').count(), text.len() - end - 1),
            None => column += text.len(),
        }
        rest = &rest[length..];
    }
    tokens
}

/// The length of the comment, string or character that `rest` starts with.
fn literal_or_comment(rest: &str) -> Option<usize> {
    let to_end =
        |start: usize, end: &str| rest[start..].find(end).map_or(rest.len(), |at| start + at + end.len());
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(to_end(2, "*/"));
    }
    let prefix = rest.find(|letter| !matches!(letter, 'b' | 'c' | 'r')).filter(|&length| length <= 2)?;
    let hashes = rest[prefix..].chars().take_while(|&letter| letter == '#').count();
    if rest[..prefix].contains('r') && rest[prefix + hashes..].starts_with('"') {
        return Some(to_end(prefix + hashes + 1, &format!("\"{}", "#".repeat(hashes))));
    }
    let quote = rest[prefix..].chars().next().filter(|&letter| letter == '"' || letter == '\'')?;
    let mut escaped = false;
    for (index, letter) in rest[prefix + 1..].char_indices() {
        let after = prefix + 1 + index;
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return Some(after + 1),
            // A lifetime: nothing closes the quote.
            _ if quote == '\'' && index > 0 && !rest[prefix + 1..].starts_with('\\') => {
                return Some(prefix + 1);
            }
            _ => {}
        }
    }
    Some(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "| term | meaning | known from | not |\n|---|---|---|---|\n| feature cache | features on the disk | | `kept` |\n\
                        | names of functions | | | `of`, `by` |\n\nand `other` words\n";

    fn faults(source: &str) -> Vec<(usize, String)> {
        RetiredWords::parse(PAGE).unwrap().find(&tokens(source)).collect()
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
        let source = "// kept\n/* kept */ let a = \"kept \\\" kept\"; let b = r#\"kept \" kept\"#; let c = b\"kept\"; let 'k = '\\'';";
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
        let source = "pub struct A;\npub(crate) enum B {}\ntype C = A;\npub type D = A;\nimpl X for A {\n    type Head = B;\n}\n";
        let found: Vec<_> =
            type_definitions(&tokens(source)).map(|(_, name, public)| (name, public)).collect();
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
