//! The node service on this kernel: loop devices, real file systems, real mounts. Needs root; says so where it is not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "test helpers; losetup and umount prepare what the driver then finds"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use additional_storage_csi::csi::node::{Node, NodeConfig, Timeouts};
use additional_storage_csi::domain::id::{DiskName, VmName};
use additional_storage_csi::domain::topology::Zone;
use additional_storage_csi::host::linux::{HostConfig, LinuxHost};
use additional_storage_csi::jobs::Jobs;
use additional_storage_csi::proto::csi::v1::node_server::Node as _;
use additional_storage_csi::proto::csi::v1::volume_capability::access_mode::Mode;
use additional_storage_csi::proto::csi::v1::volume_capability::{
    AccessMode, AccessType, BlockVolume, MountVolume,
};
use additional_storage_csi::proto::csi::v1::*;
use tonic::{Code, Request, Status};

const MIB: u64 = 1 << 20;

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{program} {arguments:?}: {}", text(&output.stderr)))
}

/// A sparse file behind a loop device, in slot 0:3 of a by-path directory. Cleans up however the test ends.
struct Lab {
    dir: tempfile::TempDir,
    device: String,
    disk: String,
}

impl Lab {
    /// `None`, said aloud, where the machine cannot do it.
    fn new(test: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        File::create(&image).unwrap().set_len(512 * MIB).unwrap();
        let device = match run("losetup", &["-f", "--show", image.to_str().unwrap()]) {
            Ok(device) => device,
            Err(why) => {
                eprintln!("SKIPPED {test}: no loop device ({why}); run as root");
                return None;
            }
        };
        // A loop device keeps the write protection of its last user.
        run("blockdev", &["--setrw", &device]).unwrap();
        let links = dir.path().join("by-path");
        fs::create_dir(&links).unwrap();
        symlink(&device, links.join("pci-0000:03:00.0-scsi-0:0:3:0")).unwrap();
        fs::create_dir_all(dir.path().join("kubelet/staging")).unwrap();
        fs::create_dir_all(dir.path().join("kubelet/pods")).unwrap();
        let disk = (0..4)
            .map(|_| format!("{:08x}", fastrand::u32(..)))
            .collect();
        Some(Self { dir, device, disk })
    }

