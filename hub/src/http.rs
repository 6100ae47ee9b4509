//! HTTP requests with timeouts, retries and limits.

use std::io::{self, Read};
use std::thread;
use std::time::{Duration, SystemTime};

use reqwest::blocking::{Client, Response};
use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Method, StatusCode, Url};

use crate::settings::HubSettings;

/// The timeout for connecting to a server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

/// The number of retries of a failed request.
const MAX_RETRIES: u32 = 2;

/// The number of redirects of a request for headers that are followed.
const MAX_REDIRECTS: usize = 10;

/// Sends requests. It must not be used or dropped on a thread of an asynchronous runtime.
pub(crate) struct HttpClient<'a> {
    settings: &'a HubSettings,
    /// The address of the hub, the only server that gets the token.
    hub: Url,
    /// Follows redirects to any server.
    following: Client,
    /// Follows no redirects.
    direct: Client,
}

/// Why the body of an answer was not read to its end.
pub(crate) enum BodyError<E> {
    /// It has more bytes than the limit.
    TooLong,
    /// The server sent nothing for the idle timeout.
    TimedOut,
    /// The connection failed.
    Read(io::Error),
    /// What reads the body failed.
    Consumer(E),
}

impl<'a> HttpClient<'a> {
    /// A client for the hub at `hub`, which sends the token of `settings` to that server alone. A request may
    /// wait for `settings.idle_timeout` until an answer begins, and again for each part of its body.
    pub(crate) fn new(hub: Url, settings: &'a HubSettings) -> reqwest::Result<Self> {
        let build = |redirects| {
            Client::builder()
                .user_agent(concat!("headstock/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(settings.idle_timeout)
                .redirect(redirects)
                .build()
        };
        Ok(Self { settings, hub, following: build(Policy::default())?, direct: build(Policy::none())? })
    }

    /// Requests the contents at `url`. Redirects are followed; the token is not sent to another server.
    pub(crate) fn get(&self, url: &Url) -> reqwest::Result<Response> {
        self.send(&self.following, &Method::GET, url)
    }

    /// Requests the headers at `url`. Only relative redirects are followed, such as the one to the correct
    /// spelling of a repository: an absolute one leads to a file server, and its headers describe the file.
    pub(crate) fn head(&self, url: &Url) -> reqwest::Result<Response> {
        let mut response = self.send(&self.direct, &Method::HEAD, url)?;
        for _ in 0..MAX_REDIRECTS {
            let Some(next) = relative_redirect(&response) else { break };
            response = self.send(&self.direct, &Method::HEAD, &next)?;
        }
        Ok(response)
    }

    /// Sends a request, at most [`MAX_RETRIES`] more times if the server is busy or cannot be reached. If the
    /// server says when to try again, waits that long, but not longer than the settings allow: then returns
    /// the answer of the server.
    fn send(&self, client: &Client, method: &Method, url: &Url) -> reqwest::Result<Response> {
        let mut delays = (0..MAX_RETRIES).map(|n| self.settings.retry_delay * 2_u32.pow(n));
        loop {
            let mut request = client.request(method.clone(), url.clone());
            if let Some(token) = &self.settings.token
                && url.origin() == self.hub.origin()
            {
                request = request.bearer_auth(token);
            }
            let result = request.send();
            let Some(delay) = delays.next() else { return result };
            let wait = match &result {
                Ok(response) if is_temporary(response.status()) => match retry_after(response.headers()) {
                    None => delay,
                    Some(wait) if wait > self.settings.max_retry_wait => return result,
                    Some(wait) => {
                        tracing::warn!(
                            "{} asks to wait {} s before the next request (HTTP status {}): waiting",
                            response.url().origin().ascii_serialization(),
                            wait.as_secs(),
                            response.status().as_u16()
                        );
                        wait
                    }
                },
                Err(error) if error.is_connect() || (error.is_request() && !error.is_timeout()) => delay,
                _ => return result,
            };
            thread::sleep(wait);
        }
    }
}

/// Reads the body of `response` and passes it to `consume` part by part. A body of more than `limit` bytes is
/// an error, before anything is read if the server states its length.
pub(crate) fn read_body<E>(
    response: &mut Response,
    limit: u64,
    mut consume: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), BodyError<E>> {
    if response.content_length().is_some_and(|stated| stated > limit) {
        return Err(BodyError::TooLong);
    }
    // 64 KiB.
    let mut buffer = vec![0; 1 << 16];
    let mut left = limit;
    loop {
        let n_read = match response.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n_read) => n_read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if is_timeout(&error) => return Err(BodyError::TimedOut),
            Err(error) => return Err(BodyError::Read(error)),
        };
        left = left.checked_sub(n_read as u64).ok_or(BodyError::TooLong)?;
        consume(&buffer[..n_read]).map_err(BodyError::Consumer)?;
    }
}

/// The time that a busy server asks to wait before the next request, in whole seconds: the header
/// `Retry-After`, a number of seconds or a date. `None` without a valid one.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let wait = httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).unwrap_or_default();
    Some(Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)))
}

/// Whether a request with this status may succeed later.
fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// The address to which `response` redirects, if the address is relative, so that it is on the same server.
fn relative_redirect(response: &Response) -> Option<Url> {
    if !response.status().is_redirection() {
        return None;
    }
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    let next = response.url().join(location).ok()?;
    (Url::parse(location).is_err() && next.origin() == response.url().origin()).then_some(next)
}

/// Whether reading a body failed because nothing arrived in time.
fn is_timeout(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<reqwest::Error>());
    cause.is_some_and(reqwest::Error::is_timeout)
}
