"""Nodes that are virtual machines: a kernel of their own, and a pvscsi controller that the emulated cloud plugs disks into.

No KVM is needed. A machine boots a stock kernel with a small initial RAM disk, which puts the node's own files over its
root disk and goes there; the root disk is a copy of one image, made from what native nodes have as overlays.
"""
from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from cluster import Cluster, Node, be_patient, run, wait
from images import OTHER_TAR

INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/modules/$module"; done < /modules/order
until [ -b /dev/vda ]; do $b sleep 0.05; done
$b mount -t ext4 /dev/vda /root || exec $b sh
$b cp -r /node/. /root/
$b mount --move /dev /root/dev
exec $b switch_root /root /sbin/init
"""
BOOT_MODULES = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"]
LIBRARIES = "usr/lib/x86_64-linux-gnu"


def archive(files: dict[str, tuple[int, bytes]]) -> bytes:
    """A cpio archive (newc) of path -> (mode, content); directories come before what is in them."""
    entries = {"dev/console": (0o20600, b"")} | files
    for path in list(entries):
        for depth in range(1, path.count("/") + 1):
            entries.setdefault("/".join(path.split("/")[:depth]), (0o40755, b""))
    out = b""
    for number, (path, (mode, data)) in enumerate([*sorted(entries.items()), ("TRAILER!!!", (0, b""))], 1):
        name = path.encode() + b"\0"
        device = (5, 1) if path == "dev/console" else (0, 0)
        numbers = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % n for n in numbers) + name
        out += head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)
    return out


class Machines(Cluster):
    """The control plane's node stays native; the others are machines."""

    lab: Path
    loop = False

    def up(self) -> None:
        be_patient(3)
        self.version = re.search(rb"Linux version (\S+)", (self.lab / "vmlinux").read_bytes())[1].decode()
        super().up()

    def qmp(self, node: Node) -> Path:
        return node.dir / "qmp"

    def imported(self, node: Node) -> bool:
        if node.control:
            return super().imported(node)
        images = self.api.get("Node", node.name)["status"].get("images", [])
        return any("nifcloud" in name for image in images for name in image.get("names", []))

    def start_node(self, node: Node) -> None:
        if node.control:
            super().start_node(node)
            return
        base = self.dir / "node.ext4"
        if not base.exists():
            self._make_disk(base)
        node.dir.mkdir(parents=True)
        run("cp", "--sparse=always", str(base), str(node.dir / "disk"))
        files = {f"node/{path}": (0o100600, content) for path, content in self.node_files(node, mode="vm").items()}
        (node.dir / "initrd").write_bytes(archive(self._boot_files() | files))
        for command in (f"tuntap add dev tap{node.number} mode tap", f"link set tap{node.number} master br0 up",
                        f"route replace 10.244.{node.number}.0/24 via {node.address}"):
            run("ip", "-n", self.name, *command.split())
        self.power_on(node)

    def power_on(self, node: Node) -> None:
        if node.control:
            super().power_on(node)
            return
        prefix = self.lab / "qemu"
        self.qmp(node).unlink(missing_ok=True)
        log = open(node.dir / "qemu.log", "ab")  # noqa: SIM115
        node.process = subprocess.Popen(
            [str(prefix / "usr/bin/qemu-system-x86_64"), "-L", str(prefix / "usr/share/qemu"), "-L",
             str(prefix / "usr/share/seabios"), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
             "-M", "q35", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max", "-m", "1024", "-smp", "1",
             "-kernel", str(self.lab / "vmlinux"), "-initrd", str(node.dir / "initrd"),
             "-append", "console=ttyS0 panic=-1 quiet no_timer_check mitigations=off", "-serial", f"file:{node.dir}/console.log",
             "-qmp", f"unix:{self.qmp(node)},server=on,wait=off", "-device", "virtio-rng-pci",
             "-drive", f"file={node.dir}/disk,format=raw,if=none,id=root,cache=unsafe", "-device", "virtio-blk-pci,drive=root",
             "-device", "pvscsi,id=scsi0", "-netdev", f"tap,id=n0,ifname=tap{node.number},script=no,downscript=no",
             "-device", f"virtio-net-pci,netdev=n0,romfile=,mac=52:54:00:00:00:{10 + node.number:02x}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "LD_LIBRARY_PATH": f"{prefix / LIBRARIES}:{prefix / 'lib/x86_64-linux-gnu'}"})
        wait(f"the control socket of {node.name}", self.qmp(node).exists, 20)

    def _boot_files(self) -> dict[str, tuple[int, bytes]]:
        modules = self.lab / "modules"
        needs = dict(line.split(":", 1) for line in (modules / "modules.dep").read_text(encoding="ascii").splitlines())
        paths = {Path(path).name.split(".ko")[0].replace("-", "_"): path for path in needs}
        order: list[str] = []
        for name in BOOT_MODULES:
            if name in paths:
                order += [path for path in [*reversed(needs[paths[name]].split()), paths[name]] if path not in order]
        files = {"init": (0o100755, INIT.encode()), "bin/busybox": (0o100755, (self.root / "bin/busybox").read_bytes()),
                 "root": (0o40755, b""), "modules/order": (0o100644, "".join(f"{Path(p).name}\n" for p in order).encode())}
        for path in order:
            files[f"modules/{Path(path).name}"] = (0o100644, (modules / path).read_bytes())
        return files

    def _make_disk(self, target: Path) -> None:
        """The layers of a native node as one file system, with the kernel's modules and the images."""
        tree = self.dir / "tree"
        run("cp", "-al", str(self.root), str(tree))
        for heavy in ("usr/lib/postgresql", "usr/share/postgresql", "usr/share/zoneinfo"):
            shutil.rmtree(tree / heavy, ignore_errors=True)
        run("cp", "-a", "--remove-destination", f"{self.layer}/.", str(tree))
        for image in self.images.glob("*.tar"):
            if image.name != OTHER_TAR:
                os.link(image, tree / "images" / image.name)
        (tree / "lib/modules").mkdir(exist_ok=True)
        run("cp", "-a", str(self.lab / "modules"), str(tree / "lib/modules" / self.version))
        with open(target, "wb") as disk:
            disk.truncate(4 << 30)
        run("mkfs.ext4", "-q", "-F", "-O", "^metadata_csum", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
            "-d", str(tree), str(target))
        shutil.rmtree(tree)


def prepare_lab(repository: Path) -> Path:
    """QEMU and the kernel, from the cache or made now."""
    made = subprocess.run(["bash", str(repository / "scripts/vm/setup.sh")], check=True, text=True, stdout=subprocess.PIPE)
    return Path(made.stdout.split()[-1])


