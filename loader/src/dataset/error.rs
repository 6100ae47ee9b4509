//! Errors of data sets.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use headstock_split::words::{NameList, and_more, first_names};
use thiserror::Error;

use super::PassedOverReason;
use crate::checks::{SimilarNames, similar_names};

/// Why a data set cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// A file or folder cannot be read.
    #[error(
        "failed to read the file or folder {}: check that it exists and that you are allowed to read it",
        path.display()
    )]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system error.
        source: io::Error,
    },
    /// The folder does not exist.
    #[error("there is no folder {}: check the spelling of the path", .0.display())]
    NoFolder(PathBuf),
    /// Links or ids point outside the image folder.
    #[error(
        "{} {} outside the folder {}: photos must be inside that folder; replace a link with a copy of what \
         it points to (in a table of photos, write the file name of the copy), or allow links",
        first_names(.subjects),
        if subjects.len() == 1 { "points" } else { "point" },
        root.display()
    )]
    LeavesRoot {
        /// Descriptions of the links, or of the rows and their ids.
        subjects: Vec<String>,
        /// The image folder.
        root: PathBuf,
    },
    /// A link makes images or folders appear twice.
    #[error(
        "{} and {} are the same file or folder, reached through a link: each photo may be in the data only \
         once; remove the link, not the photo{}",
        paths[0].0,
        paths[0].1,
        and_more(paths.len() - 1)
    )]
    SameFile {
        /// The first and the second path or row that lead to each of them, one pair or more.
        paths: Vec<(String, String)>,
    },
    /// No class folder, no photo, no header or no row.
    #[error("{} has no {missing}: {hint}", path.display())]
    Empty {
        /// The folder or the CSV.
        path: PathBuf,
        /// What is missing, without article.
        missing: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// Folders that may be classes or splits.
    #[error(
        "{} has the folders {folders}, which may be classes or splits of the data such as `train` and `test`: \
         {observation}",
        root.display()
    )]
    UnclearFolders {
        /// The folder that contains them.
        root: PathBuf,
        /// Their names.
        folders: NameList,
        /// What makes it unclear.
        observation: &'static str,
        /// What they are if they are splits.
        likely: Box<LikelySplits>,
    },
    /// Class folders without images.
    #[error(
        "{} has class folders without photos: {classes}; add photos to these folders, or remove the \
         folders{}",
        root.display(),
        found_instead(.extensions)
    )]
    EmptyClass {
        /// The folder of the classes.
        root: PathBuf,
        /// The classes.
        classes: NameList,
        /// File extensions found there instead.
        extensions: Vec<String>,
    },
    /// Only one class.
    #[error(
        "{} has only one class, `{class}`: training needs at least two; add photos of a second class",
        path.display()
    )]
    SingleClass {
        /// The folder or the CSV.
        path: PathBuf,
        /// The class.
        class: String,
    },
    /// The test data has a class that the training data lacks.
    #[error(
        "{} has test photos of classes that have no training photos: {classes}; {}rename these classes or \
         remove their photos; the training classes are {known}",
        root.display(),
        similar.as_ref().map(|similar| format!("{similar}; ")).unwrap_or_default()
    )]
    UnknownClass {
        /// The folder or file of the test data.
        root: PathBuf,
        /// The unknown classes.
        classes: NameList,
        /// The training classes.
        known: NameList,
        /// A training class with a similar name and the difference, as part of a sentence.
        similar: Option<String>,
    },
    /// Entries of a file or folder that cannot be used, for the same reason.
    #[error("{}: {}: {problem}", path.display(), first_names(.places))]
    Entries {
        /// The file or folder.
        path: PathBuf,
        /// Which entries: lines, rows or names, one or more.
        places: Vec<String>,
        /// What is wrong, and what to do.
        problem: String,
        /// The reason in the account of the data.
        reason: PassedOverReason,
    },
    /// A file that a source reads or its name is invalid, or a pattern is invalid or matches no file.
    #[error("{}: {problem}", path.display())]
    Invalid {
        /// The file or pattern.
        path: PathBuf,
        /// What is wrong, and where in the file.
        problem: String,
    },
    /// A table lacks a column.
    #[error(
        "{}: there is no column `{column}`: {} {columns}{}",
        path.display(),
        parameter.map_or_else(
            || "rename a column or add one; the columns are".into(),
            |parameter| format!("set `{parameter}` to one of the columns"),
        ),
        did_you_mean(column, columns)
    )]
    NoColumn {
        /// The table.
        path: PathBuf,
        /// The parameter of the source that names the column, such as `label`; `None` if the name is fixed.
        parameter: Option<&'static str>,
        /// The missing column.
        column: String,
        /// The existing columns.
        columns: NameList,
    },
    /// Listed images do not exist.
    #[error(
        "{} lists photos that are not in the folder {} ({}): {}; {}",
        table.display(),
        images.display(),
        missing.0.len(),
        first_names(&missing.0),
        cause.as_deref().unwrap_or(
            "add these photos or remove their rows; if the photos are there, check `images` (the folder of \
             the photos), `id` (the column of file names) and `extension` (the extension that is added to \
             each name)"
        )
    )]
    MissingImages {
        /// The table.
        table: PathBuf,
        /// The image folder.
        images: PathBuf,
        /// Ids of the missing images.
        missing: NameList,
        /// What most of them have in common, and what to do.
        cause: Option<String>,
    },
}

