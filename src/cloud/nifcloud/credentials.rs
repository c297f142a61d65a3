//! The account's keys: given as values, or in files that may be replaced while the driver runs.
//!
//! A file is looked at before every call (one `stat` per key) and read again when it is another file or has
//! changed, so that a rotated Kubernetes Secret is used without a restart. No notification is needed, and none
//! can be missed. A key that was taken away is not used any longer.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use secrecy::SecretString;
use thiserror::Error;

/// Larger files hold no key.
const FILE_MAX: u64 = 4096;
/// Tries to read both files without one of them changing meanwhile.
const CONSISTENT_TRIES: usize = 5;

/// Where one key comes from.
#[derive(Clone)]
pub enum KeySource {
    /// The key itself.
    Value(SecretString),
    /// A file that holds the key; white space around it is ignored.
    File(PathBuf),
}

/// A key that cannot be used. No message ever contains a key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// Neither the value nor the file is given.
    #[error("{name} is not set: set {name} or {name}_FILE")]
    Missing {
        /// The variable.
        name: &'static str,
    },
    /// Both are given, and they might differ.
    #[error("{name} and {name}_FILE are both set: set only one of them")]
    Both {
        /// The variable.
        name: &'static str,
    },
    /// There is nothing in it.
    #[error("{origin} is empty: expected a key")]
    Empty {
        /// The variable or the file.
        origin: String,
    },
    /// Keys are one word of printable ASCII.
    #[error("{origin} does not hold a key: it contains white space or unprintable characters")]
    Malformed {
        /// The variable or the file.
        origin: String,
    },
    /// The file cannot be read.
    #[error("cannot read the key file {path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
}

/// Both keys, as they are now.
pub(crate) struct Keys {
    /// `AccessKeyId`.
    pub(crate) access_key_id: String,
    /// The secret that signs; never sent.
    pub(crate) secret: SecretString,
}

/// The account's keys and where they come from.
pub struct Credentials {
    access_key_id: KeySource,
    secret_access_key: KeySource,
    cached: Mutex<Option<Cached>>,
}

struct Cached {
    prints: Prints,
    keys: Arc<Keys>,
}

type Prints = [Option<Print>; 2];

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Names in messages, as the environment calls the keys.
const ACCESS_KEY_ID: &str = "NIFCLOUD_ACCESS_KEY_ID";
const SECRET_ACCESS_KEY: &str = "NIFCLOUD_SECRET_ACCESS_KEY";

impl KeySource {
    /// Chooses between a value and a file, of which exactly one must be given. `name` is the variable's name.
    ///
    /// # Errors
    /// [`CredentialError::Missing`], [`CredentialError::Both`].
    pub fn choose(
        name: &'static str,
        value: Option<SecretString>,
        file: Option<PathBuf>,
    ) -> Result<Self, CredentialError> {
        match (value, file) {
            (Some(value), None) => Ok(Self::Value(value)),
            (None, Some(file)) => Ok(Self::File(file)),
            (None, None) => Err(CredentialError::Missing { name }),
            (Some(_), Some(_)) => Err(CredentialError::Both { name }),
        }
    }

    fn print(&self) -> Result<Option<Print>, CredentialError> {
        match self {
            Self::Value(_) => Ok(None),
            Self::File(path) => print_of(path).map(Some),
        }
    }

    fn read(&self, name: &'static str) -> Result<SecretString, CredentialError> {
        use secrecy::ExposeSecret as _;
        match self {
            Self::Value(value) => checked(value.expose_secret(), name),
            Self::File(path) => {
                let text = read_bounded(path)?;
                checked(
                    text.expose_secret(),
                    &format!("the key file {}", path.display()),
                )
            }
        }
    }
}

impl Credentials {
    /// Keys from two sources; nothing is read yet.
    #[must_use]
    pub fn new(access_key_id: KeySource, secret_access_key: KeySource) -> Self {
        Self {
            access_key_id,
            secret_access_key,
            cached: Mutex::new(None),
        }
    }

