//! A client of QEMU's machine protocol (QMP), as far as hot-plugging SCSI disks needs it.
//!
//! One connection per VM, one command at a time; events that arrive in between are kept until somebody waits for
//! them. The disk is a raw sparse file; the guest sees what a VMware guest sees: vendor, model, a 32-digit serial
//! number and a world-wide name.

mod faults;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout_at};

pub use faults::BadIo;

/// How long one command may take; QEMU answers in milliseconds, and a guest gives a disk up in less than a second.
const LIMIT: Duration = Duration::from_secs(30);

/// Why QEMU did not do it.
#[derive(Debug, Clone, Error)]
pub enum QmpError {
    /// The socket is not there or closed: the VM is not running.
    #[error("QEMU cannot be reached at {socket:?}: {reason}")]
    Unreachable {
        /// The VM's control socket.
        socket: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// QEMU refused the command.
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        reason: String,
    },
    /// No answer, or the guest did not give the disk up.
    #[error("QEMU did not finish {command} within {seconds} s")]
    TimedOut {
        /// The command or event.
        command: String,
        /// The limit.
        seconds: u64,
    },
}

/// A disk as it is plugged into a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plug {
    /// Name of the device and, with a prefix, of its block node: at most 26 letters, digits and hyphens (QEMU
    /// limits the names of block nodes to 31 characters).
    pub id: String,
    /// The raw file.
    pub file: PathBuf,
    /// Number of the pvscsi controller.
    pub bus: u8,
    /// Target on it.
    pub target: u8,
    /// Unit serial number; `None` hides it, as a VM without `disk.EnableUUID` does.
    pub serial: Option<String>,
    /// The guest cannot write.
    pub read_only: bool,
    /// Sectors (512 bytes) whose reads and writes fail.
    pub bad_sectors: Vec<u64>,
}

