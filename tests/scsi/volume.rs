//! A volume of the node plugin alone: requests as the kubelet sends them, every field open to a case.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use additional_storage_csi::emulator::qmp::Plug;
use additional_storage_csi::proto::csi::v1::volume_capability::access_mode::Mode;
use additional_storage_csi::proto::csi::v1::volume_capability::{
    AccessMode, AccessType, BlockVolume, MountVolume,
};
use additional_storage_csi::proto::csi::v1::*;
use anyhow::{Context as _, Result, ensure};
use tonic::{Request, Status};

use crate::lab::Lab;
use crate::machine::{KUBELET, Machine};

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Volume {
    pub(crate) id: String,
    pub(crate) access: AccessType,
    pub(crate) mode: Mode,
    pub(crate) publish_context: HashMap<String, String>,
    pub(crate) volume_context: HashMap<String, String>,
    pub(crate) read_only: bool,
    /// The disk behind it, plugged by hand.
    pub(crate) plug: Plug,
}

/// Longer than any call that succeeds.
const PATIENCE: Duration = Duration::from_secs(300);

fn call<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

impl Volume {
    /// A volume on a new disk of this many MiB for this target of the first controller; not plugged yet. `form` is a
    /// file system or `block`.
    pub(crate) fn new(lab: &Lab, form: &str, mib: u64, target: u8) -> Result<Self> {
        let number = lab.number();
        let access = match form {
            "block" => AccessType::Block(BlockVolume {}),
            fs => AccessType::Mount(MountVolume {
                fs_type: fs.to_owned(),
                ..MountVolume::default()
            }),
        };
        let mut volume = Self {
            id: format!("{number:032x}"),
            access,
            mode: Mode::SingleNodeWriter,
            publish_context: HashMap::new(),
            volume_context: HashMap::new(),
            read_only: false,
            plug: Plug {
                id: format!("disk{number}"),
                file: lab.image(mib)?,
                bus: 0,
                target,
                serial: Some(format!("6000c29{number:025x}")),
                read_only: false,
                bad_sectors: Vec::new(),
            },
        };
        volume.at(0, target);
        Ok(volume)
    }

    /// As a volume of CreateVolume: its context promises the file system's UUID. Without, it is as one of the Go driver.
    pub(crate) fn promised(mut self) -> Self {
        let uuid = format!("00000000-0000-0000-0000-{}", &self.id[20..]);
        self.volume_context.insert("fsUuid".to_owned(), uuid);
        self
    }

    /// Puts it into another slot.
    pub(crate) fn at(&mut self, bus: u8, target: u8) {
        (self.plug.bus, self.plug.target) = (bus, target);
        let slot = format!("SCSI ({bus}:{target})");
        self.publish_context.insert("devicePath".to_owned(), slot);
    }

    /// A capability for the requests.
    pub(crate) fn capability(&self) -> VolumeCapability {
        VolumeCapability {
            access_type: Some(self.access.clone()),
            access_mode: Some(AccessMode {
                mode: self.mode.into(),
            }),
        }
    }

    pub(crate) fn staging(&self) -> String {
        format!(
            "{KUBELET}/plugins/kubernetes.io/csi/test/{}/globalmount",
            self.id
        )
    }

    pub(crate) fn target(&self) -> String {
        format!("{KUBELET}/pods/1/volumes/{}/mount", self.id)
    }

    pub(crate) async fn stage(&self, on: &Machine) -> Result<(), Status> {
        self.stage_within(on, PATIENCE).await
    }

    /// Stages a disk that will not appear: the driver waits for it as long as the caller does.
    pub(crate) async fn stage_within(&self, on: &Machine, limit: Duration) -> Result<(), Status> {
        let request = NodeStageVolumeRequest {
            volume_id: self.id.clone(),
            publish_context: self.publish_context.clone(),
            staging_target_path: self.staging(),
            volume_capability: Some(self.capability()),
            volume_context: self.volume_context.clone(),
            ..NodeStageVolumeRequest::default()
        };
        on.node()
            .client
            .node_stage_volume(call(request, limit))
            .await?;
        Ok(())
    }

    pub(crate) async fn publish(&self, on: &Machine) -> Result<(), Status> {
        let request = NodePublishVolumeRequest {
            volume_id: self.id.clone(),
            publish_context: self.publish_context.clone(),
            staging_target_path: self.staging(),
            target_path: self.target(),
            volume_capability: Some(self.capability()),
            volume_context: self.volume_context.clone(),
            readonly: self.read_only,
            ..NodePublishVolumeRequest::default()
        };
        on.node()
            .client
            .node_publish_volume(call(request, PATIENCE))
            .await?;
        Ok(())
    }

