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
use super::name::{RepoKind, RepoRef, is_commit};
use super::verify::{HashCheck, check_hash};

/// How often a lock that is held is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Ends the name of a blob that is being written.
const INCOMPLETE: &str = ".incomplete";

/// A repository's part of the cache.
#[derive(Debug)]
pub(super) struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
    kind: RepoKind,
}

/// What the cache knows of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CacheEntry {
    /// It is there, and is what its name says.
    Present(PathBuf),
    /// The repository has no such file.
    Absent,
    /// Nothing.
    Unknown,
}

/// The blobs at some moment: size and time of change.
pub(super) type BlobSnapshot = BTreeMap<String, (u64, Option<SystemTime>)>;

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct CacheLock {
    _file: File,
}

impl RepoCache {
    pub(super) fn new(root: &Path, place: &RepoRef) -> Self {
        let kind = place.kind();
        let name = format!("{}--{}", kind.cache_prefix(), place.repo().replace('/', "--"));
        Self { locks: root.join(".locks").join(&name), folder: root.join(name), kind }
    }

    /// What is known of `file` at `commit`. A copy that is not what its name says is removed first.
    pub(super) fn lookup(
        &self,
        commit: &str,
        file: &str,
        patience: Duration,
    ) -> Result<CacheEntry, HubError> {
        let pointer = self.snapshot_dir(commit).join(file);
        if pointer.exists() {
            let Some(name) = linked_blob_name(&pointer) else {
                // A copy instead of a link (Windows, or a cache that was copied): nothing says what it should be.
                return Ok(CacheEntry::Present(pointer));
            };
            let HashCheck::Mismatch(_) = self.verify_blob(&name)? else {
                return Ok(CacheEntry::Present(pointer));
            };
            tracing::warn!(
                "the copy of {file} in the cache is damaged: it is removed ({})",
                pointer.display()
            );
            self.remove_if_damaged(&name, patience)?;
        } else if pointer.is_symlink() {
            // hf-hub would take its name for that of a blob that is there.
            fs::remove_file(&pointer).map_err(|error| cache_error(&pointer, error))?;
        } else if self.absence_marker(commit, file).exists() {
            return Ok(CacheEntry::Absent);
        }
        Ok(CacheEntry::Unknown)
    }

