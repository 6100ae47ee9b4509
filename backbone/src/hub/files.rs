//! Files of one commit, out of the cache or from the hub: resolved, checked, fetched by one process at a time.

use std::path::{Path, PathBuf};

use super::cache::{BlobSnapshot, CacheEntry, RepoCache};
use super::client::{DownloadFailure, HubClient, RevisionInfo};
use super::error::HubError;
use super::name::RepoRef;
use super::settings::HubSettings;
use super::verify::HashCheck;
use crate::error::ErrorKind;
use crate::source::DownloadProgress;

/// The lock that one process holds while it fetches.
const LOCK: &str = "headstock";

/// What is wanted of a repository.
pub(super) trait FileSelection {
    fn place(&self) -> &RepoRef;

    /// Whether the files are chosen from the list of all that the commit has. The cache keeps that list, for it has the files
    /// that were chosen only if it has all of them.
    fn needs_file_list(&self) -> bool;

    /// The files to fetch of a commit, in this order; `listed` is what it has, where that is known.
    fn select_files(&self, listed: Option<&[String]>) -> Result<Vec<RequestedFile>, HubError>;
}

/// A file to fetch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestedFile {
    pub(super) file: String,
    /// Whether a commit without it does as well.
    pub(super) is_optional: bool,
}

/// The files of a commit, on this machine.
pub(super) struct ResolvedFiles {
    /// The place, at the commit.
    pub(super) origin: String,
    /// The folder of the commit's files.
    pub(super) root: PathBuf,
    /// As they were wished for; `None` for what the commit does not have.
    pub(super) files: Vec<Option<PathBuf>>,
}

/// The wanted files; `None` when the settings forbid the network and the cache has not all of them.
pub(super) fn fetch(
    selection: &dyn FileSelection,
    settings: &HubSettings,
    progress: &dyn DownloadProgress,
) -> Result<Option<ResolvedFiles>, HubError> {
    let place = selection.place();
    let job = FetchJob {
        selection,
        repo_ref: place,
        settings,
        progress,
        cache: RepoCache::new(&settings.cache, place),
    };
    if settings.offline {
        return job.from_cache();
    }
    if let Some(commit) = place.commit()
        && let Some(found) = job.cached_at_commit(commit, UnknownFilePolicy::AskHub)?
    {
        return Ok(Some(found));
    }
    let error = match job.from_hub() {
        Err(error) if error.is_outage() => error,
        fetched => return fetched.map(Some),
    };
    match job.from_cache() {
        Ok(Some(found)) => {
            tracing::warn!("going on with {} from the cache: {error}", found.origin);
            Ok(Some(found))
        }
        // A part that the commit of then has not may be there by now.
        Err(other) if other.kind() != ErrorKind::Config => Err(other),
        Ok(None) | Err(_) => Err(error),
    }
}

/// One call of [`fetch`].
struct FetchJob<'a> {
    selection: &'a dyn FileSelection,
    repo_ref: &'a RepoRef,
    settings: &'a HubSettings,
    progress: &'a dyn DownloadProgress,
    cache: RepoCache,
}

/// What to do about an optional file that the cache knows nothing of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UnknownFilePolicy {
    AskHub,
    Skip,
}

