//! A test hub on the loopback interface that answers like huggingface.co, with injected faults.
//!
//! The host of the hub is `127.0.0.1`; large files are served by another host, `localhost`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The timeout of all tests.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) token: Option<String>,
    range: Option<u64>,
    etag: Option<String>,
}

/// A fault of the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// An HTTP status, with an error code of the hub.
    Status(u16, Option<&'static str>),
    /// Half of the body, with the full `Content-Length`.
    Cut,
    /// Half of the body, with a matching `Content-Length`.
    Short,
    /// One flipped bit.
    Flipped,
    /// No answer until the hub is shut down.
    Silent,
    /// Half of the body, and the rest after this number of requests with this path prefix.
    Hold(&'static str, usize),
    /// An HTML page instead of the answer of a hub.
    Page,
    /// A revision without its files.
    Unlisted,
    /// An HTTP status that says when to try again.
    RetryAfter(u16, &'static str),
    /// A header with this value instead of its own.
    Header(&'static str, &'static str),
    /// This body.
    Body(&'static str),
    /// The body twice.
    Twice,
    /// A body without an end, with this `Content-Length` or none.
    Endless(Option<u64>),
}

/// A fault for the next `times` requests with a method and a part of the path.
struct FaultRule {
    method: &'static str,
    path: &'static str,
    times: usize,
    fault: Fault,
}

/// A file of a repository; `large` files are served by the other host, under their SHA-256.
#[derive(Clone)]
pub(crate) struct HubFile {
    pub(crate) bytes: Vec<u8>,
    pub(crate) large: bool,
    /// Replaces the hash.
    pub(crate) etag: Option<&'static str>,
}

impl HubFile {
    pub(crate) fn etag(&self) -> String {
        match self.etag {
            Some(etag) => etag.into(),
            None if self.large => hex(&Sha256::digest(&self.bytes)),
            None => {
                hex(&Sha1::digest([format!("blob {}\0", self.bytes.len()).as_bytes(), &self.bytes].concat()))
            }
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").unwrap();
        digits
    })
}

#[derive(Default)]
struct HubState {
    /// Files by commit and path.
    commits: BTreeMap<String, BTreeMap<String, HubFile>>,
    /// Commits by branch.
    branches: BTreeMap<String, String>,
    rules: Vec<FaultRule>,
    requests: Vec<Request>,
}

#[derive(Default)]
struct SharedState {
    state: Mutex<HubState>,
    changed: Condvar,
    is_shut_down: AtomicBool,
    /// The bytes of endless bodies that have been sent.
    endless_bytes: AtomicUsize,
}

/// A hub with one repository, `owner/name` or `datasets/owner/name`.
pub(crate) struct TestHub {
    address: SocketAddr,
    shared: Arc<SharedState>,
    listener_thread: Option<thread::JoinHandle<()>>,
}

impl TestHub {
    pub(crate) fn new(repo: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(SharedState::default());
        let serving = Arc::clone(&shared);
        let listener_thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.is_shut_down.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&serving);
                // Errors of clients that disconnect are ignored.
                thread::spawn(move || drop(serve_connection(&shared, repo, address.port(), stream.unwrap())));
            }
        });
        Self { address, shared, listener_thread: Some(listener_thread) }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds `commit` with `files`, and moves `branch` to it.
    pub(crate) fn add_commit(&self, branch: &str, commit: &str, files: &[(&str, HubFile)]) {
        let mut state = self.state();
        let files = files.iter().map(|(path, content)| ((*path).to_owned(), content.clone())).collect();
        state.commits.insert(commit.into(), files);
        state.branches.insert(branch.into(), commit.into());
    }

    /// Makes the next `times` requests with this method and this part of the path fail.
    pub(crate) fn inject_fault(&self, method: &'static str, path: &'static str, times: usize, fault: Fault) {
        self.state().rules.push(FaultRule { method, path, times, fault });
    }

    /// Removes all faults.
    pub(crate) fn clear_faults(&self) {
        self.state().rules.clear();
    }

    /// Returns and clears the received requests.
    pub(crate) fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }

    /// Waits for this number of requests with this method and this part of the path.
    pub(crate) fn wait_for(&self, method: &str, path: &str, times: usize) {
        wait_for(&self.shared, times, |request| request.method == method && request.path.contains(path));
    }

    /// The number of bytes of endless bodies that have been sent.
    pub(crate) fn endless_bytes(&self) -> usize {
        self.shared.endless_bytes.load(Ordering::SeqCst)
    }

    fn state(&self) -> MutexGuard<'_, HubState> {
        self.shared.state.lock().unwrap()
    }
}

