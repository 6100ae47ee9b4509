//! Writing a run: all files into a folder beside, which is then renamed.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::in_progress::is_in_progress;
use super::{CONFIG, HISTORY, METRICS, MODEL, Model, PREDICTIONS, REPORT, SPLIT, TRAINED_ON};
use crate::atomic_write::{TEMP_PREFIX, write_atomically};
use crate::config::{DataLocation, DataSourceConfig};
use crate::error::TrainError;

/// Where runs go that are given no name.
const RUNS_FOLDER: &str = "runs";

/// Where a run is going to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunDir {
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

impl RunDir {
    /// Makes the folder beside the place, before the long work: a place that is taken, cannot be written to or lies among
    /// the photos is refused now.
    ///
    /// # Errors
    /// [`TrainError::Usage`] for such a place, [`TrainError::Io`].
    pub fn reserve(&self, source: &DataSourceConfig) -> Result<RunReservation<'_>, TrainError> {
        if let Self::Named(folder) = self {
            if folder.to_str().is_none() || folder.file_name().is_none() {
                let name = folder.display();
                return Err(TrainError::Usage(format!(
                    "--run {name}: give the name of a new folder, in UTF-8"
                )));
            }
            // A link that leads nowhere is taken as well.
            if fs::symlink_metadata(folder).is_ok() {
                return Err(already_exists(folder));
            }
        }
        let parent = match self {
            Self::Named(folder) => {
                folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
            }
            Self::Numbered => Path::new(RUNS_FOLDER),
        };
        refuse_inside_image_folder(parent, source)?;
        fs::create_dir_all(parent).map_err(TrainError::io("make", parent))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMP_PREFIX);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Temporary folders are private, runs are not; the umask still applies.
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        let temp_dir = builder.tempdir_in(parent).map_err(TrainError::io("write in", parent))?;
        Ok(RunReservation { run_dir: self, temp_dir })
    }
}

/// A folder beside the place of a run; without a run it goes again.
pub struct RunReservation<'a> {
    run_dir: &'a RunDir,
    temp_dir: TempDir,
}

impl RunReservation<'_> {
    /// Writes the run and says where it is.
    pub(crate) fn write(self, head: &str, files: &RunFiles<'_>) -> Result<PathBuf, TrainError> {
        let model = self.temp_dir.path().join(MODEL);
        files.model.write(&model)?;
        files.write_all_but_model(self.temp_dir.path())?;
        self.move_into_place(head)
    }

    /// Gives the folder, with what is in it, the name of the run.
    pub(super) fn move_into_place(self, head: &str) -> Result<PathBuf, TrainError> {
        let folder = match self.run_dir {
            RunDir::Named(folder) if fs::symlink_metadata(folder).is_ok() => {
                return Err(already_exists(folder));
            }
            RunDir::Named(folder) => {
                fs::rename(self.temp_dir.path(), folder).map_err(TrainError::io("write", folder))?;
                folder.clone()
            }
            RunDir::Numbered => rename_to_next_number(self.temp_dir.path(), head)?,
        };
        // It has another name now: nothing is left to be removed.
        let _ = self.temp_dir.keep();
        Ok(folder)
    }

    /// The folder, before it has its name.
    pub(super) fn temp_folder(&self) -> &Path {
        self.temp_dir.path()
    }
}

impl RunFiles<'_> {
    /// Writes all files but the model into `folder`, each whole or not at all.
    pub(super) fn write_all_but_model(&self, folder: &Path) -> Result<(), TrainError> {
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
            write_atomically(&path, bytes).map_err(TrainError::io("write", &path))?;
        }
        Ok(())
    }
}

/// A folder of runs within the folder of the photos would be a class the next time.
fn refuse_inside_image_folder(parent: &Path, source: &DataSourceConfig) -> Result<(), TrainError> {
    let DataSourceConfig::Images { main, test } = source else { return Ok(()) };
    let image_folder = |location: &DataLocation| match location {
        DataLocation::Folder(folder) => Some(folder.clone()),
        _ => None,
    };
    let parent = std::path::absolute(parent).map_err(TrainError::io("find", parent))?;
    // It may not be there yet.
    let existing_ancestor =
        parent.ancestors().find_map(|folder| folder.canonicalize().ok()).unwrap_or_default();
    for folder in std::iter::once(main).chain(test).filter_map(image_folder) {
        if folder.canonicalize().is_ok_and(|folder| existing_ancestor.starts_with(folder)) {
            return Err(TrainError::Usage(format!(
                "the run would lie in {}, among the photos, and be taken for a class: name a folder elsewhere with --run",
                parent.display()
            )));
        }
    }
    Ok(())
}

/// Renames `from` to the first free number. Two programs may want the same: a folder that is not empty is never replaced.
fn rename_to_next_number(source: &Path, head: &str) -> Result<PathBuf, TrainError> {
    for number in 1.. {
        let folder = Path::new(RUNS_FOLDER).join(format!("{head}-{number}"));
        if folder.exists() {
            continue;
        }
        match fs::rename(source, &folder) {
            Ok(()) => return Ok(folder),
            Err(_) if folder.exists() => {}
            Err(error) => return Err(TrainError::io("write", &folder)(error)),
        }
    }
    unreachable!("numbers do not end")
}

fn already_exists(folder: &Path) -> TrainError {
    if is_in_progress(folder) {
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
    fn a_failed_rename_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = rename_to_next_number(&folder.path().join("missing"), "a head of this test")
            .unwrap_err()
            .to_string();
        assert!(error.contains("runs/a head of this test-1"), "{error}");
    }
}