impl FetchJob<'_> {
    /// The files of `commit` out of the cache.
    fn cached_at_commit(
        &self,
        commit: &str,
        unknown: UnknownFilePolicy,
    ) -> Result<Option<ResolvedFiles>, HubError> {
        let listed = self.file_list(commit);
        if self.selection.needs_file_list() && listed.is_none() {
            return Ok(None);
        }
        let requested = self.selection.select_files(listed.as_deref())?;
        let mut files = Vec::with_capacity(requested.len());
        let mut skipped = Vec::new();
        for RequestedFile { file, is_optional } in &requested {
            files.push(match self.lookup(commit, file)? {
                CacheEntry::Present(path) => Some(path),
                CacheEntry::Absent if *is_optional => None,
                CacheEntry::Unknown if *is_optional && unknown == UnknownFilePolicy::Skip => {
                    skipped.push(file);
                    None
                }
                CacheEntry::Absent | CacheEntry::Unknown => return Ok(None),
            });
        }
        for file in skipped {
            tracing::warn!("only the hub knows whether {} has a {file}: going on without", self.repo_ref);
        }
        Ok(Some(self.resolved(commit, files)))
    }

    /// The files out of the cache without asking the hub, of the commit that a branch was at last.
    fn from_cache(&self) -> Result<Option<ResolvedFiles>, HubError> {
        let last = || self.cache.read_ref(self.repo_ref.revision_or_main());
        match self.repo_ref.commit().map(str::to_owned).or_else(last) {
            Some(commit) => self.cached_at_commit(&commit, UnknownFilePolicy::Skip),
            None => Ok(None),
        }
    }

    /// Asks the hub, and downloads what the cache lacks.
    fn from_hub(&self) -> Result<ResolvedFiles, HubError> {
        let client = HubClient::new(self.repo_ref, self.settings)?;
        let RevisionInfo { commit, files: mut listed } = client.resolve_revision()?;
        if self.selection.needs_file_list() {
            listed = Some(match self.file_list(&commit) {
                Some(listed) => listed,
                None => client.all_files(&commit, listed)?,
            });
        }
        let listed = listed.as_deref();
        let requested = self.selection.select_files(listed)?;
        let mut entries = Vec::with_capacity(requested.len());
        for wish in &requested {
            entries.push(self.lookup(&commit, &wish.file)?);
        }
        let is_missing = |(wish, entry): (&RequestedFile, &CacheEntry)| match entry {
            CacheEntry::Present(_) => false,
            CacheEntry::Absent => !wish.is_optional,
            CacheEntry::Unknown => true,
        };
        let n_missing = requested.iter().zip(&entries).filter(|&pair| is_missing(pair)).count();
        if n_missing == 0 {
            // Only for the day when the hub is down: a cache that may not be written serves as well.
            if let Err(error) = self.record_commit(&commit, listed) {
                tracing::debug!("{error}");
            }
            let present_path = |entry| if let CacheEntry::Present(path) = entry { Some(path) } else { None };
            return Ok(self.resolved(&commit, entries.into_iter().map(present_path).collect()));
        }
        if self.selection.needs_file_list() {
            tracing::info!(
                "fetching {n_missing} of the {} files of {}",
                requested.len(),
                self.repo_ref.at_revision(&commit)
            );
        }

        let _lock = self.cache.lock(LOCK, self.settings.idle_timeout)?;
        let mut files = Vec::with_capacity(requested.len());
        for (RequestedFile { file, is_optional }, entry) in requested.into_iter().zip(entries) {
            // What is here was checked a moment ago.
            let path = match entry {
                CacheEntry::Present(path) => Some(path),
                CacheEntry::Absent | CacheEntry::Unknown => {
                    let is_listed = listed.map(|listed| listed.contains(&file));
                    self.fetch_file(&client, &commit, &file, is_listed)?
                }
            };
            if path.is_none() && !is_optional {
                return Err(self.file_not_found(file));
            }
            files.push(path);
        }
        self.record_commit(&commit, listed)?;
        Ok(self.resolved(&commit, files))
    }

    /// Notes what `commit` has, where that is asked for, and that the branch or tag is at it.
    fn record_commit(&self, commit: &str, listed: Option<&[String]>) -> Result<(), HubError> {
        if self.selection.needs_file_list()
            && let Some(listed) = listed
        {
            self.cache.write_file_list(commit, listed)?;
        }
        match self.repo_ref.commit() {
            Some(_) => Ok(()),
            None => self.cache.write_ref(self.repo_ref.revision_or_main(), commit),
        }
    }

    /// A file out of the cache or from the hub, checked; `None` when the repository has none, which must agree with what it
    /// lists. A download that is wrong is removed and made once more.
    fn fetch_file(
        &self,
        client: &HubClient<'_>,
        commit: &str,
        file: &str,
        is_listed: Option<bool>,
    ) -> Result<Option<PathBuf>, HubError> {
        match self.lookup(commit, file)? {
            CacheEntry::Present(path) => return Ok(Some(path)),
            CacheEntry::Absent if is_listed != Some(true) => return Ok(None),
            CacheEntry::Absent | CacheEntry::Unknown => {}
        }
        let mut is_retry = false;
        loop {
            let before = self.cache.list_blobs()?;
            let error = match client.download(commit, file, self.progress) {
                Ok(path) => match self.verify_download(&path, file, &before)? {
                    None => {
                        self.progress.finish();
                        return Ok(Some(path));
                    }
                    Some(damage) => damage,
                },
                Err(DownloadFailure::Missing) if is_listed != Some(true) => return Ok(None),
                Err(DownloadFailure::Missing) => {
                    self.cache.clear_absence_mark(commit, file)?;
                    return Err(self.file_not_found(file.into()));
                }
                Err(DownloadFailure::Busy(blob)) => {
                    // Another program writes it: hf-hub finds it once that is done.
                    self.cache.lock(&blob, self.settings.idle_timeout)?;
                    continue;
                }
                Err(DownloadFailure::Interrupted(source)) => {
                    self.remove_leftovers(&before);
                    HubError::Interrupted { name: self.repo_ref.name_with_file(Some(file)), source }
                }
                Err(DownloadFailure::Other(error)) => {
                    self.remove_leftovers(&before);
                    return Err(error);
                }
            };
            if is_retry {
                // A download takes the page of an error for the file; which one it is takes another request.
                let is_damaged = matches!(error, HubError::HashMismatch { .. });
                return Err(is_damaged
                    .then(|| client.probe_file(commit, file).err())
                    .flatten()
                    .unwrap_or(error));
            }
            tracing::warn!("{file} arrived damaged: fetching it once more");
            is_retry = true;
        }
    }

    /// What is wrong with a file that was downloaded; it is removed then.
    fn verify_download(
        &self,
        path: &Path,
        file: &str,
        before: &BlobSnapshot,
    ) -> Result<Option<HubError>, HubError> {
        for (blob, verdict) in self.cache.verify_download(path, before)? {
            match verdict {
                HashCheck::Match => {}
                HashCheck::Unknown => {
                    tracing::warn!(
                        "{} gives no hash of {file}: it is used unchecked",
                        self.settings.base_url()
                    );
                }
                HashCheck::Mismatch(found) => {
                    self.cache.remove_download(path, &blob, self.settings.idle_timeout)?;
                    let name = self.repo_ref.name_with_file(Some(file));
                    return Ok(Some(HubError::HashMismatch { name, expected: blob, found }));
                }
            }
        }
        Ok(None)
    }

    /// Clears up after a download that failed; that it failed matters more than that this does.
    fn remove_leftovers(&self, before: &BlobSnapshot) {
        if let Err(error) = self.cache.remove_leftovers(before) {
            tracing::warn!("{error}");
        }
    }

    fn lookup(&self, commit: &str, file: &str) -> Result<CacheEntry, HubError> {
        self.cache.lookup(commit, file, self.settings.idle_timeout)
    }

    /// The list of what `commit` has, where that is asked for and the cache keeps it.
    fn file_list(&self, commit: &str) -> Option<Vec<String>> {
        self.selection.needs_file_list().then(|| self.cache.file_list(commit)).flatten()
    }

    fn resolved(&self, commit: &str, files: Vec<Option<PathBuf>>) -> ResolvedFiles {
        ResolvedFiles {
            origin: self.repo_ref.at_revision(commit).to_string(),
            root: self.cache.snapshot_dir(commit),
            files,
        }
    }

    /// A file that is not there though the hub may list it.
    fn file_not_found(&self, file: String) -> HubError {
        HubError::FileNotFound { name: self.repo_ref.repo_name(), file, found: Vec::new() }
    }
}
