//! Errors of data sets.

use std::io;
use std::path::{Path, PathBuf};

use headstock_split::words::NameList;
use thiserror::Error;

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
    /// A link or an id points outside the image folder.
    #[error(
        "{subject} points outside the folder {}: photos must be inside that folder; replace the link with a \
         copy of what it points to (in a table of photos, write the file name of the copy)",
        root.display()
    )]
    LeavesRoot {
        /// Description of the link, or of the row and its id.
        subject: String,
        /// The image folder.
        root: PathBuf,
    },
    /// A link makes an image or a folder appear twice.
    #[error(
        "{first} and {second} are the same file or folder, reached through a link: each photo may be in the \
         data only once; remove the link, not the photo"
    )]
    SameFile {
        /// The first path or row that leads to it.
        first: String,
        /// The second path or row that leads to it.
        second: String,
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
        "{} has classes that the training data lacks: {classes}; rename these classes or remove them; the \
         training classes are {known}",
        root.display()
    )]
    UnknownClass {
        /// The folder or file of the test data.
        root: PathBuf,
        /// The unknown classes.
        classes: NameList,
        /// The training classes.
        known: NameList,
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
        "{} lists photos that are not in the folder {} ({}): {missing}; add these photos or remove \
         their rows; if the photos are there, check `images` (the folder of the photos), `id` (the column of \
         file names) and `extension` (the extension that is added to each name)",
        csv.display(),
        images.display(),
        missing.0.len()
    )]
    MissingImages {
        /// The CSV.
        csv: PathBuf,
        /// The image folder.
        images: PathBuf,
        /// Ids of the missing images.
        missing: NameList,
    },
}

impl DatasetError {
    /// For `map_err`: the error that the file or folder `path` cannot be read.
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { path: path.into(), source }
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
