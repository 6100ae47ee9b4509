//! The folder of a repository in the cache of Python's huggingface_hub:
//!
//! ```text
//! models--owner--name/blobs/ETAG                  the contents of a file
//! models--owner--name/snapshots/COMMIT/FILE       a link to a blob
//! models--owner--name/refs/REVISION               the commit of a branch or tag
//! models--owner--name/.no_exist/COMMIT/FILE       marks a file that the commit lacks
//! models--owner--name/.headstock/COMMIT.json      the file list of the commit, stored by headstock only
//! .locks/models--owner--name/ETAG.lock            the lock for writing a blob
//! ```
//!
//! Folders of data sets begin with `datasets`. A blob that this module writes is always named after the hash
//! of its contents.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, TempPath};

use crate::error::HubError;
use crate::name::{RepoRef, is_commit};
use crate::repo_kind::RepoKind;
use crate::verify::{find_mismatch, hash_sha256};

/// The suffix of a blob that is being written.
const INCOMPLETE: &str = ".incomplete";

/// The folder of a repository in the cache. A *blob* there has the contents of a file, and its name is the
/// hash of these contents; a commit has a link to the blob of each of its files.
#[derive(Debug)]
pub(crate) struct RepoCache {
    /// The folder with the blobs, the commits and the branches.
    folder: PathBuf,
    /// The folder with the lock files.
    locks: PathBuf,
}

/// The file of any repository of `kind` in the cache at `root` whose contents have the hash `name`; `None` if there is
/// none, or its contents have another hash. Folders that cannot be read count as empty.
pub(crate) fn find_blob(root: &Path, kind: RepoKind, name: &str) -> Option<PathBuf> {
    let prefix = format!("{}--", kind.plural());
    let mut blobs: Vec<PathBuf> = fs::read_dir(root)
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path().join("blobs").join(name))
        .filter(|blob| blob.is_file())
        .collect();
    blobs.sort_unstable();
    blobs.into_iter().find(|blob| matches!(find_mismatch(blob, name), Ok(None)))
}

/// What the cache knows about a file of a commit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CacheEntry {
    /// The file is in the cache, and its hash is correct.
    Present(PathBuf),
    /// The commit has no such file.
    Absent,
    /// The commit may have such a file.
    Unknown,
}

/// The contents of a blob while they arrive. If it is dropped, the incomplete file is removed.
#[derive(Debug)]
pub(crate) struct PartialBlob {
    // In this order, because some systems remove no open file.
    file: File,
    path: TempPath,
}

impl RepoCache {
    /// Finds the folder of the repository `repo_ref` in the cache at `root`, in which one folder per
    /// repository has a name like `models--owner--name`. Reads and creates nothing.
    pub(crate) fn new(root: &Path, repo_ref: &RepoRef) -> Self {
        let name = format!("{}--{}", repo_ref.kind.plural(), repo_ref.repo.replace('/', "--"));
        Self { locks: root.join(".locks").join(&name), folder: root.join(name) }
    }

    /// Looks up `file` of `commit`, and verifies a cached copy; a damaged copy is removed, and the entry is
    /// then unknown. The removal waits while another process writes that file.
    pub(crate) fn lookup(&self, commit: &str, file: &str) -> Result<CacheEntry, HubError> {
        let link = self.snapshot_dir(commit).join(file);
        if link.exists() {
            let Some(name) = linked_blob_name(&link) else {
                // A copy instead of a link (on Windows, or if the cache was copied) has no known hash.
                return Ok(CacheEntry::Present(link));
            };
            if self.is_blob_intact(&name)? {
                return Ok(CacheEntry::Present(link));
            }
            tracing::warn!(
                "the copy of {file} in the download cache is damaged and is removed, so that it is \
                 downloaded again: {}",
                link.display()
            );
            // Not while another process writes the blob; it may have replaced the blob in the meantime.
            let _lock = self.lock(&name)?;
            self.has_valid_blob(&name)?;
        } else if link.is_symlink() {
            fs::remove_file(&link).map_err(|error| cache_error(&link, error))?;
        } else if self.absence_marker(commit, file).exists() {
            return Ok(CacheEntry::Absent);
        }
        Ok(CacheEntry::Unknown)
    }

    /// Marks that `commit` has no `file`.
    pub(crate) fn mark_absent(&self, commit: &str, file: &str) -> Result<(), HubError> {
        let marker = self.absence_marker(commit, file);
        create_parent(&marker)
            .and_then(|()| fs::write(&marker, ""))
            .map_err(|error| cache_error(&marker, error))
    }