    /// Keys given as values.
    #[must_use]
    pub fn from_values(
        access_key_id: impl Into<SecretString>,
        secret_access_key: impl Into<SecretString>,
    ) -> Self {
        Self::new(
            KeySource::Value(access_key_id.into()),
            KeySource::Value(secret_access_key.into()),
        )
    }

    /// The keys of an environment, of which `get` reads one variable: `NIFCLOUD_ACCESS_KEY_ID` and
    /// `NIFCLOUD_SECRET_ACCESS_KEY`, or the same with `_FILE`. Empty variables count as not set.
    ///
    /// # Errors
    /// [`CredentialError::Missing`], [`CredentialError::Both`].
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Self, CredentialError> {
        let source = |name: &'static str| {
            let get = |name: &str| get(name).filter(|value| !value.is_empty());
            KeySource::choose(
                name,
                get(name).map(SecretString::from),
                get(&format!("{name}_FILE")).map(PathBuf::from),
            )
        };
        Ok(Self::new(
            source(ACCESS_KEY_ID)?,
            source(SECRET_ACCESS_KEY)?,
        ))
    }

    /// Whether a key comes from a file, so that reading may block.
    pub(crate) fn uses_files(&self) -> bool {
        [&self.access_key_id, &self.secret_access_key]
            .into_iter()
            .any(|source| matches!(source, KeySource::File(_)))
    }

    /// The keys as they are now. Touches the file system where keys come from files.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub(crate) fn current(&self) -> Result<Arc<Keys>, CredentialError> {
        let mut prints = self.prints()?;
        {
            let cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(cached) = cached.as_ref().filter(|cached| cached.prints == prints) {
                return Ok(Arc::clone(&cached.keys));
            }
        }
        let mut keys = self.read()?;
        // Both files belong together: a pair read across a rotation would sign with the wrong secret.
        for _ in 0..CONSISTENT_TRIES {
            let after = self.prints()?;
            if after == prints {
                break;
            }
            prints = after;
            keys = self.read()?;
        }
        let keys = Arc::new(keys);
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = Some(Cached {
            prints,
            keys: Arc::clone(&keys),
        });
        Ok(keys)
    }

    fn prints(&self) -> Result<Prints, CredentialError> {
        Ok([self.access_key_id.print()?, self.secret_access_key.print()?])
    }

    fn read(&self) -> Result<Keys, CredentialError> {
        use secrecy::ExposeSecret as _;
        Ok(Keys {
            access_key_id: self
                .access_key_id
                .read(ACCESS_KEY_ID)?
                .expose_secret()
                .to_owned(),
            secret: self.secret_access_key.read(SECRET_ACCESS_KEY)?,
        })
    }
}

fn checked(text: &str, origin: &str) -> Result<SecretString, CredentialError> {
    let key = text.trim();
    if key.is_empty() {
        return Err(CredentialError::Empty {
            origin: origin.to_owned(),
        });
    }
    if !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(CredentialError::Malformed {
            origin: origin.to_owned(),
        });
    }
    Ok(SecretString::from(key))
}

fn file_error(path: &Path, reason: &dyn fmt::Display) -> CredentialError {
    CredentialError::File {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}

fn print_of(path: &Path) -> Result<Print, CredentialError> {
    let meta = std::fs::metadata(path).map_err(|error| file_error(path, &error))?;
    if !meta.is_file() {
        return Err(file_error(path, &"it is not a regular file"));
    }
    Ok(Print {
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

fn read_bounded(path: &Path) -> Result<SecretString, CredentialError> {
    let file = File::open(path).map_err(|error| file_error(path, &error))?;
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| file_error(path, &error))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(file_error(
            path,
            &format!("it is larger than {FILE_MAX} bytes, so it holds no key"),
        ));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(SecretString::from(text)),
        Err(_) => Err(CredentialError::Malformed {
            origin: format!("the key file {}", path.display()),
        }),
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(_) => f.write_str("Value([redacted])"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .field("secret_access_key", &self.secret_access_key)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