    /// Takes back that there is no `file` at `commit`.
    pub(super) fn clear_absence_mark(&self, commit: &str, file: &str) -> Result<(), HubError> {
        let mark = self.absence_marker(commit, file);
        match fs::remove_file(&mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cache_error(&mark, error)),
            _ => Ok(()),
        }
    }

    /// Checks what a download that ended well has written; `before` are the blobs before it.
    pub(super) fn verify_download(
        &self,
        pointer: &Path,
        before: &BlobSnapshot,
    ) -> Result<Vec<(String, HashCheck)>, HubError> {
        let names = match linked_blob_name(pointer) {
            Some(name) => vec![name],
            None => self.changed_blobs(before)?,
        };
        names.into_iter().map(|name| self.verify_blob(&name).map(|verdict| (name, verdict))).collect()
    }

    /// Removes a download that is not what its name says.
    pub(super) fn remove_download(
        &self,
        pointer: &Path,
        name: &str,
        patience: Duration,
    ) -> Result<(), HubError> {
        let is_copy = linked_blob_name(pointer).is_none();
        self.remove_if_damaged(name, patience)?;
        if is_copy {
            fs::remove_file(pointer).map_err(|error| cache_error(pointer, error))?;
        }
        Ok(())
    }

    /// Removes a blob that is not what its name says, and every link to it.
    fn remove_if_damaged(&self, name: &str, patience: Duration) -> Result<(), HubError> {
        let _lock = self.lock(name, patience)?;
        // Someone else may have written it anew meanwhile.
        if self.blob_path(name).exists() && matches!(self.verify_blob(name)?, HashCheck::Mismatch(_)) {
            self.remove_blob(name)?;
        }
        Ok(())
    }

    /// Removes what a download that failed has left of itself; `before` are the blobs before it.
    pub(super) fn remove_leftovers(&self, before: &BlobSnapshot) -> Result<(), HubError> {
        for file in self.changed_blobs(before)? {
            let name = file.strip_suffix(INCOMPLETE).unwrap_or(&file);
            let Some(_lock) = self.try_lock(name)? else {
                continue; // Someone else is writing it.
            };
            if file.ends_with(INCOMPLETE) || matches!(self.verify_blob(name)?, HashCheck::Mismatch(_)) {
                self.remove_blob(&file)?;
            }
        }
        Ok(())
    }

    /// The blobs as they are now.
    pub(super) fn list_blobs(&self) -> Result<BlobSnapshot, HubError> {
        let folder = self.folder.join("blobs");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BlobSnapshot::new()),
            Err(error) => return Err(cache_error(&folder, error)),
        };
        let mut blobs = BlobSnapshot::new();
        for entry in entries {
            let entry = entry.map_err(|error| cache_error(&folder, error))?;
            // One that vanishes here was being written by someone else.
            if let (Ok(name), Ok(data)) = (entry.file_name().into_string(), entry.metadata()) {
                blobs.insert(name, (data.len(), data.modified().ok()));
            }
        }
        Ok(blobs)
    }

    /// The commit that a branch or tag was at when it was last fetched.
    pub(super) fn read_ref(&self, revision: &str) -> Option<String> {
        let commit = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes the commit that a branch or tag is at.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if self.read_ref(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        self.write_atomically(&self.folder.join("refs").join(revision), commit)
    }

    /// What files `commit` has, if that was noted.
    pub(super) fn file_list(&self, commit: &str) -> Option<Vec<String>> {
        serde_json::from_str(&fs::read_to_string(self.list_path(commit)).ok()?).ok()
    }

    /// Notes what files `commit` has.
    pub(super) fn write_file_list(&self, commit: &str, files: &[String]) -> Result<(), HubError> {
        if self.file_list(commit).is_some() {
            return Ok(()); // What a commit has never changes.
        }
        self.write_atomically(&self.list_path(commit), &serde_json::json!(files).to_string())
    }

    /// Writes a file beside its place and renames it into it.
    fn write_atomically(&self, place: &Path, text: &str) -> Result<(), HubError> {
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let name = format!(".headstock-{}-{}", process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed));
        // Not below `refs`, where it would be taken for a branch.
        let beside = self.folder.join(name);
        fs::create_dir_all(place.parent().unwrap_or(place))
            .and_then(|()| fs::write(&beside, text))
            .and_then(|()| fs::rename(&beside, place))
            .map_err(|error| cache_error(place, error))
    }

    /// Waits for a lock of this repository, as long as who holds it still writes blobs and for `patience` more.
    pub(super) fn lock(&self, name: &str, patience: Duration) -> Result<CacheLock, HubError> {
        let mut last_blobs = None;
        let mut last_change = Instant::now();
        loop {
            if let Some(lock) = self.try_lock(name)? {
                return Ok(lock);
            }
            if last_blobs.is_none() {
                tracing::info!("waiting for another process that fetches the same {}", self.kind.label());
            }
            let now = Some(self.list_blobs()?);
            if now != last_blobs {
                (last_blobs, last_change) = (now, Instant::now());
            } else if last_change.elapsed() >= patience {
                return Err(HubError::Locked { path: self.lock_path(name), seconds: patience.as_secs() });
            }
            thread::sleep(LOCK_RETRY);
        }
    }

    fn try_lock(&self, name: &str) -> Result<Option<CacheLock>, HubError> {
        let path = self.lock_path(name);
        let file = fs::create_dir_all(&self.locks)
            .and_then(|()| File::create(&path))
            .map_err(|error| cache_error(&path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(CacheLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(cache_error(&path, error)),
        }
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot_dir(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    fn absence_marker(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(file)
    }

    fn list_path(&self, commit: &str) -> PathBuf {
        self.folder.join(".headstock").join(format!("{commit}.json"))
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.locks.join(format!("{name}.lock"))
    }

    fn blob_path(&self, name: &str) -> PathBuf {
        self.folder.join("blobs").join(name)
    }

    fn verify_blob(&self, name: &str) -> Result<HashCheck, HubError> {
        let blob = self.blob_path(name);
        check_hash(&blob, name).map_err(|error| cache_error(&blob, error))
    }

    /// Which blobs are new or have changed since `before`.
    fn changed_blobs(&self, before: &BlobSnapshot) -> Result<Vec<String>, HubError> {
        let now = self.list_blobs()?;
        Ok(now
            .into_iter()
            .filter(|(name, state)| before.get(name) != Some(state))
            .map(|(name, _)| name)
            .collect())
    }

    /// Removes a blob and every link to it, links first: one that leads nowhere would be worse than a blob without one.
    fn remove_blob(&self, name: &str) -> Result<(), HubError> {
        let mut folders = vec![self.folder.join("snapshots")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                } else if linked_blob_name(&path).as_deref() == Some(name) {
                    fs::remove_file(&path).map_err(|error| cache_error(&path, error))?;
                }
            }
        }
        let blob = self.blob_path(name);
        fs::remove_file(&blob).map_err(|error| cache_error(&blob, error))
    }
}

/// The blob that a link of a snapshot leads to.
fn linked_blob_name(pointer: &Path) -> Option<String> {
    let target = fs::read_link(pointer).ok()?;
    let folder = target.parent()?.file_name()?;
    (folder == "blobs").then(|| target.file_name()?.to_str().map(str::to_owned))?
}

fn cache_error(path: &Path, source: io::Error) -> HubError {
    HubError::Cache { path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::super::name::HubSource;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn cache_in(root: &Path) -> RepoCache {
        RepoCache::new(root, "owner/name".parse::<HubSource>().unwrap().repo_ref())
    }

    /// A cache with a blob under the name of another content, and a copy of it in place of a link, as on Windows.
    fn cache_with_copy(root: &Path) -> (RepoCache, PathBuf, String) {
        let cache = cache_in(root);
        let name = "a".repeat(64);
        let pointer = root.join("models--owner--name/snapshots/commit/model.safetensors");
        for file in [&cache.blob_path(&name), &pointer] {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "wrong").unwrap();
        }
        (cache, pointer, name)
    }

    #[test]
    fn where_there_are_no_links_the_blobs_that_a_download_wrote_are_checked() {
        let root = tempfile::tempdir().unwrap();
        let (cache, pointer, name) = cache_with_copy(root.path());
        let checked = cache.verify_download(&pointer, &BlobSnapshot::new()).unwrap();
        assert!(
            matches!(checked.as_slice(), [(blob, HashCheck::Mismatch(_))] if *blob == name),
            "{checked:?}"
        );
        cache.remove_download(&pointer, &name, PATIENCE).unwrap();
        assert!(!pointer.exists() && cache.list_blobs().unwrap().is_empty());
        // Of one that was there before nothing is known.
        let (cache, pointer, _) = cache_with_copy(root.path());
        assert_eq!(cache.verify_download(&pointer, &cache.list_blobs().unwrap()).unwrap(), []);
    }

    #[test]
    fn a_blob_that_is_being_written_is_left_to_who_writes_it() {
        let root = tempfile::tempdir().unwrap();
        let (cache, _, name) = cache_with_copy(root.path());
        fs::write(cache.blob_path(&format!("{name}.incomplete")), "half").unwrap();
        let lock = cache.lock(&name, PATIENCE).unwrap();
        cache.remove_leftovers(&BlobSnapshot::new()).unwrap();
        assert_eq!(cache.list_blobs().unwrap().len(), 2);
        drop(lock);
        cache.remove_leftovers(&BlobSnapshot::new()).unwrap();
        assert!(cache.list_blobs().unwrap().is_empty());
    }

    #[test]
    fn a_reference_is_a_whole_commit_or_none() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache_in(root.path());
        let commit = "1".repeat(40);
        cache.write_ref("refs/pr/1", &commit).unwrap();
        assert_eq!(cache.read_ref("refs/pr/1"), Some(commit));
        assert_eq!(cache.read_ref("main"), None);
        fs::write(root.path().join("models--owner--name/refs/main"), "../../x").unwrap();
        assert_eq!(cache.read_ref("main"), None);
    }
}
