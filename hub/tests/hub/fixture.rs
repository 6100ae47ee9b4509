//! A test hub with a repository and an empty cache, and helpers to inspect them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use headstock_hub::{
    DatasetFiles, DownloadProgress, HubError, HubSettings, WeightFiles, fetch_dataset_with,
    fetch_weights_with,
};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tracing::Dispatch;
use tracing::subscriber::NoSubscriber;

use super::server::{HubFile, TestHub, hex};

pub(crate) const REPO: &str = "owner/resnet.test";
pub(crate) const COMMIT: &str = "1111111111111111111111111111111111111111";
pub(crate) const LATER: &str = "2222222222222222222222222222222222222222";

/// The folder of the repository in the cache, named as in Python.
pub(crate) const FOLDER: &str = "models--owner--resnet.test";

/// A repository with a data set.
pub(crate) const DATASET: &str = "datasets/owner/photos";

pub(crate) fn small_file(text: &str) -> HubFile {
    HubFile { bytes: text.into(), large: false, etag: None }
}

/// 400 kB whose contents depend on `seed`.
pub(crate) fn large_file(seed: u32) -> HubFile {
    let bytes = (0..100_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).wrapping_add(seed).to_le_bytes());
    HubFile { bytes: bytes.collect(), large: true, etag: None }
}

/// A test hub, and settings with an empty cache.
pub(crate) struct HubFixture {
    pub(crate) hub: TestHub,
    pub(crate) settings: HubSettings,
    repo: &'static str,
    root: tempfile::TempDir,
}

/// A call of [`DownloadProgress`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProgressEvent {
    Start(String, Option<u64>),
    /// The sum of consecutive calls of `advance`.
    Bytes(u64),
    Finish,
}

#[derive(Default)]
pub(crate) struct ProgressRecorder(Mutex<Vec<ProgressEvent>>);

impl ProgressRecorder {
    pub(crate) fn into_events(self) -> Vec<ProgressEvent> {
        self.0.into_inner().unwrap()
    }
}

impl DownloadProgress for ProgressRecorder {
    fn start(&self, file: &str, bytes: Option<u64>) {
        self.0.lock().unwrap().push(ProgressEvent::Start(file.into(), bytes));
    }

    fn advance(&self, bytes: u64) {
        let mut events = self.0.lock().unwrap();
        match events.last_mut() {
            Some(ProgressEvent::Bytes(sum)) => *sum += bytes,
            _ => events.push(ProgressEvent::Bytes(bytes)),
        }
    }

    fn finish(&self) {
        self.0.lock().unwrap().push(ProgressEvent::Finish);
    }
}

impl HubFixture {
    /// `main` is at [`COMMIT`], with a small `config.json` and a large `model.safetensors`.
    pub(crate) fn new() -> Self {
        Self::with_files(REPO, &[("config.json", small_file("{}")), ("model.safetensors", large_file(0))])
    }

    /// `main` of `repo` is at [`COMMIT`], with these files.
    pub(crate) fn with_files(repo: &'static str, files: &[(&str, HubFile)]) -> Self {
        let hub = TestHub::new(repo);
        hub.add_commit("main", COMMIT, files);
        let root = tempfile::tempdir().unwrap();
        let settings = HubSettings {
            endpoint: hub.endpoint(),
            cache: root.path().join("cache"),
            token: None,
            offline: false,
            idle_timeout: Duration::from_secs(20),
            retry_delay: Duration::from_millis(1),
            max_retry_wait: Duration::from_secs(20),
        };
        Self { hub, settings, repo, root }
    }

    /// The same fixture after the hub has been shut down.
    pub(crate) fn without_hub(self) -> Self {
        Self { hub: TestHub::new(self.repo), ..self }
    }

    /// The temporary folder that contains the cache.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Fetches weights; `rest` follows `hf://owner/name`.
    pub(crate) fn fetch(&self, rest: &str) -> Result<WeightFiles, HubError> {
        self.fetch_with_progress(rest, &ProgressRecorder::default())
    }

