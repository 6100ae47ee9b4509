//! The account of the files and rows of a data set that are not used.

use std::collections::BTreeMap;
use std::path::Path;

use headstock_split::words::counted;
use serde::{Deserialize, Serialize};

/// Why a file or a row of a data set is not used. The names are stable: `file-type`, `missing-photo` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PassedOverReason {
    /// A hidden file, or one that the operating system or another program keeps beside the photos.
    SystemFile,
    /// A file that is not a photo by its extension.
    FileType,
    /// A photo in a format that cannot be decoded, by its extension.
    UnsupportedFormat,
    /// A member of an archive that is a link.
    Link,
    /// A row without any value.
    EmptyRow,
    /// A photo, or the row of one, without a class.
    #[serde(rename = "unlabelled-photo")]
    Unlabeled,
    /// A label without its photo.
    #[serde(rename = "missing-photo")]
    MissingImage,
    /// A row that cannot be read, for example because a value is empty.
    BadEntry,
    /// A photo that is listed a second time.
    Repeated,
    /// A link or an id that points outside the folder of the photos.
    OutsideFolder,
    /// A photo in a split that is used neither for training nor for testing.
    UnusedSplit,
    /// A photo of a class with too few photos.
    SmallClass,
    /// A test photo of a class that has no training photo.
    UnknownClass,
    /// A photo that cannot be decoded.
    Unreadable,
}

impl PassedOverReason {
    /// What the entries are called, in singular and plural.
    fn nouns(self) -> (&'static str, &'static str) {
        match self {
            Self::SystemFile | Self::FileType => ("file", "files"),
            Self::Link => ("link", "links"),
            Self::EmptyRow => ("empty row", "empty rows"),
            Self::MissingImage => ("label", "labels"),
            Self::BadEntry => ("entry", "entries"),
            _ => ("photo", "photos"),
        }
    }

    /// Why such entries are not used and what the user can do, to follow the number of them in a message.
    fn explanation(self) -> &'static str {
        match self {
            Self::SystemFile => " of the system or of another program",
            Self::FileType => " because of the file type",
            Self::UnsupportedFormat => {
                " in formats that cannot be read: convert them to JPEG or PNG to use them"
            }
            Self::Unlabeled => ": no class is given",
            Self::MissingImage => ": the photo does not exist",
            Self::SmallClass => " of classes with too few photos",
            _ => "",
        }
    }

    /// Whether users expect that such entries are not used, so that no warning is needed.
    fn is_expected(self) -> bool {
        matches!(self, Self::SystemFile | Self::FileType | Self::Link | Self::EmptyRow | Self::UnusedSplit)
    }
}

/// The entries that were passed over for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entries {
    count: usize,
    /// Number of those that were logged already.
    n_logged: usize,
    /// Number of entries of each kind, such as a file extension; empty if kinds mean nothing here.
    kinds: BTreeMap<String, usize>,
    /// Names of the first entries.
    examples: Vec<String>,
    /// In place of [`PassedOverReason::explanation`].
    explanation: Option<String>,
}

/// The files and rows of a data set that are not used, by reason. With the samples and the errors of the
/// listing it accounts for everything that was met.
///
/// ```
/// use headstock_loader::dataset::{PassedOver, PassedOverReason};
///
/// let mut passed_over = PassedOver::default();
/// passed_over.add_kind(PassedOverReason::FileType, ".txt");
/// passed_over.add_kind(PassedOverReason::FileType, ".txt");
/// passed_over.add(PassedOverReason::EmptyRow, "line 7");
/// assert_eq!(passed_over.count(PassedOverReason::FileType), 2);
/// assert_eq!(passed_over.total(), 3);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassedOver(BTreeMap<PassedOverReason, Entries>);

impl PassedOver {
    /// Number of entries whose names are kept for messages.
    const MAX_EXAMPLES: usize = 3;

    /// Counts an entry with the `name` that messages call it.
    pub fn add(&mut self, reason: PassedOverReason, name: impl Into<String>) {
        let entries = self.0.entry(reason).or_default();
        entries.count += 1;
        if entries.examples.len() < Self::MAX_EXAMPLES {
            entries.examples.push(name.into());
        }
    }

    /// Counts an entry of a `kind`, such as the file extension `.txt`, that messages count entries by.
    pub fn add_kind(&mut self, reason: PassedOverReason, kind: &str) {
        let entries = self.0.entry(reason).or_default();
        entries.count += 1;
        *entries.kinds.entry(kind.to_owned()).or_default() += 1;
    }

    /// Counts `count` entries that were logged already.
    pub(super) fn add_logged(&mut self, reason: PassedOverReason, count: usize) {
        let entries = self.0.entry(reason).or_default();
        entries.count += count;
        entries.n_logged += count;
    }