    /// Whether the cache has the blob `name`, the contents of a file, with this hash. A damaged blob is removed
    /// with every link to it. The caller holds the lock of the blob, so nobody is writing it.
    pub(crate) fn has_valid_blob(&self, name: &str) -> Result<bool, HubError> {
        if !self.blob_path(name).exists() {
            return Ok(false);
        }
        let is_valid = self.is_blob_intact(name)?;
        if !is_valid {
            self.remove_blob(name)?;
        }
        Ok(is_valid)
    }

    /// The bytes that are free on the disk of the cache.
    pub(crate) fn available_space(&self) -> Result<u64, HubError> {
        let folder = self.folder.join("blobs");
        let available = fs::create_dir_all(&folder).and_then(|()| fs4::available_space(&folder));
        available.map_err(|error| cache_error(&folder, error))
    }

    /// Creates the file for the contents of the blob `name` while they arrive. The caller holds the lock of
    /// the blob.
    pub(crate) fn create_partial_blob(&self, name: &str) -> Result<PartialBlob, HubError> {
        let path = self.blob_path(&format!("{name}{INCOMPLETE}"));
        // A file that a killed process has left is overwritten.
        let create = || {
            create_parent(&path)?;
            Ok(PartialBlob { file: File::create(&path)?, path: TempPath::try_from_path(&path)? })
        };
        create().map_err(|error| cache_error(&path, error))
    }

    /// Gives complete contents the name of their hash, `name`, under which other programs find them.
    pub(crate) fn store_blob(&self, partial: PartialBlob, name: &str) -> Result<(), HubError> {
        let blob = self.blob_path(name);
        partial.path.persist(&blob).map_err(|error| cache_error(&blob, error.error))
    }

    /// Makes the blob `name` the contents of `file` of `commit`, and returns the path of that file: a link, or
    /// a copy on systems where only administrators may create links.
    pub(crate) fn link_file(&self, commit: &str, file: &str, name: &str) -> Result<PathBuf, HubError> {
        let link = self.snapshot_dir(commit).join(file);
        let io_error = |error| cache_error(&link, error);
        create_parent(&link).map_err(io_error)?;
        if let Err(error) = fs::remove_file(&link)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(io_error(error));
        }
        // Out of the folders in `file`, of the commit and of `snapshots`.
        #[cfg(unix)]
        let linked = {
            let up = "../".repeat(file.split('/').count() + 1);
            std::os::unix::fs::symlink(format!("{up}blobs/{name}"), &link)
        };
        #[cfg(not(unix))]
        let linked = fs::copy(self.blob_path(name), &link).map(drop);
        linked.map_err(io_error)?;
        Ok(link)
    }

    /// The commit of the branch or tag `revision` at its latest download, for use without the hub; `None` if
    /// it has never been downloaded.
    pub(crate) fn read_ref(&self, revision: &str) -> Option<String> {
        let commit = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Stores that the branch or tag `revision` points to `commit` now, for [`read_ref`](Self::read_ref) when
    /// the hub is down. Writes nothing if that is stored already.
    pub(crate) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if self.read_ref(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        self.write_atomically(&self.folder.join("refs").join(revision), commit)
    }

    /// The stored file list of `commit`; `None` if there is none or it is damaged.
    pub(crate) fn file_list(&self, commit: &str) -> Option<Vec<String>> {
        serde_json::from_str(&fs::read_to_string(self.list_path(commit)).ok()?).ok()
    }

    /// Stores the names of all files of `commit`, `files`, so that without the hub
    /// [`file_list`](Self::file_list) tells which files must be in the cache.
    pub(crate) fn write_file_list(&self, commit: &str, files: &[String]) -> Result<(), HubError> {
        if self.file_list(commit).is_some() {
            return Ok(()); // The files of a commit never change.
        }
        self.write_atomically(&self.list_path(commit), &serde_json::json!(files).to_string())
    }

    /// Writes `contents` to the file `path`, in a folder that is created if needed. Writes a temporary file
    /// and renames it, so that no process reads an incomplete file.
    fn write_atomically(&self, path: &Path, contents: &str) -> Result<(), HubError> {
        let write = || {
            create_parent(path)?;
            // Not in `refs`, where it would look like a branch. With the permissions of a new file.
            let mut file =
                Builder::new().prefix(".headstock-").make_in(&self.folder, |path| File::create_new(path))?;
            file.write_all(contents.as_bytes())?;
            file.persist(path)?;
            Ok(())
        };
        write().map_err(|error: io::Error| cache_error(path, error))
    }

    /// Acquires the lock `name` of this repository, so that no other process writes the same files, until the
    /// returned file is dropped. Waits while another process holds the lock, which the system takes from a
    /// process that ends.
    pub(crate) fn lock(&self, name: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{name}.lock"));
        let lock = || {
            fs::create_dir_all(&self.locks)?;
            let file = File::create(&path)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    tracing::info!(
                        "waiting for another process that downloads the same files (it holds the lock {})",
                        path.display()
                    );
                    file.lock()?;
                }
                result => result?,
            }
            Ok(file)
        };
        lock().map_err(|error| cache_error(&path, error))
    }

    /// The folder with the files of a commit.
    pub(crate) fn snapshot_dir(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The file that marks that `commit` has no `file`.
    fn absence_marker(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(file)
    }

    /// The JSON file with the names of all files of `commit`.
    fn list_path(&self, commit: &str) -> PathBuf {
        self.folder.join(".headstock").join(format!("{commit}.json"))
    }

    /// The file with the contents of the blob `name`.
    fn blob_path(&self, name: &str) -> PathBuf {
        self.folder.join("blobs").join(name)
    }

    /// Whether the contents of the blob `name` have the hash in that name, or the name is no hash.
    fn is_blob_intact(&self, name: &str) -> Result<bool, HubError> {
        let blob = self.blob_path(name);
        let mismatch = find_mismatch(&blob, name).map_err(|error| cache_error(&blob, error))?;
        Ok(mismatch.is_none())
    }

    /// Removes the blob `name` (the contents of a cached file), and every link to it in any commit. The links
    /// are removed first, so that none is left dangling.
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

impl PartialBlob {
    /// Appends `bytes` to the contents.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(|error| cache_error(&self.path, error))
    }

    /// The hash of the contents if it is not `expected`, otherwise `None`.
    pub(crate) fn find_mismatch(&self, expected: &str) -> Result<Option<String>, HubError> {
        find_mismatch(&self.path, expected).map_err(|error| cache_error(&self.path, error))
    }

    /// The number of bytes of the contents and their SHA-256.
    pub(crate) fn measure(&self) -> Result<(u64, String), HubError> {
        let bytes = self.file.metadata().map(|info| info.len());
        bytes
            .and_then(|bytes| Ok((bytes, hash_sha256(&self.path)?)))
            .map_err(|error| cache_error(&self.path, error))
    }
}

