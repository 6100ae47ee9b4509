//! Files of one commit, from the cache or the hub, verified, and downloaded by one process at a time.

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

/// Returns the files to fetch from a commit, in order of download. Its argument are the names of all files of
/// that commit; `None` if they are not known.
type SelectFiles<'a> = dyn Fn(Option<&[String]>) -> Result<Vec<RequestedFile>, HubError> + Sync + 'a;

/// The local files of a commit.
pub(crate) struct ResolvedFiles {
    /// The `hf://` name with the commit.
    pub(crate) origin: String,
    /// The folder with the files of the commit.
    pub(crate) root: PathBuf,
    /// The requested files in order; `None` for optional files that the commit lacks.
    pub(crate) files: Vec<Option<PathBuf>>,
}

/// Returns the local paths of the files of `repo_ref` that `select` selects, all of one commit, after
/// downloading those that the cache lacks from the hub. If the hub is down, an earlier commit of the branch or
/// tag in the cache is used. With `needs_file_list`, the files are selected from the complete file list of
/// the commit; the cache then stores that list, to know whether it has all selected files.
pub(crate) fn fetch(
    repo_ref: &RepoRef,
    needs_file_list: bool,
    select: &SelectFiles<'_>,
    settings: &HubSettings,
    progress: &dyn DownloadProgress,
) -> Result<ResolvedFiles, HubError> {
    let cache = RepoCache::new(&settings.cache, repo_ref);
    let job = FetchJob { repo_ref, needs_file_list, select, settings, progress, cache };
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
struct FetchJob<'a> {
    repo_ref: &'a RepoRef,
    needs_file_list: bool,
    select: &'a SelectFiles<'a>,
    settings: &'a HubSettings,
    progress: &'a dyn DownloadProgress,
    cache: RepoCache,
}

impl FetchJob<'_> {
    /// The paths of the selected files of `commit` in the cache, without any request to the hub, and the
    /// config files of which the cache does not know whether the commit has them. `None` if the cache lacks a
    /// file.
    fn cached_at_commit(&self, commit: &str) -> Result<Option<(ResolvedFiles, Vec<String>)>, HubError> {
        let listed = self.file_list(commit);
        if self.needs_file_list && listed.is_none() {
            return Ok(None);
        }
        let (mut files, mut unknown) = (Vec::new(), Vec::new());
        for RequestedFile { file, is_config } in (self.select)(listed.as_deref())? {
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
        Ok(Some((self.resolved(commit, files), unknown)))
    }

    /// The selected files from the cache, without any request, for use offline or while the hub is down:
    /// those of the requested commit or, for a branch or tag, of its latest downloaded commit. `None` if the
    /// cache has no such commit or lacks a file. A config file that the commit may have is left out with a
    /// warning.
    fn resolve_from_cache(&self) -> Result<Option<ResolvedFiles>, HubError> {
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
    /// downloading the same files.
    fn resolve_from_hub(&self) -> Result<ResolvedFiles, HubError> {
        let client = HubClient::new(self.repo_ref, self.settings)?;
        let RevisionInfo { commit, files: mut listed } = client.resolve_revision()?;
        if self.needs_file_list {
            listed = Some(match self.file_list(&commit) {
                Some(listed) => listed,
                None => client.all_files(&commit, listed)?,
            });
        }
        let listed = listed.as_deref();
        let requested = (self.select)(listed)?;
        let is_listed = |file: &String| listed.is_some_and(|listed| listed.contains(file));
        let lookup = |request: &RequestedFile| self.cache.lookup(&commit, &request.file);
        let entries = requested.iter().map(lookup).collect::<Result<Vec<_>, _>>()?;
        let is_missing = |(request, entry): (&RequestedFile, &CacheEntry)| match entry {
            CacheEntry::Present(_) => false,
            CacheEntry::Absent => !request.is_config,
            CacheEntry::Unknown => true,
        };
        let n_missing = requested.iter().zip(&entries).filter(|&pair| is_missing(pair)).count();
        if n_missing > 0 && self.needs_file_list {
            tracing::info!(
                "{}: downloading {n_missing} of the {} files (the others are in the download cache)",
                self.repo_ref.at_revision(&commit),
                requested.len()
            );
        }
        let _lock = (n_missing > 0).then(|| self.cache.lock(LOCK)).transpose()?;
        let mut files = Vec::with_capacity(requested.len());
        for (request, entry) in requested.into_iter().zip(entries) {
            files.push(match entry {
                // Present files have just been verified.
                CacheEntry::Present(path) => Some(path),
                CacheEntry::Absent if n_missing == 0 => None,
                CacheEntry::Absent | CacheEntry::Unknown => {
                    self.fetch_file(&client, &commit, &request, is_listed(&request.file))?
                }
            });
        }
        match self.record_commit(&commit, listed) {
            // The record is only needed when the hub is down, so a read-only cache is fine.
            Err(error) if n_missing == 0 => tracing::debug!("{error}"),
            result => result?,
        }
        Ok(self.resolved(&commit, files))
    }

    /// Stores in the cache that the branch or tag points to `commit` now, and the names of all files of the
    /// commit, `listed`, if the selection needs them, so that
    /// [`resolve_from_cache`](Self::resolve_from_cache) finds both when the hub is down.
    fn record_commit(&self, commit: &str, listed: Option<&[String]>) -> Result<(), HubError> {
        if self.needs_file_list
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
            self.cache.mark_absent(commit, file)?;
            return Ok(None);
        };
        // Without a hash, this process alone knows the file by another name until its contents are complete.
        let name = info.hash.clone().unwrap_or_else(|| hash_text(&format!("{commit}/{file}")));
        // Another program may be writing the blob.
        let _lock = self.cache.lock(&name)?;
        let blob = if info.hash.is_some() && self.cache.has_valid_blob(&name)? {
            name
        } else {
            let download = || self.download(client, commit, file, &info, &name);
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
        self.cache.link_file(commit, file, &blob).map(Some)
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
        self.needs_file_list.then(|| self.cache.file_list(commit)).flatten()
    }

    /// The result of a fetch from `files`, the local paths of the requested files in order (`None` for
    /// optional files that the commit lacks): adds the `hf://` name with `commit`, for messages, and the
    /// folder.
    fn resolved(&self, commit: &str, files: Vec<Option<PathBuf>>) -> ResolvedFiles {
        ResolvedFiles {
            origin: self.repo_ref.at_revision(commit).to_string(),
            root: self.cache.snapshot_dir(commit),
            files,
        }
    }
}
