//! The search by address on a hand-made sysfs whose kernel is played by the test: it reacts to what is written.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::sync::Mutex;

use super::*;

/// Kernel's name, minor number, state, size in sectors.
type Disk = (&'static str, u32, &'static str, u64);

/// A tree with two controllers, probed in the other order than their PCI addresses, and one SATA port.
struct Machine {
    dir: tempfile::TempDir,
    /// Disks that the hypervisor offers, by host and target.
    offered: Mutex<BTreeMap<(u32, u8), Disk>>,
    written: Mutex<Vec<String>>,
}

impl Machine {
    fn new() -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        for (host, path) in [
            (0, "0000:00:16.0/0000:0b:00.0"),
            (2, "0000:00:15.0/0000:03:00.0"),
            (1, "0000:00:07.1/ata1"),
        ] {
            let real = format!("devices/pci0000:00/{path}/host{host}/scsi_host/host{host}");
            fs::create_dir_all(dir.path().join(&real)).unwrap();
            fs::create_dir_all(dir.path().join("class/scsi_host")).unwrap();
            symlink(
                dir.path().join(&real),
                dir.path().join(format!("class/scsi_host/host{host}")),
            )
            .unwrap();
        }
        Arc::new(Self {
            dir,
            offered: Mutex::default(),
            written: Mutex::default(),
        })
    }

    fn offer(&self, host: u32, target: u8, disk: Disk) {
        self.offered.lock().unwrap().insert((host, target), disk);
    }

    fn address(host: u32, target: u8) -> String {
        format!("{host}:0:{target}:0")
    }

    fn device(&self, host: u32, target: u8) -> PathBuf {
        let devices = self.dir.path().join("bus/scsi/devices");
        devices.join(Self::address(host, target))
    }

    /// The kernel has found a device and made no disk of it yet.
    fn begin(&self, host: u32, target: u8, state: &str) {
        let device = self.device(host, target);
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("state"), state).unwrap();
    }

    fn appear(&self, host: u32, target: u8) {
        let offered = self.offered.lock().unwrap();
        let Some((name, minor, state, sectors)) = offered.get(&(host, target)) else {
            return;
        };
        let device = self.device(host, target);
        let block = device.join("draft").join(name);
        fs::create_dir_all(&block).unwrap();
        fs::write(block.join("size"), format!("{sectors}\n")).unwrap();
        fs::write(block.join("dev"), format!("8:{minor}\n")).unwrap();
        fs::write(device.join("draft-state"), format!("{state}\n")).unwrap();
        // All at once, as the kernel shows them.
        fs::rename(device.join("draft"), device.join("block")).unwrap();
        fs::rename(device.join("draft-state"), device.join("state")).unwrap();
    }

    fn kernel(self: &Arc<Self>) -> Write {
        let machine = Arc::clone(self);
        Arc::new(move |path, value| {
            let path = path.strip_prefix(machine.dir.path()).unwrap();
            let shown = format!("{}={value}", path.display());
            machine.written.lock().unwrap().push(shown);
            let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).collect();
            match parts[..] {
                ["class", "scsi_host", host, "scan"] => {
                    let host = host.strip_prefix("host").unwrap().parse().unwrap();
                    let target = value.split(' ').nth(1).unwrap().parse().unwrap();
                    machine.appear(host, target);
                    Ok(())
                }
                ["bus", "scsi", "devices", _, "delete"] => {
                    fs::remove_dir_all(machine.dir.path().join(path.parent().unwrap()))
                }
                _ => Ok(()),
            }
        })
    }

    fn scsi(self: &Arc<Self>) -> Scsi {
        Scsi {
            kernel: Kernel {
                sysfs: self.dir.path().to_owned(),
                dev: "/dev".into(),
            },
            write: self.kernel(),
        }
    }

    fn written(&self) -> Vec<String> {
        std::mem::take(&mut *self.written.lock().unwrap())
    }
}

const GOOD: Checks<'static> = Checks {
    readable: &|_| Ok(()),
    in_use: &|_| false,
};

