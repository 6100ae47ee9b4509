//! Finds class names that may mean the same class.

use std::collections::BTreeMap;

use strsim::osa_distance;
use unicode_normalization::UnicodeNormalization;

/// Two classes with similar names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimilarNames {
    /// Index of the first class.
    pub a: usize,
    /// Index of the second class, `a < b`.
    pub b: usize,
    /// How the names differ.
    pub difference: NameDifference,
}

/// How two similar names differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameDifference {
    /// Only in upper and lower case.
    Case,
    /// Only in how letters with accents are encoded: Unicode's composed (NFC) or decomposed form (NFD).
    Encoding,
    /// Only in spaces and punctuation, and possibly in case.
    Punctuation,
    /// In one letter, or two swapped letters.
    Letter,
}

impl NameDifference {
    /// What differs, for messages: "the names differ by {description}".
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Case => "case",
            Self::Encoding => "how letters with accents are encoded (Unicode NFC and NFD)",
            Self::Punctuation => "spaces or punctuation",
            Self::Letter => "one letter",
        }
    }
}

/// Minimum length of names that may differ by a typo: `cat` and `car` are different words.
const MIN_WORD_LENGTH: usize = 4;

/// Pairs of similar class names, which may mean the same class, sorted by their indices `(a, b)` in `names`.
/// Names with different digits, such as `cat1` and `cat2`, are not similar.
///
/// Candidates are found in an index of all names with one letter removed, which is fast for thousands of
/// classes.
///
/// ```
/// use headstock_loader::checks::{NameDifference, similar_names};
///
/// let found = similar_names(&["T-Shirt", "cat1", "cat2", "labrador", "labrodor", "t shirt"]);
/// let pairs: Vec<_> = found.iter().map(|pair| (pair.a, pair.b, pair.difference)).collect();
/// assert_eq!(pairs, [(0, 5, NameDifference::Punctuation), (3, 4, NameDifference::Letter)]);
/// ```
#[must_use]
pub fn similar_names(names: &[impl AsRef<str>]) -> Vec<SimilarNames> {
    let folded_names: Vec<String> = names.iter().map(|name| fold_name(name.as_ref())).collect();
    // The indices of the names that are equal to the key, or become so when one letter is removed.
    let mut by_variant: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, name) in folded_names.iter().enumerate() {
        by_variant.entry(name.clone()).or_default().push(index);
        for (start, letter) in name.char_indices() {
            let shorter = [&name[..start], &name[start + letter.len_utf8()..]].concat();
            let indices = by_variant.entry(shorter).or_default();
            // Removing either of two equal adjacent letters gives the same name.
            if indices.last() != Some(&index) {
                indices.push(index);
            }
        }
    }
    let mut pairs = BTreeMap::new();
    for indices in by_variant.values() {
        for (position, &a) in indices.iter().enumerate() {
            for &b in &indices[position + 1..] {
                let names = [names[a].as_ref(), names[b].as_ref()];
                if let Some(difference) = name_difference(names, [&folded_names[a], &folded_names[b]]) {
                    pairs.insert((a.min(b), a.max(b)), difference);
                }
            }
        }
    }
    pairs.into_iter().map(|((a, b), difference)| SimilarNames { a, b, difference }).collect()
}

/// The name in lower case with only its letters and digits, so that case and punctuation do not count.
fn fold_name(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// How two similar class names differ; `None` if they are not similar. `names` are the names as written,
/// `[a, b]` their [folded](fold_name) forms. Names with different digits are not similar, because their
/// classes are numbered on purpose.
fn name_difference(names: [&str; 2], [a, b]: [&str; 2]) -> Option<NameDifference> {
    let digits = |name: &str| name.chars().filter(char::is_ascii_digit).collect::<String>();
    if digits(names[0]) != digits(names[1]) || a.is_empty() || b.is_empty() {
        return None;
    }
    if names[0].to_lowercase() == names[1].to_lowercase() {
        return Some(NameDifference::Case);
    }
    if names[0].nfc().eq(names[1].nfc()) {
        return Some(NameDifference::Encoding);
    }
    if a == b {
        return Some(NameDifference::Punctuation);
    }
    let is_word = |name: &str| name.chars().count() >= MIN_WORD_LENGTH;
    let is_plural = |singular: &str, plural: &str| {
        plural.strip_suffix('s') == Some(singular) && singular.chars().count() + 1 >= MIN_WORD_LENGTH
    };
    // The distance counts inserted, removed and replaced letters, and swaps of two adjacent ones.
    let is_typo = is_word(a) && is_word(b) && osa_distance(a, b) == 1;
    (is_typo || is_plural(a, b) || is_plural(b, a)).then_some(NameDifference::Letter)
}
