//! The connection to one VM's QEMU, made when it is needed and made anew after the VM was restarted.

use std::path::PathBuf;

use tokio::sync::Mutex;

use super::super::super::qmp::{BadIo, Plug, Qmp, QmpError};
use super::super::BackendError;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Line {
    socket: PathBuf,
    connection: Mutex<Option<Qmp>>,
}

/// What QEMU is asked to do.
#[derive(Debug)]
pub(super) enum Work {
    Plug {
        plug: Plug,
        bad: Option<BadIo>,
        silent: bool,
    },
    Unplug {
        id: String,
        silent: bool,
    },
    Resize {
        id: String,
        bytes: u64,
    },
    Bad {
        id: String,
        read_only: bool,
        bad: Option<BadIo>,
    },
}

impl Line {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            connection: Mutex::new(None),
        }
    }

    /// Does the work; a broken connection is made anew once.
    pub(super) async fn perform(&self, work: &Work) -> Result<(), BackendError> {
        let failed = |error: QmpError| BackendError::new(work.name(), error);
        let mut connection = self.connection.lock().await;
        // Taken out while it works: what is cut in the middle is not used again.
        if let Some(mut qmp) = connection.take() {
            let result = work.run(&mut qmp).await;
            if is_whole(&result) {
                *connection = Some(qmp);
            }
            if !matches!(result, Err(QmpError::Unreachable { .. })) {
                return result.map_err(failed);
            }
        }
        let mut qmp = Qmp::connect(&self.socket).await.map_err(failed)?;
        let result = work.run(&mut qmp).await;
        if is_whole(&result) {
            *connection = Some(qmp);
        }
        result.map_err(failed)
    }

    /// Lets go of the connection; one that is in use ends with its work.
    pub(super) fn close(&self) {
        if let Ok(mut connection) = self.connection.try_lock() {
            *connection = None;
        }
    }
}

/// Whether no answer is still to come on the connection.
fn is_whole(result: &Result<(), QmpError>) -> bool {
    matches!(result, Ok(()) | Err(QmpError::Refused { .. }))
}

impl Work {
    fn name(&self) -> &'static str {
        match self {
            Self::Plug { .. } => "plug a disk into a VM",
            Self::Unplug { .. } => "unplug a disk from a VM",
            Self::Resize { .. } => "grow a disk of a VM",
            Self::Bad { .. } => "change the bad regions of a VM's disk",
        }
    }

    async fn run(&self, qmp: &mut Qmp) -> Result<(), QmpError> {
        match self {
            Self::Plug { plug, bad, silent } => {
                if qmp.plugged().await?.contains(&plug.id) {
                    return Ok(());
                }
                if !silent {
                    return qmp.plug_bad(plug, bad.as_ref()).await;
                }
                qmp.mute(plug.bus).await?;
                let plugged = qmp.plug_bad(plug, bad.as_ref()).await;
                qmp.unmute().await.and(plugged)
            }
            Self::Unplug { id, silent: false } => qmp.unplug(id).await,
            Self::Unplug { id, silent: true } => {
                qmp.mute(0).await?;
                let unplugged = qmp.unplug(id).await;
                qmp.unmute().await.and(unplugged)
            }
            Self::Resize { id, bytes } => qmp.resize(id, *bytes).await,
            Self::Bad {
                id,
                read_only,
                bad: Some(bad),
            } => qmp.fail_io(id, *read_only, bad).await,
            Self::Bad {
                id,
                read_only,
                bad: None,
            } => qmp.mend_io(id, *read_only).await,
        }
    }
}
