//! Writing a run: all files into a folder beside, which is then renamed.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::unfinished::is_unfinished;
use super::{CONFIG, HISTORY, METRICS, MODEL, Model, PREDICTIONS, REPORT, SPLIT, TRAINED_ON};
use crate::config::{Place, Source};
use crate::error::TrainError;
use crate::files::{TEMPORARY, write_whole};

/// Where runs go that are given no name.
const RUNS: &str = "runs";

/// Where a run is going to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunPlace {
    /// In this folder, which must not be there yet.
    Named(PathBuf),
    /// In `runs/HEAD-N` below the current folder, with the first number that is free.
    Numbered,
}

/// The contents of a run's files.
pub(crate) struct RunFiles<'a> {
    pub(crate) config: String,
    pub(crate) model: &'a Model,
    pub(crate) metrics: String,
    pub(crate) history: Vec<u8>,
    pub(crate) split: Vec<u8>,
    pub(crate) trained_on: Vec<u8>,
    pub(crate) predictions: Vec<u8>,
    pub(crate) report: String,
}

impl RunPlace {
    /// Makes the folder beside the place, before the long work: a place that is taken, cannot be written to or lies among
    /// the photos is refused now.
    ///
    /// # Errors
    /// [`TrainError::Usage`] for such a place, [`TrainError::Io`].
    pub fn reserve(&self, source: &Source) -> Result<Reserved<'_>, TrainError> {
        if let Self::Named(folder) = self {
            if folder.to_str().is_none() || folder.file_name().is_none() {
                let name = folder.display();
                return Err(TrainError::Usage(format!(
                    "--run {name}: give the name of a new folder, in UTF-8"
                )));
            }
            // A link that leads nowhere is taken as well.
            if fs::symlink_metadata(folder).is_ok() {
                return Err(taken(folder));
            }
        }
        let parent = match self {
            Self::Named(folder) => {
                folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
            }
            Self::Numbered => Path::new(RUNS),
        };
        refuse_among_photos(parent, source)?;
        fs::create_dir_all(parent).map_err(TrainError::io("make", parent))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Temporary folders are private, runs are not; the umask still applies.
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        let beside = builder.tempdir_in(parent).map_err(TrainError::io("write in", parent))?;
        Ok(Reserved { place: self, beside })
    }
}

/// A folder beside the place of a run; without a run it goes again.
pub struct Reserved<'a> {
    place: &'a RunPlace,
    beside: TempDir,
}

impl Reserved<'_> {
    /// Writes the run and says where it is.
    pub(crate) fn write(self, head: &str, files: &RunFiles<'_>) -> Result<PathBuf, TrainError> {
        let model = self.beside.path().join(MODEL);
        files.model.write(&model)?;
        files.write_but_the_model(self.beside.path())?;
        self.put_in_place(head)
    }

    /// Gives the folder, with what is in it, the name of the run.
    pub(super) fn put_in_place(self, head: &str) -> Result<PathBuf, TrainError> {
        let folder = match self.place {
            RunPlace::Named(folder) if fs::symlink_metadata(folder).is_ok() => return Err(taken(folder)),
            RunPlace::Named(folder) => {
                fs::rename(self.beside.path(), folder).map_err(TrainError::io("write", folder))?;
                folder.clone()
            }
            RunPlace::Numbered => numbered(self.beside.path(), head)?,
        };
        // It has another name now: nothing is left to be removed.
        let _ = self.beside.keep();
        Ok(folder)
    }

    /// The folder, before it has its name.
    pub(super) fn folder(&self) -> &Path {
        self.beside.path()
    }
}

impl RunFiles<'_> {
    /// Writes all files but the model into `folder`, each whole or not at all.
    pub(super) fn write_but_the_model(&self, folder: &Path) -> Result<(), TrainError> {
        for (name, bytes) in [
            (CONFIG, self.config.as_bytes()),
            (METRICS, self.metrics.as_bytes()),
            (HISTORY, &self.history),
            (SPLIT, &self.split),
            (TRAINED_ON, &self.trained_on),
            (PREDICTIONS, &self.predictions),
            (REPORT, self.report.as_bytes()),
        ] {
            let path = folder.join(name);
            write_whole(&path, bytes).map_err(TrainError::io("write", &path))?;
        }
        Ok(())
    }
}

/// A folder of runs within the folder of the photos would be a class the next time.
fn refuse_among_photos(parent: &Path, source: &Source) -> Result<(), TrainError> {
    let Source::Photos { main, test } = source else { return Ok(()) };
    let folder = |place: &Place| match place {
        Place::Folder(folder) => Some(folder.clone()),
        _ => None,
    };
    let parent = std::path::absolute(parent).map_err(TrainError::io("find", parent))?;
    // It may not be there yet.
    let there = parent.ancestors().find_map(|folder| folder.canonicalize().ok()).unwrap_or_default();
    for folder in std::iter::once(main).chain(test).filter_map(folder) {
        if folder.canonicalize().is_ok_and(|folder| there.starts_with(folder)) {
            return Err(TrainError::Usage(format!(
                "the run would lie in {}, among the photos, and be taken for a class: name a folder elsewhere with --run",
                parent.display()
            )));
        }
    }
    Ok(())
}

/// Renames `from` to the first free number. Two programs may want the same: a folder that is not empty is never replaced.
fn numbered(from: &Path, head: &str) -> Result<PathBuf, TrainError> {
    for number in 1.. {
        let folder = Path::new(RUNS).join(format!("{head}-{number}"));
        if folder.exists() {
            continue;
        }
        match fs::rename(from, &folder) {
            Ok(()) => return Ok(folder),
            Err(_) if folder.exists() => {}
            Err(error) => return Err(TrainError::io("write", &folder)(error)),
        }
    }
    unreachable!("numbers do not end")
}

fn taken(folder: &Path) -> TrainError {
    if is_unfinished(folder) {
        return TrainError::Usage(format!(
            "{} is a training that has not ended: go on with `headstock train --resume {}`, or name another with --run",
            folder.display(),
            folder.display()
        ));
    }
    TrainError::Usage(format!(
        "{} is there already: a run is never overwritten; name another with --run",
        folder.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is no number that is taken: no other is tried.
    #[test]
    fn what_cannot_be_renamed_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = numbered(&folder.path().join("missing"), "a head of this test").unwrap_err().to_string();
        assert!(error.contains("runs/a head of this test-1"), "{error}");
    }
}
