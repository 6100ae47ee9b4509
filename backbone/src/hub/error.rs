//! What can go wrong with the hub.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::name::RepoKind;
use crate::error::ErrorKind;
use crate::source::convert;

/// What failed underneath.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What can go wrong with the hub. A field `name` is the `hf://` name, with the file where one is at fault.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// The `hf://` name is malformed.
    #[error(
        "`hf://{name}` names no weights on the hub: {problem} (write hf://owner/name, hf://owner/name@revision or \
         hf://owner/name@revision/file.safetensors)"
    )]
    InvalidName {
        /// What follows `hf://`.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The `hf://` name of a data set is malformed.
    #[error(
        "`hf://{name}` names no data set on the hub: {problem} (write hf://datasets/owner/name, \
         hf://datasets/owner/name@revision or hf://datasets/owner/name@revision/FOLDER)"
    )]
    InvalidDatasetName {
        /// What follows `hf://`.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No such repository, or not for this token.
    #[error("{endpoint} shows no {} (status {status}): it is misspelt, private or gated; {}", kind_of(.repo), login(*.token))]
    RepositoryNotFound {
        /// `owner/name`, of a data set `datasets/owner/name`.
        repo: String,
        /// The hub.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// Whether a token was sent.
        token: bool,
    },
    /// The repository wants its terms accepted first.
    #[error("{repo} is gated (status {status}): accept its terms at {endpoint}/{repo}, {}", account(*.token))]
    Gated {
        /// `owner/name`, of a data set `datasets/owner/name`.
        repo: String,
        /// The hub.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// Whether a token was sent.
        token: bool,
    },
    /// No such revision.
    #[error("{repo} has no branch, tag or commit `{revision}`: {endpoint}/{repo}/tree/main lists them")]
    RevisionNotFound {
        /// `owner/name`, of a data set `datasets/owner/name`.
        repo: String,
        /// The hub.
        endpoint: String,
        /// What was asked for.
        revision: String,
    },
    /// No such file.
    #[error("there is no {file} in {name}{}", instead(.name, .found))]
    FileNotFound {
        /// The repository.
        name: String,
        /// What was asked for.
        file: String,
        /// The `.safetensors` files that are there, or where there is none all files.
        found: Vec<String>,
    },
    /// The weights are there in PyTorch's own format only.
    #[error("{name} holds no .safetensors file{}", convert(Some(.pickled)))]
    Pickled {
        /// The repository.
        name: String,
        /// The file in PyTorch's own format.
        pickled: String,
    },
    /// The data set has no Parquet files.
    #[error("{name} holds no .parquet file{}", converted(.name, .found))]
    NoParquet {
        /// The repository.
        name: String,
        /// What is there instead.
        found: Vec<String>,
    },
    /// No Parquet file is at, below or matched by what was asked for.
    #[error("there is no .parquet file at {part} in {name}: there are {}", several(.found))]
    NoMatchingParquet {
        /// The repository.
        name: String,
        /// What was asked for.
        part: String,
        /// The Parquet files that are there.
        found: Vec<String>,
    },
    /// The Parquet files are of several configurations.
    #[error(
        "{name} has Parquet files in several places: write one of them, as in {name}/{} (there are {})",
        .parts.first().map_or("", String::as_str), several(.parts)
    )]
    SeveralFolders {
        /// The repository.
        name: String,
        /// The folders, and a pattern for files in none.
        parts: Vec<String>,
    },
    /// A file of the data set has a name that is none in the cache.
    #[error(
        "{file:?} of {name} is not fetched: it is no path inside a repository; ask for a part of the data set that does \
         without"
    )]
    UnsafePath {
        /// The repository.
        name: String,
        /// The file.
        file: String,
    },
    /// A server said no: the hub, or the one that it sends to for the file.
    #[error(
        "{host} refused {name} (status {status}): try again; if it stays so, look at HF_TOKEN, and whether a proxy or \
         a mirror (HF_ENDPOINT) stands in between"
    )]
    Refused {
        /// What was asked for.
        name: String,
        /// The server that refused.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// The hub is busy or down.
    #[error("{host} cannot serve {name} now (status {status}): try again later")]
    Unavailable {
        /// What was asked for.
        name: String,
        /// The server.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// No connection.
    #[error(
        "cannot reach {endpoint} to fetch {name}: check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT; what was \
         fetched before stays usable without it"
    )]
    Unreachable {
        /// What was asked for.
        name: String,
        /// The hub.
        endpoint: String,
        /// What failed underneath.
        source: BoxError,
    },
    /// The hub stopped answering.
    #[error(
        "nothing has come from {endpoint} for {seconds} s while fetching {name}: check the network and try again"
    )]
    TimedOut {
        /// What was asked for.
        name: String,
        /// The hub.
        endpoint: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The transfer ended early, twice.
    #[error("the transfer of {name} broke off twice: check the network and try again")]
    Interrupted {
        /// The file.
        name: String,
        /// What failed underneath.
        source: BoxError,
    },
    /// The content is not what the hub announced, twice.
    #[error(
        "{name} arrived damaged twice (its hash is {found}, the hub says {expected}) and was removed: try again, \
         and look whether a proxy changes downloads"
    )]
    HashMismatch {
        /// The file.
        name: String,
        /// What the hub announced.
        expected: String,
        /// What arrived.
        found: String,
    },
    /// The answer is not one of a hub.
    #[error(
        "{endpoint} does not answer as a Hugging Face hub does while fetching {name}: check HF_ENDPOINT and the proxy"
    )]
    UnexpectedAnswer {
        /// What was asked for.
        name: String,
        /// The hub.
        endpoint: String,
        /// What failed underneath.
        source: BoxError,
    },
    /// Not in the cache, and the network is not to be used.
    #[error(
        "{name} is not in the cache at {} and HF_HUB_OFFLINE is set: unset it once to fetch the weights, or point \
         HF_HUB_CACHE to where they are", .cache.display()
    )]
    Offline {
        /// The file.
        name: String,
        /// The cache.
        cache: PathBuf,
    },
    /// Not all of a data set is known to be in the cache, and the network is not to be used.
    #[error(
        "the cache at {} is not known to hold all of {name} and HF_HUB_OFFLINE is set: unset it once to fetch the data \
         set, or point HF_HUB_CACHE to where it is", .cache.display()
    )]
    OfflineDataset {
        /// The data set.
        name: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The cache cannot be read or written.
    #[error("the cache failed at {}: {}", .path.display(), remedy(.source))]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process holds the cache.
    #[error(
        "another process holds {} and has fetched nothing for {seconds} s: wait for it or end it, then try again",
        .path.display()
    )]
    Locked {
        /// The lock.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// A client cannot be made of the settings.
    #[error("no client for {endpoint} can be made: check HF_ENDPOINT and the system's certificates")]
    Client {
        /// The hub.
        endpoint: String,
        /// What failed underneath.
        source: BoxError,
    },
}