fn at(bus: u8, target: u8) -> ScsiAddress {
    ScsiAddress { bus, target }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[test]
fn controllers_count_in_pci_order_and_sata_ports_do_not_count() {
    let scsi = Machine::new().scsi();
    let hosts: Vec<_> = scsi.controllers().iter().map(|c| c.host).collect();
    assert_eq!(hosts, [2, 0]);
}

#[test]
fn a_disk_whose_message_was_lost_is_found_by_a_scan_of_its_address_alone() {
    let machine = Machine::new();
    machine.offer(2, 3, ("sdc", 32, "running", 2048));
    let device = machine.scsi().find(at(0, 3), soon(), &GOOD).unwrap();
    assert_eq!(
        (device.path.to_str(), device.devno.to_string()),
        (Some("/dev/sdc"), "8:32".to_owned())
    );
    assert_eq!(
        machine.written(),
        [
            "class/scsi_host/host2/scan=0 3 0",
            "bus/scsi/devices/2:0:3:0/rescan=1"
        ]
    );
    assert_eq!(machine.scsi().device_at(at(0, 3)), Some(device.clone()));
    assert_eq!(machine.scsi().device_at(at(1, 3)), None);
    assert_eq!(machine.scsi().list(), [device]);
}

#[test]
fn the_identity_of_a_disk_that_is_there_already_is_read_again() {
    let machine = Machine::new();
    machine.offer(0, 1, ("sdb", 16, "running", 2048));
    machine.appear(0, 1);
    machine.scsi().find(at(1, 1), soon(), &GOOD).unwrap();
    assert_eq!(machine.written(), ["bus/scsi/devices/0:0:1:0/rescan=1"]);
}

#[test]
fn a_dead_device_is_deleted_before_the_scan_that_finds_the_next_disk() {
    for dead in [("sdb", 16, "offline", 2048), ("sdb", 16, "running", 0)] {
        let machine = Machine::new();
        machine.offer(2, 1, dead);
        machine.appear(2, 1);
        machine.offer(2, 1, ("sdd", 48, "running", 4096));
        let device = machine.scsi().find(at(0, 1), soon(), &GOOD).unwrap();
        assert_eq!(device.devno.minor, 48);
        assert_eq!(
            machine.written()[..2],
            [
                "bus/scsi/devices/2:0:1:0/delete=1",
                "class/scsi_host/host2/scan=0 1 0"
            ]
        );
    }
}

#[test]
fn a_disk_that_the_kernel_is_still_adding_is_waited_for_and_not_deleted() {
    for state in ["created", "running"] {
        let machine = Machine::new();
        machine.offer(2, 1, ("sdb", 16, "running", 2048));
        machine.begin(2, 1, state);
        let found = std::thread::scope(|scope| {
            let kernel = Arc::clone(&machine);
            scope.spawn(move || {
                let (_never, later) = std::sync::mpsc::channel::<()>();
                let _ = later.recv_timeout(Duration::from_millis(100));
                kernel.appear(2, 1);
            });
            machine.scsi().find(at(0, 1), soon(), &GOOD).unwrap()
        });
        assert_eq!(found.devno.minor, 16);
        assert_eq!(machine.written(), ["bus/scsi/devices/2:0:1:0/rescan=1"]);
    }
}

#[test]
fn a_device_that_never_gets_a_disk_is_deleted_after_all() {
    let machine = Machine::new();
    machine.offer(2, 1, ("sdb", 16, "running", 2048));
    machine.begin(2, 1, "running");
    let found = machine.scsi().find(at(0, 1), soon(), &GOOD).unwrap();
    assert_eq!(found.devno.minor, 16);
    assert_eq!(
        machine.written()[..2],
        [
            "bus/scsi/devices/2:0:1:0/delete=1",
            "class/scsi_host/host2/scan=0 1 0"
        ]
    );
}

#[test]
fn a_disk_that_cannot_be_read_is_replaced_unless_somebody_uses_it() {
    let unreadable = |device: &BlockDevice| match device.devno.minor {
        16 => Err("its first sector cannot be read".to_owned()),
        _ => Ok(()),
    };
    for used in [false, true] {
        let machine = Machine::new();
        machine.offer(2, 1, ("sdb", 16, "running", 2048));
        machine.appear(2, 1);
        machine.offer(2, 1, ("sdd", 48, "running", 2048));
        let checks = Checks {
            readable: &unreadable,
            in_use: &|_| used,
        };
        let deadline = if used { Instant::now() } else { soon() };
        let found = machine.scsi().find(at(0, 1), deadline, &checks);
        let deleted = machine.written().iter().any(|line| line.contains("delete"));
        assert_eq!(deleted, !used);
        match found {
            Ok(device) => assert_eq!((device.devno.minor, used), (48, false)),
            Err(error) => assert!(
                used && error.to_string().contains("still in use"),
                "{error}"
            ),
        }
    }
}

#[test]
fn nothing_there_and_no_such_controller_are_told_apart() {
    let machine = Machine::new();
    let message = |at| {
        machine
            .scsi()
            .find(at, Instant::now(), &GOOD)
            .unwrap_err()
            .to_string()
    };
    assert!(message(at(0, 5)).contains("nothing at this address"));
    assert!(message(at(2, 5)).contains("the VM has 2 SCSI controllers and no number 2"));
}

#[test]
fn pci_addresses_are_hexadecimal_numbers() {
    let parse = PciAddress::parse;
    assert!(parse("0000:03:00.0") < parse("0000:0b:00.0"));
    assert!(parse("0000:0b:00.0") < parse("0000:13:00.0"));
    for other in [
        "",
        "ata1",
        "pci0000:00",
        "0000:03:00",
        "host0",
        "0000:00:07.1:x",
    ] {
        assert_eq!(parse(other), None, "{other}");
    }
}
