//! A run in progress: its folder exists from the start and has checkpoints in it until the training ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use headstock_inference::{CONFIG_FILE, MODEL_FILE};

use super::{CHECKPOINTS, METRICS, RunFiles, RunMetrics, RunReservation};
use crate::atomic_write::{TEMP_PREFIX, write_atomically};
use crate::error::{Remedy, TrainError};

/// The name of the file in the folder of checkpoints that the program that trains holds a lock on, so that no
/// two programs train the same run.
const LOCK: &str = "lock";

/// The folder of a run whose training has not finished, locked by this program.
pub(crate) struct RunInProgress {
    pub(crate) folder: PathBuf,
    /// The lock file; the lock ends when it is closed.
    lock: File,
}

/// What is left to do for a run that is resumed.
pub(crate) enum ResumeState {
    /// The training has not finished: it continues from its latest checkpoint.
    InProgress(RunInProgress),
    /// The run was already finished, with these metrics: nothing is left to do.
    Finished(Box<RunMetrics>),
}

impl RunInProgress {
    /// Makes the run's folder before the training starts, so that an interrupted training can be resumed:
    /// writes the text `config` and an empty, locked folder of checkpoints into the reserved temporary
    /// folder, and moves it into place. `head` is the name of the head, for a numbered folder.
    ///
    /// # Errors
    /// [`TrainError::Usage`] if the run's folder exists by now, [`TrainError::Inference`].
    pub(crate) fn begin(
        reservation: RunReservation<'_>,
        head: &str,
        config: &str,
    ) -> Result<Self, TrainError> {
        let folder = reservation.temp_folder.path();
        write_atomically(&folder.join(CONFIG_FILE), config.as_bytes())?;
        let path = folder.join(CHECKPOINTS);
        fs::create_dir(&path).map_err(TrainError::io("create", &path))?;
        let lock = lock_checkpoints(&path)?;
        Ok(Self { folder: reservation.move_into_place(head)?, lock })
    }

    /// Locks the run in `folder` to continue its training, and removes temporary files that the interrupted
    /// program left. A run that already has its model is finished: only its checkpoints are removed.
    ///
    /// # Errors
    /// [`TrainError::Usage`] if there is no run or another program trains it; [`TrainError::Inference`].
    pub(crate) fn resume(folder: &Path) -> Result<ResumeState, TrainError> {
        let checkpoints = folder.join(CHECKPOINTS);
        let has_model = folder.join(MODEL_FILE).is_file();
        if !checkpoints.is_dir() && !has_model {
            return Err(TrainError::Usage(format!(
                "{} has no training to resume: only fine-tuning can be resumed",
                folder.display()
            ))
            .with_remedy(Remedy::Train));
        }
        let held_lock = checkpoints.is_dir().then(|| lock_checkpoints(&checkpoints)).transpose()?;
        remove_temp_files(folder)?;
        match held_lock {
            Some(lock) if !has_model => {
                remove_temp_files(&checkpoints)?;
                Ok(ResumeState::InProgress(Self { folder: folder.into(), lock }))
            }
            held_lock => {
                // The program was stopped after it had written the last file, before it removed the
                // checkpoints.
                if let Some(lock) = held_lock {
                    Self { folder: folder.into(), lock }.remove_checkpoints()?;
                }
                let path = folder.join(METRICS);
                let text = fs::read_to_string(&path).map_err(TrainError::io("read", &path))?;
                Ok(ResumeState::Finished(serde_json::from_str(&text).map_err(TrainError::format(&path))?))
            }
        }
    }

    /// The path of the file `name` in the folder of checkpoints.
    pub(crate) fn checkpoint_path(&self, name: &str) -> PathBuf {
        self.folder.join(CHECKPOINTS).join(name)
    }

    /// Replaces the run's config by the text `config`, which names the exact weights: they are known only
    /// after the backbone was opened, when the folder already exists.
    pub(crate) fn write_config(&self, config: &str) -> Result<(), TrainError> {
        write_atomically(&self.folder.join(CONFIG_FILE), config.as_bytes())
    }

    /// Writes the run's files when the training has ended, removes the checkpoints, and returns the run's
    /// folder. The model comes last, because a folder with a model counts as a finished run.
    pub(crate) fn finish(self, files: &RunFiles<'_>) -> Result<PathBuf, TrainError> {
        files.write_all_but_model(&self.folder)?;
        // Renamed from the folder of checkpoints, so that the model is never there in part.
        let (temp_model, model) = (self.checkpoint_path(MODEL_FILE), self.folder.join(MODEL_FILE));
        files.model.write(&temp_model)?;
        fs::rename(&temp_model, &model).map_err(TrainError::io("write", &model))?;
        let folder = self.folder.clone();
        self.remove_checkpoints()?;
        Ok(folder)
    }

