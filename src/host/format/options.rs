//! mkfs command lines from typed options.
//!
//! Base: what users of the Go driver got from Kubernetes' mount library, so that a volume has the same free space:
//! no reserved blocks on ext (`-m0`), forced (`-F`, `-f`: the proof of blankness is ours), nothing else. In addition the
//! UUID, and no discard: it would take the marks away, and a blank disk has nothing to discard.

use std::ffi::OsString;

use crate::domain::capability::FsType;
use crate::host::{FormatPlan, HostError};

/// The arguments, without the device. `xfs_version` is asked only for the conservative profile.
pub(in crate::host) fn arguments(
    plan: &FormatPlan,
    xfs_version: impl FnOnce() -> Result<(u32, u32), HostError>,
) -> Result<Vec<OsString>, HostError> {
    check(plan)?;
    let args = match plan.fs {
        FsType::Ext3 | FsType::Ext4 => ext(plan),
        FsType::Xfs => xfs(plan, xfs_version)?,
        FsType::Btrfs => words(&["-q", "-f", "-K", "-U", plan.uuid.as_str()]),
    };
    Ok(args.into_iter().map(OsString::from).collect())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn is_on(plan: &FormatPlan, key: &str) -> bool {
    plan.options.get(key).is_some_and(|value| value == "true")
}

/// Refuses keys that this file system does not have.
fn check(plan: &FormatPlan) -> Result<(), HostError> {
    let bad = |key: &str, reason: String| {
        Err(HostError::BadOption {
            fs: plan.fs,
            key: key.to_owned(),
            reason,
        })
    };
    let mine: &[&str] = match plan.fs {
        FsType::Ext3 => &["blockSize", "inodeSize", "bytesPerInode", "numberOfInodes"],
        FsType::Ext4 => &[
            "blockSize",
            "inodeSize",
            "bytesPerInode",
            "numberOfInodes",
            "ext4BigAlloc",
            "ext4ClusterSize",
        ],
        FsType::Xfs => &["blockSize", "inodeSize", "xfsProfile"],
        FsType::Btrfs => &[],
    };
    if let Some(key) = plan
        .options
        .keys()
        .find(|key| !mine.contains(&key.as_str()))
    {
        let has = if mine.is_empty() {
            "none".to_owned()
        } else {
            mine.join(", ")
        };
        return bad(key, format!("{} has these options: {has}", plan.fs));
    }
    let number = |key: &str| {
        plan.options
            .get(key)
            .and_then(|value| value.parse::<u64>().ok())
    };
    let block = number("blockSize");
    let inode = number("inodeSize");
    match plan.fs {
        FsType::Ext3 | FsType::Ext4 => {
            if block.is_some_and(|block| !(1024..=4096).contains(&block)) {
                return bad("blockSize", "expected 1024, 2048 or 4096".to_owned());
            }
            if let (Some(inode), Some(block)) = (inode, block.or(Some(4096)))
                && inode > block
            {
                return bad(
                    "inodeSize",
                    format!("an inode of {inode} bytes is larger than a block of {block}"),
                );
            }
        }
        FsType::Xfs => {
            if block.is_some_and(|block| !(1024..=4096).contains(&block)) {
                return bad(
                    "blockSize",
                    "expected 1024, 2048 or 4096 (XFS with checksums)".to_owned(),
                );
            }
            if inode.is_some_and(|inode| !(512..=2048).contains(&inode)) {
                return bad(
                    "inodeSize",
                    "expected 512, 1024 or 2048 (XFS with checksums)".to_owned(),
                );
            }
        }
        FsType::Btrfs => {}
    }
    if plan.options.contains_key("ext4ClusterSize") && !is_on(plan, "ext4BigAlloc") {
        return bad(
            "ext4ClusterSize",
            "it needs ext4BigAlloc \"true\"".to_owned(),
        );
    }
    if plan.options.contains_key("bytesPerInode") && plan.options.contains_key("numberOfInodes") {
        return bad(
            "bytesPerInode",
            "it contradicts numberOfInodes: give one of them".to_owned(),
        );
    }
    Ok(())
}

fn ext(plan: &FormatPlan) -> Vec<String> {
    let mut args = words(&[
        "-q",
        "-F",
        "-m0",
        "-U",
        plan.uuid.as_str(),
        "-E",
        "nodiscard",
    ]);
    for (key, flag) in [
        ("blockSize", "-b"),
        ("inodeSize", "-I"),
        ("bytesPerInode", "-i"),
        ("numberOfInodes", "-N"),
    ] {
        if let Some(value) = plan.options.get(key) {
            args.extend([flag.to_owned(), value.clone()]);
        }
    }
    if is_on(plan, "ext4BigAlloc") {
        args.extend(words(&["-O", "bigalloc"]));
        if let Some(size) = plan.options.get("ext4ClusterSize") {
            args.extend(["-C".to_owned(), size.clone()]);
        }
    }
    args
}

fn xfs(
    plan: &FormatPlan,
    version: impl FnOnce() -> Result<(u32, u32), HostError>,
) -> Result<Vec<String>, HostError> {
    let mut metadata = format!("uuid={}", plan.uuid);
    let mut inode: Vec<String> = Vec::new();
    let mut naming = Vec::new();
    if plan
        .options
        .get("xfsProfile")
        .is_some_and(|profile| profile == "conservative")
    {
        let version = version()?;
        // Each feature with the release of xfsprogs that knows its switch. All are younger than Linux 4.19 or were
        // experimental there; crc, finobt and sparse inodes are older and stay.
        for (since, switch) in [
            ((4, 17), ",reflink=0"),
            ((4, 17), ",rmapbt=0"),
            ((5, 10), ",bigtime=0,inobtcount=0"),
            ((6, 12), ",metadir=0"),
        ] {
            if version >= since {
                metadata.push_str(switch);
            }
        }
        if version >= (5, 19) {
            inode.push("nrext64=0".to_owned());
        }
        if version >= (6, 10) {
            inode.push("exchange=0".to_owned());
            naming = words(&["-n", "parent=0"]);
        }
    }
    if let Some(size) = plan.options.get("inodeSize") {
        inode.push(format!("size={size}"));
    }
    let mut args = words(&["-q", "-f", "-K", "-m", &metadata]);
    if !inode.is_empty() {
        args.extend(["-i".to_owned(), inode.join(",")]);
    }
    args.extend(naming);
    if let Some(size) = plan.options.get("blockSize") {
        args.extend(["-b".to_owned(), format!("size={size}")]);
    }
    Ok(args)
}