    pub(crate) async fn unpublish(&self, on: &Machine) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: self.id.clone(),
            target_path: self.target(),
        };
        on.node()
            .client
            .node_unpublish_volume(call(request, PATIENCE))
            .await?;
        Ok(())
    }

    pub(crate) async fn unstage(&self, on: &Machine) -> Result<(), Status> {
        let request = NodeUnstageVolumeRequest {
            volume_id: self.id.clone(),
            staging_target_path: self.staging(),
        };
        on.node()
            .client
            .node_unstage_volume(call(request, PATIENCE))
            .await?;
        Ok(())
    }

    pub(crate) async fn expand(&self, on: &Machine, mib: i64) -> Result<(), Status> {
        let request = NodeExpandVolumeRequest {
            volume_id: self.id.clone(),
            volume_path: self.target(),
            staging_target_path: self.staging(),
            capacity_range: Some(CapacityRange {
                required_bytes: mib << 20,
                limit_bytes: 0,
            }),
            volume_capability: Some(self.capability()),
            ..NodeExpandVolumeRequest::default()
        };
        on.node()
            .client
            .node_expand_volume(call(request, PATIENCE))
            .await?;
        Ok(())
    }

    /// Reasons of the volume's health.
    pub(crate) async fn health(&self, on: &Machine) -> Result<Vec<String>, Status> {
        let request = NodeGetVolumeHealthRequest {
            volume_id: self.id.clone(),
            staging_target_path: self.staging(),
            volume_publish_path: self.target(),
        };
        let answer = on
            .node()
            .client
            .node_get_volume_health(call(request, PATIENCE))
            .await?;
        Ok(vec![format!("{:?}", answer.into_inner())])
    }

    /// Plugs, stages and publishes.
    pub(crate) async fn up(&self, on: &Machine) -> Result<()> {
        on.plug(&self.plug).await?;
        self.stage(on).await.context("stage")?;
        self.publish(on).await.context("publish")
    }

    /// Unpublishes, unstages and unplugs.
    pub(crate) async fn down(&self, on: &Machine) -> Result<()> {
        self.unpublish(on).await.context("unpublish")?;
        self.unstage(on).await.context("unstage")?;
        on.unplug(&self.plug.id).await
    }

    /// Writes a file (or the beginning of a raw device), synced; tells its checksum.
    pub(crate) async fn write(&self, on: &Machine, mib: u32) -> Result<String> {
        write(on, &PathBuf::from(self.target()), mib).await
    }

    /// The checksum of what [`Volume::write`] wrote, read from the disk.
    pub(crate) async fn read(&self, on: &Machine, mib: u32) -> Result<String> {
        read(on, &PathBuf::from(self.target()), mib).await
    }
}

const FILE: &str = "set -e; set -o pipefail; f=$t; [ ! -d $t ] || f=$t/data; ";
/// What md5sum says when it was given nothing.
const NOTHING: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// Random data into a volume at a path; its checksum.
pub(crate) async fn write(on: &Machine, target: &Path, mib: u32) -> Result<String> {
    let t = target.display();
    let script = format!(
        "t={t}; {FILE} dd if=/dev/urandom of=/tmp/w.$$ bs=1M count={mib} 2>/dev/null; \
         dd if=/tmp/w.$$ of=$f bs=1M conv=notrunc,fsync 2>/dev/null; md5sum </tmp/w.$$; rm /tmp/w.$$"
    );
    sum(on, &script).await
}

/// The checksum of what [`write()`] wrote, from the disk.
pub(crate) async fn read(on: &Machine, target: &Path, mib: u32) -> Result<String> {
    let t = target.display();
    let script = format!(
        "t={t}; {FILE} echo 3 >/proc/sys/vm/drop_caches; dd if=$f bs=1M count={mib} 2>/dev/null | md5sum"
    );
    sum(on, &script).await
}

async fn sum(on: &Machine, script: &str) -> Result<String> {
    let text = on.sh(script).await?;
    let sum = text.split(' ').next().unwrap_or_default();
    ensure!(sum.len() == 32 && sum != NOTHING, "no checksum: {text}");
    Ok(sum.to_owned())
}
