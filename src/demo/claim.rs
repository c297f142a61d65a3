//! A claim, and the calls that sidecars and the kubelet make for it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::csi::node::DEVICE_PATH;
use crate::domain::DRIVER_NAME;
use crate::domain::id::DiskName;
use crate::domain::params::CONTEXT_FS_UUID;
use crate::domain::topology::{NODE_KEY, ZONE_KEY};
use crate::proto::csi::v1::controller_client::ControllerClient;
use crate::proto::csi::v1::node_client::NodeClient;
use crate::proto::csi::v1::volume_capability::access_mode::Mode;
use crate::proto::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use crate::proto::csi::v1::*;

/// Longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(60);
const GIB: i64 = 1 << 30;

/// What the pod sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A file system.
    Mounted(&'static str),
    /// The device itself.
    Raw,
}

/// A VM with its node service.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub vm: &'static str,
    /// Its zone.
    pub zone: &'static str,
    /// The kubelet's root there.
    pub kubelet: PathBuf,
    /// Its node service.
    pub client: NodeClient<Channel>,
}

impl Node {
    /// A node service behind a channel.
    #[must_use]
    pub fn new(vm: &'static str, zone: &'static str, kubelet: PathBuf, channel: Channel) -> Self {
        Self {
            vm,
            zone,
            kubelet,
            client: NodeClient::new(channel),
        }
    }
}

/// A volume on its way.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Name of the PersistentVolume.
    pub name: String,
    /// What the pod sees.
    pub form: Form,
    /// The volume handle, once there is one.
    pub id: String,
    context: HashMap<String, String>,
    attached: HashMap<String, String>,
}

/// A call with the deadline of a patient sidecar.
fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

/// A channel to a driver's socket.
///
/// # Errors
/// Nobody serves there.
pub async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    Endpoint::try_from(format!("unix://{}", socket.display()))?
        .connect()
        .await
}

