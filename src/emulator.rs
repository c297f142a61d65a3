//! A NIFCLOUD computing API on this machine, with real disks behind it.
//!
//! ```text
//! client --- POST /api/ ---> server: signature, faults ---> actions on the books (state) ---> answer
//!                                                                  |
//!                                     time passes, then: backend (nothing | loop devices | QEMU) and the books again
//! test, operator --- admin endpoint or `Control` ---> latency, rate limit, faults, VMs, held calls
//! ```
//!
//! The wire is the real one: signature version 2, XML, asynchronous states, 14 slots, steps of 100 GB, errors with
//! status 500. Where no source tells what the real cloud does, the choice is marked "invented" in
//! [`Code`], and where it can matter there is a switch ([`Switches`]); the driver never depends on such a code.

mod actions;
mod admin;
mod backend;
pub mod code;
mod config;
mod control;
mod core;
mod devices;
mod faults;
pub mod qmp;
mod server;
mod sign;
mod state;
mod store;
mod xml;

use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use backend::BackendError;
pub use code::Code;
pub use config::{
    BackendKind, Config, ConfigError, Latency, RateLimit, Switches, ThrottleAnswer, VmConfig,
};
pub use control::Control;
pub use core::Event;
pub use devices::{BadRegion, DeviceFaults};
pub use faults::{Effect, HeldCall, Rule, RuleInForce};
pub use state::{AttachmentRecord, Change, DiskRecord, Refusal, State, VmRecord};

use self::core::Core;
use store::Store;

/// Why the emulator did not start.
#[derive(Debug, Error)]
pub enum EmulatorError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        reason: String,
    },
    /// State or devices could not be restored.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// A running emulator. [`Emulator::shutdown`] ends it; dropping it does the same without waiting for what runs.
#[derive(Debug)]
pub struct Emulator {
    control: Arc<Control>,
    api: SocketAddr,
    admin: SocketAddr,
    stop: CancellationToken,
    closed: bool,
}

impl Emulator {
    /// Starts serving. State from an earlier run in the same data directory goes on.
    ///
    /// # Errors
    /// [`EmulatorError`].
    pub async fn start(config: Config) -> Result<Self, EmulatorError> {
        config.check()?;
        let (store, kept) = match &config.data_dir {
            Some(dir) => {
                let (store, kept) = Store::open(dir)?;
                (Some(store), kept)
            }
            None => (None, State::default()),
        };
        let state = with_vms(kept, &config);
        let backend = backend::open(&config)?;
        let (api, api_listener) = listen(config.listen).await?;
        let (admin, admin_listener) = listen(config.admin_listen).await?;
        let core = Arc::new(Core::new(config, state, backend, store));
        core.save(&mut core.live().state);
        core.resume().await?;
        let control = Arc::new(Control::new(Arc::clone(&core)));
        let stop = CancellationToken::new();
        tokio::spawn(server::serve(core, api_listener, stop.clone()));
        let (router, stopped) = (admin::router(Arc::clone(&control)), stop.clone());
        tokio::spawn(async move {
            let served = axum::serve(admin_listener, router)
                .with_graceful_shutdown(async move { stopped.cancelled().await });
            if let Err(error) = served.await {
                tracing::error!(%error, "the admin endpoint ended");
            }
        });
        Ok(Self {
            control,
            api,
            admin,
            stop,
            closed: false,
        })
    }

    /// URL of the API, without `/api/`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.api)
    }

    /// URL of the admin endpoint.
    #[must_use]
    pub fn admin(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// Everything the admin endpoint can do, as calls.
    #[must_use]
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Stops serving, lets go of devices and writes the state. Changes in flight go on after the next start.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        self.control.close().await;
        self.closed = true;
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.cancel();
        if !self.closed {
            // A test that failed must not leave devices behind.
            self.control.release_all();
        }
    }
}

async fn listen(address: SocketAddr) -> Result<(SocketAddr, TcpListener), EmulatorError> {
    let failed = |e: std::io::Error| EmulatorError::Listen {
        address,
        reason: e.to_string(),
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    Ok((listener.local_addr().map_err(failed)?, listener))
}

/// Adds the configured VMs that the books do not have, unless they were deleted or renamed in an earlier run.
fn with_vms(mut state: State, config: &Config) -> State {
    for vm in &config.vms {
        if !state.vms.contains_key(&vm.name) && !state.retired.contains(&vm.name) {
            state.insert_vm(&vm.name, &vm.zone, &vm.state);
        }
    }
    state
}