impl Drop for TestHub {
    /// Shuts down the hub; further connections are refused.
    fn drop(&mut self) {
        self.shared.is_shut_down.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        drop(TcpStream::connect(self.address));
        self.listener_thread.take().unwrap().join().unwrap();
    }
}

/// Waits for this number of matching requests, or for the shutdown of the hub.
fn wait_for(shared: &SharedState, times: usize, matches: impl Fn(&Request) -> bool) {
    let waits = |state: &mut HubState| {
        let received = state.requests.iter().filter(|request| matches(request)).count();
        received < times && !shared.is_shut_down.load(Ordering::SeqCst)
    };
    let state = shared.state.lock().unwrap();
    let (_state, wait) = shared.changed.wait_timeout_while(state, LIMIT, waits).unwrap();
    assert!(!wait.timed_out(), "{times} requests have not been received");
}

struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Response {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

fn serve_connection(
    shared: &SharedState,
    repo: &str,
    port: u16,
    mut stream: TcpStream,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let request = read_request(&stream)?;
    let (fault, mut answer) = {
        let mut state = shared.state.lock().unwrap();
        state.requests.push(request.clone());
        shared.changed.notify_all();
        (take_fault(&mut state, &request), respond(&state, repo, port, &request))
    };
    let mut announced = Some(answer.body.len() as u64);
    match fault {
        None | Some(Fault::Hold(..)) => {}
        Some(Fault::RetryAfter(status, wait)) => {
            answer = Response::new(status, "").with_header("Retry-After", wait);
            announced = Some(0);
        }
        Some(Fault::Header(name, value)) => {
            answer.headers.retain(|(known, _)| *known != name);
            answer = answer.with_header(name, value);
        }
        Some(Fault::Body(body)) => {
            answer.body = body.into();
            announced = Some(body.len() as u64);
        }
        Some(Fault::Twice) => {
            answer.body = answer.body.repeat(2);
            announced = Some(answer.body.len() as u64);
        }
        Some(Fault::Endless(claimed)) => announced = claimed,
        Some(Fault::Status(status, code)) => {
            // The hub sends this header even if the file does not exist.
            answer.headers.retain(|(name, _)| *name == "X-Repo-Commit");
            answer = Response { status, body: format!("<h1>{status}</h1>").into(), ..answer };
            if let Some(code) = code {
                answer = answer.with_header("X-Error-Code", code);
            }
            announced = Some(answer.body.len() as u64);
        }
        Some(Fault::Page) => {
            answer = Response::new(200, "<html>Sign in to the network</html>");
            announced = Some(answer.body.len() as u64);
        }
        Some(Fault::Unlisted) => {
            let body = String::from_utf8(answer.body).unwrap();
            let (begin, _) = body.split_once(r#","siblings""#).unwrap();
            answer.body = format!("{begin}}}").into();
            announced = Some(answer.body.len() as u64);
        }
        Some(Fault::Cut) => answer.body.truncate(answer.body.len() / 2),
        Some(Fault::Short) => {
            answer.body.truncate(answer.body.len() / 2);
            announced = Some(answer.body.len() as u64);
        }
        Some(Fault::Flipped) => {
            let middle = answer.body.len() / 3;
            answer.body[middle] ^= 1;
        }
        Some(Fault::Silent) => {
            wait_for(shared, usize::MAX, |_| true);
            return Ok(());
        }
    }
    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", answer.status);
    if let Some(announced) = announced {
        write!(head, "Content-Length: {announced}\r\n").unwrap();
    }
    for (name, value) in &answer.headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if let Some(Fault::Endless(_)) = fault {
        return if request.method == "HEAD" { Ok(()) } else { send_endlessly(shared, &mut stream) };
    }
    if request.method != "HEAD" {
        let (first, rest) = answer.body.split_at(answer.body.len() / 2);
        stream.write_all(first)?;
        stream.flush()?;
        if let Some(Fault::Hold(path, times)) = fault {
            wait_for(shared, times, |request| request.path.starts_with(path));
        }
        stream.write_all(rest)?;
    }
    stream.flush()
}

/// Sends until the client disconnects; 1 GB at most, so that a test fails if the client does not.
fn send_endlessly(shared: &SharedState, stream: &mut TcpStream) -> std::io::Result<()> {
    let part = [b' '; 100_000];
    for _ in 0..10_000 {
        stream.write_all(&part)?;
        shared.endless_bytes.fetch_add(part.len(), Ordering::SeqCst);
    }
    Ok(())
}

fn read_request(stream: &TcpStream) -> std::io::Result<Request> {
    let mut lines = BufReader::new(stream.take(1 << 16));
    let mut line = String::new();
    lines.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default().to_owned();
    let mut request = Request { method, path, host: String::new(), token: None, range: None, etag: None };
    loop {
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { return Ok(request) };
        match name.to_lowercase().as_str() {
            "host" => request.host = value.into(),
            "authorization" => request.token = Some(value.into()),
            "if-none-match" => request.etag = Some(value.trim_matches('"').into()),
            "range" => request.range = value.rsplit_once('-').and_then(|(_, last)| last.parse().ok()),
            _ => {}
        }
    }
}

fn take_fault(state: &mut HubState, request: &Request) -> Option<Fault> {
    let rule = state
        .rules
        .iter_mut()
        .find(|rule| rule.times > 0 && request.method == rule.method && request.path.contains(rule.path))?;
    rule.times -= 1;
    Some(rule.fault)
}

fn respond(state: &HubState, repo: &str, port: u16, request: &Request) -> Response {
    let missing = |code| Response::new(404, "{}").with_header("X-Error-Code", code);
    let commit = |revision: &str| {
        let revision = revision.replace("%2F", "/");
        state
            .branches
            .get(&revision)
            .cloned()
            .or_else(|| state.commits.contains_key(&revision).then_some(revision))
    };
    let path = request.path.as_str();
    if let Some(etag) = path.strip_prefix("/files/") {
        let mut files = state.commits.values().flat_map(BTreeMap::values);
        let Some(content) = files.find(|content| content.etag() == etag) else {
            return missing("EntryNotFound");
        };
        return match request.range {
            None => Response::new(200, content.bytes.clone()),
            Some(last) => {
                let end = content.bytes.len().min(last as usize + 1);
                let range = format!("bytes 0-{}/{}", end - 1, content.bytes.len());
                Response::new(206, &content.bytes[..end]).with_header("Content-Range", range)
            }
        };
    }
    // The hub redirects to the correct case of a repository name with a relative link.
    let lower = path.replace(&repo.to_uppercase(), repo);
    if lower != path {
        return Response::new(307, "").with_header("Location", lower);
    }
    let api =
        if repo.starts_with("datasets/") { format!("/api/{repo}") } else { format!("/api/models/{repo}") };
    if let Some(revision) = path.strip_prefix(&format!("{api}/revision/")) {
        let Some(commit) = commit(revision) else { return missing("RevisionNotFound") };
        let files = state.commits[&commit].keys().map(|file| format!(r#"{{"rfilename":{file:?}}}"#));
        let files = files.collect::<Vec<_>>().join(",");
        return Response::new(
            200,
            format!(r#"{{"_id":"1","id":"{repo}","sha":"{commit}","siblings":[{files}]}}"#),
        )
        .with_header("Content-Type", "application/json");
    }
    // The file tree, in three pages.
    if let Some(rest) = path.strip_prefix(&format!("{api}/tree/")) {
        let (revision, page) = rest.split_once('/').unwrap_or((rest, "0"));
        let Some(commit) = commit(revision) else { return missing("RevisionNotFound") };
        let (files, page) = (&state.commits[&commit], page.parse::<usize>().unwrap());
        let size = files.len().div_ceil(3);
        let entries: Vec<_> = files
            .keys()
            .map(|file| format!(r#"{{"type":"file","oid":"1","size":1,"path":{file:?}}}"#))
            .skip(page * size)
            .take(size)
            .collect();
        let answer = Response::new(200, format!("[{}]", entries.join(",")));
        let next = format!("<http://127.0.0.1:{port}{api}/tree/{revision}/{}>; rel=\"next\"", page + 1);
        return if (page + 1) * size < files.len() { answer.with_header("Link", next) } else { answer };
    }
    let Some((revision, file)) =
        path.strip_prefix(&format!("/{repo}/resolve/")).and_then(|path| path.split_once('/'))
    else {
        return Response::new(401, "{}").with_header("X-Error-Code", "RepoNotFound");
    };
    let Some(commit) = commit(revision) else { return missing("RevisionNotFound") };
    let Some(content) = state.commits[&commit].get(file) else {
        return missing("EntryNotFound").with_header("X-Repo-Commit", commit);
    };
    let etag = content.etag();
    if request.etag.as_deref() == Some(&etag) {
        return Response::new(304, "")
            .with_header("ETag", format!("\"{etag}\""))
            .with_header("X-Repo-Commit", commit);
    }
    if content.large {
        Response::new(302, "")
            .with_header("Location", format!("http://localhost:{port}/files/{etag}?signature=secret"))
            .with_header("X-Repo-Commit", commit)
            .with_header("X-Linked-Etag", format!("\"{etag}\""))
            .with_header("X-Linked-Size", content.bytes.len().to_string())
    } else {
        Response::new(200, content.bytes.clone())
            .with_header("ETag", format!("\"{etag}\""))
            .with_header("X-Repo-Commit", commit)
    }
}