/// A connection to one VM's QEMU.
#[derive(Debug)]
pub struct Qmp {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects and leaves the negotiation mode.
    ///
    /// # Errors
    /// [`QmpError::Unreachable`].
    pub async fn connect(socket: &Path) -> Result<Self, QmpError> {
        let end = Instant::now() + LIMIT;
        let unreachable = |reason: &dyn std::fmt::Display| QmpError::Unreachable {
            socket: socket.to_owned(),
            reason: reason.to_string(),
        };
        let stream = loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > end => return Err(unreachable(&error)),
                // QEMU is starting, or still letting go of the last client.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
                    ) =>
                {
                    sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(unreachable(&error)),
            }
        };
        let mut qmp = Self {
            socket: socket.to_owned(),
            stream: BufReader::new(stream),
            events: VecDeque::new(),
        };
        qmp.read(end, "the greeting").await?;
        qmp.call("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn call(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let line = format!(
            "{}\n",
            json!({ "execute": command, "arguments": arguments })
        );
        let sent = self.stream.get_mut().write_all(line.as_bytes()).await;
        sent.map_err(|e| self.unreachable(&e))?;
        let end = Instant::now() + LIMIT;
        loop {
            let mut answer = self.read(end, command).await?;
            if answer.get("event").is_some() {
                self.events.push_back(answer);
            } else if let Some(error) = answer.get("error") {
                let reason = error
                    .get("desc")
                    .and_then(Value::as_str)
                    .unwrap_or("no reason");
                return Err(QmpError::Refused {
                    command: command.to_owned(),
                    reason: reason.to_owned(),
                });
            } else if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Plugs a disk; the guest notices by itself.
    ///
    /// # Errors
    /// [`QmpError::Refused`] when the slot is taken or another VM holds the file's lock.
    pub async fn plug(&mut self, disk: &Plug) -> Result<(), QmpError> {
        let bad = BadIo::Sectors(disk.bad_sectors.clone());
        let bad = (!disk.bad_sectors.is_empty()).then_some(&bad);
        self.plug_bad(disk, bad).await
    }

    /// [`Qmp::plug`] of a disk with bad regions.
    ///
    /// # Errors
    /// As [`Qmp::plug`].
    pub async fn plug_bad(&mut self, disk: &Plug, bad: Option<&BadIo>) -> Result<(), QmpError> {
        let (node, file) = (node_name(&disk.id), file_name(&disk.id));
        let file = json!({
            "driver": "file", "node-name": file, "filename": disk.file, "discard": "unmap",
        });
        let block = json!({
            "driver": "raw", "node-name": node, "file": file, "read-only": disk.read_only, "discard": "unmap",
        });
        self.call("blockdev-add", block).await?;
        let mut added = Ok(());
        if let Some(bad) = bad {
            added = self.fail_io(&disk.id, disk.read_only, bad).await;
        }
        if added.is_ok() {
            added = self
                .call("device_add", device_arguments(disk))
                .await
                .map(drop);
        }
        if added.is_err() {
            // The nodes alone would hold the file's lock for ever.
            self.remove_nodes(&disk.id).await?;
        }
        added
    }

    /// Unplugs a disk, whether the guest still uses it or not. A disk that is not plugged is success.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn unplug(&mut self, id: &str) -> Result<(), QmpError> {
        match self.call("device_del", json!({ "id": id })).await {
            Ok(_) => self.wait_deleted(id).await?,
            Err(QmpError::Refused { reason, .. }) if reason.contains("not found") => {}
            Err(error) => return Err(error),
        }
        self.remove_nodes(id).await
    }

    async fn remove_nodes(&mut self, id: &str) -> Result<(), QmpError> {
        self.remove_node(node_name(id)).await?;
        self.remove_node(faults::bad_name(id)).await
    }

    /// Removes a block node; one that is not there is success.
    async fn remove_node(&mut self, name: String) -> Result<(), QmpError> {
        let removed = self
            .call("blockdev-del", json!({ "node-name": name }))
            .await;
        match removed {
            Ok(_) => Ok(()),
            Err(QmpError::Refused { reason, .. })
                if reason.contains("not find") || reason.contains("ailed to find") =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Tells the disk's new size; the guest must rescan to see it.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn resize(&mut self, id: &str, bytes: u64) -> Result<(), QmpError> {
        self.call(
            "block_resize",
            json!({ "node-name": node_name(id), "size": bytes }),
        )
        .await?;
        Ok(())
    }

    /// Ids of the disks that are plugged now.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn plugged(&mut self) -> Result<Vec<String>, QmpError> {
        let nodes = self
            .call("query-named-block-nodes", json!({ "flat": true }))
            .await?;
        let names = nodes.as_array().into_iter().flatten();
        Ok(names
            .filter_map(|node| node.get("node-name")?.as_str()?.strip_prefix("node-"))
            .map(str::to_owned)
            .collect())
    }

    async fn wait_deleted(&mut self, id: &str) -> Result<(), QmpError> {
        let end = Instant::now() + LIMIT;
        let deleted = |event: &Value| {
            event["event"] == "DEVICE_DELETED" && event["data"]["device"].as_str() == Some(id)
        };
        loop {
            if let Some(at) = self.events.iter().position(deleted) {
                self.events.remove(at);
                return Ok(());
            }
            let event = self.read(end, "DEVICE_DELETED").await?;
            self.events.push_back(event);
        }
    }

    async fn read(&mut self, end: Instant, command: &str) -> Result<Value, QmpError> {
        let mut line = String::new();
        match timeout_at(end, self.stream.read_line(&mut line)).await {
            Ok(Ok(0)) => Err(self.unreachable(&"the connection was closed")),
            Ok(Ok(_)) => serde_json::from_str(&line).map_err(|e| self.unreachable(&e)),
            Ok(Err(error)) => Err(self.unreachable(&error)),
            Err(_) => Err(QmpError::TimedOut {
                command: command.to_owned(),
                seconds: LIMIT.as_secs(),
            }),
        }
    }

    fn unreachable(&self, reason: &dyn std::fmt::Display) -> QmpError {
        QmpError::Unreachable {
            socket: self.socket.clone(),
            reason: reason.to_string(),
        }
    }
}

fn node_name(id: &str) -> String {
    format!("node-{id}")
}

fn file_name(id: &str) -> String {
    format!("file-{id}")
}

fn device_arguments(disk: &Plug) -> Value {
    let mut device = json!({
        "driver": "scsi-hd", "id": disk.id, "drive": node_name(&disk.id),
        "bus": format!("scsi{}.0", disk.bus), "channel": 0, "scsi-id": disk.target, "lun": 0,
        "vendor": "VMware", "product": "Virtual disk", "ver": "2.0",
        // A failing disk reports to the guest; QEMU's default would stop the VM.
        "werror": "report", "rerror": "report",
    });
    if let (Some(serial), Some(fields)) = (&disk.serial, device.as_object_mut()) {
        fields.insert("serial".to_owned(), json!(serial));
        // QEMU's world-wide name has 64 bits, VMware's 128: the first half of the serial's digits.
        let wwn = serial
            .get(..16)
            .and_then(|digits| u64::from_str_radix(digits, 16).ok());
        if let Some(wwn) = wwn {
            fields.insert("wwn".to_owned(), json!(wwn));
        }
    }
    device
}
