//! The Linux host on real loop devices: real mkfs, real mounts. Needs root; says so and passes without.

#![allow(missing_docs, reason = "a test binary")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which fail by panicking"
)]

#[path = "loop_host/wrong.rs"]
mod wrong;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use additional_storage_csi::domain::capability::FsType;
use additional_storage_csi::domain::device::{DevNo, ScsiAddress};
use additional_storage_csi::domain::id::FsUuid;
use additional_storage_csi::host::linux::{HostConfig, LinuxHost};
use additional_storage_csi::host::{
    BlockDevice, CheckOutcome, Content, FormatPlan, Host, HostError, Severity,
};

const MIB: u64 = 1 << 20;
const AT: ScsiAddress = ScsiAddress { bus: 0, target: 3 };

#[allow(
    clippy::disallowed_methods,
    reason = "the tests make their disks with the distribution's own tools"
)]
fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn succeed(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn have(program: &str) -> bool {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(program).exists())
}

/// Whether disks can be made here.
fn able(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !root {
        eprintln!("LEFT OUT: {test} needs root and loop devices");
    }
    root
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

/// A UUID of this test alone: mkfs.btrfs refuses one that any other disk of the machine has.
fn uuid(n: u8) -> FsUuid {
    thread_local!(static MINE: [u8; 8] = fastrand::u64(..).to_ne_bytes());
    let mut bytes = [n; 16];
    bytes[..8].copy_from_slice(&MINE.with(|mine| *mine));
    FsUuid::from_bytes(bytes)
}

fn plan(fs: FsType) -> FormatPlan {
    FormatPlan {
        fs,
        uuid: uuid(1),
        options: BTreeMap::new(),
        allow_non_zero: false,
    }
}

/// A sparse file behind a loop device, a by-path directory with one link to it, and a place for mounts. Everything
/// goes away with it.
struct Rig {
    dir: tempfile::TempDir,
    image: PathBuf,
    looped: String,
    host: LinuxHost,
}

impl Rig {
    fn new(size: u64) -> Self {
        Self::with(size, |_| {}, |_| {})
    }

    /// `fill` may write the image before the loop device is made.
    fn with(size: u64, fill: impl FnOnce(&Path), tune: impl FnOnce(&mut HostConfig)) -> Self {
        Self::with_loop(size, fill, tune, &[])
    }

    fn with_loop(
        size: u64,
        fill: impl FnOnce(&Path),
        tune: impl FnOnce(&mut HostConfig),
        flags: &[&str],
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        File::create(&image).unwrap().set_len(size).unwrap();
        fill(&image);
        let looped = attach(&image, flags);
        let by_path = dir.path().join("by-path");
        fs::create_dir(&by_path).unwrap();
        std::os::unix::fs::symlink(&looped, by_path.join("pci-0000:03:00.0-scsi-0:0:3:0")).unwrap();
        let mut config = HostConfig {
            device_dir: Some(by_path),
            ..HostConfig::default()
        };
        tune(&mut config);
        Self {
            dir,
            image,
            looped,
            host: LinuxHost::new(config),
        }
    }

    fn device(&self) -> BlockDevice {
        self.host.find_device(AT, soon()).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn format(&self, plan: &FormatPlan) -> Result<(), HostError> {
        self.host.format(&self.device(), plan, soon())
    }

    fn carries(&self, fs: FsType, id: u8) -> bool {
        let intact = self.host.carries(&self.device(), fs, &uuid(id)).unwrap();
        intact.is_some()
    }

    fn content(&self) -> Content {
        self.host.probe(&self.device()).unwrap()
    }

    fn checksum(&self) -> String {
        checksum(&self.image)
    }

    fn grow(&self, size: u64) {
        OpenOptions::new()
            .write(true)
            .open(&self.image)
            .unwrap()
            .set_len(size)
            .unwrap();
        succeed("losetup", &["-c", &self.looped]);
        assert_eq!(self.host.rescan(&self.device()).unwrap(), size);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Deepest first; nothing here may panic, or the rest would stay behind.
        let mine = self.dir.path().to_owned();
        let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
        let mut mounts = additional_storage_csi::host::mountinfo::parse(&table);
        mounts.retain(|entry| entry.target.starts_with(&mine));
        for entry in mounts.iter().rev() {
            let _ = nix::mount::umount2(&entry.target, nix::mount::MntFlags::MNT_DETACH);
        }
        run("losetup", &["-d", &self.looped]);
    }
}

fn attach(image: &Path, flags: &[&str]) -> String {
    let image = image.to_str().unwrap();
    let mut last = String::new();
    // Between finding a free number and taking it, another test may take it.
    for _ in 0..20 {
        let output = run("losetup", &[&["-f", "--show"], flags, &[image]].concat());
        if output.status.success() {
            return String::from_utf8_lossy(&output.stdout).trim().to_owned();
        }
        last = String::from_utf8_lossy(&output.stderr).into_owned();
    }
    panic!("no loop device: {last}");
}

fn checksum(path: &Path) -> String {
    succeed("sha256sum", &[path.to_str().unwrap()])
}

fn put(image: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(image).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

#[test]
fn a_disk_lives_its_whole_life_with_every_file_system() {
    if !able("whole life") {
        return;
    }
    for fs in FsType::ALL {
        let rig = Rig::new(320 * MIB);
        let device = rig.device();
        assert_eq!(rig.content(), Content::Blank, "{fs}");
        rig.format(&plan(fs)).unwrap();
        let known = Content::Known {
            fs,
            uuid: Some(uuid(1)),
        };
        assert_eq!(rig.content(), known);
        assert_eq!(
            rig.host.check(&device, fs, soon()).unwrap() == CheckOutcome::NotApplicable,
            !fs.name().starts_with("ext")
        );

        let (stage, pod) = (rig.path("stage"), rig.path("pods/volume"));
        rig.host
            .mount(
                &device,
                &stage,
                fs,
                &["noexec".to_owned(), "noatime".to_owned()],
            )
            .unwrap();
        fs::write(stage.join("file"), "data").unwrap();
        assert_eq!(rig.host.mounts_of(device.devno).unwrap().len(), 1, "{fs}");
        assert_eq!(
            rig.host.mount_at(&stage).unwrap().unwrap().devno,
            device.devno
        );

        rig.host.bind(&stage, &pod, false).unwrap();
        fs::write(pod.join("file"), "more").unwrap();
        assert_eq!(rig.host.unmount(&pod).unwrap().at(&pod), None);
        assert_eq!(rig.host.unmount(&pod).unwrap().at(&pod), None);
        rig.host.remove_target(&pod).unwrap();

        let stats = rig.host.fs_stats(&stage, soon()).unwrap();
        assert!(stats.bytes.total > 100 * MIB && stats.bytes.available <= stats.bytes.total);
        assert_eq!(rig.host.findings(device.devno, Some(&stage)).unwrap(), []);

        let busy = rig.host.release(&device, Instant::now()).unwrap_err();
        assert!(busy.to_string().contains("a mount on"), "{busy}");
        assert_eq!(rig.host.unmount(&stage).unwrap().at(&stage), None);
        rig.host.remove_target(&stage).unwrap();
        rig.host.release(&device, soon()).unwrap();
        assert_eq!(rig.content(), known);
        assert!(matches!(
            rig.format(&plan(fs)),
            Err(HostError::NotBlank { .. })
        ));
    }
}

#[test]
fn a_read_only_bind_refuses_writes_and_keeps_the_flags_of_the_stage() {
    if !able("read-only bind") {
        return;
    }
    let rig = Rig::new(80 * MIB);
    rig.format(&plan(FsType::Ext4)).unwrap();
    let (stage, pod) = (rig.path("stage dir"), rig.path("pod"));
    let options = ["noexec,nosuid".to_owned()];
    rig.host
        .mount(&rig.device(), &stage, FsType::Ext4, &options)
        .unwrap();
    rig.host.bind(&stage, &pod, true).unwrap();
    let error = fs::write(pod.join("x"), "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EROFS));
    fs::write(stage.join("x"), "x").unwrap();
    let entry = rig.host.mount_at(&pod).unwrap().unwrap();
    assert!(entry.read_only());
    for kept in ["noexec", "nosuid"] {
        assert!(
            entry.options.iter().any(|option| option == kept),
            "{:?}",
            entry.options
        );
    }
    assert!(
        rig.host
            .mount_at(&stage)
            .unwrap()
            .is_some_and(|entry| !entry.read_only())
    );
}

#[test]
fn everything_stacked_at_a_path_is_unmounted_and_users_are_named() {
    if !able("stacked mounts") {
        return;
    }
    let rig = Rig::new(80 * MIB);
    rig.format(&plan(FsType::Ext4)).unwrap();
    let (stage, link) = (rig.path("stage"), rig.path("link"));
    rig.host
        .mount(&rig.device(), &stage, FsType::Ext4, &[])
        .unwrap();
    for _ in 0..2 {
        rig.host.bind(&stage, &stage, false).unwrap();
    }
    assert_eq!(rig.host.mounts_of(rig.device().devno).unwrap().len(), 3);
    let file = File::create(stage.join("open")).unwrap();
    let busy = rig.host.unmount(&stage).unwrap_err().to_string();
    assert!(
        busy.contains(&format!("process {}", std::process::id())),
        "{busy}"
    );
    drop(file);
    // The kubelet's directory may be reached through a symlink; mountinfo shows the real path.
    std::os::unix::fs::symlink(rig.dir.path(), &link).unwrap();
    assert_eq!(
        rig.host
            .unmount(&link.join("stage"))
            .unwrap()
            .at(&link.join("stage")),
        None
    );
    assert_eq!(rig.host.mounts_of(rig.device().devno).unwrap(), []);
    assert_eq!(rig.host.unmount(&stage).unwrap().at(&stage), None);
}

#[test]
fn a_mount_that_somebody_looks_at_in_passing_is_unmounted() {
    if !able("passing users") {
        return;
    }
    let rig = Rig::new(80 * MIB);
    rig.format(&plan(FsType::Ext4)).unwrap();
    let stage = rig.path("stage");
    rig.host
        .mount(&rig.device(), &stage, FsType::Ext4, &[])
        .unwrap();
    let file = File::create(stage.join("open")).unwrap();
    let (_here, there) = std::sync::mpsc::channel::<()>();
    let passing = std::thread::spawn(move || {
        let _ = there.recv_timeout(Duration::from_millis(50));
        drop(file);
    });
    assert_eq!(rig.host.unmount(&stage).unwrap().at(&stage), None);
    passing.join().unwrap();
}

#[test]
fn a_raw_device_is_bound_onto_a_file() {
    if !able("raw block") {
        return;
    }
    let rig = Rig::new(80 * MIB);
    let (device, target) = (rig.device(), rig.path("plugins/dev"));
    rig.host.bind_device(&device, &target).unwrap();
    assert_eq!(rig.host.block_node_at(&target).unwrap(), Some(device.devno));
    assert!(matches!(
        rig.host.remove_target(&target),
        Err(HostError::Busy { .. })
    ));
    OpenOptions::new()
        .write(true)
        .open(&target)
        .unwrap()
        .write_all(b"raw")
        .unwrap();
    assert_eq!(rig.host.unmount(&target).unwrap().at(&target), None);
    assert_eq!(rig.host.block_node_at(&target).unwrap(), None);
    rig.host.remove_target(&target).unwrap();
    rig.host.release(&device, soon()).unwrap();
    assert_eq!(fs::read(&rig.image).unwrap()[..3], *b"raw");
}

#[test]
fn a_disk_that_is_not_zero_is_formatted_only_by_the_switch() {
    if !able("non-zero policy") {
        return;
    }
    let rig = Rig::with(128 * MIB, |image| put(image, 3 * MIB, b"old bytes"), |_| {});
    assert_eq!(rig.content(), Content::NonZero { offset: 3 * MIB });
    let mut plan = plan(FsType::Ext4);
    assert!(matches!(rig.format(&plan), Err(HostError::NotBlank { .. })));
    plan.allow_non_zero = true;
    rig.format(&plan).unwrap();
    // The switch does not open a disk with a signature.
    assert!(matches!(rig.format(&plan), Err(HostError::NotBlank { .. })));
}

/// A directory with an impostor of one tool before the real ones.
fn impostor(config: &mut HostConfig, dir: &Path, tool: &str, script: &str) {
    fs::create_dir_all(dir).unwrap();
    let path = dir.join(tool);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    config.tool_dirs.insert(0, dir.to_owned());
}

#[test]
fn an_mkfs_that_was_cut_anywhere_is_made_again_and_data_never_is() {
    if !able("cut mkfs") {
        return;
    }
    let tools = tempfile::tempdir().unwrap();
    for fs in FsType::ALL {
        let tool = format!("mkfs.{fs}");
        let real = format!("/usr/sbin/{tool}");
        let cuts = [
            "exit 1".to_owned(),
            format!("timeout -s KILL 0.02 {real} \"$@\"; exit 1"),
            format!("timeout -s KILL 0.1 {real} \"$@\"; exit 1"),
            // Done, but nobody is left to say so.
            cut_at_the_end(&real),
        ];
        for (index, cut) in cuts.iter().enumerate() {
            let dir = tools.path().join(format!("{fs}{index}"));
            let rig = Rig::with(
                420 * MIB,
                |_| {},
                |config| impostor(config, &dir, &tool, cut),
            );
            let error = rig.format(&plan(fs)).unwrap_err();
            assert!(matches!(error, HostError::Tool { .. }), "{error:?}");
            assert_eq!(
                rig.content(),
                Content::HalfMade { uuid: uuid(1) },
                "{fs}, {cut}"
            );
            assert!(!rig.carries(fs, 1), "{fs}, {cut}");

            let mark = mark(&rig.image);
            let other = FormatPlan {
                uuid: uuid(2),
                ..plan(fs)
            };
            let refused = rig.format(&other).unwrap_err();
            assert!(
                refused.to_string().contains("another volume's disk"),
                "{refused}"
            );

            fs::remove_file(dir.join(&tool)).unwrap();
            rig.format(&plan(fs)).unwrap();
            let known = Content::Known {
                fs,
                uuid: Some(uuid(1)),
            };
            assert_eq!(rig.content(), known);
            assert!(rig.carries(fs, 1) && !rig.carries(fs, 2), "{fs}");

            // The same record once more, in what could be a file of a file system that was mounted: data.
            let stage = rig.path("stage");
            rig.host.mount(&rig.device(), &stage, fs, &[]).unwrap();
            fs::write(stage.join("precious"), "data").unwrap();
            rig.host.unmount(&stage).unwrap();
            rig.host.release(&rig.device(), soon()).unwrap();
            put(&rig.image, 100 * MIB, &mark);
            assert_eq!(rig.content(), known, "{fs}");
            assert!(matches!(
                rig.format(&plan(fs)),
                Err(HostError::NotBlank { .. })
            ));
        }
    }
}

/// mkfs does all its work and then fails; asked for its version, it answers.
fn cut_at_the_end(real: &str) -> String {
    format!("[ \"$1\" = -V ] && exec {real} -V; {real} \"$@\"; exit 1")
}

fn mark(image: &Path) -> Vec<u8> {
    let mut record = vec![0; 512];
    File::open(image)
        .unwrap()
        .read_exact_at(&mut record, 100 * MIB)
        .unwrap();
    assert!(
        record.starts_with(b"additional-storage.csi.nifcloud.com"),
        "the mark at 100 MiB is gone"
    );
    record
}

#[test]
fn the_marks_survive_mkfs_on_a_disk_of_usual_size() {
    if !able("marks on 100 GiB") {
        return;
    }
    let tools = tempfile::tempdir().unwrap();
    for (fs, options) in [
        (FsType::Ext4, vec![]),
        (FsType::Ext4, vec![("blockSize", "1024")]),
        (FsType::Ext4, vec![("ext4BigAlloc", "true")]),
        (FsType::Xfs, vec![]),
        (FsType::Xfs, vec![("xfsProfile", "conservative")]),
        (FsType::Btrfs, vec![]),
    ] {
        let tool = format!("mkfs.{fs}");
        let dir = tools.path().join(fs.name());
        let script = cut_at_the_end(&format!("/usr/sbin/{tool}"));
        let size = if options.contains(&("blockSize", "1024")) {
            2 << 30
        } else {
            100 << 30
        };
        let rig = Rig::with(
            size,
            |_| {},
            |config| impostor(config, &dir, &tool, &script),
        );
        let mut plan = plan(fs);
        plan.options = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        rig.format(&plan).unwrap_err();
        assert_eq!(
            rig.content(),
            Content::HalfMade { uuid: uuid(1) },
            "{fs} {options:?}"
        );
        mark(&rig.image);
        fs::remove_file(dir.join(&tool)).unwrap();
        rig.format(&plan).unwrap();
        assert_eq!(
            rig.content(),
            Content::Known {
                fs,
                uuid: Some(uuid(1))
            }
        );
    }
}

#[test]
fn options_reach_mkfs_and_wrong_ones_change_nothing() {
    if !able("mkfs options") {
        return;
    }
    let rig = Rig::new(320 * MIB);
    let with = |fs, options: &[(&str, &str)]| FormatPlan {
        options: options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        ..plan(fs)
    };
    for (fs, options) in [
        (FsType::Btrfs, vec![("blockSize", "4096")]),
        (FsType::Xfs, vec![("ext4BigAlloc", "true")]),
        (FsType::Ext4, vec![("ext4ClusterSize", "65536")]),
        (FsType::Ext4, vec![("xfsProfile", "conservative")]),
        (
            FsType::Ext3,
            vec![("bytesPerInode", "4096"), ("numberOfInodes", "5000")],
        ),
    ] {
        let error = rig.format(&with(fs, &options)).unwrap_err();
        assert!(matches!(error, HostError::BadOption { .. }), "{error:?}");
    }
    assert_eq!(rig.content(), Content::Blank);
    let plan = with(
        FsType::Ext4,
        &[
            ("blockSize", "2048"),
            ("inodeSize", "512"),
            ("numberOfInodes", "5000"),
        ],
    );
    rig.format(&plan).unwrap();
    let told = succeed("dumpe2fs", &["-h", &rig.looped]);
    for line in [
        "Block size:               2048",
        "Inode size:\t          512",
        "Reserved block count:     0",
    ] {
        assert!(told.contains(line), "{line:?} not in {told}");
    }
}

#[test]
fn a_disk_in_use_is_neither_formatted_nor_released() {
    if !able("busy disk") {
        return;
    }
    let rig = Rig::new(80 * MIB);
    let holder = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_EXCL)
        .open(&rig.looped)
        .unwrap();
    assert!(matches!(
        rig.format(&plan(FsType::Ext4)),
        Err(HostError::Busy { .. })
    ));
    let error = rig.host.release(&rig.device(), Instant::now()).unwrap_err();
    assert!(matches!(error, HostError::Busy { .. }), "{error:?}");
    drop(holder);
    rig.format(&plan(FsType::Ext4)).unwrap();
    rig.host.release(&rig.device(), soon()).unwrap();
}

#[test]
fn a_write_protected_disk_is_told_and_left_alone() {
    if !able("write-protected disk") {
        return;
    }
    let rig = Rig::with_loop(80 * MIB, |_| {}, |_| {}, &["-r"]);
    let facts = rig.host.inspect(&rig.device()).unwrap();
    assert!(facts.read_only);
    assert_eq!(facts.identity.size, 80 * MIB);
    assert_eq!(rig.host.identify(&rig.device()).unwrap(), facts.identity);
    let before = rig.checksum();
    let error = rig.format(&plan(FsType::Ext4)).unwrap_err().to_string();
    assert!(error.contains("write-protected"), "{error}");
    assert_eq!(rig.checksum(), before);
    rig.host.release(&rig.device(), soon()).unwrap();
    let findings = rig.host.findings(rig.device().devno, None).unwrap();
    assert_eq!(findings[0].reason, "DeviceReadOnly");
}

#[test]
fn a_device_that_is_not_the_one_found_before_is_refused() {
    if !able("swapped device") {
        return;
    }
    let rig = Rig::new(80 * MIB);
    let mut stale = rig.device();
    stale.devno = DevNo {
        major: 7,
        minor: 1_048_000,
    };
    for refused in [
        rig.host.identify(&stale).map(drop),
        rig.host.inspect(&stale).map(drop),
        rig.host.probe(&stale).map(drop),
        rig.host.format(&stale, &plan(FsType::Ext4), soon()),
        rig.host
            .mount(&stale, &rig.path("m"), FsType::Ext4, &[])
            .map(drop),
        rig.host.bind_device(&stale, &rig.path("b")),
    ] {
        assert!(
            matches!(refused, Err(HostError::WrongKind { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(rig.host.device_by_number(stale.devno).unwrap(), None);
    rig.host.release(&stale, soon()).unwrap();
    let gone = rig.host.findings(stale.devno, None).unwrap();
    assert_eq!(
        (gone[0].severity, gone[0].reason),
        (Severity::Inaccessible, "DeviceGone")
    );
}

#[test]
fn an_empty_slot_is_not_found_and_the_message_says_where_it_looked() {
    if !able("empty slot") {
        return;
    }
    let rig = Rig::new(80 * MIB);
    let empty = ScsiAddress { bus: 0, target: 9 };
    assert_eq!(rig.host.device_at(empty).unwrap(), None);
    let error = rig
        .host
        .find_device(empty, Instant::now())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("SCSI (0:9)") && error.contains("by-path"),
        "{error}"
    );
    let devno = rig.device().devno;
    assert_eq!(rig.host.foreign_disks(&[]).unwrap(), [devno]);
    assert_eq!(rig.host.foreign_disks(&[devno]).unwrap(), []);
    assert_eq!(rig.host.storage_findings().unwrap(), []);
}

fn may_resize_ext_online() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("CapEff:"))
        .unwrap();
    let mask = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
    mask & (1 << 24) != 0
}

#[test]
fn every_file_system_grows_to_its_disk() {
    if !able("growth") {
        return;
    }
    for fs in FsType::ALL {
        let rig = Rig::new(320 * MIB);
        let (device, stage) = (rig.device(), rig.path("stage"));
        rig.format(&plan(fs)).unwrap();
        rig.host.mount(&device, &stage, fs, &[]).unwrap();
        fs::write(stage.join("file"), "data").unwrap();
        let total = || rig.host.fs_stats(&stage, soon()).unwrap().bytes.total;
        let before = total();
        rig.host.grow_mounted(&device, fs, &stage, soon()).unwrap();
        assert_eq!(total(), before, "{fs}: nothing to grow yet");
        rig.grow(640 * MIB);
        let grown = rig.host.grow_mounted(&device, fs, &stage, soon());
        if fs.name().starts_with("ext") && !may_resize_ext_online() {
            let error = grown.unwrap_err().to_string();
            assert!(error.contains("CAP_SYS_RESOURCE"), "{error}");
            rig.host.unmount(&stage).unwrap();
            rig.host.grow_unmounted(&device, fs, soon()).unwrap();
            rig.host.grow_unmounted(&device, fs, soon()).unwrap();
            rig.host.mount(&device, &stage, fs, &[]).unwrap();
        } else {
            grown.unwrap();
            rig.host.grow_unmounted(&device, fs, soon()).ok();
        }
        assert!(
            total() > before + 250 * MIB,
            "{fs}: {before} -> {}",
            total()
        );
        rig.host.grow_mounted(&device, fs, &stage, soon()).unwrap();
        assert_eq!(fs::read(stage.join("file")).unwrap(), b"data");
    }
}

#[test]
fn a_damaged_file_system_is_repaired_or_refused_with_words() {
    if !able("check") {
        return;
    }
    let rig = Rig::new(80 * MIB);
    rig.format(&plan(FsType::Ext4)).unwrap();
    let device = rig.device();
    assert_eq!(
        rig.host.check(&device, FsType::Ext4, soon()).unwrap(),
        CheckOutcome::Clean
    );
    // A wrong count of free blocks is what preen mode repairs.
    succeed(
        "debugfs",
        &[
            "-w",
            "-R",
            "set_super_value free_blocks_count 5",
            &rig.looped,
        ],
    );
    succeed(
        "debugfs",
        &["-w", "-R", "set_super_value state 2", &rig.looped],
    );
    let repaired = rig.host.check(&device, FsType::Ext4, soon()).unwrap();
    assert!(
        matches!(repaired, CheckOutcome::Repaired(_)),
        "{repaired:?}"
    );
    // A root directory that is no directory is not.
    succeed("debugfs", &["-w", "-R", "clri <2>", &rig.looped]);
    succeed(
        "debugfs",
        &["-w", "-R", "set_super_value state 2", &rig.looped],
    );
    let error = rig
        .host
        .check(&device, FsType::Ext4, soon())
        .unwrap_err()
        .to_string();
    assert!(error.contains("need a decision"), "{error}");
    rig.host
        .mount(&device, &rig.path("m"), FsType::Xfs, &[])
        .unwrap_err();
}

#[test]
fn a_tool_that_hangs_is_killed_at_the_deadline() {
    if !able("hanging mkfs") {
        return;
    }
    let tools = tempfile::tempdir().unwrap();
    let tune = |config: &mut HostConfig| impostor(config, tools.path(), "mkfs.ext4", "sleep 1000");
    let rig = Rig::with(80 * MIB, |_| {}, tune);
    let deadline = Instant::now() + Duration::from_secs(3);
    let error = rig
        .host
        .format(&rig.device(), &plan(FsType::Ext4), deadline)
        .unwrap_err();
    assert!(matches!(error, HostError::TimedOut { .. }), "{error:?}");
    assert_eq!(rig.content(), Content::HalfMade { uuid: uuid(1) });
}

#[test]
fn pages_of_another_disk_are_not_believed() {
    if !able("stale pages") {
        return;
    }
    let rig = Rig::new(80 * MIB);
    // Fill the cache of the device with zeros, then change the disk behind the kernel's back.
    let mut cached = File::open(&rig.looped).unwrap();
    std::io::copy(
        &mut std::io::Read::take(&mut cached, 8 * MIB),
        &mut std::io::sink(),
    )
    .unwrap();
    cached.seek(SeekFrom::Start(0)).unwrap();
    put(&rig.image, 65600, b"_BHRfS_M");
    assert!(
        !matches!(rig.content(), Content::Blank),
        "{:?}",
        rig.content()
    );
}