    fn node(&self) -> Node {
        let host = LinuxHost::new(HostConfig {
            device_dir: Some(self.dir.path().join("by-path")),
            ..HostConfig::default()
        });
        let config = NodeConfig {
            name: VmName::parse("web01").unwrap(),
            zone: Zone::parse("east-11"),
            max_volumes: None,
            reserved_slots: 0,
            kubelet_dir: self.dir.path().join("kubelet"),
            state_dir: self.dir.path().join("state"),
            boot_id: "this-boot".to_owned(),
            timeouts: Timeouts {
                release: std::time::Duration::from_secs(2),
                ..Timeouts::default()
            },
        };
        Node::new(Arc::new(host), config, Jobs::default())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("kubelet").join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn grow(&self, mib: u64) {
        let image = self.dir.path().join("disk.img");
        let file = OpenOptions::new().write(true).open(image).unwrap();
        file.set_len(mib * MIB).unwrap();
        run("losetup", &["-c", &self.device]).unwrap();
    }

    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.dir.path().display().to_string();
        table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|target| target.starts_with(&root))
            .map(str::to_owned)
            .collect()
    }

    fn flushed(&self) -> PathBuf {
        run("blockdev", &["--flushbufs", &self.device]).unwrap();
        self.dir.path().join("disk.img")
    }

    /// A copy of the whole disk, to compare with later.
    fn copy(&self) -> PathBuf {
        let copy = self.dir.path().join("before.img");
        let (from, to) = (self.flushed(), copy.clone());
        run("cp", &[from.to_str().unwrap(), to.to_str().unwrap()]).unwrap();
        copy
    }

    fn same_as(&self, copy: &Path) -> bool {
        let now = self.flushed();
        let both = [now.to_str().unwrap(), copy.to_str().unwrap()];
        run("cmp", &both).is_ok()
    }

    async fn stage(&self, node: &Node, capability: &VolumeCapability) -> Result<(), Status> {
        let uuid = DiskName::parse(&self.disk).unwrap().fs_uuid();
        let request = NodeStageVolumeRequest {
            volume_id: self.disk.clone(),
            publish_context: [("devicePath".to_owned(), "SCSI (0:3)".to_owned())].into(),
            staging_target_path: self.text("staging"),
            volume_capability: Some(capability.clone()),
            volume_context: [("fsUuid".to_owned(), uuid.to_string())].into(),
            ..NodeStageVolumeRequest::default()
        };
        node.node_stage_volume(Request::new(request)).await?;
        Ok(())
    }

    async fn publish(
        &self,
        node: &Node,
        target: &str,
        capability: &VolumeCapability,
        readonly: bool,
    ) -> Result<(), Status> {
        let request = NodePublishVolumeRequest {
            volume_id: self.disk.clone(),
            staging_target_path: self.text("staging"),
            target_path: self.text(target),
            volume_capability: Some(capability.clone()),
            readonly,
            ..NodePublishVolumeRequest::default()
        };
        node.node_publish_volume(Request::new(request)).await?;
        Ok(())
    }

    async fn unpublish(&self, node: &Node, target: &str) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: self.disk.clone(),
            target_path: self.text(target),
        };
        node.node_unpublish_volume(Request::new(request)).await?;
        Ok(())
    }

    async fn unstage(&self, node: &Node) -> Result<(), Status> {
        let request = NodeUnstageVolumeRequest {
            volume_id: self.disk.clone(),
            staging_target_path: self.text("staging"),
        };
        node.node_unstage_volume(Request::new(request)).await?;
        Ok(())
    }

    async fn expand(&self, node: &Node, path: &str, mib: u64) -> Result<i64, Status> {
        let request = NodeExpandVolumeRequest {
            volume_id: self.disk.clone(),
            volume_path: self.text(path),
            capacity_range: Some(CapacityRange {
                required_bytes: i64::try_from(mib * MIB).unwrap(),
                limit_bytes: 0,
            }),
            ..NodeExpandVolumeRequest::default()
        };
        let answer = node.node_expand_volume(Request::new(request)).await?;
        Ok(answer.into_inner().capacity_bytes)
    }

    async fn total(&self, node: &Node, path: &str) -> Result<i64, Status> {
        let request = NodeGetVolumeStatsRequest {
            volume_id: self.disk.clone(),
            volume_path: self.text(path),
            ..NodeGetVolumeStatsRequest::default()
        };
        let answer = node.node_get_volume_stats(Request::new(request)).await?;
        Ok(answer.into_inner().usage[0].total)
    }

    async fn healthy(&self, node: &Node) -> bool {
        let request = NodeGetVolumeHealthRequest {
            volume_id: self.disk.clone(),
            ..NodeGetVolumeHealthRequest::default()
        };
        let answer = node.node_get_volume_health(Request::new(request)).await;
        let health = answer.unwrap().into_inner().volume_health.unwrap();
        health.health_statuses.is_empty()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for target in self.mounts().iter().rev() {
            let _ = run("umount", &["-l", target]);
        }
        if let Err(why) = run("losetup", &["-d", &self.device]) {
            eprintln!("left behind: {why}");
        }
    }
}

fn mount_as(fs: &str) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeWriter.into(),
        }),
        access_type: Some(AccessType::Mount(MountVolume {
            fs_type: fs.to_owned(),
            mount_flags: vec!["noatime".to_owned()],
            ..MountVolume::default()
        })),
    }
}

fn block() -> VolumeCapability {
    VolumeCapability {
        access_type: Some(AccessType::Block(BlockVolume {})),
        ..mount_as("")
    }
}

