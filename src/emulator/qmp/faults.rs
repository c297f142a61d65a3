//! Faults that QEMU can make: bad sectors, and messages that the guest never gets.

use serde_json::{Value, json};

use super::{Qmp, QmpError, file_name, node_name};

/// What of a disk cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadIo {
    /// Nothing of it.
    All,
    /// These sectors of 512 bytes, and with them every request that touches one.
    Sectors(Vec<u64>),
}

/// Capacity of the ring in which the controller tells the guest of disks that come and go, and one more. Linux gives
/// it one page of 32 messages; QEMU lets one more in.
const RING: usize = 34;
/// A target that no disk of the cloud uses; QEMU's controller takes more than the guest's driver does.
const NOISY_TARGET: u8 = 60;
const NOISE: &str = "noise";

pub(super) fn bad_name(id: &str) -> String {
    format!("bad-{id}")
}

impl BadIo {
    fn rules(&self) -> Vec<Value> {
        let rule = |kind: &str| json!({ "event": "none", "errno": 5, "iotype": kind });
        let kinds = ["read", "write"].map(rule).into_iter();
        match self {
            Self::All => kinds.collect(),
            Self::Sectors(sectors) => kinds
                .flat_map(|rule| {
                    sectors.iter().map(move |sector| {
                        let mut rule = rule.clone();
                        if let Some(fields) = rule.as_object_mut() {
                            fields.insert("sector".to_owned(), json!(sector));
                        }
                        rule
                    })
                })
                .collect(),
        }
    }
}

impl Qmp {
    /// Makes I/O of a disk fail from now on, also while the guest uses it. `read_only` is what the disk was plugged
    /// with.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn fail_io(
        &mut self,
        id: &str,
        read_only: bool,
        bad: &BadIo,
    ) -> Result<(), QmpError> {
        self.mend_io(id, read_only).await?;
        let node = json!({
            "driver": "blkdebug", "node-name": bad_name(id), "image": file_name(id), "read-only": read_only,
            "inject-error": bad.rules(),
        });
        self.call("blockdev-add", node).await?;
        self.put_over(id, read_only, bad_name(id)).await
    }

    /// Ends [`Qmp::fail_io`].
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn mend_io(&mut self, id: &str, read_only: bool) -> Result<(), QmpError> {
        self.put_over(id, read_only, file_name(id)).await?;
        self.remove_node(bad_name(id)).await
    }

    async fn put_over(&mut self, id: &str, read_only: bool, lower: String) -> Result<(), QmpError> {
        let raw = json!({
            "driver": "raw", "node-name": node_name(id), "file": lower, "read-only": read_only, "discard": "unmap",
        });
        self.call("blockdev-reopen", json!({ "options": [raw] }))
            .await
            .map(drop)
    }

    /// Makes the guest miss what comes or goes on a controller until [`Qmp::unmute`]: the guest is stopped, and its
    /// ring of messages filled with those of a disk that comes and goes at a target that is not used; the controller
    /// drops further ones, as a real one does. Takes about a second.
    ///
    /// # Errors
    /// [`QmpError`]; the guest runs again.
    pub async fn mute(&mut self, bus: u8) -> Result<(), QmpError> {
        self.call("stop", json!({})).await?;
        let filled = self.fill_ring(bus).await;
        if filled.is_err() {
            self.unmute().await?;
        }
        filled
    }

    async fn fill_ring(&mut self, bus: u8) -> Result<(), QmpError> {
        let disk = json!({
            "driver": "null-co", "node-name": NOISE, "size": 1 << 20, "read-zeroes": true,
        });
        self.call("blockdev-add", disk).await?;
        for _ in 0..RING / 2 {
            let device = json!({
                "driver": "scsi-hd", "id": NOISE, "drive": NOISE, "bus": format!("scsi{bus}.0"),
                "channel": 0, "scsi-id": NOISY_TARGET, "lun": 0,
            });
            self.call("device_add", device).await?;
            self.call("device_del", json!({ "id": NOISE })).await?;
            self.wait_deleted(NOISE).await?;
        }
        Ok(())
    }

    /// Ends [`Qmp::mute`]: the guest goes on and knows nothing of what happened meanwhile.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn unmute(&mut self) -> Result<(), QmpError> {
        self.call("cont", json!({})).await?;
        self.remove_node(NOISE.to_owned()).await
    }
}
