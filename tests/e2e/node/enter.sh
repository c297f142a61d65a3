#!/bin/bash
# enter.sh ROOTS DIR NETNS GROUP NAME DEVICES: becomes a node made of namespaces of this kernel. Its root is an overlay
# over ROOTS (upper:lower); DEVICES, the emulator's links for this VM, is in the kubelet's directory; /var is a plain directory,
# because containerd's overlays cannot lie on an overlay.
set -eu
root=$1 dir=$2 netns=$3 group=$4 name=$5 devices=$6
if [ "${7:-}" != inside ]; then
  # One cgroup in every hierarchy of version 1; the cgroup namespace then shows it as the root.
  for hierarchy in /sys/fs/cgroup/*/; do
    own=$hierarchy$group/$name
    mkdir -p "$own"
    if [ "$(basename "$hierarchy")" = cpuset ]; then
      for level in "$hierarchy$group" "$own"; do
        cat "${hierarchy}cpuset.cpus" > "$level/cpuset.cpus"
        cat "${hierarchy}cpuset.mems" > "$level/cpuset.mems"
        echo 1 > "$level/cgroup.clone_children"
      done
    fi
    echo $$ > "$own/cgroup.procs"
  done
  exec nsenter --net="/run/netns/$netns" unshare --mount --uts --ipc --cgroup --pid --fork --kill-child \
    --propagation private bash "$0" "$root" "$dir" "$netns" "$group" "$name" "$devices" inside
fi
new=$dir/root
mount -t overlay overlay -o "lowerdir=$root,upperdir=$dir/upper,workdir=$dir/work" "$new"
mount --bind "$dir/var" "$new/var"
mount -t proc proc "$new/proc"
mount -t sysfs sysfs "$new/sys"
mount -t tmpfs tmpfs "$new/run"
mount -t tmpfs tmpfs "$new/tmp"
mount --rbind /dev "$new/dev"
mount --make-rprivate "$new/dev"
# Devices are the same for all nodes, as this is one kernel; the emulator's links tell whose is which.
mkdir -p "$new/var/lib/kubelet/e2e-devices"
mount --bind "$devices" "$new/var/lib/kubelet/e2e-devices"
mount -t tmpfs tmpfs "$new/sys/fs/cgroup"
while IFS=: read -r _ controllers _; do
  [ -n "$controllers" ] || continue
  target=${controllers#name=}
  mkdir "$new/sys/fs/cgroup/$target"
  mount -t cgroup -o "$controllers" cgroup "$new/sys/fs/cgroup/$target"
done < /proc/self/cgroup
# A kubelet sets three sysctls of the whole machine. It finds files with the values it wants, and writes nothing.
for setting in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
  file=$dir/$(basename "${setting%=*}")
  echo "${setting#*=}" > "$file"
  mount --bind "$file" "$new/proc/sys/${setting%=*}"
done
cd "$new"
mkdir -p .old
pivot_root . .old
cd /
umount -l /.old
exec /sbin/init
