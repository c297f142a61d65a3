//! Errors of system calls in the port's words.

use std::io;
use std::path::Path;

use nix::errno::Errno;

use super::HostError;

/// A failed read, write or open.
pub(super) fn io(action: &'static str, path: &Path, error: &io::Error) -> HostError {
    let errno = error.raw_os_error();
    let reason = match errno {
        Some(raw) => words(Errno::from_raw(raw)),
        None => error.to_string(),
    };
    HostError::Io {
        action,
        path: path.to_owned(),
        reason,
        errno,
    }
}

/// A failed system call.
pub(super) fn sys(action: &'static str, path: &Path, errno: Errno) -> HostError {
    with_hint(action, path, errno, "")
}

/// A failed system call, with what it means here.
pub(super) fn with_hint(action: &'static str, path: &Path, errno: Errno, hint: &str) -> HostError {
    let mut reason = words(errno);
    if !hint.is_empty() {
        reason.push_str("; ");
        reason.push_str(hint);
    }
    HostError::Io {
        action,
        path: path.to_owned(),
        reason,
        errno: Some(errno as i32),
    }
}

fn words(errno: Errno) -> String {
    format!("{} ({errno:?})", errno.desc())
}
