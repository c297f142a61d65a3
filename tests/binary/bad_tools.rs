//! A node whose image lacks a tool, on the real program and a real disk: said with the package to install, and nothing is
//! written, mounted or remembered. Needs root and loop devices; says so where they are not.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use additional_storage_csi::demo::claim::{Claim, Form, Node, connect};
use additional_storage_csi::emulator::{BackendKind, Config, Emulator};
use additional_storage_csi::proto::csi::v1::NodeGetStorageHealthRequest;
use additional_storage_csi::proto::csi::v1::controller_client::ControllerClient;
use tonic::Code;

use super::{KEYS, Place, Running, serving};

/// In a mount namespace of its own, covers the tool with something that is no program.
const HIDE: &str = r#"
for dir in /usr/sbin /sbin /usr/bin /bin; do
  [ ! -f "$dir/$0" ] || mount --bind /dev/null "$dir/$0" || exit 1
done
exec "$@""#;

fn able(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !root {
        eprintln!("LEFT OUT: {test} needs root and loop devices");
    }
    root
}

fn without(tool: &str, arguments: &[String]) -> Running {
    Running(
        Command::new("unshare")
            .args(["--mount", "sh", "-c", HIDE, tool])
            .arg(env!("CARGO_BIN_EXE_nifcloud-additional-storage-csi"))
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(KEYS)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    )
}

/// The only disk's image: its allocated blocks, and whether its first MiB is zero.
fn image(disks: &Path) -> (u64, bool) {
    use std::os::unix::fs::MetadataExt as _;
    let images: Vec<PathBuf> = std::fs::read_dir(disks)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let [image] = images.as_slice() else {
        panic!("expected one image: {images:?}");
    };
    let mut head = vec![0; 1 << 20];
    let mut file = std::fs::File::open(image).unwrap();
    file.read_exact(&mut head).unwrap();
    let blocks = file.metadata().unwrap().blocks();
    (blocks, head.iter().all(|byte| *byte == 0))
}

async fn is_told(tool: &str, package: &str, fs: &'static str) {
    let place = Place::new();
    let dir = place.dir.path();
    let config = Config {
        backend: BackendKind::Loop,
        data_dir: Some(dir.join("cloud")),
        device_dir: Some(dir.join("devices")),
        ..Config::default()
    };
    let emulator = Emulator::start(config.vm("web01", "east-11"))
        .await
        .unwrap();
    let kubelet = dir.join("kubelet");
    std::fs::create_dir(&kubelet).unwrap();
    let program = without(
        tool,
        &[
            "all".to_owned(),
            format!("--endpoint={}", place.endpoint()),
            format!("--cloud-endpoint={}", emulator.endpoint()),
            format!("--kubelet-dir={}", kubelet.display()),
            format!("--device-dir={}", dir.join("devices/web01").display()),
            format!("--state-dir={}", dir.join("state").display()),
            "--node-name=web01".to_owned(),
            "--zone=east-11".to_owned(),
            "--registration=false".to_owned(),
        ],
    );
    let channel = serving(&place.socket()).await;
    let controller = ControllerClient::new(channel);
    let channel = connect(&place.socket()).await.unwrap();
    let mut node = Node::new("web01", "east-11", kubelet, channel);
    let mut claim = Claim::new(Form::Mounted(fs));
    let here = ("web01", "east-11");
    claim.create(&controller, here, 100).await.unwrap();
    claim.attach(&controller, "web01").await.unwrap();
    let before = image(&dir.join("cloud/disks"));

    let status = claim.stage(&node).await.unwrap_err();
    let message = status.message();
    assert_eq!(status.code(), Code::FailedPrecondition, "{tool}: {message}");
    for words in [
        format!("{tool} is not installed in this image"),
        format!("install package {package}"),
    ] {
        assert!(message.contains(&words), "{tool}: {message}");
    }
    let health = node
        .client
        .node_get_storage_health(NodeGetStorageHealthRequest::default())
        .await
        .unwrap()
        .into_inner()
        .backend_health;
    let told = health
        .iter()
        .any(|one| one.reason == "ToolMissing" && one.message.contains(package));
    assert!(told, "{tool}: {health:?}");

    assert!(before.1, "the disk was not blank to begin with");
    assert_eq!(image(&dir.join("cloud/disks")), before, "{tool}: written");
    assert!(!claim.staging(&node).exists(), "{tool}: a path was made");
    let records = std::fs::read_dir(dir.join("state/staged")).map_or(0, Iterator::count);
    assert_eq!(records, 0, "{tool}: the volume was remembered");
    let mounts = format!("/proc/{}/mountinfo", program.0.id());
    let mounts = std::fs::read_to_string(mounts).unwrap();
    assert!(!mounts.contains(&dir.display().to_string()), "{mounts}");
    let disk = emulator.control().disk(&claim.id).unwrap();
    assert_eq!(disk.attachment.unwrap().vm, "web01");
    emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_tool_is_named_with_its_package_and_the_disk_stays_as_it_is() {
    if !able("a missing tool") {
        return;
    }
    is_told("mkfs.xfs", "xfsprogs", "xfs").await;
    is_told("blkid", "util-linux", "ext4").await;
}
