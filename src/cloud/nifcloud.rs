//! Adapter: the NIFCLOUD computing API over HTTPS.
//!
//! ```text
//! Cloud (port) --- actions ---> sign ---> transport ---> POST /api/
//!      ^                          ^ credentials              |
//!      '------ decode <--- error <--- xml <------------------'
//! ```
//!
//! One method of the port is one HTTP request, sent at most once. No policy lives here: no retry, no waiting.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use thiserror::Error;
use tracing::debug;

use super::{CallError, Cloud};
use crate::domain::disk::{Accounting, Disk, NewDisk, Slot, Vm};
use crate::domain::id::{DiskName, VmName};

mod actions;
mod credentials;
mod decode;
mod endpoint;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod observe;
mod sign;
mod transport;
mod xml;

pub use credentials::{CredentialError, Credentials, KeySource};
pub use endpoint::EndpointError;
pub use observe::{CallObserver, CallOutcome};
pub use transport::Timeouts;

use actions::Request;
use decode::{Decode, Disks, Done, Slots, Vms, Zones};
use endpoint::Endpoint;
use sign::Algorithm;
use transport::{Http, Reply, Transport, TransportError};

/// The version of the API that is spoken; what the official clients send.
const API_VERSION: &str = "3.0";
/// Answers above this size are decoded on a thread of their own.
const DECODE_INLINE_MAX: usize = 128 << 10;
/// No answer has told the time yet.
const NO_DATE: i64 = i64::MIN;

/// Everything the client must be told.
#[derive(Debug)]
pub struct ClientConfig {
    /// Id of the region, such as `jp-east-1`; not needed with an endpoint.
    pub region: String,
    /// Replaces the region's own endpoint: `https://HOST[:PORT]`, with or without `/api/`.
    pub endpoint: Option<String>,
    /// Accepts an `http` endpoint that is not this machine (an emulator in a cluster).
    pub allow_insecure_endpoint: bool,
    /// The account's keys.
    pub credentials: Credentials,
    /// Time limits of one call.
    pub timeouts: Timeouts,
    /// `User-Agent`.
    pub user_agent: String,
    /// Is told about every call.
    pub observer: Option<Arc<dyn CallObserver>>,
}

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The region or the endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The keys.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// `install_crypto_provider` was not called.
    #[error("no TLS provider is installed: call install_crypto_provider() first")]
    NoTlsProvider,
    /// The HTTP client cannot be built, for example because the machine has no certificates.
    #[error("cannot set up HTTPS (are CA certificates installed?): {0}")]
    Http(String),
}

/// The computing API of one region.
pub struct Client {
    endpoint: Endpoint,
    credentials: Arc<Credentials>,
    transport: Box<dyn Transport>,
    observer: Option<Arc<dyn CallObserver>>,
    /// Seconds by which this machine's clock is ahead of the last answer's `Date`; [`NO_DATE`] before there is one.
    ahead: AtomicI64,
}

/// Installs the TLS provider of this process (ring). May be called any number of times; the first one counts.
pub fn install_crypto_provider() {
    // Fails only when a provider is there already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl ClientConfig {
    /// A configuration with the usual time limits and user agent.
    #[must_use]
    pub fn new(region: impl Into<String>, credentials: Credentials) -> Self {
        Self {
            region: region.into(),
            endpoint: None,
            allow_insecure_endpoint: false,
            credentials,
            timeouts: Timeouts::default(),
            user_agent: concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")).to_owned(),
            observer: None,
        }
    }
}

