//! The review of a data set: a table of the samples that a clean table leaves out or gives another class, with
//! reasons, in which a person decides otherwise.

use std::collections::{BTreeMap, btree_map::Entry};
use std::fs;
use std::path::{Path, PathBuf};

use super::FindingKind;
use crate::csv_table::to_csv;
use crate::error::TrainError;

/// The columns of a review.
pub(super) const COLUMNS: [&str; 6] = ["path", "label", "reason", "suggestion", "probability", "action"];

/// What becomes of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReviewAction {
    /// It stays, with its class.
    Keep,
    /// It is left out.
    Drop,
    /// It stays, with the suggested class.
    Relabel,
}

impl ReviewAction {
    const ALL: [Self; 3] = [Self::Keep, Self::Drop, Self::Relabel];

    /// The word in the column `action`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Drop => "drop",
            Self::Relabel => "relabel",
        }
    }
}

/// A row of a review.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ReviewRow {
    /// The id of the sample, or what names the row or file that is no sample.
    pub(super) path: String,
    /// The class in the data; empty for what has none.
    pub(super) label: String,
    /// The names of the findings, separated by `; `.
    pub(super) reason: String,
    /// The class that the sample may have instead; empty if there is no suggestion.
    pub(super) suggestion: String,
    /// The probability of the suggested class, with two decimals; empty if it is not known.
    pub(super) probability: String,
    /// What becomes of the sample.
    pub(super) action: ReviewAction,
}

impl ReviewRow {
    /// Whether a person has decided that the sample stays: the action is neither proposed for a problem nor the
    /// new name of a class.
    pub(super) fn is_decision(&self) -> bool {
        match self.action {
            ReviewAction::Keep => true,
            ReviewAction::Relabel => self.reason != FindingKind::ClassNames.to_string(),
            ReviewAction::Drop => false,
        }
    }
}

/// The rows of a review by path.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Review {
    rows: BTreeMap<String, ReviewRow>,
}

impl Review {
    /// The file of the review of the clean table `table`: `clean.review.csv` for `clean.csv`.
    pub(super) fn path_beside(table: &Path) -> PathBuf {
        table.with_extension("review.csv")
    }

    /// Reads the review of the clean table `table`; it has no rows if there is no such file.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub(super) fn read_beside(table: &Path) -> Result<Self, TrainError> {
        let path = Self::path_beside(table);
        if path.is_file() { Self::read(&path) } else { Ok(Self::default()) }
    }

    /// Reads the review `path`, which a person or a spreadsheet may have edited: columns may be in any order and
    /// separated by `;` or tabs, and there may be others.
    ///
    /// # Errors
    /// [`TrainError::Io`] for a file that cannot be read, [`TrainError::Data`] for a table without the columns
    /// `path` and `action`, an unknown action, a repeated path, and a new class that is missing.
    pub(super) fn read(path: &Path) -> Result<Self, TrainError> {
        let text = fs::read_to_string(path).map_err(TrainError::io("read", path))?;
        let text = text.trim_start_matches('\u{feff}');
        let data_error = |problem: String| TrainError::Data(format!("{}: {problem}", path.display()));
        let header = text.lines().next().unwrap_or_default();
        let delimiter = [b';', b'\t'].into_iter().find(|&byte| header.as_bytes().contains(&byte));
        let mut reader =
            csv::ReaderBuilder::new().delimiter(delimiter.unwrap_or(b',')).from_reader(text.as_bytes());
        let columns = reader.headers().map_err(|error| data_error(error.to_string()))?.clone();
        let position = |name: &str| columns.iter().position(|column| column.trim() == name);
        for name in ["path", "action"] {
            if position(name).is_none() {
                return Err(data_error(format!(
                    "there is no column `{name}`: a review has the columns {}",
                    COLUMNS.join(", ")
                )));
            }
        }
        let positions = COLUMNS.map(position);
        let mut review = Self::default();
        for record in reader.records() {
            let record = record.map_err(|error| data_error(error.to_string()))?;
            let line = record.position().map_or(0, csv::Position::line);
            let [path, label, reason, suggestion, probability, action] = positions.map(|position| {
                position.and_then(|position| record.get(position)).unwrap_or_default().trim().to_owned()
            });
            let line_error = |problem: String| data_error(format!("line {line}: {problem}"));
            let known = ReviewAction::ALL.into_iter().find(|known| known.as_str() == action);
            let action = known.ok_or_else(|| {
                line_error(format!("the action is `{action}`: it must be keep, drop or relabel"))
            })?;
            if action == ReviewAction::Relabel && suggestion.is_empty() {
                return Err(line_error(
                    "the action is relabel, but the column `suggestion` is empty: write the right class there"
                        .into(),
                ));
            }
            match review.rows.entry(path) {
                Entry::Occupied(entry) => {
                    return Err(line_error(format!("{} is listed twice: remove one line", entry.key())));
                }
                Entry::Vacant(entry) => {
                    let path = entry.key().clone();
                    entry.insert(ReviewRow { path, label, reason, suggestion, probability, action });
                }
            }
        }
        Ok(review)
    }

    /// The row of `path`.
    pub(super) fn get(&self, path: &str) -> Option<&ReviewRow> {
        self.rows.get(path)
    }

    /// The rows, sorted by path.
    pub(super) fn rows(&self) -> impl Iterator<Item = &ReviewRow> {
        self.rows.values()
    }

    /// These rows, and those of `earlier` whose path they do not have.
    pub(super) fn over(&self, earlier: &Self) -> Self {
        let mut rows = earlier.rows.clone();
        rows.extend(self.rows.clone());
        Self { rows }
    }

    /// Whether a person has decided that the sample `path` stays.
    pub(super) fn accepts(&self, path: &str) -> bool {
        self.get(path).is_some_and(ReviewRow::is_decision)
    }

    /// Whether `path` is left out.
    pub(super) fn drops(&self, path: &str) -> bool {
        self.get(path).is_some_and(|row| row.action == ReviewAction::Drop)
    }
}

