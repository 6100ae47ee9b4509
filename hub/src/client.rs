//! A client for the hub: hf-hub with timeouts, progress reports and helpful errors.
//!
//! This uses the asynchronous client of hf-hub. It requests file metadata through an internal HTTP client
//! without a timeout, so the only way to stop waiting for an unresponsive server is to drop the request.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::repository::{HFRepository, RepoTreeEntry, RepoType, RepoTypeAny};
use hf_hub::{HFClient, HFError, HFResult};
use reqwest::Url;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::error::{BoxError, HubError};
use crate::name::{RepoRef, is_commit};
use crate::settings::HubSettings;
use crate::repo_kind::RepoKind;
use crate::progress::DownloadProgress;

/// The timeout for connecting to a server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

/// The number of retries of a failed request.
const MAX_RETRIES: usize = 2;

/// The interval of progress reports.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The hub's list of the files of a revision is complete up to this length, according to huggingface_hub.
const MAX_LISTED_FILES: usize = 50_000;

/// An invalid header value, so that hf-hub sends no token. Without a value it would read the environment.
const NO_TOKEN: &str = "\n";

/// A client for one repository.
pub(crate) struct HubClient<'a> {
    repo_ref: &'a RepoRef,
    settings: &'a HubSettings,
    repo: HFRepository<RepoTypeAny>,
    /// `None` only while the client is dropped.
    runtime: Option<Runtime>,
}

/// The hub's answer about a branch, tag or commit name (a revision): its commit, and the files of that
/// commit.
pub(crate) struct RevisionInfo {
    pub(crate) commit: String,
    /// The files of the commit, if the hub lists them; a very long list may be incomplete.
    pub(crate) files: Option<Vec<String>>,
}

/// Why a download failed.
pub(crate) enum DownloadFailure {
    /// The commit has no such file.
    Missing,
    /// Another process is writing the blob with this name.
    Busy(String),
    /// The transfer was interrupted.
    Interrupted(BoxError),
    /// Any other error.
    Other(HubError),
}