async fn whole_life(fs: &str) {
    let Some(lab) = Lab::new(&format!("whole life of {fs}")) else {
        return;
    };
    let (node, capability) = (lab.node(), mount_as(fs));
    lab.stage(&node, &capability).await.unwrap();
    let uuid = DiskName::parse(&lab.disk).unwrap().fs_uuid();
    let found = run("blkid", &["-p", "-o", "value", "-s", "UUID", &lab.device]);
    assert_eq!(found.as_deref(), Ok(uuid.as_str()));
    lab.publish(&node, "pods/a", &capability, false)
        .await
        .unwrap();
    lab.publish(&node, "pods/b", &capability, true)
        .await
        .unwrap();
    fs::write(lab.path("pods/a/data"), b"precious").unwrap();
    assert!(fs::write(lab.path("pods/b/data"), b"x").is_err());
    assert_eq!(fs::read(lab.path("pods/b/data")).unwrap(), b"precious");
    assert!(lab.healthy(&node).await);

    // A driver that was restarted finds everything as it is.
    let node = lab.node();
    let before = lab.mounts();
    lab.stage(&node, &capability).await.unwrap();
    lab.publish(&node, "pods/a", &capability, false)
        .await
        .unwrap();
    lab.publish(&node, "pods/b", &capability, true)
        .await
        .unwrap();
    assert_eq!(lab.mounts(), before);
    let refusal = lab.publish(&node, "pods/b", &capability, false).await;
    assert_eq!(refusal.unwrap_err().code(), Code::AlreadyExists);

    let refusal = lab.unstage(&node).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    assert!(refusal.message().contains("pods/a"), "{refusal:?}");
    for target in ["pods/a", "pods/b", "pods/a"] {
        lab.unpublish(&node, target).await.unwrap();
        assert!(!lab.path(target).exists());
    }
    lab.unstage(&node).await.unwrap();
    lab.unstage(&node).await.unwrap();
    assert_eq!(lab.mounts(), Vec::<String>::new());

    // Grown while detached: the next stage finishes it, and the data is there.
    lab.grow(768);
    lab.stage(&node, &capability).await.unwrap();
    let total = lab.total(&node, "staging").await.unwrap();
    assert!(total > 600 << 20, "{fs} has {total} bytes after growth");
    assert_eq!(fs::read(lab.path("staging/data")).unwrap(), b"precious");

    // Grown while mounted.
    let early = lab.expand(&node, "staging", 1024).await.unwrap_err();
    assert_eq!(early.code(), Code::Unavailable);
    lab.grow(1024);
    match lab.expand(&node, "staging", 1024).await {
        Ok(capacity) => {
            assert_eq!(capacity, 1024 << 20);
            let total = lab.total(&node, "staging").await.unwrap();
            assert!(total > 850 << 20, "{fs} has {total} bytes after growth");
        }
        // The kernel grows a mounted ext file system only for CAP_SYS_RESOURCE.
        Err(error) if error.message().contains("not permitted") => {
            eprintln!("SKIPPED online growth of {fs}: {}", error.message());
        }
        Err(error) => panic!("{error:?}"),
    }
    lab.unstage(&node).await.unwrap();
}

#[tokio::test]
async fn ext4_lives_its_whole_life() {
    whole_life("ext4").await;
}

#[tokio::test]
async fn ext3_lives_its_whole_life() {
    whole_life("ext3").await;
}

#[tokio::test]
async fn xfs_lives_its_whole_life() {
    whole_life("xfs").await;
}

#[tokio::test]
async fn btrfs_lives_its_whole_life() {
    whole_life("btrfs").await;
}

#[tokio::test]
async fn a_raw_block_volume_lives_its_whole_life() {
    let Some(lab) = Lab::new("raw block") else {
        return;
    };
    let node = lab.node();
    lab.stage(&node, &block()).await.unwrap();
    lab.stage(&node, &block()).await.unwrap();
    lab.publish(&node, "pods/a", &block(), false).await.unwrap();
    lab.publish(&node, "pods/a", &block(), false).await.unwrap();
    assert_eq!(lab.mounts().len(), 2);
    let mut device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(lab.path("pods/a"))
        .unwrap();
    device.write_all(b"precious").unwrap();
    device.sync_all().unwrap();
    drop(device);
    assert_eq!(lab.total(&node, "pods/a").await.unwrap(), 512 << 20);
    lab.grow(768);
    let capacity = lab.expand(&node, "pods/a", 768).await.unwrap();
    assert_eq!(capacity, 768 << 20);
    assert!(lab.healthy(&node).await);
    let refusal = lab.publish(&node, "pods/b", &block(), true).await;
    assert_eq!(refusal.unwrap_err().code(), Code::FailedPrecondition);
    let refusal = lab.unstage(&node).await.unwrap_err();
    assert!(refusal.message().contains("pods/a"), "{refusal:?}");
    lab.unpublish(&node, "pods/a").await.unwrap();
    assert!(!lab.path("pods/a").exists());

    lab.unstage(&node).await.unwrap();
    assert_eq!(lab.mounts(), Vec::<String>::new());
    let mut content = [0; 8];
    let mut file = File::open(&lab.device).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_exact(&mut content).unwrap();
    assert_eq!(&content, b"precious");
}

