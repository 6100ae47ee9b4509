//! HTTP requests with timeouts, retries and limits.

use std::io::{self, Read};
use std::thread;
use std::time::{Duration, SystemTime};

use ureq::Agent;
use ureq::http::header::{AUTHORIZATION, HeaderMap, LOCATION, RETRY_AFTER};
use ureq::http::{Method, Request, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Body, Timeout};
use url::Url;

use crate::settings::HubSettings;

/// The timeout for finding the address of a server, and for connecting to it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

/// The number of retries of a failed request.
const MAX_RETRIES: u32 = 2;

/// The number of redirects of a request that are followed.
const MAX_REDIRECTS: usize = 10;

/// Sends requests.
pub(crate) struct HttpClient<'a> {
    settings: &'a HubSettings,
    /// The address of the hub, the only server that gets the token.
    hub: Url,
    /// Sends a request, and follows no redirect.
    agent: Agent,
}

/// The answer of a server.
pub(crate) struct Response {
    /// The address that answered, after all redirects.
    pub(crate) url: Url,
    answer: ureq::http::Response<Body>,
}

/// Why a request has no answer.
pub(crate) struct RequestError {
    /// The server that gave none, without the path, which may have a signature in it.
    pub(crate) server: String,
    pub(crate) source: ureq::Error,
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

impl Response {
    pub(crate) fn status(&self) -> StatusCode {
        self.answer.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.answer.headers()
    }
}

impl RequestError {
    fn new(url: &Url, source: ureq::Error) -> Self {
        Self { server: url.origin().ascii_serialization(), source }
    }

    /// Whether the server was connected, but did not answer in time.
    pub(crate) fn is_answer_timeout(&self) -> bool {
        match self.source {
            ureq::Error::Timeout(phase) => !matches!(phase, Timeout::Resolve | Timeout::Connect),
            _ => false,
        }
    }

    /// Whether a second try may succeed: the server was not reached, or the connection broke.
    fn is_temporary(&self) -> bool {
        use ureq::Error;
        match self.source {
            Error::Timeout(_) => !self.is_answer_timeout(),
            Error::Io(_)
            | Error::HostNotFound
            | Error::ConnectionFailed
            | Error::ConnectProxyFailed(_)
            | Error::Protocol(_)
            | Error::Rustls(_)
            | Error::Tls(_) => true,
            _ => false,
        }
    }
}

impl<'a> HttpClient<'a> {
    /// A client for the hub at `hub`, which sends the token of `settings` to that server alone. A request may
    /// wait for `settings.idle_timeout` until an answer begins, and again for each part of its body.
    pub(crate) fn new(hub: Url, settings: &'a HubSettings) -> Self {
        // The certificates that the system trusts, so that a company's proxy works as with other programs.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent = Agent::config_builder()
            .user_agent(concat!("headstock/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(settings.idle_timeout))
            .timeout_per_read(Some(settings.idle_timeout))
            .max_redirects(0)
            .http_status_as_error(false)
            .build()
            .new_agent();
        Self { settings, hub, agent }
    }

    /// Requests the contents at `url`. Redirects are followed; the token is not sent to another server.
    pub(crate) fn get(&self, url: &Url) -> Result<Response, RequestError> {
        self.follow(&Method::GET, url, redirect)
    }

    /// Requests the headers at `url`. Only relative redirects are followed, such as the one to the correct
    /// spelling of a repository: an absolute one leads to a file server, and its headers describe the file.
    pub(crate) fn head(&self, url: &Url) -> Result<Response, RequestError> {
        self.follow(&Method::HEAD, url, relative_redirect)
    }

    /// Sends a request, and again to each address that `next` takes from an answer. More than
    /// [`MAX_REDIRECTS`] of them are an error.
    fn follow(
        &self,
        method: &Method,
        url: &Url,
        next: impl Fn(&Response) -> Option<Url>,
    ) -> Result<Response, RequestError> {
        let mut response = self.send(method, url)?;
        for _ in 0..MAX_REDIRECTS {
            let Some(url) = next(&response) else { return Ok(response) };
            response = self.send(method, &url)?;
        }
        if next(&response).is_none() {
            return Ok(response);
        }
        Err(RequestError::new(&response.url, ureq::Error::TooManyRedirects))
    }

    /// Sends a request, at most [`MAX_RETRIES`] more times if the server is busy or cannot be reached. If the
    /// server says when to try again, waits that long, but not longer than the settings allow: then returns
    /// the answer of the server.
    fn send(&self, method: &Method, url: &Url) -> Result<Response, RequestError> {
        let mut delays = (0..MAX_RETRIES).map(|n| self.settings.retry_delay * 2_u32.pow(n));
        loop {
            let result = self.send_once(method, url);
            let Some(delay) = delays.next() else { return result };
            let wait = match &result {
                Ok(response) if is_temporary(response.status()) => match retry_after(response.headers()) {
                    None => delay,
                    Some(wait) if wait > self.settings.max_retry_wait => return result,
                    Some(wait) => {
                        tracing::warn!(
                            "{} asks to wait {} s before the next request (HTTP status {}): waiting",
                            url.origin().ascii_serialization(),
                            wait.as_secs(),
                            response.status().as_u16()
                        );
                        wait
                    }
                },
                Err(error) if error.is_temporary() => delay,
                _ => return result,
            };
            thread::sleep(wait);
        }
    }

    /// Sends a request once, with the token if it is for the hub.
    fn send_once(&self, method: &Method, url: &Url) -> Result<Response, RequestError> {
        let mut request = Request::builder().method(method).uri(url.as_str());
        if let Some(token) = &self.settings.token
            && url.origin() == self.hub.origin()
        {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let answer = request.body(()).map_err(ureq::Error::from).and_then(|request| self.agent.run(request));
        match answer {
            Ok(answer) => Ok(Response { url: url.clone(), answer }),
            Err(source) => Err(RequestError::new(url, source)),
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
    let body = response.answer.body_mut();
    if body.content_length().is_some_and(|stated| stated > limit) {
        return Err(BodyError::TooLong);
    }
    let mut reader = body.as_reader();
    // 64 KiB.
    let mut buffer = vec![0; 1 << 16];
    let mut left = limit;
    loop {
        let n_read = match reader.read(&mut buffer) {
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

/// The address to which `response` redirects.
fn redirect(response: &Response) -> Option<Url> {
    response.url.join(location(response)?).ok().filter(|next| ["http", "https"].contains(&next.scheme()))
}

/// The address to which `response` redirects, if the address is relative, so that it is on the same server.
fn relative_redirect(response: &Response) -> Option<Url> {
    let is_relative = Url::parse(location(response)?).is_err();
    redirect(response).filter(|next| is_relative && next.origin() == response.url.origin())
}

/// The text of the header `Location` of a redirect.
fn location(response: &Response) -> Option<&str> {
    // Other statuses between 300 and 399 lead nowhere.
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    response.headers().get(LOCATION)?.to_str().ok().filter(|_| is_redirect)
}

/// Whether reading a body failed because nothing arrived in time.
fn is_timeout(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<ureq::Error>());
    matches!(cause, Some(ureq::Error::Timeout(_)))
}
