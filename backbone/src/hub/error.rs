//! Errors of the hub.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::name::RepoKind;
use crate::error::ErrorKind;
use crate::source::conversion_hint;

/// The cause of an error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// An error of the hub. The fields `name` are `hf://` names, with the file if there is one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// The `hf://` name is malformed.
    #[error(
        "`hf://{name}` is not a valid name of weights on the hub: {problem} (write hf://owner/name, \
         hf://owner/name@revision or hf://owner/name@revision/file.safetensors)"
    )]
    InvalidName {
        /// The name without `hf://`.
        name: String,
        /// The problem.
        problem: String,
    },
    /// The `hf://` name of a data set is malformed.
    #[error(
        "`hf://{name}` is not a valid name of a data set on the hub: {problem} (write hf://datasets/owner/name, \
         hf://datasets/owner/name@revision or hf://datasets/owner/name@revision/FOLDER)"
    )]
    InvalidDatasetName {
        /// The name without `hf://`.
        name: String,
        /// The problem.
        problem: String,
    },
    /// The repository does not exist, or the token has no access to it.
    #[error(
        "{endpoint} has no accessible {} (status {status}): it may be misspelled, private or gated; {}",
        describe_repo(.repo), access_hint(*.has_token)
    )]
    RepositoryNotFound {
        /// `owner/name`, or `datasets/owner/name` for a data set.
        repo: String,
        /// The URL of the hub.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The terms of the repository must be accepted first.
    #[error(
        "{repo} is gated (status {status}): accept its terms at {endpoint}/{repo}, {}",
        account_hint(*.has_token)
    )]
    Gated {
        /// `owner/name`, or `datasets/owner/name` for a data set.
        repo: String,
        /// The URL of the hub.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The revision does not exist.
    #[error("{repo} has no branch, tag or commit `{revision}`: see {endpoint}/{repo}/tree/main")]
    RevisionNotFound {
        /// `owner/name`, or `datasets/owner/name` for a data set.
        repo: String,
        /// The URL of the hub.
        endpoint: String,
        /// The requested revision.
        revision: String,
    },
    /// The file does not exist.
    #[error("{name} has no file {file}{}", alternatives_hint(.name, .found))]
    FileNotFound {
        /// The repository.
        name: String,
        /// The requested file.
        file: String,
        /// The `.safetensors` files of the repository, or all files if there are none.
        found: Vec<String>,
    },
    /// The weights are only available in PyTorch's pickle format.
    #[error("{name} has no .safetensors file{}", conversion_hint(Some(.pickled)))]
    Pickled {
        /// The repository.
        name: String,
        /// The file in pickle format.
        pickled: String,
    },
    /// The data set has no Parquet files.
    #[error("{name} has no .parquet file{}", parquet_hint(.name, .found))]
    NoParquet {
        /// The repository.
        name: String,
        /// The files of the repository.
        found: Vec<String>,
    },
    /// No Parquet file is at, below or matched by the requested path.
    #[error("{name} has no .parquet file at {path}: it has {}", join_names(.found))]
    NoMatchingParquet {
        /// The repository.
        name: String,
        /// The requested path.
        path: String,
        /// The Parquet files of the repository.
        found: Vec<String>,
    },
    /// The Parquet files are in several folders, and no path selects one.
    #[error(
        "{name} has Parquet files in several folders: select one, for example {name}/{} (available: {})",
        .folders.first().map_or("", String::as_str), join_names(.folders)
    )]
    SeveralFolders {
        /// The repository.
        name: String,
        /// The top-level folders, and a pattern for files at the top level.
        folders: Vec<String>,
    },
    /// The path of a file of the data set leads out of the cache folder.
    #[error(
        "{file:?} of {name} is not downloaded: it is not a path inside the repository; select a path of the data set \
         without it"
    )]
    UnsafePath {
        /// The repository.
        name: String,
        /// The file.
        file: String,
    },
    /// The hub, or the server that it redirects to, refused a request.
    #[error(
        "{host} refused {name} (status {status}): try again; if it persists, check HF_TOKEN and, if you use one, the \
         proxy or mirror (HF_ENDPOINT)"
    )]
    Refused {
        /// The requested file or repository.
        name: String,
        /// The server that refused.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// The hub is busy or down.
    #[error("{host} cannot serve {name} now (status {status}): try again later")]
    Unavailable {
        /// The requested file or repository.
        name: String,
        /// The server.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// The connection failed.
    #[error(
        "cannot reach {endpoint} to fetch {name}: check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT; files \
         that were downloaded before can be used without a network"
    )]
    Unreachable {
        /// The requested file or repository.
        name: String,
        /// The URL of the hub.
        endpoint: String,
        /// The cause.
        source: BoxError,
    },
    /// The hub stopped sending data.
    #[error(
        "{endpoint} has sent nothing for {seconds} s while fetching {name}: check the network and try again"
    )]
    TimedOut {
        /// The requested file or repository.
        name: String,
        /// The URL of the hub.
        endpoint: String,
        /// The timeout, in seconds.
        seconds: u64,
    },
    /// The download ended early, twice.
    #[error("the download of {name} was interrupted twice: check the network and try again")]
    Interrupted {
        /// The file.
        name: String,
        /// The cause.
        source: BoxError,
    },
    /// The hash of a download was not that of the hub, twice.
    #[error(
        "{name} arrived damaged twice (its hash is {found}, the hub says {expected}) and was removed: try again, \
         and check whether a proxy modifies downloads"
    )]
    HashMismatch {
        /// The file.
        name: String,
        /// The hash from the hub.
        expected: String,
        /// The hash of the download.
        found: String,
    },
    /// The server does not behave like a hub.
    #[error(
        "{endpoint} did not answer like a Hugging Face hub while fetching {name}: check HF_ENDPOINT and the proxy"
    )]
    UnexpectedAnswer {
        /// The requested file or repository.
        name: String,
        /// The URL of the hub.
        endpoint: String,
        /// The cause.
        source: BoxError,
    },
    /// The weights are not in the cache, and the settings do not allow downloads.
    #[error(
        "{name} is not in the cache at {} and HF_HUB_OFFLINE is set: unset it to download the weights, or set \
         HF_HUB_CACHE to a cache that has them", .cache.display()
    )]
    Offline {
        /// The file.
        name: String,
        /// The cache folder.
        cache: PathBuf,
    },
    /// The cache may not have all files of a data set, and the settings do not allow downloads.
    #[error(
        "the cache at {} may not have all files of {name} and HF_HUB_OFFLINE is set: unset it to download the data \
         set, or set HF_HUB_CACHE to a cache that has it", .cache.display()
    )]
    OfflineDataset {
        /// The data set.
        name: String,
        /// The cache folder.
        cache: PathBuf,
    },
    /// The cache cannot be read or written.
    #[error("failed to read or write the cache at {}: {}", .path.display(), cache_hint(.source))]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// Another process holds a lock of the cache.
    #[error(
        "another process holds the lock {} and has downloaded nothing for {seconds} s: wait for it or stop it, then \
         try again", .path.display()
    )]
    Locked {
        /// The lock.
        path: PathBuf,
        /// The timeout, in seconds.
        seconds: u64,
    },
    /// The HTTP client cannot be created with these settings.
    #[error(
        "failed to create an HTTP client for {endpoint}: check HF_ENDPOINT and the system's certificates"
    )]
    Client {
        /// The URL of the hub.
        endpoint: String,
        /// The cause.
        source: BoxError,
    },
}

