//! Errors of the hub.

use std::borrow::Borrow;
use std::error::Error;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::pickle::conversion_hint;
use crate::repo_kind::RepoKind;

/// The cause of an error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// An error of the hub. The fields `name` are `hf://` names, with the file if there is one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// The `hf://` name is malformed.
    #[error(
        "`hf://{name}` is not a valid name of model weights on the Hugging Face hub: {problem}; write \
         hf://owner/name, with @revision (a branch, tag or commit) and /file.safetensors after it if needed"
    )]
    InvalidName {
        /// The name without `hf://`.
        name: String,
        /// The problem.
        problem: String,
    },
    /// The `hf://` name of a data set is malformed.
    #[error(
        "`hf://{name}` is not a valid name of a data set on the Hugging Face hub: {problem}; write \
         hf://datasets/owner/name, with @revision (a branch, tag or commit) and /path (a folder or file) \
         after it if needed"
    )]
    InvalidDatasetName {
        /// The name without `hf://`.
        name: String,
        /// The problem.
        problem: String,
    },
    /// The repository does not exist, or the token has no access to it.
    #[error(
        "{endpoint} has no {} that you can access (HTTP status {status}): check the spelling of the name; if \
         the model or data set is private or gated (its terms must be accepted first), {}",
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
        "{repo} on the Hugging Face hub is gated (its terms must be accepted first; HTTP status {status}): \
         accept the terms at {endpoint}/{repo}, {}",
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
    #[error(
        "{repo} on the Hugging Face hub has no branch, tag or commit `{revision}`: choose one that is listed \
         at {endpoint}/{repo}/tree/main"
    )]
    RevisionNotFound {
        /// `owner/name`, or `datasets/owner/name` for a data set.
        repo: String,
        /// The URL of the hub.
        endpoint: String,
        /// The requested revision.
        revision: String,
    },
    /// The file does not exist.
    #[error("{name} on the Hugging Face hub has no file {file}{}", alternatives_hint(.name, .found))]
    FileNotFound {
        /// The repository.
        name: String,
        /// The requested file.
        file: String,
        /// The `.safetensors` files of the repository, or all files if there are none.
        found: Vec<String>,
    },
    /// The weights are only available in PyTorch's pickle format.
    #[error(
        "{name} on the Hugging Face hub has no .safetensors file: download {pickled} and {}",
        conversion_hint(.pickled)
    )]
    Pickled {
        /// The repository.
        name: String,
        /// The file in pickle format.
        pickled: String,
    },
    /// The data set has no Parquet files, none at the requested path or, if no path is requested, some in
    /// several folders.
    #[error("the data set {name} has {problem}")]
    NoSelection {
        /// The repository.
        name: String,
        /// What it has instead, and what to do.
        problem: String,
    },
    /// The path of a file of the data set leads out of the cache folder.
    #[error(
        "the file {file:?} of the data set {name} is not downloaded: its name leads out of the download \
         folder and could overwrite other files; choose a folder of the data set without this file \
         (hf://datasets/owner/name/FOLDER)"
    )]
    UnsafePath {
        /// The repository.
        name: String,
        /// The file.
        file: String,
    },
    /// The hub, or the server that it redirects to, refused a request.
    #[error(
        "{host} refused the request for {name} (HTTP status {status}): try again; if the error persists, \
         check, if you use them, the access token (HF_TOKEN), the mirror (HF_ENDPOINT) and the proxy \
         (HTTPS_PROXY)"
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
    #[error("{host} cannot serve {name} now (HTTP status {status}): try again {}", retry_hint(*.retry_after))]
    Unavailable {
        /// The requested file or repository.
        name: String,
        /// The server.
        host: String,
        /// The HTTP status.
        status: u16,
        /// After how many seconds to try again, if the server says so.
        retry_after: Option<u64>,
    },
    /// The connection failed.
    #[error(
        "cannot reach {endpoint} to download {name}: check the network connection, the proxy (HTTPS_PROXY), \
         the address of the hub (HF_ENDPOINT) and that its certificate is one that the system trusts (package \
         ca-certificates); files that were downloaded before can be used without a network"
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
        "{endpoint} has sent nothing for {seconds} s of the download of {name}: check the network connection \
         and try again"
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
    #[error("the download of {name} was interrupted twice: check the network connection and try again")]
    Interrupted {
        /// The file.
        name: String,
        /// The cause.
        source: BoxError,
    },
    /// Two downloads of the file did not have the hash that the hub states.
    #[error(
        "the download of {name} was damaged twice (its hash is {found} instead of {expected}) and was \
         removed: try again; if the error persists, check whether a proxy modifies downloads"
    )]
    HashMismatch {
        /// The file.
        name: String,
        /// The hash from the hub.
        expected: String,
        /// The hash of the download.
        found: String,
    },
    /// The answer is longer than what is accepted.
    #[error(
        "{endpoint} sends more than {limit} bytes for {name}, the most that is accepted (the size that the \
         hub states or, for a config file or a list of files, 16 MiB): try again; if the error persists, check \
         the address of the hub (HF_ENDPOINT) and the proxy (HTTPS_PROXY)"
    )]
    TooLong {
        /// The requested file or repository.
        name: String,
        /// The URL of the hub.
        endpoint: String,
        /// The most bytes that are accepted.
        limit: u64,
    },
    /// The disk of the cache has no room for the file.
    #[error(
        "{name} has {}, but the disk of the download cache at {} has only {} left: free some space, or set \
         HF_HUB_CACHE to a folder on a different disk",
        format_bytes(*.bytes), .path.display(), format_bytes(*.available)
    )]
    NoSpace {
        /// The file.
        name: String,
        /// The cache folder.
        path: PathBuf,
        /// The size of the file in bytes.
        bytes: u64,
        /// Free bytes on the disk.
        available: u64,
    },
    /// The server does not behave like a hub.
    #[error(
        "the answer of {endpoint} to the request for {name} is not that of a Hugging Face hub: check the \
         address of the hub (HF_ENDPOINT) and the proxy (HTTPS_PROXY); in a public network with a login \
         page, log in there first"
    )]
    UnexpectedAnswer {
        /// The requested file or repository.
        name: String,
        /// The URL of the hub.
        endpoint: String,
        /// The cause.
        source: BoxError,
    },
    /// The cache lacks requested files, or may lack them, and the settings do not allow downloads.
    #[error(
        "the download cache at {} does not have {name}, or not all files of it, and HF_HUB_OFFLINE forbids \
         downloads: unset HF_HUB_OFFLINE to download what is missing, or set HF_HUB_CACHE to a cache that has \
         all files",
        .cache.display()
    )]
    Offline {
        /// The weights or the data set.
        name: String,
        /// The cache folder.
        cache: PathBuf,
    },
    /// The cache cannot be read or written.
    #[error("failed to read or write the download cache at {}: {}", .path.display(), cache_hint(.source))]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// The cache lacks a file and cannot store it.
    #[error(
        "the download cache does not have {name} and cannot store it at {}: {}",
        .path.display(), cache_hint(.source)
    )]
    NotStored {
        /// The file.
        name: String,
        /// The file or directory of the cache that cannot be written.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// The address of the hub is none.
    #[error("the address of the hub (HF_ENDPOINT) is {endpoint}: it must begin with https:// or http://")]
    Endpoint {
        /// The URL of the hub.
        endpoint: String,
        /// The cause.
        source: BoxError,
    },
}

