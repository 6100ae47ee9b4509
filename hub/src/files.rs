//! Files of one commit, from the cache or the hub, verified, and downloaded by one process at a time.

use std::fs;
use std::path::PathBuf;

use crate::cache::{CacheEntry, RepoCache};
use crate::client::{FileInfo, HubClient, RequestedFile, RevisionInfo};
use crate::error::HubError;
use crate::name::RepoRef;
use crate::progress::DownloadProgress;
use crate::settings::HubSettings;
use crate::verify::hash_text;

/// The name of the lock that a process holds while it downloads from a repository. Others wait for it.
const LOCK: &str = "headstock";

/// Selects the files to fetch from a commit.
type SelectFiles<'a, T> = dyn Fn(&CommitContents<'_>) -> Result<Selection<T>, HubError> + Sync + 'a;

/// What a selection can depend on.
pub(crate) struct CommitContents<'a> {
    /// The names of all files of the commit; `None` if they are not known.
    pub(crate) listed: Option<&'a [String]>,
    /// The text of the file that describes the others; `None` if none is asked for or the commit has none.
    pub(crate) description: Option<&'a str>,
}

/// The files to fetch from a commit.
pub(crate) struct Selection<T> {
    /// In order of download.
    pub(crate) files: Vec<RequestedFile>,
    /// What the caller wants to know of the selection with its result.
    pub(crate) details: T,
}

/// The local files of a commit.
pub(crate) struct ResolvedFiles<T> {
    /// The `hf://` name with the commit.
    pub(crate) origin: String,
    /// The folder with the files of the commit.
    pub(crate) root: PathBuf,
    /// The requested files in order; `None` for optional files that the commit lacks.
    pub(crate) files: Vec<Option<PathBuf>>,
    /// Those of the [`Selection`].
    pub(crate) details: T,
}

/// Files from the cache, and the config files of which it does not know whether the commit has them; `None` if
/// it lacks a file.
type CachedFiles<T> = Option<(ResolvedFiles<T>, Vec<String>)>;

/// Returns the local paths of the files of `repo_ref` that `select` selects, all of one commit, after
/// downloading those that the cache lacks from the hub. If the hub is down, an earlier commit of the branch or
/// tag in the cache is used. With `description`, the files are selected from the complete file list of the
/// commit, and the file of that name in it is fetched first; the cache then stores that list, to know whether
/// it has all selected files.
pub(crate) fn fetch<T>(
    repo_ref: &RepoRef,
    description: Option<&str>,
    select: &SelectFiles<'_, T>,
    settings: &HubSettings,
    progress: &dyn DownloadProgress,
) -> Result<ResolvedFiles<T>, HubError> {
    let cache = RepoCache::new(&settings.cache, repo_ref);
    let job = FetchJob { repo_ref, description, select, settings, progress, cache };
    if settings.offline {
        let offline = || HubError::Offline { name: repo_ref.to_string(), cache: settings.cache.clone() };
        return job.resolve_from_cache()?.ok_or_else(offline);
    }
    // A name with a commit needs no request if all its files are in the cache.
    if let Some(commit) = repo_ref.commit()
        && let Some((resolved, unknown)) = job.cached_at_commit(commit)?
        && unknown.is_empty()
    {
        return Ok(resolved);
    }
    let error = match job.resolve_from_hub() {
        Err(error) if error.is_outage() => error,
        result => return result,
    };
    match job.resolve_from_cache() {
        Ok(Some(resolved)) => {
            tracing::warn!(
                "using the copy of {} in the download cache, which may be outdated: {error}",
                resolved.origin
            );
            Ok(resolved)
        }
        Err(cache_error) if !cache_error.is_name_error() => Err(cache_error),
        // The cached commit may lack a path that the current commit has, so a wrong name is not reported.
        Ok(None) | Err(_) => Err(error),
    }
}

/// The arguments of one call of [`fetch`], and the cache folder of its repository.
struct FetchJob<'a, T> {
    repo_ref: &'a RepoRef,
    description: Option<&'a str>,
    select: &'a SelectFiles<'a, T>,
    settings: &'a HubSettings,
    progress: &'a dyn DownloadProgress,
    cache: RepoCache,
}