impl HubError {
    /// The category: [`ErrorKind::Config`] if the request itself is invalid, otherwise [`ErrorKind::Hub`].
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidName { .. }
            | Self::InvalidDatasetName { .. }
            | Self::NoParquet { .. }
            | Self::NoMatchingParquet { .. }
            | Self::SeveralFolders { .. } => ErrorKind::Config,
            _ => ErrorKind::Hub,
        }
    }

    /// Whether the hub is temporarily unavailable, so that cached files may be used instead.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unavailable { .. } | Self::TimedOut { .. })
    }
}

/// Kind and name of a repository, from the path of its web page.
fn describe_repo(repo: &str) -> String {
    match repo.strip_prefix(RepoKind::Dataset.prefix()) {
        Some(repo) => format!("data set {repo}"),
        None => format!("model {repo}"),
    }
}

/// How to get access to a private or gated repository.
fn access_hint(has_token: bool) -> &'static str {
    if has_token {
        "the token (HF_TOKEN, or from `hf auth login`) may have expired or lack access"
    } else {
        "for a private or gated one set HF_TOKEN to a token with access (https://huggingface.co/settings/tokens)"
    }
}

/// Which account must accept the terms of a gated repository.
fn account_hint(has_token: bool) -> &'static str {
    if has_token {
        "with the account of the token (HF_TOKEN, or from `hf auth login`)"
    } else {
        "and set HF_TOKEN to a token of that account (https://huggingface.co/settings/tokens)"
    }
}

/// The branch with data sets that the hub has converted to Parquet.
const CONVERTED_BRANCH: &str = "refs/convert/parquet";

/// The most names that an error lists.
const MAX_LISTED_NAMES: usize = 10;

/// The files that exist instead of a missing one.
fn alternatives_hint(name: &str, found: &[String]) -> String {
    match found {
        [] => ", although the hub may list it: check the files on the hub, and try again later".into(),
        [only] if only.ends_with(".safetensors") => format!(": its weights are {name}/{only}"),
        found => format!(": it has {}", join_names(found)),
    }
}

/// The first names, and how many more there are.
fn join_names(names: &[String]) -> String {
    match names.len().checked_sub(MAX_LISTED_NAMES) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..MAX_LISTED_NAMES].join(", ")),
    }
}

/// The files that exist instead of Parquet files, and the branch that may have a converted copy.
fn parquet_hint(name: &str, found: &[String]) -> String {
    let contents =
        if found.is_empty() { ": it is empty".into() } else { format!(": it has {}", join_names(found)) };
    match name.split_once('@') {
        Some((_, revision)) if revision == CONVERTED_BRANCH.replace('/', "%2F") => contents,
        split => {
            let repo = split.map_or(name, |(repo, _)| repo);
            format!("{contents}; the hub may have a converted copy at {repo}@{CONVERTED_BRANCH}")
        }
    }
}

/// What to do about an I/O error in the cache.
fn cache_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full; free some space, or set HF_HUB_CACHE to another disk"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "it is not writable; set HF_HUB_CACHE to a writable folder"
        }
        _ => "set HF_HUB_CACHE to a writable folder",
    }
}

#[cfg(test)]
mod tests;
