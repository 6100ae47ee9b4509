//! Weights from the Hugging Face hub, through the cache that Python's huggingface_hub shares.
//!
//! hf-hub moves the bytes and lays out the cache; it does not check them. [`fetch`] does:
//!
//! - Every file is compared with its etag, the hash under which the cache keeps it, after each download and at each later
//!   use: a copy that a killed process, another program or the disk left damaged is never read. It is removed and fetched
//!   anew, once. A server whose etags are no hashes gets a line that says so.
//! - A revision is first resolved to its commit, and all files are those of that commit. What the cache has is not asked for
//!   again; with a commit as the revision, nothing is asked at all.
//! - When the hub is down, the commit that the branch or tag was at when it was last fetched serves, with a line.
//! - Of several processes that want the same, one fetches.

mod cache;
mod client;
mod error;
mod name;
mod settings;
mod verify;

use std::path::{Path, PathBuf};

use crate::source::{DownloadProgress, WeightFiles, is_pickled};
use cache::{Blobs, Cache, Entry};
use client::{Client, Failure, Revision};
pub use error::{Cause, HubError};
pub use name::HubSource;
pub use settings::HubSettings;
use verify::Verdict;

/// What tells the architecture and timm's preprocessing.
const CONFIG: &str = "config.json";

/// What tells transformers' preprocessing.
const PREPROCESSOR: &str = "preprocessor_config.json";

/// The lock that one process holds while it fetches.
const LOCK: &str = "headstock";

/// Fetches the weights and the two records beside them, `config.json` and `preprocessor_config.json` where there are any,
/// with the settings of huggingface_hub's environment variables.
///
/// # Errors
/// [`HubError`]. Whatever was found wrong is gone from the cache by then.
pub fn fetch(source: &HubSource, progress: &dyn DownloadProgress) -> Result<WeightFiles, HubError> {
    fetch_with(source, &HubSettings::from_environment(), progress)
}

/// As [`fetch`], with settings of one's own.
///
/// # Errors
/// [`HubError`].
pub fn fetch_with(
    source: &HubSource,
    settings: &HubSettings,
    progress: &dyn DownloadProgress,
) -> Result<WeightFiles, HubError> {
    let cache = Cache::new(&settings.cache, source.repo());
    let fetch = Fetch { source, settings, progress, cache };
    if settings.offline {
        return fetch.kept()?.ok_or_else(|| HubError::Offline {
            name: source.naming(Some(source.weights())),
            cache: settings.cache.clone(),
        });
    }
    if let Some(commit) = source.commit()
        && let Some(files) = fetch.cached(commit, Unknown::Ask)?
    {
        return Ok(files);
    }
    match fetch.online() {
        Err(error) if error.is_outage() => match fetch.kept()? {
            Some(files) => {
                tracing::warn!("going on with {} from the cache: {error}", files.origin);
                Ok(files)
            }
            None => Err(error),
        },
        fetched => fetched,
    }
}

/// One call of [`fetch_with`].
struct Fetch<'a> {
    source: &'a HubSource,
    settings: &'a HubSettings,
    progress: &'a dyn DownloadProgress,
    cache: Cache,
}

/// What to do about a record that the cache knows nothing of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    Ask,
    LeaveOut,
}

impl Fetch<'_> {
    /// The files of `commit` out of the cache.
    fn cached(&self, commit: &str, unknown: Unknown) -> Result<Option<WeightFiles>, HubError> {
        let mut records = [None, None];
        let mut left_out = Vec::new();
        for (place, file) in records.iter_mut().zip(self.records()) {
            match self.look(commit, &file)? {
                Entry::Here(path) => *place = Some(path),
                Entry::Absent => {}
                Entry::Unknown if unknown == Unknown::Ask => return Ok(None),
                Entry::Unknown => left_out.push(file),
            }
        }
        let Entry::Here(weights) = self.look(commit, self.source.weights())? else { return Ok(None) };
        for file in left_out {
            tracing::warn!("only the hub knows whether {} has a {file}: going on without", self.source);
        }
        Ok(Some(self.files(commit, weights, records)))
    }

    /// The files out of the cache without asking the hub, of the commit that a branch was at last.
    fn kept(&self) -> Result<Option<WeightFiles>, HubError> {
        let last = || self.cache.reference(self.source.branch());
        match self.source.commit().map(str::to_owned).or_else(last) {
            Some(commit) => self.cached(&commit, Unknown::LeaveOut),
            None => Ok(None),
        }
    }

    /// Asks the hub, and downloads what the cache lacks.
    fn online(&self) -> Result<WeightFiles, HubError> {
        let client = Client::new(self.source, self.settings)?;
        let Revision { commit, files: listed } = client.revision()?;
        let lists = |file: &str| listed.as_ref().map(|listed| listed.iter().any(|known| known == file));
        if lists(self.source.weights()) == Some(false) {
            return Err(self.missing(listed.unwrap_or_default()));
        }
        if let Some(files) = self.cached(&commit, Unknown::Ask)? {
            // Only for the day when the hub is down: a cache that may not be written serves as well.
            if let Err(error) = self.note(&commit) {
                tracing::debug!("{error}");
            }
            return Ok(files);
        }

        let _lock = self.cache.lock(LOCK, self.settings.patience)?;
        // The small ones first: what is amiss shows before the large one is fetched.
        let mut records = [None, None];
        for (place, file) in records.iter_mut().zip(self.records()) {
            *place = self.obtain(&client, &commit, &file, lists(&file))?;
        }
        let weights = self.source.weights();
        let Some(weights) = self.obtain(&client, &commit, weights, lists(weights))? else {
            return Err(self.missing(Vec::new()));
        };
        self.note(&commit)?;
        Ok(self.files(&commit, weights, records))
    }

    /// Notes that the branch or tag is at `commit`.
    fn note(&self, commit: &str) -> Result<(), HubError> {
        match self.source.commit() {
            Some(_) => Ok(()),
            None => self.cache.set_reference(self.source.branch(), commit),
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
                    let name = self.source.repository();
                    return Err(HubError::File { name, file: file.into(), found: Vec::new() });
                }
                Err(Failure::Busy(blob)) => {
                    // Another program writes it: hf-hub finds it once that is done.
                    self.cache.lock(&blob, self.settings.patience)?;
                    continue;
                }
                Err(Failure::Interrupted(source)) => {
                    self.sweep(&before);
                    HubError::Interrupted { name: self.source.naming(Some(file)), source }
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
                    let name = self.source.naming(Some(file));
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

    /// The records' paths in the repository.
    fn records(&self) -> [String; 2] {
        [CONFIG, PREPROCESSOR].map(|file| self.source.beside(file))
    }

    fn files(&self, commit: &str, weights: PathBuf, records: [Option<PathBuf>; 2]) -> WeightFiles {
        let [config, preprocessor] = records;
        WeightFiles { weights, config, preprocessor, origin: self.source.at(commit).to_string() }
    }

    /// The weights are not among `listed`.
    fn missing(&self, mut listed: Vec<String>) -> HubError {
        let pickled = listed.iter().find(|file| is_pickled(Path::new(file))).cloned();
        if listed.iter().any(|file| file.ends_with(".safetensors")) {
            listed.retain(|file| file.ends_with(".safetensors"));
        } else if let Some(pickled) = pickled {
            return HubError::Pickled { name: self.source.repository(), pickled };
        }
        HubError::File { name: self.source.repository(), file: self.source.weights().into(), found: listed }
    }
}
