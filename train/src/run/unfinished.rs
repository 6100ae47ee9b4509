//! A run whose training goes on: its folder is there from the start, with checkpoints in it, and is no run before the end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{CONFIG, METRICS, MODEL, Reserved, RunFiles, RunMetrics};
use crate::error::TrainError;
use crate::files::{TEMPORARY, write_whole};

/// The folder of the checkpoints. As long as it is there, the run is not finished.
const CHECKPOINTS: &str = "checkpoints";

/// Held by the one program that trains.
const LOCK: &str = "lock";

/// Whether `folder` is a run whose training has not ended.
pub(crate) fn is_unfinished(folder: &Path) -> bool {
    folder.join(CHECKPOINTS).is_dir()
}

/// A run whose training has not ended, held by this program.
pub(crate) struct Unfinished {
    folder: PathBuf,
    lock: File,
}

/// What there is to go on with.
pub(crate) enum Resumed {
    /// A training that has not ended.
    Unfinished(Unfinished),
    /// Nothing: the run is finished.
    Finished(Box<RunMetrics>),
}

impl Unfinished {
    /// Gives a reserved folder its name, with the settings in it.
    ///
    /// # Errors
    /// [`TrainError::Usage`] when the place is taken by now, [`TrainError::Io`].
    pub(crate) fn begin(reserved: Reserved<'_>, head: &str, config: &str) -> Result<Self, TrainError> {
        let path = reserved.folder().join(CONFIG);
        write_whole(&path, config.as_bytes()).map_err(TrainError::io("write", &path))?;
        let path = reserved.folder().join(CHECKPOINTS);
        fs::create_dir(&path).map_err(TrainError::io("make", &path))?;
        let lock = lock(&path)?;
        Ok(Self { folder: reserved.put_in_place(head)?, lock })
    }

    /// Takes up what was left in `folder`.
    ///
    /// # Errors
    /// [`TrainError::Usage`] where there is no run, or another program trains it; [`TrainError::Io`],
    /// [`TrainError::UnknownFormat`].
    pub(crate) fn resume(folder: &Path) -> Result<Resumed, TrainError> {
        let checkpoints = folder.join(CHECKPOINTS);
        let finished = folder.join(MODEL).is_file();
        if !checkpoints.is_dir() && !finished {
            return Err(TrainError::Usage(format!(
                "{} is no training that could go on: `headstock train` begins one where [tune] names a stage",
                folder.display()
            )));
        }
        let held = checkpoints.is_dir().then(|| lock(&checkpoints)).transpose()?;
        remove_parts(folder)?;
        match held {
            Some(lock) if !finished => {
                remove_parts(&checkpoints)?;
                Ok(Resumed::Unfinished(Self { folder: folder.into(), lock }))
            }
            held => {
                // It was stopped after its last file was written.
                if let Some(lock) = held {
                    Self { folder: folder.into(), lock }.end()?;
                }
                let path = folder.join(METRICS);
                let text = fs::read_to_string(&path).map_err(TrainError::io("read", &path))?;
                Ok(Resumed::Finished(serde_json::from_str(&text).map_err(TrainError::format(&path))?))
            }
        }
    }

    /// The run's folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the checkpoint of this name is kept.
    pub(crate) fn checkpoint(&self, name: &str) -> PathBuf {
        self.folder.join(CHECKPOINTS).join(name)
    }

    /// Writes the settings anew, which say more by now.
    pub(crate) fn write_config(&self, config: &str) -> Result<(), TrainError> {
        let path = self.folder.join(CONFIG);
        write_whole(&path, config.as_bytes()).map_err(TrainError::io("write", &path))
    }

    /// Writes the run's files; the model, by which a run is known, comes last.
    pub(crate) fn finish(self, files: &RunFiles<'_>) -> Result<PathBuf, TrainError> {
        files.write_but_the_model(&self.folder)?;
        let (beside, model) = (self.checkpoint(MODEL), self.folder.join(MODEL));
        files.model.write(&beside)?;
        fs::rename(&beside, &model).map_err(TrainError::io("write", &model))?;
        let folder = self.folder.clone();
        self.end()?;
        Ok(folder)
    }

