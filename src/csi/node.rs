//! CSI Node: disks of this machine, from slot to pod.
//!
//! ```text
//! stage:   find -> prove -> record -> (blank? format) -> check -> mount        bind the node (raw block)
//! publish: staged device? -> bind, read-only verified
//! unpublish: unmount -> verify -> remove
//! unstage: no targets left -> unmount -> verify -> release the SCSI device -> forget
//! ```
//!
//! Verbs block and run on blocking threads as jobs keyed by volume: a retry joins, another operation on the same volume
//! is refused, the caller's deadline never ends work half-way, and a mount that hangs holds one thread and one volume.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use self::error::NodeError;
use self::kernel::Kernel;
use self::known::Known;
use self::records::Records;
use self::strangers::Strangers;
use super::deadline::caller_limit;
use super::error::Failure;
use super::layer::note_volume;
use crate::domain::id::{DiskName, VmName};
use crate::domain::topology::Zone;
use crate::host::Host;
use crate::jobs::{JobError, Jobs};
use crate::proto::csi::v1::node_server::Node as NodeService;
use crate::proto::csi::v1::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
    NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse,
    NodeGetStorageHealthRequest, NodeGetStorageHealthResponse, NodeGetVolumeHealthRequest,
    NodeGetVolumeHealthResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeStageVolumeRequest,
    NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
    NodeUnstageVolumeRequest, NodeUnstageVolumeResponse,
};

pub(super) mod command;
pub mod error;
mod expand;
mod health;
mod info;
mod kernel;
mod known;
mod prepare;
mod publish;
mod records;
mod stage;
mod stats;
mod strangers;
mod unpublish;
mod unstage;

pub use command::{DEVICE_PATH, SIZE_GIB};

/// Limits on how long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A call whose caller gave no deadline; also the longest wait for a device to appear.
    pub call: Duration,
    /// mkfs, and each check or growth of an unmounted file system.
    pub format: Duration,
    /// Waiting for the last user of a device at unstage.
    pub release: Duration,
    /// Statistics and health.
    pub read: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(110),
            format: Duration::from_secs(30 * 60),
            release: Duration::from_secs(30),
            read: Duration::from_secs(10),
        }
    }
}

