//! CSI Controller: disks of the account, from claim to deletion.
//!
//! ```text
//! request -> command -> job (one per disk; a retry joins) -> verb -> kernel (read, journal, once) -> fleet -> cloud
//! ```
//!
//! Nothing is kept in memory that matters: the disk's name is the identity of the claim, its description the journal,
//! and every verb begins with what the cloud says now. A verb can be cut anywhere; the next call goes on from there.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use self::error::ControllerError;
use self::health::Watch;
use self::kernel::Kernel;
use super::error::Failure;
use super::layer::note_volume;
use crate::domain::id::{DiskName, VmName};
use crate::domain::topology::Zone;
use crate::fleet::Fleet;
use crate::jobs::{Interest, Jobs};
use crate::proto::csi::v1::controller_server::Controller as ControllerService;
use crate::proto::csi::v1::*;

mod anchor;
mod capabilities;
pub(super) mod command;
mod create;
mod delete;
pub mod error;
mod expand;
mod health;
mod kernel;
mod modify;
mod publish;
mod unpublish;
mod validate;
mod view;

/// What the controller must be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerConfig {
    /// Zone of disks whose request names none (`NIFCLOUD_ZONE`); without it any zone that has a running VM.
    pub zone: Option<Zone>,
    /// How long a job works before it gives up; longer than any sidecar's deadline, as retries join it. A disk that is
    /// in motion for longer is reported as stuck.
    pub job: Duration,
    /// How long a call whose outcome is unknown gets to show what it did, before it is looked for.
    pub doubt: Duration,
    /// How long a call that changes something may be under way before it is carried out, counted from the read that it
    /// rests on. A call that takes longer has lost its connection: its outcome is unknown, and `doubt` applies.
    pub flight: Duration,
    /// How long ControllerPublish waits for another controller to finish growing the disk, before it takes the disk.
    pub lend_patience: Duration,
    /// How long a job begins new work after its last caller was told that the work goes on. Shorter than the time after
    /// which another replica's sidecar may be in charge (leader election: 15 s).
    pub linger: Duration,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            zone: None,
            job: Duration::from_secs(600),
            doubt: Duration::from_secs(3),
            flight: Duration::from_secs(1),
            lend_patience: Duration::from_secs(60),
            linger: Duration::from_secs(10),
        }
    }
}

/// The Controller service.
#[derive(Clone)]
pub struct Controller {
    fleet: Arc<Fleet>,
    config: Arc<ControllerConfig>,
    nodes: Arc<Mutex<HashSet<VmName>>>,
    watch: Arc<Watch>,
    jobs: Jobs,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller")
            .field("config", &self.config)
            .field("jobs", &self.jobs)
            .finish_non_exhaustive()
    }
}

impl Controller {
    /// A controller over `fleet`. Mutating verbs run in `jobs`, which the caller drains at shutdown.
    #[must_use]
    pub fn new(fleet: Arc<Fleet>, config: ControllerConfig, jobs: Jobs) -> Self {
        Self {
            fleet,
            watch: Arc::new(Watch::new(config.job)),
            config: Arc::new(config),
            nodes: Arc::default(),
            jobs,
        }
    }

    fn kernel(&self, interest: Interest) -> Kernel {
        Kernel {
            interest,
            fleet: Arc::clone(&self.fleet),
            config: Arc::clone(&self.config),
            nodes: Arc::clone(&self.nodes),
            deadline: Instant::now() + self.config.job,
        }
    }

    /// Runs a verb as the disk's only job. The answer comes before the caller stops listening; the job goes on.
    async fn mutate<T, F, W>(
        &self,
        operation: &'static str,
        disk: &DiskName,
        request: String,
        metadata: &MetadataMap,
        verb: F,
    ) -> Result<T, Failure>
    where
        T: Clone + Send + Sync + 'static,
        F: FnOnce(Kernel) -> W,
        W: Future<Output = Result<T, ControllerError>> + Send + 'static,
    {
        note_volume(disk.as_str());
        let limit = super::deadline::caller_limit(metadata);
        let run = self
            .jobs
            .run_for(disk.as_str(), operation, request, limit, |interest| {
                let work = verb(self.kernel(interest));
                async move { work.await.map_err(Failure::Controller) }.in_current_span()
            });
        run.await?.ok_or_else(|| {
            Failure::Controller(ControllerError::StillRunning {
                operation,
                disk: disk.to_string(),
                trouble: self.fleet.trouble().map(Box::new),
            })
        })
    }

