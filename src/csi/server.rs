//! One Unix socket, served until told to stop.
//!
//! ```text
//! unix:///abs/path -> Endpoint::parse -> bind -> serve -> drain (bounded) -> unlink if still ours
//! ```
//!
//! The socket appears under its name only when it is ready and has its final mode: it is bound in a private
//! directory beside its place and renamed. That needs no process-wide umask and no moment with a wider mode.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use super::layer::{RpcLayer, RpcObserver};

#[cfg(test)]
mod tests;
mod turn;

/// Longest path of a Unix socket on Linux: `sun_path` holds 108 bytes, the last is a zero.
const SUN_PATH_MAX: usize = 107;
/// How long a second instance gets to accept a connection before the socket counts as answered.
const PROBE: Duration = Duration::from_secs(1);

/// A checked address: an absolute path of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    path: PathBuf,
}

/// Why a socket cannot be served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Not an address of the form that CSI asks for.
    #[error("endpoint {text:?} is not usable: {why}; expected unix:///absolute/path/csi.sock")]
    Syntax {
        /// The text as it came.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something that is no socket has the name.
    #[error(
        "{path:?} exists and is {found}, not a socket; it was left alone: choose another endpoint or remove it"
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A second instance.
    #[error(
        "another process answers on {path:?}; it was left alone: stop the other instance or choose another endpoint"
    )]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried, in the infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The gRPC server ended by itself.
    #[error("the gRPC server on {path:?} failed")]
    Transport {
        /// The socket.
        path: PathBuf,
        /// tonic's words.
        source: tonic::transport::Error,
    },
}

impl Endpoint {
    /// Reads `unix:///abs/path` (also `unix:/abs/path` and `/abs/path`, which sidecars accept too).
    ///
    /// # Errors
    /// [`ServeError::Syntax`] for another scheme, a relative path, or a path that no socket can have.
    pub fn parse(text: &str) -> Result<Self, ServeError> {
        let bad = |why| ServeError::Syntax {
            text: text.to_owned(),
            why,
        };
        let path = match text.split_once(':') {
            _ if text.starts_with('/') => text,
            Some(("unix", rest)) => rest.strip_prefix("//").unwrap_or(rest),
            Some(_) => return Err(bad("its scheme is not unix")),
            None if text.is_empty() => return Err(bad("it is empty")),
            None => return Err(bad("it has no scheme")),
        };
        if !path.starts_with('/') {
            return Err(bad("its path is relative"));
        }
        if path.len() > SUN_PATH_MAX {
            return Err(bad("its path is longer than 107 bytes, the limit of Linux"));
        }
        let path = PathBuf::from(path);
        if path.file_name().is_none() || path.components().any(|c| c.as_os_str() == "..") {
            return Err(bad("its path names no file"));
        }
        Ok(Self { path })
    }

    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Binds the socket with `mode`. A dead socket of that name is replaced; anything else is left alone.
    ///
    /// # Errors
    /// [`ServeError::NotASocket`], [`ServeError::InUse`], [`ServeError::Io`].
    pub async fn bind(&self, mode: u32) -> Result<Bound, ServeError> {
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| ServeError::Io {
                action,
                path,
                source,
            }
        };
        // A fresh node has the kubelet's plugins directory, and nothing in it. One level: a typo in the path still shows.
        match DirBuilder::new().mode(0o750).create(parent) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io("create the directory", parent)(error));
            }
            Ok(()) | Err(_) => {}
        }
        let _turn = turn::take(parent).await.map_err(io("lock", parent))?;
        refuse_others(&self.path).await?;
        let nursery = Nursery::new(parent).map_err(io("create a directory in", parent))?;
        let newborn = nursery.0.join("s");
        let listener = UnixListener::bind(&newborn).map_err(io("bind", &self.path))?;
        fs::set_permissions(&newborn, Permissions::from_mode(mode))
            .map_err(io("set the mode of", &self.path))?;
        let made = fs::symlink_metadata(&newborn).map_err(io("read", &self.path))?;
        fs::rename(&newborn, &self.path).map_err(io("create", &self.path))?;
        Ok(Bound {
            listener,
            file: SocketFile {
                path: self.path.clone(),
                device: made.dev(),
                inode: made.ino(),
            },
        })
    }
}

/// A private directory in which the socket is born; its name is short because socket paths are.
struct Nursery(PathBuf);

impl Nursery {
    fn new(parent: &Path) -> io::Result<Self> {
        let path = parent.join(format!(".{:06x}", fastrand::u32(..0x0100_0000)));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        // After the rename the directory is empty; after a failure a half-made socket may be in it.
        let _ = fs::remove_file(self.0.join("s"));
        let _ = fs::remove_dir(&self.0);
    }
}

async fn refuse_others(path: &Path) -> Result<(), ServeError> {
    let owned = path.to_owned();
    let kind = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(ServeError::Io {
                action: "read",
                path: owned,
                source,
            });
        }
    };
    if !kind.is_socket() {
        let found = match () {
            () if kind.is_dir() => "a directory",
            () if kind.is_symlink() => "a symbolic link",
            () if kind.is_file() => "a regular file",
            () => "a special file",
        };
        return Err(ServeError::NotASocket { path: owned, found });
    }
    match tokio::time::timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(()),
            // A full backlog is a sign of life.
            io::ErrorKind::WouldBlock => Err(ServeError::InUse { path: owned }),
            _ => Err(ServeError::Io {
                action: "connect to",
                path: owned,
                source: error,
            }),
        },
        Ok(Ok(_)) | Err(_) => Err(ServeError::InUse { path: owned }),
    }
}

/// The file of a bound socket; removed on drop unless somebody else has put another in its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|now| now.dev() == self.device && now.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = ?self.path, %error, "cannot remove the socket");
        }
    }
}

/// A bound socket that is not served yet.
#[derive(Debug)]
pub struct Bound {
    listener: UnixListener,
    file: SocketFile,
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// All connections ended in time.
    Clean,
    /// The grace period passed first; what was left was dropped.
    TimedOut,
}

impl Bound {
    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Serves `routes` until `stop`, then lets running calls end for at most `grace`. A client that is connected
    /// and silent never ends by itself (hyper#4170): the bound is what ends it.
    ///
    /// # Errors
    /// [`ServeError::Transport`].
    pub async fn serve(
        self,
        routes: Routes,
        observer: Arc<dyn RpcObserver>,
        stop: CancellationToken,
        grace: Duration,
    ) -> Result<Drained, ServeError> {
        let path = self.file.path.clone();
        let serving = Server::builder()
            .layer(RpcLayer::new(observer))
            .add_routes(routes)
            .serve_with_incoming_shutdown(
                UnixListenerStream::new(self.listener),
                stop.clone().cancelled_owned(),
            );
        let bound = async {
            stop.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        let ended = tokio::select! {
            result = serving => {
                result.map_err(|source| ServeError::Transport { path, source })?;
                Drained::Clean
            }
            () = bound => Drained::TimedOut,
        };
        drop(self.file);
        Ok(ended)
    }
}
