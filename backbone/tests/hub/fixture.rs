//! A hub with a repository, an empty cache, and what the tests look at.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use headstock_backbone::hub::{DatasetFiles, HubError, HubSettings, fetch_dataset_with, fetch_weights_with};
use headstock_backbone::{DownloadProgress, WeightFiles};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tracing::Dispatch;
use tracing::subscriber::NoSubscriber;

use super::server::{HubFile, TestHub, hex};

pub(crate) const REPO: &str = "owner/resnet.test";
pub(crate) const COMMIT: &str = "1111111111111111111111111111111111111111";
pub(crate) const LATER: &str = "2222222222222222222222222222222222222222";

/// The repository's folder in the cache, as Python names it.
pub(crate) const FOLDER: &str = "models--owner--resnet.test";

/// A repository with a data set.
pub(crate) const DATASET: &str = "datasets/owner/photos";

pub(crate) fn small_file(text: &str) -> HubFile {
    HubFile { bytes: text.into(), large: false, etag: None }
}

/// A few hundred kilobytes that differ with `seed`.
pub(crate) fn large_file(seed: u32) -> HubFile {
    let bytes =
        (0..100_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).wrapping_add(seed).to_le_bytes());
    HubFile { bytes: bytes.collect(), large: true, etag: None }
}

pub(crate) struct HubFixture {
    pub(crate) hub: TestHub,
    pub(crate) settings: HubSettings,
    repo: &'static str,
    root: tempfile::TempDir,
}

/// What progress was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProgressEvent {
    Start(String, Option<u64>),
    /// All that was told between two others.
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
        let mut told = self.0.lock().unwrap();
        match told.last_mut() {
            Some(ProgressEvent::Bytes(sum)) => *sum += bytes,
            _ => told.push(ProgressEvent::Bytes(bytes)),
        }
    }

    fn finish(&self) {
        self.0.lock().unwrap().push(ProgressEvent::Finish);
    }
}

impl HubFixture {
    /// `main` is at [`COMMIT`], with a small `config.json` and a large `model.safetensors`.
    pub(crate) fn new() -> Self {
        Self::with(REPO, &[("config.json", small_file("{}")), ("model.safetensors", large_file(0))])
    }

    /// `main` of `repo` is at [`COMMIT`], with these files.
    pub(crate) fn with(repo: &'static str, files: &[(&str, HubFile)]) -> Self {
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
        };
        Self { hub, settings, repo, root }
    }

    /// The same, with nobody at the hub's address.
    pub(crate) fn without_hub(self) -> Self {
        Self { hub: TestHub::new(self.repo), ..self }
    }

    /// A folder for whatever a test needs beside the cache.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// What follows `hf://owner/name`.
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

    /// The error, after which nothing wrong is left in the cache.
    pub(crate) fn fetch_error(&self, rest: &str) -> HubError {
        let error = self.fetch(rest).expect_err(rest);
        self.assert_clean();
        error
    }

    /// The lines that were logged meanwhile, beside the result.
    pub(crate) fn fetch_with_log(&self, rest: &str) -> (Result<WeightFiles, HubError>, String) {
        let lines = LogBuffer::default();
        let result = self.fetch_logging(rest, &lines);
        (result, lines.text())
    }

    pub(crate) fn fetch_logging(&self, rest: &str, lines: &LogBuffer) -> Result<WeightFiles, HubError> {
        with_log(lines, || self.fetch(rest))
    }

    /// The data set; `rest` is what follows its `hf://datasets/owner/name`.
    pub(crate) fn fetch_dataset(&self, rest: &str) -> Result<DatasetFiles, HubError> {
        self.fetch_dataset_with_progress(rest, &ProgressRecorder::default())
    }

    pub(crate) fn fetch_dataset_with_progress(
        &self,
        rest: &str,
        progress: &ProgressRecorder,
    ) -> Result<DatasetFiles, HubError> {
        fetch_dataset_with(&format!("{}{rest}", self.repo).parse().unwrap(), &self.settings, progress)
    }

    pub(crate) fn fetch_dataset_with_log(&self, rest: &str) -> (Result<DatasetFiles, HubError>, String) {
        let lines = LogBuffer::default();
        let result = with_log(&lines, || self.fetch_dataset(rest));
        (result, lines.text())
    }

    pub(crate) fn repo_cache_dir(&self) -> PathBuf {
        let kind = if self.repo == DATASET { "" } else { "models--" };
        self.settings.cache.join(format!("{kind}{}", self.repo.replace('/', "--")))
    }

    pub(crate) fn blob(&self, content: &HubFile) -> PathBuf {
        self.repo_cache_dir().join("blobs").join(content.etag())
    }

    pub(crate) fn pointer(&self, commit: &str, file: &str) -> PathBuf {
        self.repo_cache_dir().join("snapshots").join(commit).join(file)
    }

    /// Every blob is what its name says, nothing is half-written, and every link leads somewhere.
    pub(crate) fn assert_clean(&self) {
        for path in files_below(&self.repo_cache_dir().join("blobs")) {
            let bytes = fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            let git = Sha1::digest([format!("blob {}\0", bytes.len()).as_bytes(), &bytes].concat());
            assert!(name == hex(&git) || name == hex(&Sha256::digest(&bytes)), "{} is wrong", path.display());
        }
        for path in files_below(&self.repo_cache_dir().join("snapshots")) {
            assert!(path.exists(), "{} leads nowhere", path.display());
        }
        for path in files_below(&self.repo_cache_dir().join("refs")) {
            let commit = fs::read_to_string(&path).unwrap();
            assert!(
                self.pointer(&commit, "").is_dir(),
                "{} names a commit that is not there",
                path.display()
            );
        }
    }
}

/// All files below a folder, links among them.
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

/// Runs with the lines that are logged going to `lines`.
fn with_log<T>(lines: &LogBuffer, run: impl FnOnce() -> T) -> T {
    LazyLock::force(&EXTRA_DISPATCHES);
    let lines = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .with_ansi(false)
        .with_writer(move || lines.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, run)
}

/// While there is one subscriber only, an event that a thread without it meets first counts as of no interest to anyone.
static EXTRA_DISPATCHES: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::default())));

/// Where lines are logged to.
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