impl<T> FetchJob<'_, T> {
    /// The paths of the selected files of `commit` in the cache, without any request to the hub, and the
    /// config files of which the cache does not know whether the commit has them. `None` if the cache lacks a
    /// file.
    fn cached_at_commit(&self, commit: &str) -> Result<CachedFiles<T>, HubError> {
        let listed = self.file_list(commit);
        if self.needs_file_list() && listed.is_none() {
            return Ok(None);
        }
        let description = match self.listed_description(listed.as_deref()) {
            Some(file) => match self.cache.lookup(commit, file)? {
                CacheEntry::Present(path) => Some(read_text(path)?),
                CacheEntry::Absent | CacheEntry::Unknown => return Ok(None),
            },
            None => None,
        };
        let contents = CommitContents { listed: listed.as_deref(), description: description.as_deref() };
        let selection = (self.select)(&contents)?;
        let (mut files, mut unknown) = (Vec::new(), Vec::new());
        for RequestedFile { file, is_config } in selection.files {
            files.push(match self.cache.lookup(commit, &file)? {
                CacheEntry::Present(path) => Some(path),
                CacheEntry::Absent if is_config => None,
                CacheEntry::Unknown if is_config => {
                    unknown.push(file);
                    None
                }
                CacheEntry::Absent | CacheEntry::Unknown => return Ok(None),
            });
        }
        Ok(Some((self.resolved(commit, files, selection.details), unknown)))
    }

    /// The selected files from the cache, without any request, for use offline or while the hub is down:
    /// those of the requested commit or, for a branch or tag, of its latest downloaded commit. `None` if the
    /// cache has no such commit or lacks a file. A config file that the commit may have is left out with a
    /// warning.
    fn resolve_from_cache(&self) -> Result<Option<ResolvedFiles<T>>, HubError> {
        let latest_commit = || self.cache.read_ref(self.repo_ref.revision_or_main());
        let Some(commit) = self.repo_ref.commit().map(str::to_owned).or_else(latest_commit) else {
            return Ok(None);
        };
        let Some((resolved, unknown)) = self.cached_at_commit(&commit)? else { return Ok(None) };
        for file in unknown {
            tracing::warn!(
                "the download cache has no file {file} of {}, which can say how photos must be prepared, and \
                 without the hub it is not known whether the model has this file: continuing without it; to \
                 be sure, run the command again with a connection to the hub (and without HF_HUB_OFFLINE)",
                self.repo_ref
            );
        }
        Ok(Some(resolved))
    }

    /// Asks the hub for the current commit of the branch or tag, and downloads those of the selected files of
    /// that commit that the cache lacks. Holds a lock meanwhile, so that other processes wait instead of
    /// downloading the same files. If the cache lacks none, nothing needs to be written.
    fn resolve_from_hub(&self) -> Result<ResolvedFiles<T>, HubError> {
        let client = HubClient::new(self.repo_ref, self.settings)?;
        let RevisionInfo { commit, files: mut listed } = client.resolve_revision()?;
        if self.needs_file_list() {
            listed = Some(match self.file_list(&commit) {
                Some(listed) => listed,
                None => client.all_files(&commit, listed)?,
            });
        }
        let listed = listed.as_deref();
        let is_listed = |file: &str| listed.is_some_and(|listed| listed.iter().any(|known| known == file));
        let description = match self.listed_description(listed) {
            Some(file) => {
                let request = RequestedFile { file: file.into(), is_config: true };
                self.fetch_file(&client, &commit, &request, true)?.map(read_text).transpose()?
            }
            None => None,
        };
        let contents = CommitContents { listed, description: description.as_deref() };
        let Selection { files: requested, details } = (self.select)(&contents)?;
        // Needs no request, and no cache that can be written.
        let is_unlisted =
            |request: &RequestedFile| request.is_config && listed.is_some() && !is_listed(&request.file);
        let lookup = |request: &RequestedFile| self.cache.lookup(&commit, &request.file);
        let entries = requested.iter().map(lookup).collect::<Result<Vec<_>, _>>()?;
        let is_missing = |&(request, entry): &(&RequestedFile, &CacheEntry)| match entry {
            CacheEntry::Present(_) => false,
            CacheEntry::Absent => !request.is_config,
            CacheEntry::Unknown => !is_unlisted(request),
        };
        let missing: Vec<&RequestedFile> =
            requested.iter().zip(&entries).filter(is_missing).map(|(request, _)| request).collect();
        if !missing.is_empty() && self.needs_file_list() {
            tracing::info!(
                "{}: downloading {} of the {} files (the others are in the download cache)",
                self.repo_ref.at_revision(&commit),
                missing.len(),
                requested.len()
            );
        }
        let lock = |request: &&RequestedFile| {
            self.cache.lock(LOCK).map_err(|error| self.unwritable(&request.file, error))
        };
        let _lock = missing.first().map(lock).transpose()?;
        let is_complete = missing.is_empty();
        let (mut files, mut unlisted) = (Vec::with_capacity(requested.len()), Vec::new());
        for (request, entry) in requested.iter().zip(entries) {
            files.push(match entry {
                // Present files have just been verified.
                CacheEntry::Present(path) => Some(path),
                CacheEntry::Absent if is_complete => None,
                CacheEntry::Unknown if is_unlisted(request) => {
                    unlisted.push(&request.file);
                    None
                }
                CacheEntry::Absent | CacheEntry::Unknown => {
                    self.fetch_file(&client, &commit, request, is_listed(&request.file))?
                }
            });
        }
        let mark_absent = |file: &&String| self.cache.mark_absent(&commit, file);
        let marked = unlisted.iter().try_for_each(mark_absent);
        match marked.and_then(|()| self.record_commit(&commit, listed)) {
            // The record is only needed when the hub is down, so a cache that may not be written is fine.
            Err(error) if is_complete => tracing::debug!("{error}"),
            Err(error) => tracing::warn!(
                "the download cache does not know {} without the hub, although all files are in it: {error}",
                self.repo_ref
            ),
            Ok(()) => {}
        }
        Ok(self.resolved(&commit, files, details))
    }

    /// Stores in the cache that the branch or tag points to `commit` now, and the names of all files of the
    /// commit, `listed`, if the selection needs them, so that
    /// [`resolve_from_cache`](Self::resolve_from_cache) finds both when the hub is down.
    fn record_commit(&self, commit: &str, listed: Option<&[String]>) -> Result<(), HubError> {
        if self.needs_file_list()
            && let Some(listed) = listed
        {
            self.cache.write_file_list(commit, listed)?;
        }
        match self.repo_ref.commit() {
            Some(_) => Ok(()),
            None => self.cache.write_ref(self.repo_ref.revision_or_main(), commit),
        }
    }

    /// The local path of a file of `commit`, verified by its hash: from the cache, or else downloaded. `None` if
    /// it is a config file that the commit lacks. It is an error if the commit lacks another file, or if the
    /// hub lists the file among those of the commit (`is_listed`) but does not deliver it.
    fn fetch_file(
        &self,
        client: &HubClient<'_>,
        commit: &str,
        request: &RequestedFile,
        is_listed: bool,
    ) -> Result<Option<PathBuf>, HubError> {
        let file = request.file.as_str();
        match self.cache.lookup(commit, file)? {
            CacheEntry::Present(path) => return Ok(Some(path)),
            CacheEntry::Absent if request.is_config && !is_listed => return Ok(None),
            CacheEntry::Absent | CacheEntry::Unknown => {}
        }
        let Some(info) = client.file_info(commit, request)? else {
            if is_listed || !request.is_config {
                let (name, file) = (self.repo_ref.repo_name(), file.into());
                return Err(HubError::FileNotFound { name, file, found: Vec::new() });
            }
            self.cache.mark_absent(commit, file).map_err(|error| self.unwritable(file, error))?;
            return Ok(None);
        };
        let stored = self.store_file(client, commit, file, &info);
        stored.map(Some).map_err(|error| self.unwritable(file, error))
    }

    /// Downloads `file` of `commit`, which the hub describes with `info`, unless the cache has its blob, and
    /// returns its local path.
    fn store_file(
        &self,
        client: &HubClient<'_>,
        commit: &str,
        file: &str,
        info: &FileInfo,
    ) -> Result<PathBuf, HubError> {
        // Without a hash, this process alone knows the file by another name until its contents are complete.
        let name = info.hash.clone().unwrap_or_else(|| hash_text(&format!("{commit}/{file}")));
        // Another program may be writing the blob.
        let _lock = self.cache.lock(&name)?;
        let blob = if info.hash.is_some() && self.cache.has_valid_blob(&name)? {
            name
        } else {
            let download = || self.download(client, commit, file, info, &name);
            let blob = download().or_else(|error| {
                if !error.may_be_damage() {
                    return Err(error);
                }
                tracing::warn!(
                    "the download of {file} was damaged or interrupted: downloading the file once more"
                );
                download()
            })?;
            self.progress.finish();
            blob
        };
        self.cache.link_file(commit, file, &blob)
    }

    /// The error that the cache lacks `file` and cannot store it because of `error`; other errors than those of
    /// the cache stay as they are.
    fn unwritable(&self, file: &str, error: HubError) -> HubError {
        match error {
            HubError::Cache { path, source } => {
                HubError::NotStored { name: self.repo_ref.name_with_file(Some(file)), path, source }
            }
            error => error,
        }
    }

    /// Downloads `file` of `commit` into the cache under the name `name`, and verifies it: nothing is stored
    /// under the name of a hash that is not the hash of the contents. Returns the name of the stored blob; if
    /// the hub states no hash in `info`, that is the SHA-256 of what arrived.
    fn download(
        &self,
        client: &HubClient<'_>,
        commit: &str,
        file: &str,
        info: &FileInfo,
        name: &str,
    ) -> Result<String, HubError> {
        let full_name = || self.repo_ref.name_with_file(Some(file));
        let available = self.cache.available_space()?;
        if info.limit > available {
            let (path, bytes) = (self.settings.cache.clone(), info.limit);
            return Err(HubError::NoSpace { name: full_name(), path, bytes, available });
        }
        let mut partial = self.cache.create_partial_blob(name)?;
        client.download(commit, file, info, self.progress, |bytes| partial.write(bytes))?;
        let blob = if info.hash.is_some() {
            if let Some(found) = partial.find_mismatch(name)? {
                return Err(HubError::HashMismatch { name: full_name(), expected: name.into(), found });
            }
            name.into()
        } else {
            let (bytes, hash) = partial.measure()?;
            if let Some(stated) = info.bytes.filter(|stated| *stated != bytes) {
                let source = format!("{bytes} of {stated} bytes arrived").into();
                return Err(HubError::Interrupted { name: full_name(), source });
            }
            tracing::warn!(
                "{} provides no checksum (hash) of {file}, so damage during the download cannot be detected: \
                 using the file unchecked",
                self.settings.base_url()
            );
            hash
        };
        self.cache.store_blob(partial, &blob)?;
        Ok(blob)
    }

    /// The names of all files of `commit`, as the cache has stored them; `None` if the selection does not
    /// need them or the cache does not have them.
    fn file_list(&self, commit: &str) -> Option<Vec<String>> {
        self.needs_file_list().then(|| self.cache.file_list(commit)).flatten()
    }

    /// Whether the selection needs the names of all files of the commit.
    fn needs_file_list(&self) -> bool {
        self.description.is_some()
    }

    /// The name of the description if the commit with the files `listed` has it.
    fn listed_description(&self, listed: Option<&[String]>) -> Option<&str> {
        self.description.filter(|file| listed.is_some_and(|listed| listed.iter().any(|known| known == file)))
    }

    /// The result of a fetch from `files`, the local paths of the requested files in order (`None` for
    /// optional files that the commit lacks): adds the `hf://` name with `commit`, for messages, the folder and
    /// the `details` of the selection.
    fn resolved(&self, commit: &str, files: Vec<Option<PathBuf>>, details: T) -> ResolvedFiles<T> {
        ResolvedFiles {
            origin: self.repo_ref.at_revision(commit).to_string(),
            root: self.cache.snapshot_dir(commit),
            files,
            details,
        }
    }
}

/// The text of the file `path` in the cache; bytes that are not UTF-8 are replaced.
fn read_text(path: PathBuf) -> Result<String, HubError> {
    match fs::read(&path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(source) => Err(HubError::Cache { path, source }),
    }
}