impl HubError {
    /// Whether the user has to correct the name of the weights or the data set; otherwise the hub, the network
    /// or the cache failed.
    #[must_use]
    pub fn is_name_error(&self) -> bool {
        matches!(self, Self::InvalidName { .. } | Self::InvalidDatasetName { .. } | Self::NoSelection { .. })
    }

    /// Whether a download failed in a way that a second one may not.
    pub(crate) fn may_be_damage(&self) -> bool {
        matches!(
            self,
            Self::HashMismatch { .. }
                | Self::Interrupted { .. }
                | Self::TooLong { .. }
                | Self::Refused { .. }
        )
    }

    /// Whether the hub is temporarily unavailable, so that cached files may be used instead.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unavailable { .. } | Self::TimedOut { .. })
    }
}

/// Kind and name of a repository for error messages, "model owner/name" for example. `repo` is the path of
/// its web page on the hub, which begins with `datasets/` for a data set.
fn describe_repo(repo: &str) -> String {
    match repo.strip_prefix(RepoKind::Dataset.prefix()) {
        Some(repo) => format!("data set {repo}"),
        None => format!("model {repo}"),
    }
}

/// The end of an error message: how to get access to a private or gated repository. `has_token` says whether
/// the request was sent with an access token.
fn access_hint(has_token: bool) -> &'static str {
    if has_token {
        "check that your access token (HF_TOKEN, or from `hf auth login`) has not expired and has access"
    } else {
        "set the environment variable HF_TOKEN to an access token of an account with access \
         (https://huggingface.co/settings/tokens)"
    }
}

/// The end of an error message, after "accept its terms at URL": with which account to accept the terms of a
/// gated repository. `has_token` says whether the request was sent with an access token.
fn account_hint(has_token: bool) -> &'static str {
    if has_token {
        "with the account of your access token (HF_TOKEN, or from `hf auth login`)"
    } else {
        "and set the environment variable HF_TOKEN to an access token of the same account \
         (https://huggingface.co/settings/tokens)"
    }
}

/// The most names that an error lists.
const MAX_LISTED_NAMES: usize = 10;

/// The end of an error message about a file that the repository `name` does not have: what to do instead.
/// `found` are the `.safetensors` files of the repository, or all files if there are none.
fn alternatives_hint(name: &str, found: &[String]) -> String {
    match found {
        [] => ", although the hub may list that file: look at the files of the model or data set on the web \
               page of the hub, or try again later"
            .into(),
        [only] if only.ends_with(".safetensors") => format!(": use {name}/{only}"),
        found => format!(": correct the name of the file; the hub has {}", join_names(found)),
    }
}

/// A list of `names` for an error message: the first [`MAX_LISTED_NAMES`], and how many more there are.
pub(crate) fn join_names<S: Borrow<str>>(names: &[S]) -> String {
    match names.len().checked_sub(MAX_LISTED_NAMES) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..MAX_LISTED_NAMES].join(", ")),
    }
}

/// The end of an error message, after "try again": when. `seconds` is what the server asks to wait, if it does.
fn retry_hint(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "later".into(), |seconds| format!("in {seconds} s"))
}

/// A number of bytes in a unit for people.
fn format_bytes(bytes: u64) -> String {
    let gigabytes = bytes as f64 / 1e9;
    if gigabytes >= 1.0 { format!("{gigabytes:.1} GB") } else { format!("{:.1} MB", 1e3 * gigabytes) }
}

/// The end of an error message about the I/O error `error` in the download cache: what to do.
fn cache_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full; free some space, or set HF_HUB_CACHE to a folder on a different disk"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "the cache is not writable; set HF_HUB_CACHE to a writable folder"
        }
        _ => "set HF_HUB_CACHE to a writable folder",
    }
}

#[cfg(test)]
mod tests;
