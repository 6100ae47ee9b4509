//! A repository's part of the cache that Python's huggingface_hub laid out:
//!
//! ```text
//! models--owner--name/blobs/ETAG                  the content
//! models--owner--name/snapshots/COMMIT/FILE       a link to its blob
//! models--owner--name/refs/REVISION               the commit of a branch or tag
//! models--owner--name/.no_exist/COMMIT/FILE       there is no such file
//! models--owner--name/.headstock/COMMIT.json      what files the commit has
//! .locks/models--owner--name/ETAG.lock            held by who writes that blob
//! ```
//!
//! A data set's folder begins with `datasets`. hf-hub reads and writes it all too, but checks no content and leaves behind what
//! broke off; what a commit has is kept by nobody else. Here is the rest.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::error::HubError;
use super::name::{Kind, Place, is_commit};
use super::verify::{Verdict, verify};

/// How often a lock that is held is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Ends the name of a blob that is being written.
const INCOMPLETE: &str = ".incomplete";

/// A repository's part of the cache.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    locks: PathBuf,
    kind: Kind,
}

/// What the cache knows of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// It is there, and is what its name says.
    Here(PathBuf),
    /// The repository has no such file.
    Absent,
    /// Nothing.
    Unknown,
}

/// The blobs at some moment: size and time of change.
pub(super) type Blobs = BTreeMap<String, (u64, Option<SystemTime>)>;

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Cache {
    pub(super) fn new(root: &Path, place: &Place) -> Self {
        let kind = place.kind();
        let name = format!("{}--{}", kind.folder(), place.repo().replace('/', "--"));
        Self { locks: root.join(".locks").join(&name), folder: root.join(name), kind }
    }

    /// What is known of `file` at `commit`. A copy that is not what its name says is removed first.
    pub(super) fn look(&self, commit: &str, file: &str, patience: Duration) -> Result<Entry, HubError> {
        let pointer = self.snapshot(commit).join(file);
        if pointer.exists() {
            let Some(name) = blob_name(&pointer) else {
                // A copy instead of a link (Windows, or a cache that was copied): nothing says what it should be.
                return Ok(Entry::Here(pointer));
            };
            let Verdict::Wrong(_) = self.verify(&name)? else {
                return Ok(Entry::Here(pointer));
            };
            tracing::warn!(
                "the copy of {file} in the cache is damaged: it is removed ({})",
                pointer.display()
            );
            self.forget(&name, patience)?;
        } else if pointer.is_symlink() {
            // hf-hub would take its name for that of a blob that is there.
            fs::remove_file(&pointer).map_err(|error| failed(&pointer, error))?;
        } else if self.absence(commit, file).exists() {
            return Ok(Entry::Absent);
        }
        Ok(Entry::Unknown)
    }

    /// Takes back that there is no `file` at `commit`.
    pub(super) fn unmark(&self, commit: &str, file: &str) -> Result<(), HubError> {
        let mark = self.absence(commit, file);
        match fs::remove_file(&mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&mark, error)),
            _ => Ok(()),
        }
    }

    /// Checks what a download that ended well has written; `before` are the blobs before it.
    pub(super) fn check(&self, pointer: &Path, before: &Blobs) -> Result<Vec<(String, Verdict)>, HubError> {
        let names = match blob_name(pointer) {
            Some(name) => vec![name],
            None => self.changed(before)?,
        };
        names.into_iter().map(|name| self.verify(&name).map(|verdict| (name, verdict))).collect()
    }

    /// Removes a download that is not what its name says.
    pub(super) fn reject(&self, pointer: &Path, name: &str, patience: Duration) -> Result<(), HubError> {
        let is_copy = blob_name(pointer).is_none();
        self.forget(name, patience)?;
        if is_copy {
            fs::remove_file(pointer).map_err(|error| failed(pointer, error))?;
        }
        Ok(())
    }

    /// Removes a blob that is not what its name says, and every link to it.
    fn forget(&self, name: &str, patience: Duration) -> Result<(), HubError> {
        let _lock = self.lock(name, patience)?;
        // Someone else may have written it anew meanwhile.
        if self.blob(name).exists() && matches!(self.verify(name)?, Verdict::Wrong(_)) {
            self.remove(name)?;
        }
        Ok(())
    }

    /// Removes what a download that failed has left of itself; `before` are the blobs before it.
    pub(super) fn sweep(&self, before: &Blobs) -> Result<(), HubError> {
        for file in self.changed(before)? {
            let name = file.strip_suffix(INCOMPLETE).unwrap_or(&file);
            let Some(_lock) = self.try_lock(name)? else {
                continue; // Someone else is writing it.
            };
            if file.ends_with(INCOMPLETE) || matches!(self.verify(name)?, Verdict::Wrong(_)) {
                self.remove(&file)?;
            }
        }
        Ok(())
    }

    /// The blobs as they are now.
    pub(super) fn blobs(&self) -> Result<Blobs, HubError> {
        let folder = self.folder.join("blobs");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Blobs::new()),
            Err(error) => return Err(failed(&folder, error)),
        };
        let mut blobs = Blobs::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed(&folder, error))?;
            // One that vanishes here was being written by someone else.
            if let (Ok(name), Ok(data)) = (entry.file_name().into_string(), entry.metadata()) {
                blobs.insert(name, (data.len(), data.modified().ok()));
            }
        }
        Ok(blobs)
    }

    /// The commit that a branch or tag was at when it was last fetched.
    pub(super) fn reference(&self, revision: &str) -> Option<String> {
        let commit = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes the commit that a branch or tag is at.
    pub(super) fn set_reference(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if self.reference(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        self.write(&self.folder.join("refs").join(revision), commit)
    }

    /// What files `commit` has, if that was noted.
    pub(super) fn list(&self, commit: &str) -> Option<Vec<String>> {
        serde_json::from_str(&fs::read_to_string(self.list_path(commit)).ok()?).ok()
    }

    /// Notes what files `commit` has.
    pub(super) fn set_list(&self, commit: &str, files: &[String]) -> Result<(), HubError> {
        if self.list(commit).is_some() {
            return Ok(()); // What a commit has never changes.
        }
        self.write(&self.list_path(commit), &serde_json::json!(files).to_string())
    }

    /// Writes a file beside its place and renames it into it.
    fn write(&self, place: &Path, text: &str) -> Result<(), HubError> {
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let name = format!(".headstock-{}-{}", process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed));
        // Not below `refs`, where it would be taken for a branch.
        let beside = self.folder.join(name);
        fs::create_dir_all(place.parent().unwrap_or(place))
            .and_then(|()| fs::write(&beside, text))
            .and_then(|()| fs::rename(&beside, place))
            .map_err(|error| failed(place, error))
    }

    /// Waits for a lock of this repository, as long as who holds it still writes blobs and for `patience` more.
    pub(super) fn lock(&self, name: &str, patience: Duration) -> Result<Lock, HubError> {
        let mut seen = None;
        let mut since = Instant::now();
        loop {
            if let Some(lock) = self.try_lock(name)? {
                return Ok(lock);
            }
            if seen.is_none() {
                tracing::info!("waiting for another process that fetches the same {}", self.kind.what());
            }
            let now = Some(self.blobs()?);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() >= patience {
                return Err(HubError::Locked { path: self.lock_path(name), seconds: patience.as_secs() });
            }
            thread::sleep(RETRY);
        }
    }

    fn try_lock(&self, name: &str) -> Result<Option<Lock>, HubError> {
        let path = self.lock_path(name);
        let file = fs::create_dir_all(&self.locks)
            .and_then(|()| File::create(&path))
            .map_err(|error| failed(&path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(&path, error)),
        }
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    fn absence(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(file)
    }

    fn list_path(&self, commit: &str) -> PathBuf {
        self.folder.join(".headstock").join(format!("{commit}.json"))
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.locks.join(format!("{name}.lock"))
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.folder.join("blobs").join(name)
    }

    fn verify(&self, name: &str) -> Result<Verdict, HubError> {
        let blob = self.blob(name);
        verify(&blob, name).map_err(|error| failed(&blob, error))
    }

    /// Which blobs are new or have changed since `before`.
    fn changed(&self, before: &Blobs) -> Result<Vec<String>, HubError> {
        let now = self.blobs()?;
        Ok(now
            .into_iter()
            .filter(|(name, state)| before.get(name) != Some(state))
            .map(|(name, _)| name)
            .collect())
    }

    /// Removes a blob and every link to it, links first: one that leads nowhere would be worse than a blob without one.
    fn remove(&self, name: &str) -> Result<(), HubError> {
        let mut folders = vec![self.folder.join("snapshots")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                } else if blob_name(&path).as_deref() == Some(name) {
                    fs::remove_file(&path).map_err(|error| failed(&path, error))?;
                }
            }
        }
        let blob = self.blob(name);
        fs::remove_file(&blob).map_err(|error| failed(&blob, error))
    }
}

