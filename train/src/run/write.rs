//! Writing a run: all files into a folder beside, which is then renamed.

use std::fs;
use std::path::{Path, PathBuf};

use super::{CONFIG, HISTORY, METRICS, MODEL, PREDICTIONS, REPORT, SPLIT};
use crate::error::TrainError;
use crate::files::TEMPORARY;

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
pub(crate) struct RunFiles {
    pub(crate) config: String,
    pub(crate) model: Vec<u8>,
    pub(crate) metrics: String,
    pub(crate) history: Vec<u8>,
    pub(crate) split: Vec<u8>,
    pub(crate) predictions: Vec<u8>,
    pub(crate) report: String,
}

impl RunPlace {
    /// Refuses a place that is taken, before the long work.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        match self {
            Self::Named(folder) if folder.exists() => Err(taken(folder)),
            _ => Ok(()),
        }
    }

    /// Writes the run and says where it is.
    pub(crate) fn write(&self, head: &str, files: &RunFiles) -> Result<PathBuf, TrainError> {
        let parent = match self {
            Self::Named(folder) => {
                folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
            }
            Self::Numbered => Path::new(RUNS),
        };
        fs::create_dir_all(parent).map_err(TrainError::io("make", parent))?;
        let beside = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempdir_in(parent)
            .map_err(TrainError::io("write in", parent))?;
        for (name, bytes) in [
            (CONFIG, files.config.as_bytes()),
            (MODEL, &files.model),
            (METRICS, files.metrics.as_bytes()),
            (HISTORY, &files.history),
            (SPLIT, &files.split),
            (PREDICTIONS, &files.predictions),
            (REPORT, files.report.as_bytes()),
        ] {
            let path = beside.path().join(name);
            fs::write(&path, bytes).map_err(TrainError::io("write", &path))?;
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Temporary folders are private, runs are not.
            let mode = fs::metadata(parent).map_or(0o755, |meta| meta.permissions().mode());
            let path = beside.path();
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
                .map_err(TrainError::io("write", path))?;
        }
        let folder = match self {
            Self::Named(folder) => {
                self.check()?;
                fs::rename(beside.path(), folder).map_err(TrainError::io("write", folder))?;
                folder.clone()
            }
            Self::Numbered => numbered(beside.path(), head)?,
        };
        // It has another name now: nothing is left to be removed.
        let _ = beside.keep();
        Ok(folder)
    }
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
    TrainError::Usage(format!(
        "{} is there already: a run is never overwritten; name another with --run",
        folder.display()
    ))
}