    /// Says why the entries with this reason are not used, in place of the usual words. The text follows
    /// their number, so it begins with a space or a colon. It has no effect if there are no such entries.
    pub fn explain(&mut self, reason: PassedOverReason, explanation: impl Into<String>) {
        if let Some(entries) = self.0.get_mut(&reason) {
            entries.explanation = Some(explanation.into());
        }
    }

    /// Adds the entries of `other`.
    pub fn merge(&mut self, other: Self) {
        for (reason, entries) in other.0 {
            let merged = self.0.entry(reason).or_default();
            merged.count += entries.count;
            merged.n_logged += entries.n_logged;
            for (kind, count) in entries.kinds {
                *merged.kinds.entry(kind).or_default() += count;
            }
            merged.examples.extend(entries.examples);
            merged.examples.truncate(Self::MAX_EXAMPLES);
            merged.explanation = merged.explanation.take().or(entries.explanation);
        }
    }

    /// Number of entries with this reason.
    #[must_use]
    pub fn count(&self, reason: PassedOverReason) -> usize {
        self.0.get(&reason).map_or(0, |entries| entries.count)
    }

    /// Number of entries by reason; reasons without entries are left out.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<PassedOverReason, usize> {
        self.0.iter().map(|(&reason, entries)| (reason, entries.count)).collect()
    }

    /// Number of all entries.
    #[must_use]
    pub fn total(&self) -> usize {
        self.0.values().map(|entries| entries.count).sum()
    }

    /// Logs a line for each reason with the number of entries, and the kinds or the first names. `origin` is
    /// the folder or file that was read.
    pub fn log(&self, origin: &Path) {
        for (&reason, entries) in &self.0 {
            let (singular, plural) = reason.nouns();
            let n_entries = entries.count - entries.n_logged;
            if n_entries == 0 {
                continue;
            }
            let count = counted(n_entries, singular, plural);
            let explanation = entries.explanation.as_deref().unwrap_or(reason.explanation());
            let line = format!("skipped {count} in {}{explanation}{}", origin.display(), entries.details());
            if reason.is_expected() {
                tracing::info!("{line}");
            } else {
                tracing::warn!("{line}");
            }
        }
    }
}

impl Entries {
    /// The kinds with their numbers, or the first names, to append to a message.
    fn details(&self) -> String {
        if !self.kinds.is_empty() {
            let kinds: Vec<String> =
                self.kinds.iter().map(|(kind, count)| format!("{kind} ({count})")).collect();
            return format!(": {}", kinds.join(", "));
        }
        let names: Vec<String> = self.examples.iter().map(|name| name.escape_debug().to_string()).collect();
        match self.count - self.n_logged - names.len() {
            _ if names.is_empty() => String::new(),
            0 => format!(" ({})", names.join(", ")),
            more => format!(" ({} and {more} more)", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use headstock_testing::capture_log;

    use super::*;

    #[test]
    fn merged_accounts_add_up_and_keep_the_first_names() {
        let mut first = PassedOver::default();
        let mut second = PassedOver::default();
        for number in 0..3 {
            first.add(PassedOverReason::EmptyRow, format!("line {number}"));
            second.add(PassedOverReason::EmptyRow, format!("row {number}"));
            second.add_kind(PassedOverReason::FileType, if number == 0 { ".md" } else { ".txt" });
        }
        second.explain(PassedOverReason::FileType, " by type");
        second.explain(PassedOverReason::Link, " never said");
        first.merge(second);
        first.add_logged(PassedOverReason::EmptyRow, 2);
        first.add_logged(PassedOverReason::Repeated, 1);
        let counts = [
            (PassedOverReason::FileType, 3),
            (PassedOverReason::EmptyRow, 8),
            (PassedOverReason::Repeated, 1),
        ];
        assert_eq!(first.counts(), BTreeMap::from(counts));
        assert_eq!(first.total(), 12);
        let lines = capture_log(|| first.log(Path::new("photos")));
        for line in [
            "skipped 3 files in photos by type: .md (1), .txt (2)",
            "skipped 6 empty rows in photos (line 0, line 1, line 2 and 3 more)",
        ] {
            assert!(lines.contains(line), "{lines}");
        }
        // What was logged before is counted only.
        assert_eq!(lines.lines().count(), 2, "{lines}");
    }

    #[test]
    fn a_reason_is_written_with_its_stable_name() {
        let names = [
            (PassedOverReason::MissingImage, "\"missing-photo\""),
            (PassedOverReason::Unlabeled, "\"unlabelled-photo\""),
            (PassedOverReason::SystemFile, "\"system-file\""),
        ];
        for (reason, name) in names {
            assert_eq!(serde_json::to_string(&reason).unwrap(), name);
        }
    }
}