    async fn published(&self, disk: &DiskName) -> Result<crate::domain::disk::Disk, Failure> {
        note_volume(disk.as_str());
        let found = self.fleet.disk(disk).await.map_err(failed)?;
        Ok(found.ok_or_else(|| kernel::no_disk(disk))?)
    }
}

/// The Controller service.
///
/// Two ids that no disk or VM can have are proof of absence: Delete and Unpublish answer OK to them.
#[tonic::async_trait]
impl ControllerService for Controller {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        let command = command::Create::read(request.get_ref()).map_err(Failure::from)?;
        let (name, identity) = (command.disk.clone(), command.identity());
        let answer = self
            .mutate(
                "CreateVolume",
                &name,
                identity,
                request.metadata(),
                |kernel| async move {
                    let named = command.places.terms.iter();
                    named
                        .filter_map(|term| term.node.as_ref())
                        .for_each(|vm| kernel.know(vm));
                    let disk = create::create(&kernel, &command).await?;
                    Ok(view::created(&disk, &command))
                },
            )
            .await?;
        Ok(Response::new(CreateVolumeResponse {
            volume: Some(answer),
        }))
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        if let Some(name) = command::delete(request.get_ref()).map_err(Failure::from)? {
            let disk = name.clone();
            self.watch.unpublished(&name);
            self.mutate(
                "DeleteVolume",
                &name,
                String::new(),
                request.metadata(),
                |kernel| async move { delete::delete(&kernel, &disk).await },
            )
            .await?;
        }
        Ok(Response::new(DeleteVolumeResponse {}))
    }

    async fn controller_publish_volume(
        &self,
        request: Request<ControllerPublishVolumeRequest>,
    ) -> Result<Response<ControllerPublishVolumeResponse>, Status> {
        let command = command::Publish::read(request.get_ref()).map_err(Failure::from)?;
        let (name, identity) = (command.disk.clone(), format!("{command:?}"));
        let vm = command.vm.clone();
        let publish_context = self
            .mutate(
                "ControllerPublishVolume",
                &name,
                identity,
                request.metadata(),
                |kernel| async move {
                    let context = publish::publish(&kernel, &command).await?;
                    kernel.know(&command.vm);
                    Ok(context)
                },
            )
            .await?;
        self.watch.published(&name, &vm);
        Ok(Response::new(ControllerPublishVolumeResponse {
            publish_context,
        }))
    }

    async fn controller_unpublish_volume(
        &self,
        request: Request<ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<ControllerUnpublishVolumeResponse>, Status> {
        if let Some(command) = command::Unpublish::read(request.get_ref()).map_err(Failure::from)? {
            let (name, identity) = (command.disk.clone(), format!("{command:?}"));
            self.watch.unpublished(&name);
            self.mutate(
                "ControllerUnpublishVolume",
                &name,
                identity,
                request.metadata(),
                |kernel| async move { unpublish::unpublish(&kernel, &command).await },
            )
            .await?;
        }
        Ok(Response::new(ControllerUnpublishVolumeResponse {}))
    }

    async fn controller_expand_volume(
        &self,
        request: Request<ControllerExpandVolumeRequest>,
    ) -> Result<Response<ControllerExpandVolumeResponse>, Status> {
        let command = command::Expand::read(request.get_ref()).map_err(Failure::from)?;
        let (name, identity) = (command.disk.clone(), format!("{command:?}"));
        let size = self
            .mutate(
                "ControllerExpandVolume",
                &name,
                identity,
                request.metadata(),
                |kernel| async move { expand::expand(&kernel, &command).await },
            )
            .await?;
        Ok(Response::new(ControllerExpandVolumeResponse {
            capacity_bytes: size.csi_bytes(),
            // Also for raw block: the kernel must read the size again.
            node_expansion_required: true,
        }))
    }

    async fn controller_modify_volume(
        &self,
        request: Request<ControllerModifyVolumeRequest>,
    ) -> Result<Response<ControllerModifyVolumeResponse>, Status> {
        let command = command::Modify::read(request.get_ref()).map_err(Failure::from)?;
        let (name, identity) = (command.disk.clone(), format!("{command:?}"));
        self.mutate(
            "ControllerModifyVolume",
            &name,
            identity,
            request.metadata(),
            |kernel| async move { modify::modify(&kernel, &command).await },
        )
        .await?;
        Ok(Response::new(ControllerModifyVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let command = command::Validate::read(request.get_ref()).map_err(Failure::from)?;
        let disk = self.published(&command.disk).await?;
        let answer = validate::answer(&command, &disk, request.into_inner());
        Ok(Response::new(answer))
    }

    async fn list_volumes(
        &self,
        request: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        let asked = request.get_ref();
        let page =
            command::Page::read(asked.max_entries, &asked.starting_token).map_err(Failure::from)?;
        let snapshot = self.fleet.disks().await.map_err(failed)?;
        self.watch.look_at_all(&snapshot.disks);
        let (disks, next_token) = view::page(&snapshot.disks, &page).map_err(Failure::from)?;
        let entries = disks.into_iter().map(|disk| list_volumes_response::Entry {
            volume: Some(view::volume(disk)),
            status: Some(list_volumes_response::VolumeStatus {
                published_node_ids: view::published_on(disk),
            }),
        });
        Ok(Response::new(ListVolumesResponse {
            entries: entries.collect(),
            next_token,
        }))
    }

    async fn controller_get_volume(
        &self,
        request: Request<ControllerGetVolumeRequest>,
    ) -> Result<Response<ControllerGetVolumeResponse>, Status> {
        let name = super::validate::disk(&request.get_ref().volume_id).map_err(Failure::from)?;
        let disk = self.published(&name).await?;
        Ok(Response::new(ControllerGetVolumeResponse {
            volume: Some(view::volume(&disk)),
            status: Some(controller_get_volume_response::VolumeStatus {
                published_node_ids: view::published_on(&disk),
            }),
        }))
    }

    async fn controller_get_volume_health(
        &self,
        request: Request<ControllerGetVolumeHealthRequest>,
    ) -> Result<Response<ControllerGetVolumeHealthResponse>, Status> {
        let name = super::validate::disk(&request.get_ref().volume_id).map_err(Failure::from)?;
        note_volume(name.as_str());
        let found = health::one(&self.fleet, &self.watch, &name).await?;
        let health = found.ok_or_else(|| Failure::from(kernel::no_disk(&name)))?;
        Ok(Response::new(ControllerGetVolumeHealthResponse {
            volume_health: Some(health),
        }))
    }

    async fn controller_list_volume_health(
        &self,
        request: Request<ControllerListVolumeHealthRequest>,
    ) -> Result<Response<ControllerListVolumeHealthResponse>, Status> {
        let asked = request.get_ref();
        let page =
            command::Page::read(asked.max_entries, &asked.starting_token).map_err(Failure::from)?;
        let sick = health::all(&self.fleet, &self.watch).await?;
        let (entries, next_token) = view::abnormal(sick, &page).map_err(Failure::from)?;
        Ok(Response::new(ControllerListVolumeHealthResponse {
            entries,
            next_token,
        }))
    }

    async fn controller_get_capabilities(
        &self,
        _request: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        Ok(Response::new(capabilities::capabilities()))
    }

    async fn get_capacity(
        &self,
        _request: Request<GetCapacityRequest>,
    ) -> Result<Response<GetCapacityResponse>, Status> {
        Err(capabilities::absent(
            "capacity: the computing API does not tell it",
        ))
    }

    async fn create_snapshot(
        &self,
        _request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        Err(capabilities::absent(capabilities::SNAPSHOTS))
    }

    async fn delete_snapshot(
        &self,
        _request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        Err(capabilities::absent(capabilities::SNAPSHOTS))
    }

    async fn list_snapshots(
        &self,
        _request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        Err(capabilities::absent(capabilities::SNAPSHOTS))
    }

    async fn get_snapshot(
        &self,
        _request: Request<GetSnapshotRequest>,
    ) -> Result<Response<GetSnapshotResponse>, Status> {
        Err(capabilities::absent(capabilities::SNAPSHOTS))
    }
}

fn failed(error: crate::fleet::FleetError) -> Failure {
    Failure::Controller(error.into())
}