impl Client {
    /// Checks the configuration, reads the keys once and sets HTTP up. Calls nothing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn new(config: ClientConfig) -> Result<Self, ClientError> {
        let endpoint = Endpoint::resolve(
            config.region.trim(),
            config.endpoint.as_deref(),
            config.allow_insecure_endpoint,
        )?;
        config.credentials.current()?;
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(ClientError::NoTlsProvider);
        }
        let transport = Http::new(endpoint.clone(), config.timeouts, &config.user_agent)
            .map_err(ClientError::Http)?;
        Ok(Self {
            endpoint,
            credentials: Arc::new(config.credentials),
            transport: Box::new(transport),
            observer: config.observer,
            ahead: AtomicI64::new(NO_DATE),
        })
    }

    /// The URL that is called.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.endpoint.url.as_str()
    }

    /// Seconds by which this machine's clock is ahead of the API's, by the `Date` of the last answer that had one.
    #[must_use]
    pub fn clock_ahead(&self) -> Option<i64> {
        let ahead = self.ahead.load(Ordering::Relaxed);
        (ahead != NO_DATE).then_some(ahead)
    }

    /// One call: sign, send, read; reported once.
    async fn call<D: Decode>(&self, request: Request, decoder: D) -> Result<D::Answer, CallError> {
        let action = request.action;
        let started = Instant::now();
        let result = match self.exchange(request).await {
            Ok(reply) => read(action, reply, decoder).await,
            Err(error) => Err(error),
        };
        let (outcome, elapsed) = (CallOutcome::of(&result), started.elapsed());
        debug!(
            action,
            outcome = outcome.label(),
            elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            error = result.as_ref().err().map(tracing::field::display),
            "cloud call"
        );
        if let Some(observer) = &self.observer {
            observer.on_call(action, outcome, elapsed);
        }
        result
    }

    async fn exchange(&self, request: Request) -> Result<Reply, CallError> {
        let action = request.action;
        let form = self
            .signed(request, Timestamp::now())
            .await
            .map_err(|reason| CallError::NotSent { action, reason })?;
        let reply = self.transport.send(form).await;
        if let Ok(reply) = &reply
            && let Some(ahead) = error::ahead(reply.date.as_deref(), Timestamp::now())
        {
            self.ahead.store(ahead, Ordering::Relaxed);
        }
        reply.map_err(|error| match error {
            TransportError::NotSent(reason) => CallError::NotSent { action, reason },
            TransportError::Lost(reason) => CallError::Unknown {
                action,
                reason,
                throttled: false,
            },
        })
    }

    async fn signed(&self, request: Request, now: Timestamp) -> Result<String, String> {
        let credentials = Arc::clone(&self.credentials);
        let keys = if credentials.uses_files() {
            tokio::task::spawn_blocking(move || credentials.current())
                .await
                .map_err(|error| format!("reading the keys failed: {error}"))?
        } else {
            credentials.current()
        };
        let keys = keys.map_err(|error| error.to_string())?;
        let mut params = request.params;
        for (name, value) in [
            ("Action", request.action),
            ("Version", API_VERSION),
            ("AccessKeyId", &keys.access_key_id),
            ("SignatureVersion", "2"),
            ("SignatureMethod", Algorithm::HmacSha256.name()),
            ("Timestamp", &now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        ] {
            params.push((name.into(), value.to_owned()));
        }
        Ok(sign::signed_form(
            &self.endpoint.host,
            self.endpoint.url.path(),
            &params,
            keys.secret.expose_secret().as_bytes(),
        ))
    }
}

/// Decodes small answers in place and long lists on a thread that may take its time.
async fn read<D: Decode>(
    action: &'static str,
    reply: Reply,
    decoder: D,
) -> Result<D::Answer, CallError> {
    let now = Timestamp::now();
    if reply.body.len() <= DECODE_INLINE_MAX {
        return error::interpret(action, &reply, now, decoder);
    }
    tokio::task::spawn_blocking(move || error::interpret(action, &reply, now, decoder))
        .await
        .unwrap_or_else(|error| {
            Err(CallError::Unknown {
                action,
                reason: format!("reading the answer failed: {error}"),
                throttled: false,
            })
        })
}

#[async_trait]
impl Cloud for Client {
    async fn describe_disks(&self, names: &[DiskName]) -> Result<Vec<Disk>, CallError> {
        self.call(actions::describe_volumes(names), Disks::of(names))
            .await
    }

    async fn describe_vms(&self, names: &[VmName]) -> Result<Vec<Vm>, CallError> {
        self.call(actions::describe_instances(names), Vms::of(names))
            .await
    }

    async fn describe_slots(&self, vm: &VmName) -> Result<Vec<Slot>, CallError> {
        self.call(actions::describe_slots(vm), Slots::of(vm)).await
    }

    async fn create_disk(&self, disk: &NewDisk) -> Result<(), CallError> {
        self.call(
            actions::create_volume(disk),
            Done::of_disk(Some(&disk.name)),
        )
        .await
    }

    async fn delete_disk(&self, disk: &DiskName) -> Result<(), CallError> {
        self.call(actions::delete_volume(disk), Done::of_disk(None))
            .await
    }

    async fn attach_disk(&self, disk: &DiskName, vm: &VmName) -> Result<(), CallError> {
        self.call(actions::attach_volume(disk, vm), Done::of_disk(Some(disk)))
            .await
    }

    async fn detach_disk(&self, disk: &DiskName, vm: &VmName) -> Result<(), CallError> {
        self.call(actions::detach_volume(disk, vm), Done::of_disk(Some(disk)))
            .await
    }

    async fn extend_disk(&self, disk: &DiskName) -> Result<(), CallError> {
        self.call(actions::extend_volume(disk), Done::of_disk(None))
            .await
    }

    async fn set_description(&self, disk: &DiskName, description: &str) -> Result<(), CallError> {
        self.call(
            actions::set_description(disk, description),
            Done::of_disk(None),
        )
        .await
    }

    async fn set_accounting(
        &self,
        disk: &DiskName,
        accounting: Accounting,
    ) -> Result<(), CallError> {
        self.call(
            actions::set_accounting(disk, accounting),
            Done::of_disk(None),
        )
        .await
    }

    async fn describe_zones(&self) -> Result<Vec<String>, CallError> {
        self.call(actions::describe_zones(), Zones).await
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.endpoint.url.as_str())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