impl<'a> HubClient<'a> {
    /// A client for the repository and revision `repo_ref`, which sends requests to the hub with the
    /// endpoint, the access token and the retry delay of `settings`. Sends nothing yet.
    pub(crate) fn new(repo_ref: &'a RepoRef, settings: &'a HubSettings) -> Result<Self, HubError> {
        let client_error =
            |source: BoxError| HubError::Client { endpoint: settings.base_url().into(), source };
        let agent = concat!("headstock/", env!("CARGO_PKG_VERSION"));
        let http = reqwest::Client::builder()
            .user_agent(agent)
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| client_error(error.into()))?;
        let hub = HFClient::builder()
            .endpoint(settings.base_url())
            .cache_dir(&settings.cache)
            // Without a token hf-hub would look for one itself; `NO_TOKEN` prevents that.
            .token(settings.token.as_deref().unwrap_or(NO_TOKEN))
            .user_agent(agent)
            .client(http)
            .retry_max_attempts(MAX_RETRIES)
            .retry_base_delay(settings.retry_delay)
            .build()
            .map_err(|error| client_error(error.into()))?;
        let kind = match repo_ref.kind() {
            RepoKind::Weights => RepoTypeAny::Model,
            RepoKind::Dataset => RepoTypeAny::Dataset,
        };
        let (owner, name) = hf_hub::split_id(repo_ref.repo());
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(|error| client_error(error.into()))?;
        Ok(Self { repo_ref, settings, repo: hub.repository(kind, owner, name), runtime: Some(runtime) })
    }

    /// Asks the hub for the commit that the requested branch, tag or commit name stands for, and for the list
    /// of its files. All files are then downloaded from that commit, so that they belong together.
    pub(crate) fn resolve_revision(&self) -> Result<RevisionInfo, HubError> {
        // The commit, and the files of the repository, as the hub's API calls them.
        let expand = vec!["sha".to_owned(), "siblings".to_owned()];
        let (hub, owner, name) = (self.repo.client(), self.repo.owner(), self.repo.name());
        let revision = self.repo_ref.revision_or_main();
        let request = async {
            // hf-hub has a separate type for each kind of repository.
            Ok::<_, HFError>(match self.repo_ref.kind() {
                RepoKind::Weights => {
                    let repo = hub.model(owner, name);
                    let info = repo.info().revision(revision).expand(expand).send().await?;
                    (info.sha, info.siblings)
                }
                RepoKind::Dataset => {
                    let repo = hub.dataset(owner, name);
                    let info = repo.info().revision(revision).expand(expand).send().await?;
                    (info.sha, info.siblings)
                }
            })
        };
        // `false`: the short answer arrives at once, so there is no progress before it.
        let info = self.run_with_timeout(request, || false).ok_or_else(|| self.timeout_error(None))?;
        let (sha, files) = info.map_err(|error| self.to_hub_error(error, None))?;
        // The commit becomes a path in the cache.
        let Some(commit) = sha.filter(|sha| is_commit(sha)) else {
            return Err(self.unexpected_answer(None, "the answer contains no commit".into()));
        };
        let files = files.map(|files| files.into_iter().map(|file| file.rfilename).collect());
        Ok(RevisionInfo { commit, files })
    }

    /// The names of all files of `commit`. `listed` is the list that the hub sent with the commit, if any. If
    /// it is complete, it is returned; with more than [`MAX_LISTED_FILES`] names it may be cut off. Otherwise
    /// the names are requested from the hub, page by page.
    pub(crate) fn all_files(
        &self,
        commit: &str,
        listed: Option<Vec<String>>,
    ) -> Result<Vec<String>, HubError> {
        match listed {
            Some(listed) if !listed.is_empty() && listed.len() <= MAX_LISTED_FILES => return Ok(listed),
            _ => {}
        }
        let n_entries = AtomicUsize::new(0);
        let request = async {
            let mut entries = pin!(self.repo.list_tree().revision(commit).recursive(true).send()?);
            let mut files = Vec::new();
            while let Some(entry) = entries.try_next().await? {
                n_entries.fetch_add(1, Ordering::Relaxed);
                if let RepoTreeEntry::File { path, .. } = entry {
                    files.push(path);
                }
            }
            Ok::<_, HFError>(files)
        };
        // The request is alive as long as more entries arrive.
        let mut n_seen = 0;
        let has_progress = || {
            let before = std::mem::replace(&mut n_seen, n_entries.load(Ordering::Relaxed));
            n_seen > before
        };
        let files = self.run_with_timeout(request, has_progress).ok_or_else(|| self.timeout_error(None))?;
        files.map_err(|error| self.to_hub_error(error, None))
    }

    /// Downloads a file of `commit` into the cache, without verifying its hash, and reports the bytes to
    /// `progress`. Returns the path of the file in the cache.
    pub(crate) fn download(
        &self,
        commit: &str,
        file: &str,
        progress: &dyn DownloadProgress,
    ) -> Result<PathBuf, DownloadFailure> {
        let meter = Arc::new(DownloadMeter::default());
        let request =
            self.repo.download_file().filename(file).revision(commit).progress(Arc::clone(&meter)).send();
        let mut reporter =
            ProgressReporter { file, progress, meter: &meter, has_started: false, reported: 0 };
        let result = self.run_with_timeout(request, || reporter.report());
        reporter.report();
        match result {
            None => Err(DownloadFailure::Other(self.timeout_error(Some(file)))),
            Some(Ok(path)) => Ok(path),
            Some(Err(HFError::EntryNotFound { .. })) => Err(DownloadFailure::Missing),
            Some(Err(HFError::CacheLockTimeout { path })) => Err(DownloadFailure::Busy(
                // The lock file has the name of the blob, with the extension `lock`.
                path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            )),
            Some(Err(HFError::Request { source, .. })) if source.is_body() || source.is_decode() => {
                Err(DownloadFailure::Interrupted(source.into()))
            }
            Some(Err(error @ HFError::Xet { .. })) => Err(DownloadFailure::Interrupted(error.into())),
            Some(Err(error)) => Err(DownloadFailure::Other(self.to_hub_error(error, Some(file)))),
        }
    }

    /// Requests the first byte of the file, to find out whether the server delivers the file or an error: a
    /// download of hf-hub saves an error page as if it were the file.
    pub(crate) fn probe_file(&self, commit: &str, file: &str) -> Result<(), HubError> {
        let (hub, owner, name) = (self.repo.client(), self.repo.owner(), self.repo.name());
        let request = async {
            // With `RepoTypeAny` hf-hub would treat a data set as a model here.
            match self.repo_ref.kind() {
                RepoKind::Weights => request_first_byte(&hub.model(owner, name), commit, file).await,
                RepoKind::Dataset => request_first_byte(&hub.dataset(owner, name), commit, file).await,
            }
        };
        // `false`: the single byte arrives at once, so there is no progress before it.
        match self.run_with_timeout(request, || false) {
            None => Err(self.timeout_error(Some(file))),
            Some(result) => result.map_err(|error| self.to_hub_error(error, Some(file))),
        }
    }

    /// Runs a request and returns its result. Asks `has_progress` ten times a second whether data has arrived
    /// since the last call. After the idle timeout of the settings without progress it drops the request and
    /// returns `None`, because hf-hub itself may wait forever for a server.
    fn run_with_timeout<T: Send>(
        &self,
        request: impl Future<Output = HFResult<T>> + Send,
        mut has_progress: impl FnMut() -> bool + Send,
    ) -> Option<HFResult<T>> {
        let runtime = self.runtime.as_ref()?; // `None` only in `drop`
        let watched = async {
            let mut request = pin!(request);
            let mut last_progress = Instant::now();
            loop {
                if let Ok(result) = timeout(POLL_INTERVAL, request.as_mut()).await {
                    return Some(result);
                }
                if has_progress() {
                    last_progress = Instant::now();
                } else if last_progress.elapsed() >= self.settings.idle_timeout {
                    return None;
                }
            }
        };
        // On a separate thread, because `block_on` panics if the caller's thread belongs to another runtime.
        thread::scope(|scope| {
            let worker = scope.spawn(|| runtime.block_on(watched));
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Converts an error of the library hf-hub to one with a message that helps the user. `file` is the file
    /// that was requested; `None` for a request for the repository itself.
    fn to_hub_error(&self, error: HFError, file: Option<&str>) -> HubError {
        match error {
            HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Conflict { context }
            | HFError::RateLimited { context, .. }
            | HFError::Http { context }
            | HFError::RepoNotFound { context: Some(context), .. }
            | HFError::RevisionNotFound { context: Some(context), .. }
            | HFError::EntryNotFound { context: Some(context), .. } => {
                self.status_error(context.status.as_u16(), &context.url, context.error_code.as_deref(), file)
            }
            HFError::Request { source, .. } if source.is_body() || source.is_decode() => {
                self.unexpected_answer(file, source.into())
            }
            HFError::Request { source, .. } => {
                let server = source.url().map(|url| url.origin().ascii_serialization());
                let endpoint = server.unwrap_or_else(|| self.settings.base_url().into());
                HubError::Unreachable { name: self.full_name(file), endpoint, source: source.into() }
            }
            HFError::Io(source) => HubError::Cache { path: self.settings.cache.clone(), source },
            other => self.unexpected_answer(file, other.into()),
        }
    }

    /// The error for an answer to `url` with the HTTP status `status`. Its kind decides what the message
    /// advises: try again, accept terms, or correct a name. `code` is the hub's error code, from a header;
    /// `file` is the file that was requested, `None` for a request for the repository itself.
    fn status_error(&self, status: u16, url: &str, code: Option<&str>, file: Option<&str>) -> HubError {
        let origin = |url: &str| Url::parse(url).map(|url| url.origin().ascii_serialization());
        // Links to file servers contain signatures, so only the host is shown.
        let host = origin(url).unwrap_or_else(|_| url.to_owned());
        let is_hub = origin(self.settings.base_url()).is_ok_and(|hub| hub == host);
        let (repo, endpoint) = (self.repo_ref.page_path(), self.settings.base_url().to_owned());
        let has_token = self.settings.token.is_some();
        match (status, code) {
            (408 | 429 | 500.., _) => HubError::Unavailable { name: self.full_name(file), host, status },
            (_, Some("GatedRepo")) if is_hub => HubError::Gated { repo, endpoint, status, has_token },
            (_, Some("RevisionNotFound")) if is_hub => HubError::RevisionNotFound {
                repo,
                endpoint,
                revision: self.repo_ref.revision_or_main().into(),
            },
            (_, Some("RepoNotFound")) | (401 | 403 | 404, None) if is_hub && file.is_none() => {
                HubError::RepositoryNotFound { repo, endpoint, status, has_token }
            }
            _ => HubError::Refused { name: self.full_name(file), host, status },
        }
    }

    /// The error for an answer that a hub would not give, from a proxy or a different server for example.
    /// `file` is the file that was requested; `None` for a request for the repository itself.
    fn unexpected_answer(&self, file: Option<&str>, source: BoxError) -> HubError {
        HubError::UnexpectedAnswer {
            name: self.full_name(file),
            endpoint: self.settings.base_url().into(),
            source,
        }
    }

    /// The error for a request that was dropped after the idle timeout of the settings. `file` is the file
    /// that was requested; `None` for a request for the repository itself.
    fn timeout_error(&self, file: Option<&str>) -> HubError {
        HubError::TimedOut {
            name: self.full_name(file),
            endpoint: self.settings.base_url().into(),
            seconds: self.settings.idle_timeout.as_secs(),
        }
    }

    /// The `hf://` name of the repository, with `file` if there is one, for messages.
    fn full_name(&self, file: Option<&str>) -> String {
        self.repo_ref.name_with_file(file)
    }
}

impl Drop for HubClient<'_> {
    /// Stops the runtime of the client without waiting for its threads, because a thread of hf-hub may be
    /// blocked by a lock.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Requests the first byte of a file, and drops it: only the status of the answer matters.
async fn request_first_byte<T: RepoType>(repo: &HFRepository<T>, commit: &str, file: &str) -> HFResult<()> {
    repo.download_file_stream().filename(file).revision(commit).range(0..1).send().await.map(drop)
}

/// The state of a download, updated by hf-hub on any thread and read by a [`ProgressReporter`].
#[derive(Default)]
struct DownloadMeter {
    /// Whether the transfer has started, so that `total` is valid.
    started: AtomicBool,
    /// The size of the file in bytes; 0 if it is unknown.
    total: AtomicU64,
    /// Bytes that have arrived.
    done: AtomicU64,
}

impl ProgressHandler for DownloadMeter {
    /// hf-hub calls this during a download: stores the size of the file and the number of bytes that have
    /// arrived, which never decreases, for the [`ProgressReporter`].
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else { return };
        match event {
            DownloadEvent::Start { total_bytes, .. } => {
                self.total.store(*total_bytes, Ordering::Relaxed);
                self.started.store(true, Ordering::Release);
            }
            DownloadEvent::Progress { files } => {
                for file in files {
                    self.done.fetch_max(file.bytes_completed, Ordering::Relaxed);
                }
            }
            DownloadEvent::AggregateProgress { bytes_completed, .. } => {
                self.done.fetch_max(*bytes_completed, Ordering::Relaxed);
            }
            DownloadEvent::Complete => {}
        }
    }
}

/// Reports the changes of a meter to the `progress` of the caller, on the thread of the request.
struct ProgressReporter<'a> {
    file: &'a str,
    progress: &'a dyn DownloadProgress,
    meter: &'a DownloadMeter,
    /// Whether the start of the download has been reported.
    has_started: bool,
    /// Bytes reported so far.
    reported: u64,
}

