//! What can be wrong with a data set.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Some names for a message: the first few, and how many more there are.
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
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder is not there.
    #[error("there is no folder {}", .0.display())]
    NoFolder(PathBuf),
    /// A name is not UTF-8.
    #[error("{} has a name that is not UTF-8: rename it", .0.display())]
    NotUtf8(PathBuf),
    /// A link, or an id, leads out of the folder of the photos.
    #[error("{what} leads out of {}: photos must lie below that folder", root.display())]
    LeavesRoot {
        /// The file, or the row and its id.
        what: String,
        /// The folder of the photos.
        root: PathBuf,
    },
    /// A photo, or a folder of photos, that is met twice because of a link.
    #[error(
        "{first} and {second} are the same by a link: every photo may be in the data once, remove one of them"
    )]
    SameFile {
        /// How it was met first.
        first: String,
        /// How it was met again.
        second: String,
    },
    /// No class folder, or no row.
    #[error("{} has no {missing}: {hint}", path.display())]
    Empty {
        /// The folder or the CSV.
        path: PathBuf,
        /// What it lacks.
        missing: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// Class folders without a photo.
    #[error("no photos in the class folders {classes} of {}: add photos, or remove the folders{}", root.display(), found_instead(.extensions))]
    EmptyClass {
        /// The folder of the photos.
        root: PathBuf,
        /// The classes.
        classes: NameList,
        /// Endings of the files that are there instead.
        extensions: Vec<String>,
    },
    /// Only one class.
    #[error("{} has one class only, `{class}`: there is nothing to tell it from", path.display())]
    OneClass {
        /// The folder or the CSV.
        path: PathBuf,
        /// The class.
        class: String,
    },
    /// A test folder has a class that the training folder lacks.
    #[error("the class folders {classes} of {} are not among the classes trained on: {known}", root.display())]
    UnknownClass {
        /// The test folder.
        root: PathBuf,
        /// Its classes that are unknown.
        classes: NameList,
        /// The known ones.
        known: NameList,
    },
    /// A shard is not what it should be.
    #[error("{}: {problem}", path.display())]
    Shard {
        /// The shard.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A pattern names no files.
    #[error("{}: {problem}", pattern.display())]
    Pattern {
        /// As given.
        pattern: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The CSV cannot be parsed.
    #[error("{}: {message}", path.display())]
    Csv {
        /// The CSV.
        path: PathBuf,
        /// What the parser says, with the line.
        message: String,
    },
    /// A column is not in the header.
    #[error("{} has no column `{column}` (`{key}`); its columns: {columns}{}", path.display(), did_you_mean(column, columns))]
    NoColumn {
        /// The CSV.
        path: PathBuf,
        /// The key of the setting, such as `data.label`.
        key: &'static str,
        /// The column asked for.
        column: String,
        /// The columns that are there.
        columns: NameList,
    },
    /// A row lacks its id, its label or its group.
    #[error("{}, line {line}: `{column}` is empty", path.display())]
    EmptyField {
        /// The CSV.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column.
        column: String,
    },
    /// An id stands in two rows.
    #[error("{}: `{id}` stands in line {first} and again in line {second}: every photo may be listed once", path.display())]
    DuplicateId {
        /// The CSV.
        path: PathBuf,
        /// The id.
        id: String,
        /// The line where it stands first.
        first: u64,
        /// The line where it stands again.
        second: u64,
    },
    /// Photos that are listed are not there.
    #[error(
        "{} lists photos that are not in {} ({count}): {photos}; check `data.images`, `data.id` and `data.extension`",
        csv.display(),
        images.display()
    )]
    MissingPhotos {
        /// The CSV.
        csv: PathBuf,
        /// The folder of the photos.
        images: PathBuf,
        /// How many.
        count: usize,
        /// Which.
        photos: NameList,
    },
}

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
