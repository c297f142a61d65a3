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

fn bad(plan: &FormatPlan, key: &str, reason: impl Into<String>) -> Result<(), HostError> {
    Err(HostError::BadOption {
        fs: plan.fs,
        key: key.to_owned(),
        reason: reason.into(),
    })
}

/// Refuses options that this file system does not have, values that it cannot have, and contradictions.
fn check(plan: &FormatPlan) -> Result<(), HostError> {
    keys(plan)?;
    sizes(plan)?;
    let given = |key| plan.options.contains_key(key);
    if given("ext4ClusterSize") && !is_on(plan, "ext4BigAlloc") {
        return bad(plan, "ext4ClusterSize", "it needs ext4BigAlloc \"true\"");
    }
    if given("bytesPerInode") && given("numberOfInodes") {
        let reason = "it contradicts numberOfInodes: give one of them";
        return bad(plan, "bytesPerInode", reason);
    }
    Ok(())
}

fn keys(plan: &FormatPlan) -> Result<(), HostError> {
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
        return bad(plan, key, format!("{} has these options: {has}", plan.fs));
    }
    Ok(())
}

fn sizes(plan: &FormatPlan) -> Result<(), HostError> {
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
                return bad(plan, "blockSize", "expected 1024, 2048 or 4096");
            }
            if let (Some(inode), Some(block)) = (inode, block.or(Some(4096)))
                && inode > block
            {
                return bad(
                    plan,
                    "inodeSize",
                    format!("an inode of {inode} bytes is larger than a block of {block}"),
                );
            }
        }
        FsType::Xfs => {
            if block.is_some_and(|block| !(1024..=4096).contains(&block)) {
                return bad(
                    plan,
                    "blockSize",
                    "expected 1024, 2048 or 4096 (XFS with checksums)",
                );
            }
            if inode.is_some_and(|inode| !(512..=2048).contains(&inode)) {
                return bad(
                    plan,
                    "inodeSize",
                    "expected 512, 1024 or 2048 (XFS with checksums)",
                );
            }
        }
        FsType::Btrfs => {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::FsUuid;

    const UUID: &str = "07070707-0707-0707-0707-070707070707";

    fn line(fs: FsType, options: &[(&str, &str)], version: (u32, u32)) -> String {
        let plan = plan(fs, options);
        let args = arguments(&plan, || Ok(version)).unwrap();
        let args: Vec<_> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        args.join(" ").replace(UUID, "UUID")
    }

    fn plan(fs: FsType, options: &[(&str, &str)]) -> FormatPlan {
        FormatPlan {
            fs,
            uuid: FsUuid::from_bytes([7; 16]),
            options: options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            allow_non_zero: false,
        }
    }

    #[test]
    fn without_options_the_free_space_is_that_of_the_go_driver() {
        let ext = "-q -F -m0 -U UUID -E nodiscard";
        assert_eq!(line(FsType::Ext3, &[], (6, 1)), ext);
        assert_eq!(
            line(FsType::Ext4, &[("ext4BigAlloc", "false")], (6, 1)),
            ext
        );
        assert_eq!(line(FsType::Xfs, &[], (6, 1)), "-q -f -K -m uuid=UUID");
        assert_eq!(line(FsType::Btrfs, &[], (6, 1)), "-q -f -K -U UUID");
    }

    #[test]
    fn a_conservative_xfs_turns_off_what_its_mkfs_knows_and_no_more() {
        let conservative = |version| line(FsType::Xfs, &[("xfsProfile", "conservative")], version);
        assert_eq!(conservative((4, 10)), "-q -f -K -m uuid=UUID");
        assert_eq!(
            conservative((6, 1)),
            "-q -f -K -m uuid=UUID,reflink=0,rmapbt=0,bigtime=0,inobtcount=0 -i nrext64=0"
        );
        assert_eq!(
            conservative((6, 13)),
            "-q -f -K -m uuid=UUID,reflink=0,rmapbt=0,bigtime=0,inobtcount=0,metadir=0 -i nrext64=0,exchange=0 \
             -n parent=0"
        );
    }

    #[test]
    fn options_that_do_not_fit_are_refused_with_what_does() {
        for (fs, options, says) in [
            (FsType::Btrfs, vec![("blockSize", "4096")], "none"),
            (FsType::Xfs, vec![("bytesPerInode", "4096")], "xfsProfile"),
            (FsType::Ext4, vec![("blockSize", "65536")], "4096"),
            (
                FsType::Ext4,
                vec![("blockSize", "1024"), ("inodeSize", "2048")],
                "larger",
            ),
            (
                FsType::Ext4,
                vec![("ext4ClusterSize", "65536")],
                "ext4BigAlloc",
            ),
            (FsType::Xfs, vec![("inodeSize", "256")], "512"),
            (
                FsType::Ext3,
                vec![("ext4BigAlloc", "true")],
                "numberOfInodes",
            ),
        ] {
            let error = arguments(&plan(fs, &options), || Ok((6, 1)))
                .unwrap_err()
                .to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
