//! Requests to the hub: the commit of a revision, the files of a commit, and their contents.
//!
//! The answers are not trusted, because `HF_ENDPOINT` may be a mirror or lead through a proxy: what becomes a
//! path in the cache is checked, and every answer has a limit.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::StatusCode;
use ureq::http::header::{CONTENT_LENGTH, ETAG, HeaderMap, LINK};
use url::Url;

use crate::error::{BoxError, HubError};
use crate::http::{BodyError, HttpClient, RequestError, Response, read_body, retry_after};
use crate::name::{RepoRef, is_commit};
use crate::progress::DownloadProgress;
use crate::settings::HubSettings;
use crate::verify::is_hash;

/// The most bytes of a description: a config file next to the weights, or a page of a file list.
const MAX_DESCRIPTION: u64 = 16 << 20;

/// The hub's list of the files of a revision is complete up to this length, according to huggingface_hub.
const MAX_LISTED_FILES: usize = 50_000;

/// The most pages of a file list; the hub puts 1000 files on a page.
const MAX_PAGES: usize = 2000;

/// The most bytes of all names in a file list.
const MAX_LIST_BYTES: usize = 256 << 20;

/// The header with the commit that a file belongs to.
const COMMIT_HEADER: &str = "X-Repo-Commit";

/// A client for one repository.
pub(crate) struct HubClient<'a> {
    repo_ref: &'a RepoRef,
    settings: &'a HubSettings,
    hub: Url,
    http: HttpClient<'a>,
}

/// The hub's answer about a branch, tag or commit name (a revision): its commit, and the files of that
/// commit.
pub(crate) struct RevisionInfo {
    pub(crate) commit: String,
    /// The files of the commit, if the hub lists them; a very long list may be incomplete.
    pub(crate) files: Option<Vec<String>>,
}

/// A file to fetch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RequestedFile {
    /// The path in the repository.
    pub(crate) file: String,
    /// Whether it is a config file next to the weights, which the commit may lack, and which may have
    /// [`MAX_DESCRIPTION`] bytes. Other files are required, and may have any size that the hub states.
    pub(crate) is_config: bool,
}

/// What the hub states about a file before its download.
pub(crate) struct FileInfo {
    /// The SHA-256 or git's SHA-1 of the contents, in hexadecimal; `None` if the tag of the server is neither.
    pub(crate) hash: Option<String>,
    /// The size in bytes, if it is stated; weights always have one.
    pub(crate) bytes: Option<u64>,
    /// The most bytes that the download may have.
    pub(crate) limit: u64,
}

/// The API's answer about a revision.
#[derive(Deserialize)]
struct RevisionAnswer {
    sha: Option<String>,
    siblings: Option<Vec<Sibling>>,
}

/// A file in the API's answer about a revision.
#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// An entry in the API's list of files and folders.
#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
}

impl<'a> HubClient<'a> {
    /// A client for the repository and revision `repo_ref`, which sends requests to the hub of `settings`.
    /// Sends nothing yet.
    pub(crate) fn new(repo_ref: &'a RepoRef, settings: &'a HubSettings) -> Result<Self, HubError> {
        let endpoint_error =
            |source: BoxError| HubError::Endpoint { endpoint: settings.base_url().into(), source };
        let hub = Url::parse(settings.base_url()).map_err(|error| endpoint_error(error.into()))?;
        if !["http", "https"].contains(&hub.scheme()) {
            return Err(endpoint_error("the address does not begin with https:// or http://".into()));
        }
        Ok(Self { repo_ref, settings, http: HttpClient::new(hub.clone(), settings), hub })
    }

    /// Asks the hub for the commit that the requested branch, tag or commit name stands for, and for the list
    /// of its files. All files are then downloaded from that commit, so that they belong together.
    pub(crate) fn resolve_revision(&self) -> Result<RevisionInfo, HubError> {
        let mut url = self.api_url("revision", self.repo_ref.revision_or_main());
        // The commit, and the files of the repository, as the hub's API calls them.
        url.query_pairs_mut().append_pair("expand", "sha").append_pair("expand", "siblings");
        let (RevisionAnswer { sha, siblings }, _) = self.get_json(&url)?;
        // The commit becomes a path in the cache.
        let Some(commit) = sha.filter(|sha| is_commit(sha)) else {
            return Err(self.unexpected_answer(None, "the answer contains no commit".into()));
        };
        let files = siblings.map(|files| files.into_iter().map(|file| file.rfilename).collect());
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
        if let Some(listed) = listed.filter(|listed| (1..=MAX_LISTED_FILES).contains(&listed.len())) {
            return Ok(listed);
        }
        let mut url = self.api_url("tree", commit);
        url.query_pairs_mut().append_pair("recursive", "true");
        let (mut files, mut n_bytes) = (Vec::new(), 0);
        for _ in 0..MAX_PAGES {
            let (entries, next) = self.get_json::<Vec<TreeEntry>>(&url)?;
            let names = entries.into_iter().filter(|entry| entry.kind == "file").map(|entry| entry.path);
            files.extend(names.inspect(|name| n_bytes += name.len()));
            match next {
                _ if n_bytes > MAX_LIST_BYTES => break,
                Some(next) => url = next,
                None => return Ok(files),
            }
        }
        Err(self.unexpected_answer(None, "the list of files does not end".into()))
    }

