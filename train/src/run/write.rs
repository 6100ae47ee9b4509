//! Writes a run: all files go into a temporary folder, which is then renamed.

use std::fs;
use std::path::{Path, PathBuf};

use headstock_inference::{CONFIG_FILE, MODEL_FILE, Model};
use headstock_loader::source::parent_folder;

use super::{
    HISTORY, METRICS, PREDICTIONS, REPORT, SPLIT, TESTED_ON, TRAINED_ON, is_in_progress, unfinished_error,
};
use crate::atomic_write::write_atomically;
use crate::config::DataSourceConfig;
use crate::error::{Remedy, TrainError};
use crate::temp_folder::TempFolder;

/// The parent folder of runs without a name.
const RUNS_FOLDER: &str = "runs";

/// The folder that a run is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunDir {
    /// This folder, which must not exist yet.
    Named(PathBuf),
    /// `runs/HEAD-N` in the current folder, with the first unused number.
    Numbered,
}

/// The contents of a run's files, each described where it is made.
pub(crate) struct RunFiles<'a> {
    pub(crate) config: String,
    pub(crate) model: &'a Model,
    pub(crate) metrics: String,
    pub(crate) history: Vec<u8>,
    pub(crate) split: Vec<u8>,
    pub(crate) trained_on: Vec<u8>,
    pub(crate) tested_on: Vec<u8>,
    pub(crate) predictions: Vec<u8>,
    pub(crate) report: String,
}

impl RunDir {
    /// Checks the run's folder before the training starts, so that no time is lost if the run cannot be
    /// written, and creates a temporary folder beside it, which the run is written to. A folder that exists,
    /// is not writable or is inside the image folder of `source` is refused.
    ///
    /// # Errors
    /// [`TrainError::Usage`] for such a folder, [`TrainError::Inference`].
    pub fn reserve(&self, source: &DataSourceConfig) -> Result<RunReservation<'_>, TrainError> {
        let mut parent = Path::new(RUNS_FOLDER);
        if let Self::Named(folder) = self {
            if folder.to_str().is_none() || folder.file_name().is_none() {
                let name = folder.display();
                return Err(TrainError::Usage(format!(
                    "{name} cannot be the name of the folder of a new run: give a name that is UTF-8 text \
                     and does not exist yet, such as runs/first"
                ))
                .with_remedy(Remedy::OtherRunFolder));
            }
            // A dangling link counts as existing, too.
            if fs::symlink_metadata(folder).is_ok() {
                return Err(already_exists_error(folder));
            }
            parent = parent_folder(folder);
        }
        refuse_inside_image_folder(parent, source)?;
        fs::create_dir_all(parent).map_err(TrainError::io("create", parent))?;
        let temp_folder = TempFolder::create_in(parent).map_err(TrainError::io("write in", parent))?;
        Ok(RunReservation { run_dir: self, temp_folder })
    }
}

/// A temporary folder that becomes the run's folder; it is removed if no run is written.
pub struct RunReservation<'a> {
    run_dir: &'a RunDir,
    pub(super) temp_folder: TempFolder,
}

impl RunReservation<'_> {
    /// Writes the files of a finished run and returns its folder. `head` is the name of the head, for a
    /// numbered folder.
    pub(crate) fn write(self, head: &str, files: &RunFiles<'_>) -> Result<PathBuf, TrainError> {
        let model = self.temp_folder.path().join(MODEL_FILE);
        files.model.write(&model)?;
        files.write_all_but_model(self.temp_folder.path())?;
        self.move_into_place(head)
    }

    /// Turns the temporary folder into the run's folder by renaming it, so that no other program sees a
    /// folder that is only half written, and returns the new path. `head` is the name of the head, for a
    /// numbered folder.
    ///
    /// # Errors
    /// [`TrainError::Usage`] if the folder exists by now, [`TrainError::Inference`] if it cannot be renamed.
    pub(super) fn move_into_place(self, head: &str) -> Result<PathBuf, TrainError> {
        let run_dir = self.run_dir;
        // If the function fails, the temporary folder is removed.
        self.temp_folder.persist(|temporary| match run_dir {
            RunDir::Named(folder) if fs::symlink_metadata(folder).is_ok() => {
                Err(already_exists_error(folder))
            }
            RunDir::Named(folder) => {
                fs::rename(temporary, folder).map_err(TrainError::io("write", folder))?;
                Ok(folder.clone())
            }
            RunDir::Numbered => rename_to_next_number(temporary, head),
        })
    }
}

impl RunFiles<'_> {
    /// Writes all files except the model into `folder`, each atomically. The model is written apart, because
    /// it marks a folder as a run.
    pub(super) fn write_all_but_model(&self, folder: &Path) -> Result<(), TrainError> {
        for (name, bytes) in [
            (CONFIG_FILE, self.config.as_bytes()),
            (METRICS, self.metrics.as_bytes()),
            (HISTORY, &self.history),
            (SPLIT, &self.split),
            (TRAINED_ON, &self.trained_on),
            (TESTED_ON, &self.tested_on),
            (PREDICTIONS, &self.predictions),
            (REPORT, self.report.as_bytes()),
        ] {
            write_atomically(&folder.join(name), bytes)?;
        }
        Ok(())
    }
}

/// Refuses `parent`, the folder that the run is to be in, if it is inside an image folder of `source`: the
/// next command would read it as a class.
fn refuse_inside_image_folder(parent: &Path, source: &DataSourceConfig) -> Result<(), TrainError> {
    let DataSourceConfig::Images(main) = source else { return Ok(()) };
    let parent = std::path::absolute(parent).map_err(TrainError::io("find", parent))?;
    // `parent` may not exist yet.
    let existing_ancestor =
        parent.ancestors().find_map(|folder| folder.canonicalize().ok()).unwrap_or_default();
    let test = main.test_data();
    for folder in std::iter::once(main).chain(&test).filter_map(|source| source.listed_folder()) {
        if folder.canonicalize().is_ok_and(|folder| existing_ancestor.starts_with(folder)) {
            return Err(TrainError::Usage(format!(
                "the run would be in {}, inside the folder of the photos, where its folder would be taken \
                 for a class: choose a different folder",
                parent.display()
            ))
            .with_remedy(Remedy::OtherRunFolder));
        }
    }
    Ok(())
}

/// Renames the folder `source` to `runs/HEAD-N` with the first unused number `N`, and returns the new path.
/// Another program may take the same number at the same time, but a rename never replaces a folder that is
/// not empty.
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
    unreachable!("the range of numbers is unbounded")
}

/// The error for a run's folder that exists, with advice that depends on whether its training has finished.
fn already_exists_error(folder: &Path) -> TrainError {
    if is_in_progress(folder) {
        return unfinished_error(folder, Remedy::ResumeOrOtherRunFolder(folder.into()));
    }
    TrainError::Usage(format!("{} already exists: a run is never overwritten", folder.display()))
        .with_remedy(Remedy::OtherRunFolder)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No other number is tried, because this error does not come from an existing folder.
    #[test]
    fn a_failed_rename_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = rename_to_next_number(&folder.path().join("missing"), "a head of this test")
            .unwrap_err()
            .to_string();
        assert!(error.contains("runs/a head of this test-1"), "{error}");
    }
}
