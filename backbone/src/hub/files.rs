//! Files of one commit, out of the cache or from the hub: resolved, checked, fetched by one process at a time.

use std::path::{Path, PathBuf};

use super::cache::{Blobs, Cache, Entry};
use super::client::{Client, Failure, Revision};
use super::error::HubError;
use super::name::Place;
use super::settings::HubSettings;
use super::verify::Verdict;
use crate::error::ErrorKind;
use crate::source::DownloadProgress;

/// The lock that one process holds while it fetches.
const LOCK: &str = "headstock";

/// What is wanted of a repository.
pub(super) trait Wanted {
    fn place(&self) -> &Place;

    /// Whether the files are chosen from the list of all that the commit has. The cache keeps that list, for it has the files
    /// that were chosen only if it has all of them.
    fn is_by_list(&self) -> bool;

    /// The files to fetch of a commit, in this order; `listed` is what it has, where that is known.
    fn files(&self, listed: Option<&[String]>) -> Result<Vec<Wish>, HubError>;
}

/// A file to fetch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) file: String,
    /// Whether a commit without it does as well.
    pub(super) is_optional: bool,
}

/// The files of a commit, on this machine.
pub(super) struct Found {
    /// The place, at the commit.
    pub(super) origin: String,
    /// The folder of the commit's files.
    pub(super) root: PathBuf,
    /// As they were wished for; `None` for what the commit does not have.
    pub(super) files: Vec<Option<PathBuf>>,
}

/// The wanted files; `None` when the settings forbid the network and the cache has not all of them.
pub(super) fn fetch(
    wanted: &dyn Wanted,
    settings: &HubSettings,
    progress: &dyn DownloadProgress,
) -> Result<Option<Found>, HubError> {
    let place = wanted.place();
    let fetch = Fetch { wanted, place, settings, progress, cache: Cache::new(&settings.cache, place) };
    if settings.offline {
        return fetch.kept();
    }
    if let Some(commit) = place.commit()
        && let Some(found) = fetch.cached(commit, Unknown::Ask)?
    {
        return Ok(Some(found));
    }
    let error = match fetch.online() {
        Err(error) if error.is_outage() => error,
        fetched => return fetched.map(Some),
    };
    match fetch.kept() {
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
struct Fetch<'a> {
    wanted: &'a dyn Wanted,
    place: &'a Place,
    settings: &'a HubSettings,
    progress: &'a dyn DownloadProgress,
    cache: Cache,
}

/// What to do about an optional file that the cache knows nothing of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    Ask,
    LeaveOut,
}