    /// Removes the folder, in which nothing is that would be missed.
    pub(crate) fn discard(self) {
        let Self { folder, lock } = self;
        drop(lock);
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::warn!("{} is left behind: {error}", folder.display());
        }
    }

    /// Removes the checkpoints: the run is finished.
    fn end(self) -> Result<(), TrainError> {
        let checkpoints = self.folder.join(CHECKPOINTS);
        drop(self.lock);
        fs::remove_dir_all(&checkpoints).map_err(TrainError::io("remove", &checkpoints))
    }
}

/// Holds the checkpoints in `folder` for as long as the file is open.
fn lock(folder: &Path) -> Result<File, TrainError> {
    let path = folder.join(LOCK);
    let file = File::create(&path).map_err(TrainError::io("write", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(TrainError::Usage(format!(
            "{} is being trained by another program",
            folder.parent().unwrap_or(folder).display()
        ))),
        Err(fs::TryLockError::Error(error)) => Err(TrainError::io("lock", &path)(error)),
    }
}

/// Removes what a program that was killed was about to write.
fn remove_parts(folder: &Path) -> Result<(), TrainError> {
    for entry in fs::read_dir(folder).map_err(TrainError::io("read", folder))? {
        let entry = entry.map_err(TrainError::io("read", folder))?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let path = entry.path();
            fs::remove_file(&path).map_err(TrainError::io("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use headstock_heads::Registry;

    use super::*;
    use crate::config::Config;
    use crate::run::RunPlace;

    fn begin(folder: &Path) -> Unfinished {
        let text = "version = 1\n[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\n";
        let settings = Config::parse(text, "a test", folder).unwrap().resolve(&Registry::builtin()).unwrap();
        let place = RunPlace::Named(folder.join("run"));
        Unfinished::begin(place.reserve(&settings.source).unwrap(), "linear", "first").unwrap()
    }

    #[test]
    fn one_program_at_a_time_holds_a_training() {
        let folder = tempfile::tempdir().unwrap();
        let held = begin(folder.path());
        let run = folder.path().join("run");
        assert!(is_unfinished(&run) && held.folder() == run);
        let refused = Unfinished::resume(&run).err().unwrap().to_string();
        assert_eq!(refused, format!("{} is being trained by another program", run.display()));
        drop(held);
        assert!(matches!(Unfinished::resume(&run), Ok(Resumed::Unfinished(held)) if held.folder() == run));
    }

    #[test]
    fn what_a_killed_program_was_about_to_write_is_removed_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let held = begin(folder.path());
        held.write_config("second").unwrap();
        let run = folder.path().join("run");
        fs::write(held.checkpoint("last"), "whole").unwrap();
        for place in [&run, &run.join(CHECKPOINTS)] {
            fs::write(place.join(format!("{TEMPORARY}part")), "a part").unwrap();
        }
        drop(held);
        let Ok(Resumed::Unfinished(held)) = Unfinished::resume(&run) else { panic!("it goes on") };
        let names = |place: &Path| {
            let mut names: Vec<String> = fs::read_dir(place)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(&run), [CHECKPOINTS, CONFIG]);
        assert_eq!(names(&run.join(CHECKPOINTS)), ["last", LOCK]);
        assert_eq!(fs::read_to_string(run.join(CONFIG)).unwrap(), "second");
        held.discard();
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }

    #[test]
    fn a_training_that_was_stopped_after_its_last_file_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        drop(begin(folder.path()));
        let run = folder.path().join("run");
        fs::write(run.join(MODEL), "a model").unwrap();
        // The model is the last file that is written: without its figures the run is damaged, and the file is named.
        let damaged = Unfinished::resume(&run).err().unwrap().to_string();
        assert!(damaged.contains(METRICS), "{damaged}");
        assert!(!is_unfinished(&run) && run.join(MODEL).exists());
    }
}