/// Creates the folder of the file `path`.
fn create_parent(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))
}

/// The name of the blob that `link` points to, a file in the folder of a commit. The name is the hash of the
/// contents. `None` if the file is a copy instead of a link.
fn linked_blob_name(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    let folder = target.parent()?.file_name()?;
    (folder == "blobs").then(|| target.file_name()?.to_str().map(str::to_owned))?
}

/// The error for an I/O error `source` at `path` in the cache.
fn cache_error(path: &Path, source: io::Error) -> HubError {
    HubError::Cache { path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::name::HubSource;

    fn cache_in(root: &Path) -> RepoCache {
        RepoCache::new(root, &"owner/name".parse::<HubSource>().unwrap().0)
    }

    #[test]
    fn contents_that_are_not_stored_leave_nothing() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache_in(root.path());
        let name = "a".repeat(64);
        let mut partial = cache.create_partial_blob(&name).unwrap();
        partial.write(b"wrong").unwrap();
        let blobs = || fs::read_dir(root.path().join("models--owner--name/blobs")).unwrap();
        let names: Vec<_> = blobs().map(|blob| blob.unwrap().file_name()).collect();
        assert_eq!(names, [format!("{name}.incomplete").as_str()]);
        assert!(partial.find_mismatch(&name).unwrap().is_some());
        drop(partial);
        assert_eq!(blobs().count(), 0);
    }

    #[test]
    fn a_damaged_blob_that_another_process_is_writing_is_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache_in(root.path());
        let (commit, name) = ("1".repeat(40), "a".repeat(64));
        let partial = cache.create_partial_blob(&name).unwrap();
        cache.store_blob(partial, &name).unwrap();
        cache.link_file(&commit, "model.safetensors", &name).unwrap();
        let lock = cache.lock(&name).unwrap();
        thread::scope(|scope| {
            let lookup = scope.spawn(|| cache.lookup(&commit, "model.safetensors"));
            thread::sleep(Duration::from_millis(100));
            assert!(!lookup.is_finished() && cache.blob_path(&name).exists());
            drop(lock);
            assert_eq!(lookup.join().unwrap().unwrap(), CacheEntry::Unknown);
        });
        assert!(!cache.blob_path(&name).exists());
    }

    #[test]
    fn a_ref_must_contain_a_commit() {
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