impl HubError {
    /// What kind of thing went wrong: [`ErrorKind::Config`] where what was asked for must change, else [`ErrorKind::Hub`].
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

    /// Whether the same may well work later, so that a copy in the cache is the better answer.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unavailable { .. } | Self::TimedOut { .. })
    }
}

/// What a repository is, by the path of its page.
fn kind_of(repo: &str) -> String {
    match repo.strip_prefix(RepoKind::Dataset.prefix()) {
        Some(repo) => format!("data set {repo}"),
        None => format!("model {repo}"),
    }
}

fn login(token: bool) -> &'static str {
    if token {
        "the token that was sent (HF_TOKEN, or the one that `hf auth login` wrote) has expired or may not read it"
    } else {
        "for the latter two set HF_TOKEN to a token that may read it (https://huggingface.co/settings/tokens)"
    }
}

fn account(token: bool) -> &'static str {
    if token {
        "with the account whose token was sent (HF_TOKEN, or the one that `hf auth login` wrote)"
    } else {
        "and set HF_TOKEN to a token of that account (https://huggingface.co/settings/tokens)"
    }
}

/// The branch into which the hub converts data sets.
const CONVERTED: &str = "refs/convert/parquet";

/// The most files that an error names.
const NAMED: usize = 10;

fn instead(name: &str, found: &[String]) -> String {
    match found {
        [] => ", though the hub may list it: look at its files there, and try again later".into(),
        [only] if only.ends_with(".safetensors") => format!(": its weights are {name}/{only}"),
        found => format!(": there are {}", several(found)),
    }
}

fn several(names: &[String]) -> String {
    match names.len().checked_sub(NAMED) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..NAMED].join(", ")),
    }
}

/// What is there instead of Parquet files, and where they may be.
fn converted(name: &str, found: &[String]) -> String {
    let there =
        if found.is_empty() { ": it is empty".into() } else { format!(": there are {}", several(found)) };
    match name.split_once('@') {
        Some((_, revision)) if revision == CONVERTED.replace('/', "%2F") => there,
        at => {
            let repo = at.map_or(name, |(repo, _)| repo);
            format!("{there}; the hub's own conversion may be at {repo}@{CONVERTED}")
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full; free some space, or point HF_HUB_CACHE elsewhere"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "it may not be written; point HF_HUB_CACHE to a folder of yours"
        }
        _ => "point HF_HUB_CACHE to a folder that can be written",
    }
}

#[cfg(test)]
mod tests;