/// The blob that a link of a snapshot leads to.
fn blob_name(pointer: &Path) -> Option<String> {
    let target = fs::read_link(pointer).ok()?;
    let folder = target.parent()?.file_name()?;
    (folder == "blobs").then(|| target.file_name()?.to_str().map(str::to_owned))?
}

fn failed(path: &Path, source: io::Error) -> HubError {
    HubError::Cache { path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::super::name::HubSource;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn of(root: &Path) -> Cache {
        Cache::new(root, "owner/name".parse::<HubSource>().unwrap().place())
    }

    /// A cache with a blob under the name of another content, and a copy of it in place of a link, as on Windows.
    fn copied(root: &Path) -> (Cache, PathBuf, String) {
        let cache = of(root);
        let name = "a".repeat(64);
        let pointer = root.join("models--owner--name/snapshots/commit/model.safetensors");
        for file in [&cache.blob(&name), &pointer] {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "wrong").unwrap();
        }
        (cache, pointer, name)
    }

    #[test]
    fn where_there_are_no_links_the_blobs_that_a_download_wrote_are_checked() {
        let root = tempfile::tempdir().unwrap();
        let (cache, pointer, name) = copied(root.path());
        let checked = cache.check(&pointer, &Blobs::new()).unwrap();
        assert!(matches!(checked.as_slice(), [(blob, Verdict::Wrong(_))] if *blob == name), "{checked:?}");
        cache.reject(&pointer, &name, PATIENCE).unwrap();
        assert!(!pointer.exists() && cache.blobs().unwrap().is_empty());
        // Of one that was there before nothing is known.
        let (cache, pointer, _) = copied(root.path());
        assert_eq!(cache.check(&pointer, &cache.blobs().unwrap()).unwrap(), []);
    }

    #[test]
    fn a_blob_that_is_being_written_is_left_to_who_writes_it() {
        let root = tempfile::tempdir().unwrap();
        let (cache, _, name) = copied(root.path());
        fs::write(cache.blob(&format!("{name}.incomplete")), "half").unwrap();
        let lock = cache.lock(&name, PATIENCE).unwrap();
        cache.sweep(&Blobs::new()).unwrap();
        assert_eq!(cache.blobs().unwrap().len(), 2);
        drop(lock);
        cache.sweep(&Blobs::new()).unwrap();
        assert!(cache.blobs().unwrap().is_empty());
    }

    #[test]
    fn a_reference_is_a_whole_commit_or_none() {
        let root = tempfile::tempdir().unwrap();
        let cache = of(root.path());
        let commit = "1".repeat(40);
        cache.set_reference("refs/pr/1", &commit).unwrap();
        assert_eq!(cache.reference("refs/pr/1"), Some(commit));
        assert_eq!(cache.reference("main"), None);
        fs::write(root.path().join("models--owner--name/refs/main"), "../../x").unwrap();
        assert_eq!(cache.reference("main"), None);
    }
}
