//! Errors of data sets.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Names, displayed as the first ten and the number of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameList(pub Vec<String>);

impl NameList {
    const MAX_SHOWN: usize = 10;
}

impl fmt::Display for NameList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.len().min(Self::MAX_SHOWN);
        f.write_str(&self.0[..shown].join(", "))?;
        match self.0.len() - shown {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Why a data set cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// A file or folder cannot be read.
    #[error("failed to read {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system error.
        source: io::Error,
    },
    /// The folder does not exist.
    #[error("there is no folder {}", .0.display())]
    NoFolder(PathBuf),
    /// A name is not UTF-8.
    #[error("{} has a name that is not UTF-8: rename it", .0.display())]
    NotUtf8(PathBuf),
    /// A link or an id points outside the image folder.
    #[error("{subject} points outside {}: photos must be inside that folder", root.display())]
    LeavesRoot {
        /// Description of the link, or of the row and its id.
        subject: String,
        /// The image folder.
        root: PathBuf,
    },
    /// A link makes an image or a folder appear twice.
    #[error(
        "{first} and {second} are the same because of a link: each photo may be in the data only once, remove one"
    )]
    SameFile {
        /// Its first path or row.
        first: String,
        /// Its second path or row.
        second: String,
    },
    /// No class folder, or no row.
    #[error("{} has no {missing}: {hint}", path.display())]
    Empty {
        /// The folder or the CSV.
        path: PathBuf,
        /// What is missing, in the plural.
        missing: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// Class folders without images.
    #[error("no photos in the class folders {classes} of {}: add photos, or remove the folders{}", root.display(), found_instead(.extensions))]
    EmptyClass {
        /// The folder of the classes.
        root: PathBuf,
        /// The classes.
        classes: NameList,
        /// File extensions found there instead.
        extensions: Vec<String>,
    },
    /// Only one class.
    #[error("{} has only one class, `{class}`: training needs at least two", path.display())]
    SingleClass {
        /// The folder or the CSV.
        path: PathBuf,
        /// The class.
        class: String,
    },
    /// A test folder has a class that the training data lacks.
    #[error("the class folders {classes} of {} are not among the training classes: {known}", root.display())]
    UnknownClass {
        /// The test folder.
        root: PathBuf,
        /// Its unknown classes.
        classes: NameList,
        /// The training classes.
        known: NameList,
    },
    /// A shard is invalid.
    #[error("{}: {problem}", path.display())]
    Shard {
        /// The shard.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A pattern matches no files or is invalid.
    #[error("{}: {problem}", pattern.display())]
    Pattern {
        /// The pattern.
        pattern: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The CSV cannot be parsed.
    #[error("{}: {message}", path.display())]
    Csv {
        /// The CSV.
        path: PathBuf,
        /// The parser's message, with the line.
        message: String,
    },
    /// A column is not in the header.
    #[error("{} has no column `{column}` (`{key}`); its columns: {columns}{}", path.display(), did_you_mean(column, columns))]
    NoColumn {
        /// The CSV.
        path: PathBuf,
        /// The config key that names the column, such as `data.label`.
        key: &'static str,
        /// The column asked for.
        column: String,
        /// The existing columns.
        columns: NameList,
    },
    /// A row has no id, label or group.
    #[error("{}, line {line}: `{column}` is empty", path.display())]
    EmptyField {
        /// The CSV.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// The column.
        column: String,
    },
    /// Two rows have the same id.
    #[error("{}: `{id}` is on line {first} and on line {second}: each photo may be listed only once", path.display())]
    DuplicateId {
        /// The CSV.
        path: PathBuf,
        /// The id.
        id: String,
        /// Its first line.
        first: u64,
        /// Its second line.
        second: u64,
    },
    /// Listed images do not exist.
    #[error(
        "{} lists photos that are not in {} ({count}): {missing}; check `data.images`, `data.id` and `data.extension`",
        csv.display(),
        images.display()
    )]
    MissingImages {
        /// The CSV.
        csv: PathBuf,
        /// The image folder.
        images: PathBuf,
        /// Number of missing images.
        count: usize,
        /// Their ids.
        missing: NameList,
    },
}

/// A suggestion for a misspelled column, to append to an error message; empty if no column is similar.
pub(crate) fn did_you_mean(column: &str, columns: &NameList) -> String {
    let distance =
        |known: &String| strsim::damerau_levenshtein(&known.to_lowercase(), &column.to_lowercase());
    match columns.0.iter().min_by_key(|known| distance(known)) {
        Some(nearest) if distance(nearest) * 2 < column.chars().count() => {
            format!("; did you mean `{nearest}`?")
        }
        _ => String::new(),
    }
}

fn found_instead(extensions: &[String]) -> String {
    if extensions.is_empty() {
        String::new()
    } else {
        format!(" (files found there end in {})", extensions.join(", "))
    }
}
