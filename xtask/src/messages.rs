//! Checks of messages: a library names no flag, no command and no key of the config, which the program adds.

use std::path::Path;

use anyhow::{Result, anyhow};
use proc_macro2::{LexError, TokenStream, TokenTree};

use crate::circles::without_tests;
use crate::source_files::{read_file, rust_files};

/// The start of the folder whose messages are about keys: it reads the config.
const CONFIG: &str = "train/src/config";

/// What a literal may not contain: the start of a command, and of a key of each table.
const REFUSED: [&str; 8] =
    ["`headstock ", "`augment.", "`backbone.", "`data.", "`features.", "`head.", "`split.", "`tune."];

/// Adds a fault for each literal in the code of the libraries `packages` that names a flag, a command or a
/// key. Test code may.
pub(crate) fn check(packages: &[&str], faults: &mut Vec<String>) -> Result<()> {
    for package in packages {
        for file in rust_files(&Path::new(package).join("src"))? {
            let name = file.display().to_string();
            if name.contains("tests") || name.starts_with(CONFIG) {
                continue;
            }
            let tokens: TokenStream = read_file(&file)?
                .parse()
                .map_err(|error: LexError| anyhow!("{name} is not Rust: {error}"))?;
            for (line, text) in literals(tokens) {
                if names_flag(&text) || REFUSED.iter().any(|refused| text.contains(refused)) {
                    faults.push(format!(
                        "{name}:{line}: a message of a library names a flag, a command or a key: say what to \
                         do, and let cli/src/hints.rs name it"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Whether a word of the text begins as a flag does, such as `--set`.
fn names_flag(text: &str) -> bool {
    let words = text.split(|c: char| c.is_whitespace() || "`\"(".contains(c));
    words
        .filter_map(|word| word.strip_prefix("--"))
        .any(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// The literals of code with their lines, without doc comments and test code.
fn literals(tokens: TokenStream) -> Vec<(usize, String)> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let literals = without_tests(&tokens).into_iter().flat_map(|token| match token {
        TokenTree::Group(group) => literals(group.stream()),
        TokenTree::Literal(literal) => vec![(literal.span().start().line, literal.to_string())],
        TokenTree::Ident(_) | TokenTree::Punct(_) => Vec::new(),
    });
    literals.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_of_code_count_and_those_of_docs_and_tests_do_not() {
        let source = "//! `data.x`\n/// `data.csv`\n#[error(\"set `data.id`\")]\nstruct A;\nfn f() { g(\"x\") }\n\
                      #[cfg(test)]\nmod tests { fn f() { g(\"`--y`\") } }";
        let found = literals(source.parse().unwrap());
        let expected = [(3, "\"set `data.id`\"".to_owned()), (5, "\"x\"".to_owned())];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_flag_is_a_word_with_two_hyphens() {
        assert!(names_flag("give more with --budget") && names_flag("(`--run`)"));
        assert!(!names_flag("a `--` in a name") && !names_flag("models--owner--name"));
    }
}
