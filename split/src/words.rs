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
        f.write_str(&self.0[..shown].join(", "))?;
        match self.0.len() - shown {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
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
