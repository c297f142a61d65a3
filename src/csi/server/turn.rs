//! One instance at a time looks at a socket's place and takes it.
//!
//! Two instances that start at the same moment would both find a dead socket, and the later one would take the place of the
//! earlier, which then serves nobody. The lock is on the directory, so that no file of its own is left behind; the kernel
//! ends it with the process.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

/// Binding takes milliseconds; whoever takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_millis(5);

/// Waits for the turn, which lasts until the file is dropped; `None`: this file system has no locks.
///
/// # Errors
/// The directory cannot be opened, or another process keeps the lock.
pub(super) async fn take(directory: &Path) -> io::Result<Option<File>> {
    let file = File::open(directory)?;
    let end = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                tokio::time::sleep(BETWEEN).await;
            }
            Err(TryLockError::WouldBlock) => {
                let held = "another process has kept its lock for 5 s; stop the other instance";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, held));
            }
            Err(TryLockError::Error(error)) => {
                tracing::debug!(?directory, %error, "cannot be locked");
                return Ok(None);
            }
        }
    }
}