    pub(crate) fn fetch_with_progress(
        &self,
        rest: &str,
        progress: &ProgressRecorder,
    ) -> Result<WeightFiles, HubError> {
        fetch_weights_with(&format!("{REPO}{rest}").parse().unwrap(), &self.settings, progress)
    }

    /// Fetches weights and expects an error that leaves nothing damaged in the cache.
    pub(crate) fn fetch_error(&self, rest: &str) -> HubError {
        let error = self.fetch(rest).expect_err(rest);
        self.assert_clean();
        error
    }

    /// The result of fetching weights, and the log.
    pub(crate) fn fetch_with_log(&self, rest: &str) -> (Result<WeightFiles, HubError>, String) {
        let log = LogBuffer::default();
        let result = self.fetch_logging(rest, &log);
        (result, log.text())
    }

    pub(crate) fn fetch_logging(&self, rest: &str, log: &LogBuffer) -> Result<WeightFiles, HubError> {
        with_log(log, || self.fetch(rest))
    }

    /// Fetches a data set; `rest` follows `hf://datasets/owner/name`.
    pub(crate) fn fetch_dataset(&self, rest: &str) -> Result<DatasetFiles, HubError> {
        self.fetch_dataset_with_progress(rest, &ProgressRecorder::default())
    }

    pub(crate) fn fetch_dataset_with_progress(
        &self,
        rest: &str,
        progress: &ProgressRecorder,
    ) -> Result<DatasetFiles, HubError> {
        let uses_split = |split: &str| ["train", "test"].contains(&split);
        let source = format!("{}{rest}", self.repo).parse().unwrap();
        fetch_dataset_with(&source, &uses_split, &self.settings, progress)
    }

    pub(crate) fn fetch_dataset_with_log(&self, rest: &str) -> (Result<DatasetFiles, HubError>, String) {
        let log = LogBuffer::default();
        let result = with_log(&log, || self.fetch_dataset(rest));
        (result, log.text())
    }

    pub(crate) fn repo_cache_dir(&self) -> PathBuf {
        let kind = if self.repo == DATASET { "" } else { "models--" };
        self.settings.cache.join(format!("{kind}{}", self.repo.replace('/', "--")))
    }

    pub(crate) fn blob(&self, content: &HubFile) -> PathBuf {
        self.repo_cache_dir().join("blobs").join(content.etag())
    }

    pub(crate) fn link(&self, commit: &str, file: &str) -> PathBuf {
        self.repo_cache_dir().join("snapshots").join(commit).join(file)
    }

    /// Checks that all blobs are complete and have correct hashes, and that links and refs are valid.
    pub(crate) fn assert_clean(&self) {
        for path in files_below(&self.repo_cache_dir().join("blobs")) {
            let bytes = fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            let git = Sha1::digest([format!("blob {}\0", bytes.len()).as_bytes(), &bytes].concat());
            let sha256 = Sha256::digest(&bytes);
            assert!(name == hex(&git) || name == hex(&sha256), "{} has a wrong hash", path.display());
        }
        for path in files_below(&self.repo_cache_dir().join("snapshots")) {
            assert!(path.exists(), "{} is a dangling link", path.display());
        }
        for path in files_below(&self.repo_cache_dir().join("refs")) {
            let commit = fs::read_to_string(&path).unwrap();
            assert!(self.link(&commit, "").is_dir(), "{} refers to a missing commit", path.display());
        }
    }
}

/// All files and links below a folder.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort_unstable();
    found
}

/// Runs `run` and writes its log to `log`.
fn with_log<T>(log: &LogBuffer, run: impl FnOnce() -> T) -> T {
    LazyLock::force(&EXTRA_DISPATCHES);
    let log = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .with_ansi(false)
        .with_writer(move || log.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, run)
}

/// Further subscribers, without which an event that is first reached by a thread without subscriber would be
/// disabled globally.
static EXTRA_DISPATCHES: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::default())));

/// A log in memory.
#[derive(Clone, Default)]
pub(crate) struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl LogBuffer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