    /// Asks the hub for hash and size of a file of `commit`; `None` if the commit has no such file. An answer
    /// about another commit, or of a size that `requested` does not allow, is an error.
    pub(crate) fn file_info(
        &self,
        commit: &str,
        requested: &RequestedFile,
    ) -> Result<Option<FileInfo>, HubError> {
        let file = Some(requested.file.as_str());
        let response = self.http.head(&self.file_url(commit, &requested.file));
        let response = response.map_err(|error| self.request_error(error, file))?;
        let (status, headers) = (response.status(), response.headers());
        let is_of_commit = header(headers, COMMIT_HEADER) == Some(commit);
        if status == StatusCode::NOT_FOUND && (is_of_commit || error_code(headers) == Some("EntryNotFound")) {
            return Ok(None);
        }
        if !status.is_success() && !status.is_redirection() {
            return Err(self.status_error(&response, file));
        }
        let unexpected = |problem: &str| self.unexpected_answer(file, problem.into());
        if !is_of_commit {
            return Err(unexpected("the header X-Repo-Commit is not the requested commit"));
        }
        // A redirect to a file server describes the file in headers of its own.
        let tag = header(headers, "X-Linked-Etag").or_else(|| header(headers, ETAG.as_str()));
        let tag = tag.ok_or_else(|| unexpected("the header ETag is missing"))?;
        let length = || header(headers, CONTENT_LENGTH.as_str()).filter(|_| status.is_success());
        let bytes = header(headers, "X-Linked-Size").or_else(length).and_then(|size| size.parse().ok());
        let limit = match (bytes, requested.is_config.then_some(MAX_DESCRIPTION)) {
            (Some(bytes), Some(limit)) if bytes > limit => return Err(self.too_long(file, limit)),
            (Some(limit), _) | (None, Some(limit)) => limit,
            (None, None) => return Err(unexpected("the answer does not state the size of the file")),
        };
        Ok(Some(FileInfo { hash: parse_etag(tag).map(str::to_owned), bytes, limit }))
    }

    /// Downloads a file of `commit` and passes its contents to `write` part by part, without verifying its
    /// hash; `info` is the hub's statement about the file. Reports the bytes to `progress`.
    pub(crate) fn download(
        &self,
        commit: &str,
        file: &str,
        info: &FileInfo,
        progress: &dyn DownloadProgress,
        mut write: impl FnMut(&[u8]) -> Result<(), HubError>,
    ) -> Result<(), HubError> {
        let mut response = self.get(&self.file_url(commit, file), Some(file))?;
        progress.start(file, info.bytes);
        let body = read_body(&mut response, info.limit, |bytes| {
            write(bytes)?;
            progress.advance(bytes.len() as u64);
            Ok(())
        });
        body.map_err(|error| match error {
            BodyError::Read(source) => {
                HubError::Interrupted { name: self.full_name(Some(file)), source: source.into() }
            }
            error => self.body_error(error, Some(file), info.limit),
        })
    }

    /// Requests the JSON at `url`. Also returns the address of the next page of a list, if there is one.
    fn get_json<T: DeserializeOwned>(&self, url: &Url) -> Result<(T, Option<Url>), HubError> {
        let mut response = self.get(url, None)?;
        let next = next_page(response.headers());
        let mut json = Vec::new();
        let body = read_body(&mut response, MAX_DESCRIPTION, |bytes| {
            json.extend_from_slice(bytes);
            Ok(())
        });
        body.map_err(|error| self.body_error(error, None, MAX_DESCRIPTION))?;
        let value = serde_json::from_slice(&json);
        Ok((value.map_err(|error| self.unexpected_answer(None, error.into()))?, next))
    }

    /// Requests the contents at `url`; an answer without success is an error. `file` is the file that is
    /// requested; `None` for a request for the repository itself.
    fn get(&self, url: &Url, file: Option<&str>) -> Result<Response, HubError> {
        let response = self.http.get(url).map_err(|error| self.request_error(error, file))?;
        if response.status().is_success() { Ok(response) } else { Err(self.status_error(&response, file)) }
    }

    /// The address of the API for `what` (`revision` or `tree`) of a revision of the repository.
    fn api_url(&self, what: &str, revision: &str) -> Url {
        let repo = self.repo_ref.repo.split('/');
        self.url(["api", self.repo_ref.kind.plural()].into_iter().chain(repo).chain([what, revision]))
    }

