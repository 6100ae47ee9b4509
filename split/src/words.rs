//! Numbers and names in messages.

use std::fmt;

/// Names, displayed in messages as the first ten and the number of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameList(pub Vec<String>);

impl NameList {
    /// Number of names that are displayed.
    const MAX_SHOWN: usize = 10;
}

impl fmt::Display for NameList {
    /// Writes the names for messages, such as `akita, boxer, pug`, or ten names followed by `and 5 more`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.len().min(Self::MAX_SHOWN);
        write!(f, "{}{}", self.0[..shown].join(", "), and_more(self.0.len() - shown))
    }
}

/// The first three names and the number of the others, for messages about many of a kind.
#[must_use]
pub fn first_names(names: &[String]) -> String {
    const MAX_SHOWN: usize = 3;
    let shown = names.len().min(MAX_SHOWN);
    format!("{}{}", names[..shown].join(", "), and_more(names.len() - shown))
}

/// ` and 5 more`, or nothing for none, to append to a message.
#[must_use]
pub fn and_more(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" and {count} more") }
}

/// `count` with the matching form of a noun, for messages: "no photo", "1 photo", "2 photos".
#[must_use]
pub fn counted(count: usize, singular: &str, plural: &str) -> String {
    match count {
        0 => format!("no {singular}"),
        1 => format!("1 {singular}"),
        _ => format!("{count} {plural}"),
    }
}
