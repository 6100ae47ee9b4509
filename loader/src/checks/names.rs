//! Names of classes that may mean one class.

use std::collections::BTreeMap;

use strsim::osa_distance;

/// Two classes with names that are nearly the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Similar {
    /// The number of the first.
    pub a: usize,
    /// The number of the second, `a < b`.
    pub b: usize,
    /// What is alike.
    pub likeness: Likeness,
}

/// How far two names are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// But for small and capital letters.
    Case,
    /// But for spaces, dashes and other signs between letters, and for case.
    Spacing,
    /// But for one letter, or two that changed places.
    Letter,
}

impl Likeness {
    /// What the names differ by, as in "they differ by case alone".
    #[must_use]
    pub fn difference(self) -> &'static str {
        match self {
            Self::Case => "case",
            Self::Spacing => "spaces or signs",
            Self::Letter => "one letter",
        }
    }
}

/// A name must have so many letters for one of them to be a slip: `cat` and `car` are two words.
const WORD: usize = 4;

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
pub fn similar_names(names: &[impl AsRef<str>]) -> Vec<Similar> {
    let folded: Vec<String> = names.iter().map(|name| folded(name.as_ref())).collect();
    let mut alike: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (number, name) in folded.iter().enumerate() {
        alike.entry(name.clone()).or_default().push(number);
        for (at, letter) in name.char_indices() {
            let shorter = [&name[..at], &name[at + letter.len_utf8()..]].concat();
            let names = alike.entry(shorter).or_default();
            // A letter that stands twice may be left out in two ways.
            if names.last() != Some(&number) {
                names.push(number);
            }
        }
    }
    let mut pairs = BTreeMap::new();
    for numbers in alike.values() {
        for (place, &a) in numbers.iter().enumerate() {
            for &b in &numbers[place + 1..] {
                let whole = (names[a].as_ref(), names[b].as_ref());
                if let Some(likeness) = likeness(whole, (&folded[a], &folded[b])) {
                    pairs.insert((a.min(b), a.max(b)), likeness);
                }
            }
        }
    }
    pairs.into_iter().map(|((a, b), likeness)| Similar { a, b, likeness }).collect()
}

/// In small letters, without what is neither letter nor digit.
fn folded(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn likeness(whole: (&str, &str), folded: (&str, &str)) -> Option<Likeness> {
    let digits = |name: &str| name.chars().filter(char::is_ascii_digit).collect::<String>();
    if digits(whole.0) != digits(whole.1) || folded.0.is_empty() || folded.1.is_empty() {
        return None;
    }
    if whole.0.to_lowercase() == whole.1.to_lowercase() {
        return Some(Likeness::Case);
    }
    if folded.0 == folded.1 {
        return Some(Likeness::Spacing);
    }
    let long = |name: &str| name.chars().count() >= WORD;
    let plural =
        |one: &str, many: &str| many.strip_suffix('s') == Some(one) && one.chars().count() + 1 >= WORD;
    let words = long(folded.0) && long(folded.1);
    let slip = words && osa_distance(folded.0, folded.1) == 1;
    (slip || plural(folded.0, folded.1) || plural(folded.1, folded.0)).then_some(Likeness::Letter)
}
