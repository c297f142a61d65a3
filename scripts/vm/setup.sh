#!/usr/bin/env bash
# setup.sh: prepares what the VM tests boot, once, in the cache:
#   qemu/     QEMU, unpacked from the distribution's packages (nothing is installed)
#   vmlinux   a stock Debian cloud kernel, uncompressed (boots twice as fast without KVM)
#   base.cpio an initial RAM disk with busybox, the SCSI and file-system modules, and the file-system tools
# Prints the cache directory. Safe to repeat; a finished cache is used as it is.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
log() { printf 'vm-setup: %s\n' "$*" >&2; }

tools="mkfs.ext3 mkfs.ext4 e2fsck resize2fs dumpe2fs tune2fs mkfs.xfs xfs_growfs xfs_repair xfs_db xfs_io
  mkfs.btrfs btrfs blkid blockdev losetup strace"
# The key changes with everything that goes into the cache.
key=$({ cat "$here"/setup.sh "$here"/mkinitrd.py "$here"/vmlinux.py "$here"/init "$here"/agent.rs; uname -m; } | sha256sum | cut -c1-16)
root=${XDG_CACHE_HOME:-$HOME/.cache}/nifcloud-additional-storage-csi/vm-$key
if [ -e "$root/done" ]; then echo "$root"; exit 0; fi
# Two at the same time make it once.
mkdir -p "${root%/*}"
exec {lock}> "$root.lock"
flock "$lock"
if [ -e "$root/done" ]; then echo "$root"; exit 0; fi

command -v apt-get >/dev/null || { log "apt-get is needed (Debian or Ubuntu); on another system run these tests in a container of one"; exit 69; }
work=$root.tmp.$$
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/debs" "$work/qemu" "$work/kernel"

log "looking for packages"
[ -n "$(apt-cache madison qemu-system-x86 2>/dev/null)" ] || { log "apt-get update"; apt-get update -q >&2; }
kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends/{print $2; exit}')
# Only a simulation: the names of what an installation would add. A newer qemu-utils may be present and would
# conflict, so the simulation removes it.
qemu=$(apt-get install -s --no-install-recommends qemu-system-x86 qemu-utils- 2>/dev/null | awk '/^Inst/{print $2}')
log "downloading QEMU and the kernel $kernel"
# shellcheck disable=SC2086
(cd "$work/debs" && apt-get download -q $qemu "$kernel" busybox-static kmod lz4 libxxhash0 2>&1 | tail -1 >&2)
for deb in "$work"/debs/*.deb; do
  case ${deb##*/} in
    linux-image*) dpkg -x "$deb" "$work/kernel" ;;
    *) dpkg -x "$deb" "$work/qemu" ;;
  esac
done
rm -rf "$work/debs"
version=$(ls "$work/kernel/lib/modules")
# depmod is an absolute symlink to /bin/kmod inside the package: call kmod by that name.
(exec -a depmod "$work/qemu/bin/kmod" -b "$work/kernel" "$version")
log "unpacking the kernel image"
PATH=$work/qemu/usr/bin:$PATH python3 "$here/vmlinux.py" "$work/kernel/boot/vmlinuz-$version" "$work/vmlinux"
log "compiling the agent"
rustc -O --edition 2024 --target x86_64-unknown-linux-musl -o "$work/agent" "$here/agent.rs"
log "building the initial RAM disk"
args=()
for tool in $tools; do
  path=$(command -v "$tool") || { log "$tool is missing: apt-get install e2fsprogs xfsprogs btrfs-progs util-linux strace"; exit 69; }
  args+=(--program "$path")
done
python3 "$here/mkinitrd.py" "$work/base.cpio" --init "$here/init" --modules-root "$work/kernel" --version "$version" \
  --busybox "$work/qemu/bin/busybox" --file "$work/agent:/agent" "${args[@]}"
# Kept for tests that need another module.
mv "$work/kernel/lib/modules/$version" "$work/modules"
rm -rf "$work/kernel"
touch "$work/done"
rm -rf "$root"
mv "$work" "$root"
trap - EXIT
log "ready: $(du -sh "$root" | cut -f1)"
echo "$root"
