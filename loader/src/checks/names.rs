//! Names of classes that may mean one class.

use std::collections::BTreeMap;

use strsim::osa_distance;

/// Two classes with names that are nearly the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimilarNames {
    /// The number of the first.
    pub a: usize,
    /// The number of the second, `a < b`.
    pub b: usize,
    /// What is alike.
    pub difference: NameDifference,
}

/// How far two names are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameDifference {
    /// But for small and capital letters.
    Case,
    /// But for spaces, dashes and other signs between letters, and for case.
    Punctuation,
    /// But for one letter, or two that changed places.
    Letter,
}

impl NameDifference {
    /// What the names differ by, as in "they differ by case alone".
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Case => "case",
            Self::Punctuation => "spaces or signs",
            Self::Letter => "one letter",
        }
    }
}

/// A name must have so many letters for one of them to be a slip: `cat` and `car` are two words.
const MIN_WORD_LENGTH: usize = 4;

/// The pairs of names that are nearly the same, by `(a, b)`. Names that differ by a number are not: `cat1` and `cat2` are
/// meant. Every name is looked up among the others with a letter left out, so that thousands of classes take no time.
///
/// ```
/// use headstock_loader::checks::{Likeness, similar_names};
///
/// let found = similar_names(&["T-Shirt", "cat1", "cat2", "labrador", "labrodor", "t shirt"]);
/// let pairs: Vec<_> = found.iter().map(|pair| (pair.a, pair.b, pair.likeness)).collect();
/// assert_eq!(pairs, [(0, 5, Likeness::Spacing), (3, 4, Likeness::Letter)]);
/// ```
#[must_use]
pub fn similar_names(names: &[impl AsRef<str>]) -> Vec<SimilarNames> {
    let folded_names: Vec<String> = names.iter().map(|name| fold_name(name.as_ref())).collect();
    let mut by_variant: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, name) in folded_names.iter().enumerate() {
        by_variant.entry(name.clone()).or_default().push(index);
        for (start, letter) in name.char_indices() {
            let shorter = [&name[..start], &name[start + letter.len_utf8()..]].concat();
            let indices = by_variant.entry(shorter).or_default();
            // A letter that stands twice may be left out in two ways.
            if indices.last() != Some(&index) {
                indices.push(index);
            }
        }
    }
    let mut pairs = BTreeMap::new();
    for indices in by_variant.values() {
        for (position, &a) in indices.iter().enumerate() {
            for &b in &indices[position + 1..] {
                let original = (names[a].as_ref(), names[b].as_ref());
                if let Some(difference) = name_difference(original, (&folded_names[a], &folded_names[b])) {
                    pairs.insert((a.min(b), a.max(b)), difference);
                }
            }
        }
    }
    pairs.into_iter().map(|((a, b), difference)| SimilarNames { a, b, difference }).collect()
}

/// In small letters, without what is neither letter nor digit.
fn fold_name(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn name_difference(original: (&str, &str), folded: (&str, &str)) -> Option<NameDifference> {
    let digits = |name: &str| name.chars().filter(char::is_ascii_digit).collect::<String>();
    if digits(original.0) != digits(original.1) || folded.0.is_empty() || folded.1.is_empty() {
        return None;
    }
    if original.0.to_lowercase() == original.1.to_lowercase() {
        return Some(NameDifference::Case);
    }
    if folded.0 == folded.1 {
        return Some(NameDifference::Punctuation);
    }
    let is_word = |name: &str| name.chars().count() >= MIN_WORD_LENGTH;
    let is_plural = |one: &str, many: &str| {
        many.strip_suffix('s') == Some(one) && one.chars().count() + 1 >= MIN_WORD_LENGTH
    };
    let are_words = is_word(folded.0) && is_word(folded.1);
    let is_typo = are_words && osa_distance(folded.0, folded.1) == 1;
    (is_typo || is_plural(folded.0, folded.1) || is_plural(folded.1, folded.0))
        .then_some(NameDifference::Letter)
}