    /// The address of a file of `commit`.
    fn file_url(&self, commit: &str, file: &str) -> Url {
        let page = self.repo_ref.page_path();
        self.url(page.split('/').chain(["resolve", commit]).chain(file.split('/')))
    }

    /// The address on the hub with the path `segments`. Characters with a meaning in an address are escaped,
    /// also the slash in a branch.
    fn url<'s>(&self, segments: impl Iterator<Item = &'s str>) -> Url {
        let mut url = self.hub.clone();
        url.path_segments_mut().expect("an http address has a path").pop_if_empty().extend(segments);
        url
    }

    /// The error for a request without an answer. `file` is the file that was requested; `None` for a request
    /// for the repository itself.
    fn request_error(&self, error: RequestError, file: Option<&str>) -> HubError {
        if error.is_answer_timeout() {
            return self.timeout_error(file);
        }
        if matches!(error.source, ureq::Error::TooManyRedirects) {
            return self.unexpected_answer(file, error.source.into());
        }
        HubError::Unreachable {
            name: self.full_name(file),
            endpoint: error.server,
            source: error.source.into(),
        }
    }

    /// The error for an answer without success. Its kind decides what the message advises: try again, accept
    /// terms, or correct a name. `file` is the file that was requested, `None` for a request for the
    /// repository itself.
    fn status_error(&self, response: &Response, file: Option<&str>) -> HubError {
        // Links to file servers contain signatures, so only the host is shown.
        let host = response.url.origin().ascii_serialization();
        let is_hub = response.url.origin() == self.hub.origin();
        let status = response.status().as_u16();
        let (repo, endpoint) = (self.repo_ref.page_path(), self.settings.base_url().to_owned());
        let has_token = self.settings.token.is_some();
        match (status, error_code(response.headers())) {
            (408 | 429 | 500.., _) => HubError::Unavailable {
                name: self.full_name(file),
                host,
                status,
                retry_after: retry_after(response.headers()).map(|wait| wait.as_secs()),
            },
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

    /// The error for an answer whose body, of at most `limit` bytes, was not read to its end.
    fn body_error(&self, error: BodyError<HubError>, file: Option<&str>, limit: u64) -> HubError {
        match error {
            BodyError::TooLong => self.too_long(file, limit),
            BodyError::TimedOut => self.timeout_error(file),
            BodyError::Read(source) => self.unexpected_answer(file, source.into()),
            BodyError::Consumer(error) => error,
        }
    }

    /// The error for an answer of more than `limit` bytes.
    fn too_long(&self, file: Option<&str>, limit: u64) -> HubError {
        HubError::TooLong { name: self.full_name(file), endpoint: self.settings.base_url().into(), limit }
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

    /// The error for a server that sent nothing for the idle timeout of the settings. `file` is the file that
    /// was requested; `None` for a request for the repository itself.
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

/// The value of a header, if it is text.
fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// The hub's code for the kind of an error, `GatedRepo` for example.
fn error_code(headers: &HeaderMap) -> Option<&str> {
    header(headers, "X-Error-Code")
}

/// The address of the next page of a list, from the header `Link: <URL>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<Url> {
    let link = header(headers, LINK.as_str())?.split(',').find(|link| link.contains("rel=\"next\""))?;
    let (_, url) = link.split_once('<')?;
    Url::parse(url.split_once('>')?.0).ok()
}

/// The hash in the value of the header `ETag`, `"HASH"` or `W/"HASH"`; `None` if the value is no hash.
fn parse_etag(value: &str) -> Option<&str> {
    let tag = value.strip_prefix("W/").unwrap_or(value).trim_matches('"');
    is_hash(tag).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hexadecimal_digits_of_the_length_of_a_hash_are_one() {
        let (sha1, sha256) = ("a1".repeat(20), "B2".repeat(32));
        for hash in [&sha1, &sha256] {
            for value in [format!("\"{hash}\""), format!("W/\"{hash}\""), hash.clone()] {
                assert_eq!(parse_etag(&value), Some(hash.as_str()), "{value}");
            }
        }
        for value in [
            "",
            "\"../../../../elsewhere/x\"",
            &"g1".repeat(20),
            &"../a".repeat(10),
            &sha1[1..],
            &sha256[2..],
        ] {
            assert_eq!(parse_etag(value), None, "{value}");
        }
    }

    #[test]
    fn the_next_page_is_a_link_with_that_relation() {
        let next = |value: &str| {
            let headers = HeaderMap::from_iter([(LINK, value.parse().unwrap())]);
            next_page(&headers).map(String::from)
        };
        let (a, b) = ("<https://hub/a>; rel=\"prev\"", "<https://hub/b>; rel=\"next\"");
        assert_eq!(next(&format!("{a}, {b}")).as_deref(), Some("https://hub/b"));
        for value in [a, "https://hub/b; rel=\"next\"", "<b>; rel=\"next\""] {
            assert_eq!(next(value), None, "{value}");
        }
    }
}