#[tokio::test]
async fn a_wrong_disk_is_refused_and_not_one_byte_of_it_changes() {
    type Make = fn(&Lab);
    let cases: [(&str, Make, &str); 6] = [
        (
            "another volume's ext4",
            |lab| {
                run("mkfs.ext4", &["-q", &lab.device]).unwrap();
            },
            "identityCheck",
        ),
        (
            "xfs instead of ext4",
            |lab| {
                run("mkfs.xfs", &["-q", &lab.device]).unwrap();
            },
            "xfs",
        ),
        (
            "swap",
            |lab| {
                run("mkswap", &[&lab.device]).unwrap();
            },
            "swap",
        ),
        (
            "a partition table",
            |lab| {
                let mut table = vec![0_u8; 512];
                table[446..462]
                    .copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 8, 0]);
                table[510..].copy_from_slice(&[0x55, 0xaa]);
                write_at(lab, 0, &table);
            },
            "artition",
        ),
        (
            "bytes without a signature",
            |lab| write_at(lab, 4096, &[7; 100]),
            "nonZeroBlankDisk",
        ),
        (
            "bytes at the end",
            |lab| write_at(lab, 512 * MIB - 512, &[7; 512]),
            "nonZeroBlankDisk",
        ),
    ];
    for (name, make, word) in cases {
        let Some(lab) = Lab::new(name) else {
            return;
        };
        make(&lab);
        let before = lab.copy();
        let refusal = lab.stage(&lab.node(), &mount_as("ext4")).await.unwrap_err();
        assert_eq!(
            refusal.code(),
            Code::FailedPrecondition,
            "{name}: {refusal:?}"
        );
        assert!(refusal.message().contains(word), "{name}: {refusal:?}");
        assert!(lab.same_as(&before), "{name}");
        assert_eq!(lab.mounts(), Vec::<String>::new(), "{name}");
    }
}

fn write_at(lab: &Lab, offset: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(&lab.device).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

#[tokio::test]
async fn what_was_cut_half_way_is_finished_by_the_next_call() {
    let Some(lab) = Lab::new("cut half-way") else {
        return;
    };
    let (node, capability) = (lab.node(), mount_as("ext4"));
    lab.stage(&node, &capability).await.unwrap();
    fs::write(lab.path("staging/data"), b"precious").unwrap();
    // Cut after the target was made and before the bind.
    fs::create_dir(lab.path("pods/a")).unwrap();
    lab.publish(&node, "pods/a", &capability, false)
        .await
        .unwrap();
    // Cut after the unmount and before the removal.
    run("umount", &[&lab.text("pods/a")]).unwrap();
    lab.unpublish(&node, "pods/a").await.unwrap();
    assert!(!lab.path("pods/a").exists());
    // Cut after the unmount and before the release.
    run("umount", &[&lab.text("staging")]).unwrap();
    let refusal = lab.publish(&node, "pods/a", &capability, false).await;
    assert_eq!(refusal.unwrap_err().code(), Code::FailedPrecondition);
    lab.unstage(&lab.node()).await.unwrap();
    assert!(records(lab.dir.path()).is_empty());
    // Cut after the record and before the mount.
    lab.stage(&node, &capability).await.unwrap();
    run("umount", &[&lab.text("staging")]).unwrap();
    lab.stage(&lab.node(), &capability).await.unwrap();
    assert_eq!(fs::read(lab.path("staging/data")).unwrap(), b"precious");
    lab.unstage(&node).await.unwrap();
}

fn records(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir.join("state/staged"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}