/// Folders that are probably splits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LikelySplits {
    /// The folder that is probably for training, if there is one.
    pub train: Option<PathBuf>,
    /// The folder that is probably for testing, if there is one.
    pub test: Option<PathBuf>,
}

impl DatasetError {
    /// For `map_err`: the error that the file or folder `path` cannot be read.
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { path: path.into(), source }
    }

    /// The error that the entry `place` of the file or folder `path`, such as a line, has a `problem`, for
    /// which it is passed over with this `reason` if errors are skipped.
    #[must_use]
    pub fn entry(
        path: &Path,
        place: impl Into<String>,
        problem: impl Into<String>,
        reason: PassedOverReason,
    ) -> Self {
        Self::Entries { path: path.into(), places: vec![place.into()], problem: problem.into(), reason }
    }

    /// The error that `root` has test images of the classes `unknown`, which are not among the training
    /// classes `known`.
    #[must_use]
    pub fn unknown_class(root: &Path, unknown: Vec<String>, known: &[String]) -> Self {
        let names: Vec<&String> = unknown.iter().chain(known).collect();
        let is_across = |pair: &SimilarNames| pair.a < unknown.len() && pair.b >= unknown.len();
        let similar = similar_names(&names).into_iter().find(is_across).map(|pair| {
            let difference = pair.difference.description();
            format!("`{}` differs from the training class `{}` by {difference}", names[pair.a], names[pair.b])
        });
        let (classes, known) = (NameList(unknown), NameList(known.to_vec()));
        Self::UnknownClass { root: root.into(), classes, known, similar }
    }

    /// The entries that the error is about: their reason in the account of the data, and their names. The
    /// reason is `None` for classes without photos, which are no files or rows; the result is `None` for an
    /// error that is not about single entries.
    #[must_use]
    pub fn entries(&self) -> Option<(Option<PassedOverReason>, Vec<String>)> {
        match self {
            Self::LeavesRoot { subjects, .. } => {
                Some((Some(PassedOverReason::OutsideFolder), subjects.clone()))
            }
            Self::SameFile { paths } => {
                let names = paths.iter().map(|(_, second)| second.clone()).collect();
                Some((Some(PassedOverReason::Repeated), names))
            }
            Self::MissingImages { missing, .. } => {
                Some((Some(PassedOverReason::MissingImage), missing.0.clone()))
            }
            Self::Entries { places, reason, .. } => Some((Some(*reason), places.clone())),
            Self::EmptyClass { classes, .. } => Some((None, classes.0.clone())),
            _ => None,
        }
    }

    /// Merges errors with the same cause, in the order of the first of each, so that one message tells what
    /// many rows have in common.
    #[must_use]
    pub fn summarize(errors: Vec<Self>) -> Vec<Self> {
        let mut merged: Vec<Self> = Vec::new();
        let mut by_cause = HashMap::new();
        for error in errors {
            let position = error.cause().map(|cause| *by_cause.entry(cause).or_insert(merged.len()));
            match (position.and_then(|position| merged.get_mut(position)), error) {
                (Some(Self::LeavesRoot { subjects, .. }), Self::LeavesRoot { subjects: more, .. }) => {
                    subjects.extend(more);
                }
                (Some(Self::SameFile { paths }), Self::SameFile { paths: more }) => paths.extend(more),
                (Some(Self::Entries { places, .. }), Self::Entries { places: more, .. }) => {
                    places.extend(more);
                }
                (_, error) => merged.push(error),
            }
        }
        merged
    }

    /// What errors that can be merged have in common; `None` for other errors.
    fn cause(&self) -> Option<(&'static str, PathBuf, String)> {
        match self {
            Self::LeavesRoot { root, .. } => Some(("leaves root", root.clone(), String::new())),
            Self::SameFile { .. } => Some(("same file", PathBuf::new(), String::new())),
            Self::Entries { path, problem, .. } => Some(("entries", path.clone(), problem.clone())),
            _ => None,
        }
    }

    /// The error that the file `path` has a `problem`, also for `map_err`.
    pub(crate) fn invalid(path: &Path, problem: impl Into<String>) -> Self {
        Self::Invalid { path: path.into(), problem: problem.into() }
    }
}

/// A suggestion for a misspelled column, to append to an error message; empty if no column is similar: less
/// than half of its letters would change.
fn did_you_mean(column: &str, columns: &NameList) -> String {
    let distance =
        |known: &String| strsim::damerau_levenshtein(&known.to_lowercase(), &column.to_lowercase());
    match columns.0.iter().min_by_key(|known| distance(known)) {
        Some(nearest) if distance(nearest) * 2 < column.chars().count() => {
            format!("; did you mean `{nearest}`?")
        }
        _ => String::new(),
    }
}

/// The file types in class folders without photos, to append to an error message; empty if there are none.
fn found_instead(extensions: &[String]) -> String {
    if extensions.is_empty() {
        String::new()
    } else {
        format!(" (file types found there: {}; convert photos to JPEG or PNG)", extensions.join(", "))
    }
}