impl ProgressReporter<'_> {
    /// Reports to the caller's progress display: once the start of the download, and each time the bytes that
    /// have arrived since the last call. Returns whether there was anything to report, so whether the
    /// download is alive.
    fn report(&mut self) -> bool {
        if !self.meter.started.load(Ordering::Acquire) {
            return false;
        }
        let is_start = !self.has_started;
        if is_start {
            let total = self.meter.total.load(Ordering::Relaxed);
            self.progress.start(self.file, Some(total).filter(|&total| total > 0));
            self.has_started = true;
        }
        let done = self.meter.done.load(Ordering::Relaxed);
        let new_bytes = done.saturating_sub(self.reported);
        if new_bytes > 0 {
            self.progress.advance(new_bytes);
            self.reported = done;
        }
        is_start || new_bytes > 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct ProgressLog(Mutex<Vec<String>>);

    impl DownloadProgress for ProgressLog {
        fn start(&self, file: &str, bytes: Option<u64>) {
            self.0.lock().unwrap().push(format!("{file} of {bytes:?}"));
        }

        fn advance(&self, bytes: u64) {
            self.0.lock().unwrap().push(format!("{bytes} more"));
        }

        fn finish(&self) {}
    }

    #[test]
    fn each_report_has_the_bytes_since_the_last_report() {
        for (total, expected_total) in [(30, "Some(30)"), (0, "None")] {
            let (progress, meter) = (ProgressLog::default(), DownloadMeter::default());
            let mut reporter = ProgressReporter {
                file: "x",
                progress: &progress,
                meter: &meter,
                has_started: false,
                reported: 0,
            };
            meter.done.store(5, Ordering::Relaxed);
            assert!(!reporter.report(), "nothing is reported before the start");
            meter.total.store(total, Ordering::Relaxed);
            meter.started.store(true, Ordering::Relaxed);
            assert!(reporter.report() && !reporter.report());
            meter.done.store(12, Ordering::Relaxed);
            assert!(reporter.report() && !reporter.report());
            // A restarted transfer has fewer bytes.
            meter.done.store(3, Ordering::Relaxed);
            assert!(!reporter.report());
            let log = progress.0.into_inner().unwrap();
            assert_eq!(log, [&format!("x of {expected_total}"), "5 more", "7 more"]);
        }
    }
}
