//! Temporary folders, of which a killed program leaves none for ever: the next one removes them.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use tempfile::TempDir;

use crate::atomic_write::{TEMP_PREFIX, temp_builder};
use crate::error::TrainError;

/// The file in a temporary folder that the program that made it holds a lock on. The system ends the lock when
/// the program ends, however it ends.
const LOCK: &str = ".headstock-lock";

/// A temporary folder, which is removed when this is dropped unless it got its final name.
pub(crate) struct TempFolder {
    folder: TempDir,
    lock: File,
}

impl TempFolder {
    /// Creates a temporary folder in `parent`, and removes those there that killed programs have left.
    pub(crate) fn create_in(parent: &Path) -> io::Result<Self> {
        remove_abandoned(parent)?;
        loop {
            let folder = temp_builder(0o777).tempdir_in(parent)?;
            let lock_file = folder.path().join(LOCK);
            let lock = match File::create(&lock_file) {
                Ok(lock) => lock,
                // Another program has taken it for one that was left, because it had no lock yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            lock.lock()?;
            if lock_file.exists() {
                return Ok(Self { folder, lock });
            }
        }
    }

    /// The path of the folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Gives the folder its final name by `rename`, which gets its path; the folder has no lock any more.
    pub(crate) fn persist<R>(
        self,
        rename: impl FnOnce(&Path) -> Result<R, TrainError>,
    ) -> Result<R, TrainError> {
        let lock_file = self.path().join(LOCK);
        fs::remove_file(&lock_file).map_err(TrainError::io("remove", &lock_file))?;
        let renamed = rename(self.path())?;
        // The folder was renamed: there is none to remove. The lock is held until here, so that no other
        // program takes the folder for one that was left.
        let _ = self.folder.keep();
        drop(self.lock);
        Ok(renamed)
    }
}

/// Removes the temporary folders in `parent` whose lock is free, and empty ones: the program that made them
/// was killed, or creates another if it still runs.
fn remove_abandoned(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(TEMP_PREFIX) {
            continue;
        }
        let removed = match File::open(entry.path().join(LOCK)) {
            Ok(lock) if lock.try_lock().is_ok() => fs::remove_dir_all(entry.path()),
            Ok(_) => continue,
            // Only an empty folder is removed.
            Err(_) => fs::remove_dir(entry.path()),
        };
        if let Err(error) = removed {
            // It is only in the way, so the command goes on.
            tracing::debug!("{} cannot be removed: {error}", entry.path().display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_killed_programs_are_removed_and_those_in_use_stay() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        // As a killed program leaves it: with a file in it, and nobody holds the lock.
        let abandoned = path(&format!("{TEMP_PREFIX}abandoned"));
        fs::create_dir(&abandoned).unwrap();
        fs::write(abandoned.join(LOCK), "").unwrap();
        fs::write(abandoned.join("model.safetensors"), "a part").unwrap();
        let empty = path(&format!("{TEMP_PREFIX}empty"));
        fs::create_dir(&empty).unwrap();
        // Not of this kind: it has no lock.
        let other = path(&format!("{TEMP_PREFIX}other"));
        fs::create_dir(&other).unwrap();
        fs::write(other.join("file"), "").unwrap();
        let of_the_user = path("photos");
        fs::create_dir(&of_the_user).unwrap();
        fs::write(of_the_user.join(LOCK), "").unwrap();

        let first = TempFolder::create_in(parent.path()).unwrap();
        assert!(!abandoned.exists() && !empty.exists());
        let second = TempFolder::create_in(parent.path()).unwrap();
        for present in [first.path(), second.path(), &other, &of_the_user] {
            assert!(present.exists(), "{}", present.display());
        }
        let dropped = first.path().to_path_buf();
        drop(first);
        assert!(!dropped.exists());
    }

    #[test]
    fn a_folder_with_its_final_name_has_no_lock_file() {
        let parent = tempfile::tempdir().unwrap();
        let folder = TempFolder::create_in(parent.path()).unwrap();
        fs::write(folder.path().join("file"), "whole").unwrap();
        let target = parent.path().join("run");
        folder.persist(|path| fs::rename(path, &target).map_err(TrainError::io("write", &target))).unwrap();
        let names: Vec<_> = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
        // A name that cannot be given leaves nothing behind.
        let folder = TempFolder::create_in(parent.path()).unwrap();
        let path = folder.path().to_path_buf();
        folder.persist(|_| Err::<(), _>(TrainError::Data("the name is taken".into()))).unwrap_err();
        assert!(!path.exists());
    }
}
