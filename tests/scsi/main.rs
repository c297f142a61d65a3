//! The node plugin on a real SCSI stack: VMs with VMware's paravirtual controller. `make scsi` runs these.
//!
//! Ignored by a plain `cargo test`: they need `VM_LAB`, the directory that `scripts/vm/setup.sh` prints.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use additional_storage_csi::demo::vm::{Vm, VmConfig};

fn lab() -> PathBuf {
    PathBuf::from(std::env::var("VM_LAB").expect("VM_LAB: run `make scsi`"))
}

async fn boot(dir: &Path) -> Vm {
    Vm::start(VmConfig::new(&lab(), dir)).await.unwrap()
}

#[tokio::test]
#[ignore = "needs a VM: make scsi"]
async fn a_vm_boots_and_has_a_pvscsi_controller() {
    let dir = tempfile::tempdir().unwrap();
    let vm = boot(dir.path()).await;
    let out = vm
        .run(
            "cat /sys/class/scsi_host/host*/proc_name; uname -r",
            Duration::from_secs(5),
        )
        .await;
    let out = out.unwrap();
    println!("{}", out.text);
    assert_eq!(out.code, 0);
    assert!(out.text.contains("vmw_pvscsi"), "{}", out.text);
}