impl Fetch<'_> {
    /// The files of `commit` out of the cache.
    fn cached(&self, commit: &str, unknown: Unknown) -> Result<Option<Found>, HubError> {
        let listed = self.list(commit);
        if self.wanted.is_by_list() && listed.is_none() {
            return Ok(None);
        }
        let wishes = self.wanted.files(listed.as_deref())?;
        let mut files = Vec::with_capacity(wishes.len());
        let mut left_out = Vec::new();
        for Wish { file, is_optional } in &wishes {
            files.push(match self.look(commit, file)? {
                Entry::Here(path) => Some(path),
                Entry::Absent if *is_optional => None,
                Entry::Unknown if *is_optional && unknown == Unknown::LeaveOut => {
                    left_out.push(file);
                    None
                }
                Entry::Absent | Entry::Unknown => return Ok(None),
            });
        }
        for file in left_out {
            tracing::warn!("only the hub knows whether {} has a {file}: going on without", self.place);
        }
        Ok(Some(self.found(commit, files)))
    }

    /// The files out of the cache without asking the hub, of the commit that a branch was at last.
    fn kept(&self) -> Result<Option<Found>, HubError> {
        let last = || self.cache.reference(self.place.branch());
        match self.place.commit().map(str::to_owned).or_else(last) {
            Some(commit) => self.cached(&commit, Unknown::LeaveOut),
            None => Ok(None),
        }
    }

    /// Asks the hub, and downloads what the cache lacks.
    fn online(&self) -> Result<Found, HubError> {
        let client = Client::new(self.place, self.settings)?;
        let Revision { commit, files: mut listed } = client.revision()?;
        if self.wanted.is_by_list() {
            listed = Some(match self.list(&commit) {
                Some(listed) => listed,
                None => client.whole(&commit, listed)?,
            });
        }
        let listed = listed.as_deref();
        let wishes = self.wanted.files(listed)?;
        let mut entries = Vec::with_capacity(wishes.len());
        for wish in &wishes {
            entries.push(self.look(&commit, &wish.file)?);
        }
        let lacks = |(wish, entry): (&Wish, &Entry)| match entry {
            Entry::Here(_) => false,
            Entry::Absent => !wish.is_optional,
            Entry::Unknown => true,
        };
        let lacking = wishes.iter().zip(&entries).filter(|&pair| lacks(pair)).count();
        if lacking == 0 {
            // Only for the day when the hub is down: a cache that may not be written serves as well.
            if let Err(error) = self.note(&commit, listed) {
                tracing::debug!("{error}");
            }
            let here = |entry| if let Entry::Here(path) = entry { Some(path) } else { None };
            return Ok(self.found(&commit, entries.into_iter().map(here).collect()));
        }
        if self.wanted.is_by_list() {
            tracing::info!("fetching {lacking} of the {} files of {}", wishes.len(), self.place.at(&commit));
        }

        let _lock = self.cache.lock(LOCK, self.settings.patience)?;
        let mut files = Vec::with_capacity(wishes.len());
        for (Wish { file, is_optional }, entry) in wishes.into_iter().zip(entries) {
            // What is here was checked a moment ago.
            let path = match entry {
                Entry::Here(path) => Some(path),
                Entry::Absent | Entry::Unknown => {
                    let is_listed = listed.map(|listed| listed.contains(&file));
                    self.obtain(&client, &commit, &file, is_listed)?
                }
            };
            if path.is_none() && !is_optional {
                return Err(self.no_file(file));
            }
            files.push(path);
        }
        self.note(&commit, listed)?;
        Ok(self.found(&commit, files))
    }

    /// Notes what `commit` has, where that is asked for, and that the branch or tag is at it.
    fn note(&self, commit: &str, listed: Option<&[String]>) -> Result<(), HubError> {
        if self.wanted.is_by_list()
            && let Some(listed) = listed
        {
            self.cache.set_list(commit, listed)?;
        }
        match self.place.commit() {
            Some(_) => Ok(()),
            None => self.cache.set_reference(self.place.branch(), commit),
        }
    }

    /// A file out of the cache or from the hub, checked; `None` when the repository has none, which must agree with what it
    /// lists. A download that is wrong is removed and made once more.
    fn obtain(
        &self,
        client: &Client<'_>,
        commit: &str,
        file: &str,
        is_listed: Option<bool>,
    ) -> Result<Option<PathBuf>, HubError> {
        match self.look(commit, file)? {
            Entry::Here(path) => return Ok(Some(path)),
            Entry::Absent if is_listed != Some(true) => return Ok(None),
            Entry::Absent | Entry::Unknown => {}
        }
        let mut is_second = false;
        loop {
            let before = self.cache.blobs()?;
            let error = match client.download(commit, file, self.progress) {
                Ok(path) => match self.check(&path, file, &before)? {
                    None => {
                        self.progress.finish();
                        return Ok(Some(path));
                    }
                    Some(damage) => damage,
                },
                Err(Failure::Missing) if is_listed != Some(true) => return Ok(None),
                Err(Failure::Missing) => {
                    self.cache.unmark(commit, file)?;
                    return Err(self.no_file(file.into()));
                }
                Err(Failure::Busy(blob)) => {
                    // Another program writes it: hf-hub finds it once that is done.
                    self.cache.lock(&blob, self.settings.patience)?;
                    continue;
                }
                Err(Failure::Interrupted(source)) => {
                    self.sweep(&before);
                    HubError::Interrupted { name: self.place.naming(Some(file)), source }
                }
                Err(Failure::Other(error)) => {
                    self.sweep(&before);
                    return Err(error);
                }
            };
            if is_second {
                // A download takes the page of an error for the file; which one it is takes another request.
                let is_damaged = matches!(error, HubError::Damaged { .. });
                return Err(is_damaged.then(|| client.probe(commit, file).err()).flatten().unwrap_or(error));
            }
            tracing::warn!("{file} arrived damaged: fetching it once more");
            is_second = true;
        }
    }

    /// What is wrong with a file that was downloaded; it is removed then.
    fn check(&self, path: &Path, file: &str, before: &Blobs) -> Result<Option<HubError>, HubError> {
        for (blob, verdict) in self.cache.check(path, before)? {
            match verdict {
                Verdict::Right => {}
                Verdict::Unchecked => {
                    tracing::warn!(
                        "{} gives no hash of {file}: it is used unchecked",
                        self.settings.address()
                    );
                }
                Verdict::Wrong(found) => {
                    self.cache.reject(path, &blob, self.settings.patience)?;
                    let name = self.place.naming(Some(file));
                    return Ok(Some(HubError::Damaged { name, expected: blob, found }));
                }
            }
        }
        Ok(None)
    }

    /// Clears up after a download that failed; that it failed matters more than that this does.
    fn sweep(&self, before: &Blobs) {
        if let Err(error) = self.cache.sweep(before) {
            tracing::warn!("{error}");
        }
    }

    fn look(&self, commit: &str, file: &str) -> Result<Entry, HubError> {
        self.cache.look(commit, file, self.settings.patience)
    }

    /// The list of what `commit` has, where that is asked for and the cache keeps it.
    fn list(&self, commit: &str) -> Option<Vec<String>> {
        self.wanted.is_by_list().then(|| self.cache.list(commit)).flatten()
    }

    fn found(&self, commit: &str, files: Vec<Option<PathBuf>>) -> Found {
        Found { origin: self.place.at(commit).to_string(), root: self.cache.snapshot(commit), files }
    }

    /// A file that is not there though the hub may list it.
    fn no_file(&self, file: String) -> HubError {
        HubError::File { name: self.place.repository(), file, found: Vec::new() }
    }
}