impl Claim {
    /// A claim under a new name.
    #[must_use]
    pub fn new(form: Form) -> Self {
        let id = format!("{:032x}", fastrand::u128(..));
        let parts = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]];
        Self {
            name: format!("pvc-{}", parts.join("-")),
            form,
            id: String::new(),
            context: HashMap::new(),
            attached: HashMap::new(),
        }
    }

    /// A volume that CreateVolume made and that is attached already, in a slot of the VM (`SCSI (0:3)`).
    #[must_use]
    pub fn existing(form: Form, id: String, slot: String) -> Self {
        let attached = HashMap::from([(DEVICE_PATH.to_owned(), slot)]);
        let promised = DiskName::parse(&id).map(|disk| disk.fs_uuid().to_string());
        Self {
            id,
            attached,
            context: promised
                .map(|uuid| (CONTEXT_FS_UUID.to_owned(), uuid))
                .into_iter()
                .collect(),
            ..Self::new(form)
        }
    }

    fn capability(&self) -> VolumeCapability {
        let access = match self.form {
            Form::Mounted(fs) => AccessType::Mount(MountVolume {
                fs_type: fs.to_owned(),
                ..MountVolume::default()
            }),
            Form::Raw => AccessType::Block(BlockVolume {}),
        };
        VolumeCapability {
            access_type: Some(access),
            access_mode: Some(AccessMode {
                mode: Mode::SingleNodeWriter.into(),
            }),
        }
    }

    /// Where the kubelet keeps the staged volume.
    #[must_use]
    pub fn staging(&self, node: &Node) -> PathBuf {
        let plugins = node.kubelet.join("plugins/kubernetes.io/csi");
        plugins.join(DRIVER_NAME).join(&self.id).join("globalmount")
    }

    /// Where the pod's volume is: a directory, or the device.
    #[must_use]
    pub fn target(&self, node: &Node) -> PathBuf {
        let pod = node.kubelet.join("pods/6f7d1f0e");
        match self.form {
            Form::Mounted(_) => pod
                .join("volumes/kubernetes.io~csi")
                .join(&self.name)
                .join("mount"),
            Form::Raw => pod.join("volumeDevices/kubernetes.io~csi").join(&self.name),
        }
    }

    /// external-provisioner, after the scheduler has chosen `node`.
    ///
    /// # Errors
    /// The driver refused.
    pub async fn create(
        &mut self,
        controller: &ControllerClient<Channel>,
        node: (&str, &str),
        gib: i64,
    ) -> Result<(), Status> {
        let (vm, zone) = node;
        let here = Topology {
            segments: [
                (ZONE_KEY.to_owned(), zone.to_owned()),
                (NODE_KEY.to_owned(), vm.to_owned()),
            ]
            .into(),
        };
        let request = CreateVolumeRequest {
            name: self.name.clone(),
            capacity_range: Some(CapacityRange {
                required_bytes: gib * GIB,
                limit_bytes: 0,
            }),
            volume_capabilities: vec![self.capability()],
            parameters: [
                ("type".to_owned(), "standard-flash-a".to_owned()),
                ("accountingType".to_owned(), "hourly".to_owned()),
            ]
            .into(),
            accessibility_requirements: Some(TopologyRequirement {
                requisite: vec![here.clone()],
                preferred: vec![here],
            }),
            ..CreateVolumeRequest::default()
        };
        let answer = controller.clone().create_volume(call(request)).await?;
        let volume = answer.into_inner().volume.unwrap_or_default();
        self.id = volume.volume_id;
        self.context = volume.volume_context;
        Ok(())
    }

    /// external-attacher.
    ///
    /// # Errors
    /// The driver refused.
    pub async fn attach(
        &mut self,
        controller: &ControllerClient<Channel>,
        vm: &str,
    ) -> Result<(), Status> {
        let request = ControllerPublishVolumeRequest {
            volume_id: self.id.clone(),
            node_id: vm.to_owned(),
            volume_capability: Some(self.capability()),
            volume_context: self.context.clone(),
            ..ControllerPublishVolumeRequest::default()
        };
        let mut controller = controller.clone();
        let answer = controller.controller_publish_volume(call(request)).await?;
        self.attached = answer.into_inner().publish_context;
        Ok(())
    }

    /// external-attacher.
    ///
    /// # Errors
    /// The driver refused.
    pub async fn detach(
        &self,
        controller: &ControllerClient<Channel>,
        vm: &str,
    ) -> Result<(), Status> {
        let request = ControllerUnpublishVolumeRequest {
            volume_id: self.id.clone(),
            node_id: vm.to_owned(),
            ..ControllerUnpublishVolumeRequest::default()
        };
        let mut controller = controller.clone();
        controller
            .controller_unpublish_volume(call(request))
            .await?;
        Ok(())
    }

    /// kubelet.
    ///
    /// # Errors
    /// The driver refused.
    pub async fn stage(&self, node: &Node) -> Result<(), Status> {
        let request = NodeStageVolumeRequest {
            volume_id: self.id.clone(),
            publish_context: self.attached.clone(),
            staging_target_path: self.staging(node).display().to_string(),
            volume_capability: Some(self.capability()),
            volume_context: self.context.clone(),
            ..NodeStageVolumeRequest::default()
        };
        node.client.clone().node_stage_volume(call(request)).await?;
        Ok(())
    }

    /// kubelet.
    ///
    /// # Errors
    /// The driver refused.
    pub async fn publish(&self, node: &Node) -> Result<(), Status> {
        let request = NodePublishVolumeRequest {
            volume_id: self.id.clone(),
            publish_context: self.attached.clone(),
            staging_target_path: self.staging(node).display().to_string(),
            target_path: self.target(node).display().to_string(),
            volume_capability: Some(self.capability()),
            volume_context: self.context.clone(),
            ..NodePublishVolumeRequest::default()
        };
        let mut client = node.client.clone();
        client.node_publish_volume(call(request)).await?;
        Ok(())
    }

    /// kubelet.
    ///
    /// # Errors
    /// The driver refused.
    pub async fn unpublish(&self, node: &Node) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: self.id.clone(),
            target_path: self.target(node).display().to_string(),
        };
        let mut client = node.client.clone();
        client.node_unpublish_volume(call(request)).await?;
        Ok(())
    }

    /// kubelet.
    ///
    /// # Errors
    /// The driver refused.
    pub async fn unstage(&self, node: &Node) -> Result<(), Status> {
        let request = NodeUnstageVolumeRequest {
            volume_id: self.id.clone(),
            staging_target_path: self.staging(node).display().to_string(),
        };
        let mut client = node.client.clone();
        client.node_unstage_volume(call(request)).await?;
        Ok(())
    }

    /// external-resizer.
    ///
    /// # Errors
    /// The driver refused.
    pub async fn grow_disk(
        &self,
        controller: &ControllerClient<Channel>,
        gib: i64,
    ) -> Result<(), Status> {
        let request = ControllerExpandVolumeRequest {
            volume_id: self.id.clone(),
            capacity_range: Some(CapacityRange {
                required_bytes: gib * GIB,
                limit_bytes: 0,
            }),
            volume_capability: Some(self.capability()),
            ..ControllerExpandVolumeRequest::default()
        };
        let mut controller = controller.clone();
        controller.controller_expand_volume(call(request)).await?;
        Ok(())
    }

    /// kubelet.
    ///
    /// # Errors
    /// The driver refused.
    pub async fn grow_fs(&self, node: &Node, gib: i64) -> Result<(), Status> {
        let request = NodeExpandVolumeRequest {
            volume_id: self.id.clone(),
            volume_path: self.target(node).display().to_string(),
            staging_target_path: self.staging(node).display().to_string(),
            capacity_range: Some(CapacityRange {
                required_bytes: gib * GIB,
                limit_bytes: 0,
            }),
            volume_capability: Some(self.capability()),
            ..NodeExpandVolumeRequest::default()
        };
        let mut client = node.client.clone();
        client.node_expand_volume(call(request)).await?;
        Ok(())
    }

    /// kubelet: GiB of the file system.
    ///
    /// # Errors
    /// The driver refused.
    pub async fn fs_gib(&self, node: &Node) -> Result<i64, Status> {
        let request = NodeGetVolumeStatsRequest {
            volume_id: self.id.clone(),
            volume_path: self.target(node).display().to_string(),
            staging_target_path: self.staging(node).display().to_string(),
        };
        let mut client = node.client.clone();
        let answer = client.node_get_volume_stats(call(request)).await?;
        let usage = answer.into_inner().usage;
        Ok(usage.first().map_or(0, |bytes| bytes.total / GIB))
    }

    /// external-provisioner.
    ///
    /// # Errors
    /// The driver refused.
    pub async fn delete(&self, controller: &ControllerClient<Channel>) -> Result<(), Status> {
        let request = DeleteVolumeRequest {
            volume_id: self.id.clone(),
            ..DeleteVolumeRequest::default()
        };
        controller.clone().delete_volume(call(request)).await?;
        Ok(())
    }
}
