//! Files of one commit, from the cache or the hub, verified, and downloaded by one process at a time.

use std::path::{Path, PathBuf};

use super::cache::{BlobSnapshot, CacheEntry, RepoCache};
use super::client::{DownloadFailure, HubClient, RevisionInfo};
use super::error::HubError;
use super::name::RepoRef;
use super::settings::HubSettings;
use super::verify::HashCheck;
use crate::error::ErrorKind;
use crate::source::DownloadProgress;

/// The name of the lock that a process holds while it downloads.
const LOCK: &str = "headstock";

/// The files to fetch from a repository.
pub(super) trait FileSelection {
    fn repo_ref(&self) -> &RepoRef;

    /// Whether files are selected from the complete file list of the commit. The cache then stores that list,
    /// to know whether it has all selected files.
    fn needs_file_list(&self) -> bool;

    /// The files to fetch from a commit, in order of download; `listed` are all its files, if known.
    fn select_files(&self, listed: Option<&[String]>) -> Result<Vec<RequestedFile>, HubError>;
}

/// A file to fetch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestedFile {
    pub(super) file: String,
    /// Whether the commit may lack the file.
    pub(super) is_optional: bool,
}

/// The local files of a commit.
pub(super) struct ResolvedFiles {
    /// The `hf://` name with the commit.
    pub(super) origin: String,
    /// The folder with the files of the commit.
    pub(super) root: PathBuf,
    /// The requested files in order; `None` for optional files that the commit lacks.
    pub(super) files: Vec<Option<PathBuf>>,
}

/// Fetches the selected files; `None` if the settings do not allow downloads and the cache lacks a file.
pub(super) fn fetch(
    selection: &dyn FileSelection,
    settings: &HubSettings,
    progress: &dyn DownloadProgress,
) -> Result<Option<ResolvedFiles>, HubError> {
    let repo_ref = selection.repo_ref();
    let cache = RepoCache::new(&settings.cache, repo_ref);
    let job = FetchJob { selection, repo_ref, settings, progress, cache };
    if settings.offline {
        return job.resolve_from_cache();
    }
    if let Some(commit) = repo_ref.commit()
        && let Some(resolved) = job.cached_at_commit(commit, UnknownFilePolicy::AskHub)?
    {
        return Ok(Some(resolved));
    }
    let error = match job.resolve_from_hub() {
        Err(error) if error.is_outage() => error,
        result => return result.map(Some),
    };
    match job.resolve_from_cache() {
        Ok(Some(resolved)) => {
            tracing::warn!("using {} from the cache: {error}", resolved.origin);
            Ok(Some(resolved))
        }
        Err(cache_error) if cache_error.kind() != ErrorKind::Config => Err(cache_error),
        // The cached commit may lack a path that the current commit has, so a config error is not reported.
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

/// What to do about an optional file if the cache does not know whether the commit has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UnknownFilePolicy {
    AskHub,
    Skip,
}

impl FetchJob<'_> {
    /// The files of `commit` from the cache; `None` if it lacks one.
    fn cached_at_commit(
        &self,
        commit: &str,
        unknown_files: UnknownFilePolicy,
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
                CacheEntry::Unknown if *is_optional && unknown_files == UnknownFilePolicy::Skip => {
                    skipped.push(file);
                    None
                }
                CacheEntry::Absent | CacheEntry::Unknown => return Ok(None),
            });
        }
        for file in skipped {
            tracing::warn!(
                "the cache does not know whether {} has a {file}: continuing without it",
                self.repo_ref
            );
        }
        Ok(Some(self.resolved(commit, files)))
    }

    /// The files from the cache, of the requested commit or the last downloaded commit of the branch or tag.
    fn resolve_from_cache(&self) -> Result<Option<ResolvedFiles>, HubError> {
        let last_commit = || self.cache.read_ref(self.repo_ref.revision_or_main());
        match self.repo_ref.commit().map(str::to_owned).or_else(last_commit) {
            Some(commit) => self.cached_at_commit(&commit, UnknownFilePolicy::Skip),
            None => Ok(None),
        }
    }

    /// Resolves the revision on the hub, and downloads the files that the cache lacks.
    fn resolve_from_hub(&self) -> Result<ResolvedFiles, HubError> {
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
        for RequestedFile { file, .. } in &requested {
            entries.push(self.lookup(&commit, file)?);
        }
        let is_missing = |(file, entry): (&RequestedFile, &CacheEntry)| match entry {
            CacheEntry::Present(_) => false,
            CacheEntry::Absent => !file.is_optional,
            CacheEntry::Unknown => true,
        };
        let n_missing = requested.iter().zip(&entries).filter(|&pair| is_missing(pair)).count();
        if n_missing == 0 {
            // The record is only needed when the hub is down, so a read-only cache is fine.
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
            // Present files have just been verified.
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

    /// Stores the file list of `commit`, if needed, and the commit of the branch or tag.
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

    /// A verified file from the cache or the hub; `None` if the commit has no such file and does not list it
    /// either. A damaged or interrupted download is repeated once.
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
                    Some(mismatch) => mismatch,
                },
                Err(DownloadFailure::Missing) if is_listed != Some(true) => return Ok(None),
                Err(DownloadFailure::Missing) => {
                    self.cache.clear_absence_mark(commit, file)?;
                    return Err(self.file_not_found(file.into()));
                }
                Err(DownloadFailure::Busy(blob)) => {
                    // Another program is writing the blob: wait until it is done, then hf-hub finds it.
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
                // hf-hub saves an error page as if it were the file; another request tells which error it is.
                let is_mismatch = matches!(error, HubError::HashMismatch { .. });
                let server_error = is_mismatch.then(|| client.probe_file(commit, file).err()).flatten();
                return Err(server_error.unwrap_or(error));
            }
            tracing::warn!("{file} arrived damaged: downloading it once more");
            is_retry = true;
        }
    }

    /// The error of a downloaded file with a wrong hash, which is removed; `None` for a correct file.
    fn verify_download(
        &self,
        path: &Path,
        file: &str,
        before: &BlobSnapshot,
    ) -> Result<Option<HubError>, HubError> {
        for (blob, check) in self.cache.verify_download(path, before)? {
            match check {
                HashCheck::Match => {}
                HashCheck::Unknown => {
                    tracing::warn!(
                        "{} provides no hash of {file}: using it unchecked",
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

    /// Cleans up after a failed download, which is the reported error; errors of the cleanup are logged.
    fn remove_leftovers(&self, before: &BlobSnapshot) {
        if let Err(error) = self.cache.remove_leftovers(before) {
            tracing::warn!("{error}");
        }
    }

    fn lookup(&self, commit: &str, file: &str) -> Result<CacheEntry, HubError> {
        self.cache.lookup(commit, file, self.settings.idle_timeout)
    }

    /// The stored file list of `commit`, if it is needed and known.
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

    /// The error for a file that the hub does not have, although it may list it.
    fn file_not_found(&self, file: String) -> HubError {
        HubError::FileNotFound { name: self.repo_ref.repo_name(), file, found: Vec::new() }
    }
}
