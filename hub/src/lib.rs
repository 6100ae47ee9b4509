//! Weights and data sets from the Hugging Face hub, in the cache shared with Python's huggingface_hub.
//!
//! [`fetch_weights`] and [`fetch_dataset`] download what the cache lacks:
//!
//! - Every file is checked against its etag, the hash of its content that the hub sends and by which the
//!   cache names the file: after the download and at every later use. So a copy damaged by a killed process,
//!   another program or the disk is never read; it is removed and downloaded again, once. If the etags of a
//!   server are not hashes, a warning is logged, and the cache names the file by its own hash.
//! - What a hub answers is not trusted. Only a commit, a hash and the checked path of a file become paths in
//!   the cache. Config files and lists of files have at most 16 MiB, other files the size that the hub
//!   states, for which the disk must have room; longer answers are cut and refused.
//! - If a busy hub asks to wait (`Retry-After`), the request waits, with a warning, up to five minutes; if it
//!   asks for more, the error says when to try again.
//! - A revision (a branch, tag or commit) is first resolved to a commit, and all files are taken from that
//!   commit. Cached files are not requested again; if the revision is a commit and all files are cached,
//!   nothing is requested.
//! - If the hub is down, the last downloaded commit of the branch or tag is used, with a warning. A data set
//!   is used only if the cache has all requested files, which it knows from the stored file list of the
//!   commit.
//! - The `configs` in the README.md of a data set put its files into splits, by the rules of Python's `datasets`.
//! - A cache that may not be written is read: a file is stored only if it is missing.
//! - If several processes need the same files, only one downloads them.

mod cache;
mod client;
mod dataset;
mod dataset_card;
mod error;
mod files;
mod http;
mod name;
mod pickle;
mod progress;
mod repo_kind;
mod settings;
mod verify;
mod weights;
mod yaml;

pub use dataset::{DatasetFile, DatasetFiles, SplitFilter, fetch_dataset, fetch_dataset_with};
pub use error::{BoxError, HubError};
pub use name::{HubDataset, HubSource};
pub use pickle::{conversion_hint, is_pickled};
pub use progress::DownloadProgress;
pub use settings::HubSettings;
pub use verify::hash_sha256;
pub use weights::{WeightFiles, fetch_weights, fetch_weights_with, find_cached_weights};