/// The bytes of a review with these rows.
pub(super) fn review_csv<'a>(rows: impl Iterator<Item = &'a ReviewRow>) -> Vec<u8> {
    let fields = |row: &ReviewRow| {
        let ReviewRow { path, label, reason, suggestion, probability, action } = row;
        [path, label, reason, suggestion, probability, action.as_str()].map(str::to_owned)
    };
    to_csv(&COLUMNS, rows.map(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Review, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.review.csv");
        fs::write(&path, text).unwrap();
        Review::read(&path).map_err(|error| error.to_string())
    }

    // effect: doctor --review
    #[test]
    fn an_edited_review_is_read_in_the_notations_of_spreadsheets() {
        let row = ReviewRow {
            path: "a, b.jpg".into(),
            label: "cat".into(),
            reason: "suspicious-label".into(),
            suggestion: "dog".into(),
            probability: "0.91".into(),
            action: ReviewAction::Relabel,
        };
        let written = String::from_utf8(review_csv([&row].into_iter())).unwrap();
        assert_eq!(
            written,
            "path,label,reason,suggestion,probability,action\n\"a, b.jpg\",cat,suspicious-label,dog,0.91,relabel\n"
        );
        assert_eq!(read(&written).unwrap().get("a, b.jpg"), Some(&row));
        let other_columns = "\u{feff}action;note;path;suggestion\nrelabel;mine;a, b.jpg;dog\nkeep;;c.jpg;\n";
        let review = read(other_columns).unwrap();
        assert_eq!(review.rows().map(|row| row.action.as_str()).collect::<Vec<_>>(), ["relabel", "keep"]);
        assert_eq!(review.get("a, b.jpg").unwrap().suggestion, "dog");
    }

    // effect: doctor --review
    #[test]
    fn mistakes_in_a_review_name_the_line() {
        for (text, problem) in [
            ("path,label\na,b\n", "no column `action`"),
            ("action\nkeep\n", "no column `path`"),
            ("path,action\na,keep\nb,delete\n", "line 3: the action is `delete`"),
            ("path,action\na,keep\na,drop\n", "line 3: a is listed twice"),
            ("path,suggestion,action\na,,relabel\n", "line 2: the action is relabel"),
            ("path,action\na,keep,x\n", "line: 2"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(problem), "{problem} is not in {error}");
        }
    }

    #[test]
    fn merged_names_are_no_decision_about_a_label() {
        let review = read(
            "path,reason,suggestion,action\na,class-names,dress,relabel\nb,suspicious-label,hat,relabel\nc,outlier,,keep\nd,outlier,,drop\n",
        )
        .unwrap();
        assert_eq!(
            ["a", "b", "c", "d", "e"].map(|path| review.accepts(path)),
            [false, true, true, false, false]
        );
        assert_eq!(["c", "d", "e"].map(|path| review.drops(path)), [false, true, false]);
    }
}