    /// Removes the run's folder, for a training that failed before its first checkpoint. If the folder cannot
    /// be removed, that is only a warning.
    pub(crate) fn discard(self) {
        let Self { folder, lock } = self;
        drop(lock);
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::warn!(
                "the folder {} of the unfinished run cannot be removed: {error}; delete the folder yourself",
                folder.display()
            );
        }
    }

    /// Ends the lock and removes the folder of checkpoints; without that folder the run counts as finished.
    fn remove_checkpoints(self) -> Result<(), TrainError> {
        let checkpoints = self.folder.join(CHECKPOINTS);
        drop(self.lock);
        fs::remove_dir_all(&checkpoints).map_err(TrainError::io("remove", &checkpoints))
    }
}

/// Locks the folder of checkpoints `folder` against other programs for as long as the returned file is open.
///
/// # Errors
/// [`TrainError::Usage`] if another program holds the lock, [`TrainError::Inference`].
fn lock_checkpoints(folder: &Path) -> Result<File, TrainError> {
    let path = folder.join(LOCK);
    let file = File::create(&path).map_err(TrainError::io("write", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(TrainError::Usage(format!(
            "{} is being trained by another program: wait until that training has ended",
            folder.parent().unwrap_or(folder).display()
        ))),
        Err(fs::TryLockError::Error(error)) => Err(TrainError::io("lock", &path)(error)),
    }
}

/// Removes the temporary files in `folder` that a killed program left; [`write_atomically`] makes them.
fn remove_temp_files(folder: &Path) -> Result<(), TrainError> {
    for entry in fs::read_dir(folder).map_err(TrainError::io("read", folder))? {
        let entry = entry.map_err(TrainError::io("read", folder))?;
        if entry.file_name().to_string_lossy().starts_with(TEMP_PREFIX) {
            let path = entry.path();
            fs::remove_file(&path).map_err(TrainError::io("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::config::{Config, Registries};
    use crate::run::{RunDir, is_in_progress};

    fn begin_run(folder: &Path) -> RunInProgress {
        let text = "version = 1\n[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\n";
        let settings =
            Config::parse(text, "a test", folder).unwrap().resolve(&Registries::builtin()).unwrap();
        let run_dir = RunDir::Named(folder.join("run"));
        RunInProgress::begin(run_dir.reserve(&settings.source).unwrap(), "linear", "first").unwrap()
    }

    #[test]
    fn a_run_in_progress_is_locked() {
        let folder = tempfile::tempdir().unwrap();
        let in_progress = begin_run(folder.path());
        let run = folder.path().join("run");
        assert!(is_in_progress(&run) && in_progress.folder == run);
        let refused = RunInProgress::resume(&run).err().unwrap().to_string();
        assert!(refused.starts_with(&format!("{} is being trained by another program", run.display())));
        drop(in_progress);
        assert!(
            matches!(RunInProgress::resume(&run), Ok(ResumeState::InProgress(held)) if held.folder == run)
        );
    }

    #[test]
    fn resuming_removes_temporary_files_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let in_progress = begin_run(folder.path());
        in_progress.write_config("second").unwrap();
        let run = folder.path().join("run");
        fs::write(in_progress.checkpoint_path("last"), "whole").unwrap();
        for dir in [&run, &run.join(CHECKPOINTS)] {
            fs::write(dir.join(format!("{TEMP_PREFIX}part")), "a part").unwrap();
        }
        drop(in_progress);
        let Ok(ResumeState::InProgress(in_progress)) = RunInProgress::resume(&run) else {
            panic!("the training has not finished")
        };
        let names = |dir: &Path| {
            let mut names: Vec<String> = fs::read_dir(dir)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(&run), [CHECKPOINTS, CONFIG_FILE]);
        assert_eq!(names(&run.join(CHECKPOINTS)), ["last", LOCK]);
        assert_eq!(fs::read_to_string(run.join(CONFIG_FILE)).unwrap(), "second");
        in_progress.discard();
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }

    #[test]
    fn a_run_that_was_killed_after_its_model_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        drop(begin_run(folder.path()));
        let run = folder.path().join("run");
        fs::write(run.join(MODEL_FILE), "a model").unwrap();
        // The model is written last: a run with a model but without metrics is damaged, and the missing file
        // is named.
        let damaged = RunInProgress::resume(&run).err().unwrap().to_string();
        assert!(damaged.contains(METRICS), "{damaged}");
        assert!(!is_in_progress(&run) && run.join(MODEL_FILE).exists());
    }
}
