//! The seam between the client and the network: one signed form goes out, a status and a bounded body come back.
//!
//! What matters here is one question: may the request have reached the API? Only when the connection was never
//! made is the answer no. Everything later (a reset, a time-out, a body cut short) may follow a committed change.
//!
//! Nothing is ever sent twice: redirects are not followed and retries of the HTTP library are switched off. What
//! remains is that an idle connection found closed is replaced, but only while not one byte of the request has
//! been written (hyper hands the request back unstarted).

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use thiserror::Error;

use super::endpoint::Endpoint;

/// Largest body of a 2xx answer: 50 000 disks take about 45 MB.
const BODY_MAX: usize = 64 << 20;
/// Largest body of any other answer.
const ERROR_BODY_MAX: usize = 1 << 20;
/// Idle connections are closed before a load balancer's usual 60 s, because a request written into a connection
/// that is just being closed has an unknown outcome.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// A dead HTTP/2 connection is noticed within these two instead of failing every call until TCP gives up.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limits of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Name lookup, TCP and TLS together. Reaching it means: not sent.
    pub connect: Duration,
    /// The whole call, until the last byte of the answer. Reaching it means: outcome unknown.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            total: Duration::from_secs(60),
        }
    }
}

/// An HTTP answer.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Status code.
    pub(crate) status: u16,
    /// `Date`.
    pub(crate) date: Option<String>,
    /// `Retry-After`.
    pub(crate) retry_after: Option<String>,
    /// The body, whole.
    pub(crate) body: Vec<u8>,
}

/// No answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum TransportError {
    /// There was no connection, so nothing was sent.
    #[error("{0}")]
    NotSent(String),
    /// The request may have been carried out.
    #[error("{0}")]
    Lost(String),
}

/// Sends signed forms.
#[async_trait]
pub(crate) trait Transport: Send + Sync + fmt::Debug {
    /// Sends `form` once.
    ///
    /// # Errors
    /// [`TransportError`].
    async fn send(&self, form: String) -> Result<Reply, TransportError>;
}

/// The real transport.
#[derive(Debug)]
pub(crate) struct Http {
    client: reqwest::Client,
    endpoint: Endpoint,
    total: Duration,
}

impl Http {
    /// A transport to one endpoint. Proxies are taken from the environment (`HTTPS_PROXY`, `NO_PROXY`), except for
    /// this machine; certificates from the operating system (`SSL_CERT_FILE` replaces them).
    ///
    /// # Errors
    /// Why the HTTP client cannot be built.
    pub(crate) fn new(
        endpoint: Endpoint,
        timeouts: Timeouts,
        user_agent: &str,
    ) -> Result<Self, String> {
        let mut builder = reqwest::Client::builder()
            .user_agent(user_agent)
            .connect_timeout(timeouts.connect.min(timeouts.total))
            .timeout(timeouts.total)
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .pool_idle_timeout(IDLE_MAX)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT);
        if endpoint.loopback {
            builder = builder.no_proxy();
        }
        if endpoint.url.scheme() == "http" {
            // No certificate is ever checked, so none are loaded: an emulator runs in images without any.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|error| chain(&error))?;
        Ok(Self {
            client,
            endpoint,
            total: timeouts.total,
        })
    }

    fn explain(&self, error: reqwest::Error) -> TransportError {
        let error = error.without_url();
        let host = &self.endpoint.host;
        if error.is_connect() {
            return TransportError::NotSent(format!(
                "cannot connect to {host}: {}; check the region or the endpoint, name resolution, firewalls, network \
                 policies and CA certificates",
                chain(&error)
            ));
        }
        if error.is_builder() {
            return TransportError::NotSent(format!("cannot make the request: {}", chain(&error)));
        }
        if error.is_timeout() {
            return TransportError::Lost(format!(
                "no complete answer from {host} within {:?}",
                self.total
            ));
        }
        TransportError::Lost(format!("the exchange with {host} broke: {}", chain(&error)))
    }
}

#[async_trait]
impl Transport for Http {
    async fn send(&self, form: String) -> Result<Reply, TransportError> {
        const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
        let mut response = self
            .client
            .post(self.endpoint.url.clone())
            .header(CONTENT_TYPE, FORM)
            .body(form)
            .send()
            .await
            .map_err(|error| self.explain(error))?;
        let status = response.status();
        let limit = if status.is_success() {
            BODY_MAX
        } else {
            ERROR_BODY_MAX
        };
        let date = text_of(response.headers(), &DATE);
        let retry_after = text_of(response.headers(), &RETRY_AFTER);
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.explain(error))?
        {
            if body.len() + chunk.len() > limit {
                return Err(TransportError::Lost(format!(
                    "HTTP status {}: the answer is larger than {limit} bytes",
                    status.as_u16()
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply {
            status: status.as_u16(),
            date,
            retry_after,
            body,
        })
    }
}

fn text_of(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// An error and its sources in one line; the library's `Display` leaves the sources out.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}
