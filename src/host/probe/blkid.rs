//! The second witness: `blkid -p`, which knows many more formats and shares no code with the prober.
//!
//! Exit status 2 means "nothing found" but also "no such device" and "could not be read" (libblkid does not tell
//! them apart), so it counts only beside the first witness, who has read the disk itself.

use std::ffi::OsStr;
use std::time::Instant;

use crate::domain::id::FsUuid;
use crate::host::command::{self, Tools};
use crate::host::{BlockDevice, HostError};

/// What blkid says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Blkid {
    /// No signature.
    Nothing,
    /// One: type (or partition table type) and UUID.
    Found { what: String, uuid: Option<FsUuid> },
    /// Several that contradict each other, or it failed.
    Unclear { why: String },
}

pub(super) fn ask(
    tools: &Tools,
    device: &BlockDevice,
    deadline: Instant,
) -> Result<Blkid, HostError> {
    let args = ["-p", "-o", "export", "--"].map(OsStr::new);
    let args: Vec<_> = args.into_iter().chain([device.path.as_os_str()]).collect();
    let output = tools.run(command::BLKID, &args, deadline)?;
    Ok(match output.status.code() {
        Some(0) => read(&output.stdout),
        Some(2) => Blkid::Nothing,
        Some(8) => Blkid::Unclear {
            why: "blkid finds several contradicting signatures".to_owned(),
        },
        _ => Blkid::Unclear {
            why: format!("blkid failed: {}", output.text()),
        },
    })
}

fn read(export: &str) -> Blkid {
    let value = |key: &str| {
        export.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name == key).then(|| value.trim().to_owned())
        })
    };
    match value("TYPE").or_else(|| value("PTTYPE").map(|table| format!("{table} partition table")))
    {
        Some(what) => Blkid::Found {
            what,
            uuid: value("UUID").and_then(|uuid| FsUuid::parse(&uuid)),
        },
        None => Blkid::Unclear {
            why: "blkid found something that it does not name".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_tables_and_nameless_answers_are_told_apart() {
        let uuid = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
        assert_eq!(
            read(&format!(
                "DEVNAME=/dev/sdb\nUUID={uuid}\nTYPE=ext4\nUSAGE=filesystem"
            )),
            Blkid::Found {
                what: "ext4".to_owned(),
                uuid: FsUuid::parse(uuid)
            }
        );
        assert_eq!(
            read("PTUUID=12\nPTTYPE=dos"),
            Blkid::Found {
                what: "dos partition table".to_owned(),
                uuid: None
            }
        );
        assert!(matches!(read("DEVNAME=/dev/sdb"), Blkid::Unclear { .. }));
    }
}