/// What the node plugin must know of its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The VM's name: the CSI node id.
    pub name: VmName,
    /// The VM's zone. Without it the node registers without topology and no claim can be scheduled to it.
    pub zone: Option<Zone>,
    /// Fixed limit of volumes; `None` computes 14 minus the disks that are not this driver's.
    pub max_volumes: Option<u16>,
    /// Slots to leave free for disks that people attach by hand.
    pub reserved_slots: u16,
    /// The kubelet's root: staging and target paths outside are refused.
    pub kubelet_dir: PathBuf,
    /// The driver's own records, kept over restarts.
    pub state_dir: PathBuf,
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`): device numbers are meaningful within one boot.
    pub boot_id: String,
    /// Limits in time.
    pub timeouts: Timeouts,
}

/// The Node service.
#[derive(Clone)]
pub struct Node {
    kernel: Kernel,
    jobs: Jobs,
    /// Reads have a table of their own, so that they neither wait for nor refuse a mutation, and a device that
    /// hangs holds one thread per question, not one per retry.
    reads: Jobs,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("config", &self.kernel.config)
            .field("jobs", &self.jobs)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// A node over `host`. Mutating verbs run in `jobs`, which the caller drains at shutdown.
    #[must_use]
    pub fn new(host: Arc<dyn Host>, config: NodeConfig, jobs: Jobs) -> Self {
        let records = Records::new(&config.state_dir, &config.boot_id);
        let known = Known::new(&config.state_dir);
        Self {
            kernel: Kernel {
                host,
                config: Arc::new(config),
                records,
                known,
                strangers: Strangers::default(),
            },
            jobs,
            reads: Jobs::default(),
        }
    }

    /// Runs a mutating verb as the volume's only job.
    async fn mutate<T, F>(
        &self,
        operation: &'static str,
        disk: &DiskName,
        request: String,
        work: F,
    ) -> Result<T, Failure>
    where
        T: Clone + Send + Sync + 'static,
        F: FnOnce(&Kernel) -> Result<T, NodeError> + Send + 'static,
    {
        note_volume(disk.as_str());
        let work = off_the_reactor(self.kernel.clone(), work);
        self.jobs.run(disk.as_str(), operation, request, work).await
    }

    /// Runs a reading verb with a bound on the caller's wait. The same question asked again joins.
    async fn read<T, F>(&self, what: &'static str, key: String, work: F) -> Result<T, Failure>
    where
        T: Clone + Send + Sync + 'static,
        F: FnOnce(&Kernel) -> Result<T, NodeError> + Send + 'static,
    {
        let limit = self.kernel.config.timeouts.read;
        let work = off_the_reactor(self.kernel.clone(), work);
        let run = self.reads.run(&key, what, String::new(), work);
        tokio::time::timeout(limit, run).await.unwrap_or_else(|_| {
            Err(Failure::Node(NodeError::Hangs {
                what: key.clone(),
                limit_ms: limit.as_millis(),
            }))
        })
    }

    /// When a call must have its answer: before its caller stops listening, so that the caller gets the reason.
    fn deadline(&self, metadata: &MetadataMap) -> Instant {
        let ours = self.kernel.config.timeouts.call;
        Instant::now() + caller_limit(metadata).map_or(ours, |theirs| theirs.min(ours))
    }

    fn root(&self) -> &std::path::Path {
        &self.kernel.config.kubelet_dir
    }
}

/// A verb on a blocking thread, in the caller's span; its panic goes on in the job, which reports it.
async fn off_the_reactor<T, F>(kernel: Kernel, work: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce(&Kernel) -> Result<T, NodeError> + Send + 'static,
{
    let span = tracing::Span::current();
    let running = tokio::task::spawn_blocking(move || {
        let _entered = span.enter();
        work(&kernel)
    });
    match running.await {
        Ok(result) => result.map_err(Failure::Node),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(Failure::Job(JobError::ShuttingDown)),
        },
    }
}

#[tonic::async_trait]
impl NodeService for Node {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let command =
            command::Stage::read(request.get_ref(), self.root()).map_err(Failure::from)?;
        let (disk, text) = (command.disk.clone(), format!("{command:?}"));
        self.mutate("NodeStageVolume", &disk, text, move |kernel| {
            stage::stage(kernel, &command, deadline)
        })
        .await?;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        let command =
            command::Clear::staging(request.get_ref(), self.root()).map_err(Failure::from)?;
        let (disk, text) = (command.disk.clone(), format!("{command:?}"));
        self.mutate("NodeUnstageVolume", &disk, text, move |kernel| {
            unstage::unstage(kernel, &command)
        })
        .await?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let command =
            command::Publish::read(request.get_ref(), self.root()).map_err(Failure::from)?;
        let (disk, text) = (command.disk.clone(), format!("{command:?}"));
        self.mutate("NodePublishVolume", &disk, text, move |kernel| {
            publish::publish(kernel, &command)
        })
        .await?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let command =
            command::Clear::target(request.get_ref(), self.root()).map_err(Failure::from)?;
        let (disk, text) = (command.disk.clone(), format!("{command:?}"));
        self.mutate("NodeUnpublishVolume", &disk, text, move |kernel| {
            unpublish::unpublish(kernel, &command)
        })
        .await?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        let command = command::Expand::read(request.get_ref()).map_err(Failure::from)?;
        let (disk, text) = (command.disk.clone(), format!("{command:?}"));
        let capacity = self
            .mutate("NodeExpandVolume", &disk, text, move |kernel| {
                expand::expand(kernel, &command)
            })
            .await?;
        Ok(Response::new(NodeExpandVolumeResponse {
            capacity_bytes: i64::try_from(capacity).unwrap_or(i64::MAX),
        }))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let command = command::Look::read(request.get_ref()).map_err(Failure::from)?;
        note_volume(command.disk.as_str());
        let key = format!("{} at {}", command.disk, command.path.display());
        let answer = self
            .read("NodeGetVolumeStats", key, move |kernel| {
                stats::stats(kernel, &command)
            })
            .await?;
        Ok(Response::new(answer))
    }

    async fn node_get_volume_health(
        &self,
        request: Request<NodeGetVolumeHealthRequest>,
    ) -> Result<Response<NodeGetVolumeHealthResponse>, Status> {
        let command = command::Health::read(request.get_ref()).map_err(Failure::from)?;
        note_volume(command.disk.as_str());
        let key = format!("health of {command:?}");
        let answer = self
            .read("NodeGetVolumeHealth", key, move |kernel| {
                health::volume(kernel, &command)
            })
            .await?;
        Ok(Response::new(answer))
    }

    async fn node_get_storage_health(
        &self,
        _request: Request<NodeGetStorageHealthRequest>,
    ) -> Result<Response<NodeGetStorageHealthResponse>, Status> {
        let answer = self
            .read(
                "NodeGetStorageHealth",
                "storage of this node".to_owned(),
                health::storage,
            )
            .await?;
        Ok(Response::new(answer))
    }

    async fn node_get_capabilities(
        &self,
        _request: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        Ok(Response::new(info::capabilities()))
    }

    async fn node_get_info(
        &self,
        _request: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        let answer = self
            .read("NodeGetInfo", "this node".to_owned(), info::info)
            .await?;
        Ok(Response::new(answer))
    }
}
