#!/usr/bin/env python3
"""Writes an uncompressed initial RAM disk (cpio, "newc") for the test VMs.

Kernel modules go in with a list of their load order; programs go in with the shared libraries that the dynamic
linker names for them. Uncompressed, because decompression costs more than reading under emulation.
"""
import argparse
import os
import subprocess

MODULES = """crc32c_generic virtio_pci virtio_rng virtio_net virtio_console sd_mod sg vmw_pvscsi loop
ext4 xfs btrfs nls_ascii""".split()


class Archive:
    def __init__(self) -> None:
        self.entries: dict[str, tuple[int, bytes]] = {}

    def directory(self, path: str) -> None:
        path = path.strip("/")
        while path:
            self.entries.setdefault(path, (0o40755, b""))
            path = os.path.dirname(path)

    def file(self, source: str, target: str, mode: int | None = None) -> None:
        target = target.strip("/")
        self.directory(os.path.dirname(target))
        with open(source, "rb") as stream:
            data = stream.read()
        self.entries[target] = (0o100000 | (mode or os.stat(source).st_mode & 0o777), data)

    def text(self, target: str, text: str) -> None:
        self.directory(os.path.dirname(target))
        self.entries[target.strip("/")] = (0o100644, text.encode())

    def write(self, path: str) -> None:
        with open(path, "wb") as out:
            for number, name in enumerate(sorted(self.entries), 1):
                out.write(record(number, name, *self.entries[name]))
            out.write(record(0, "dev/console", 0o20600, b"", (5, 1)))
            out.write(record(0, "TRAILER!!!", 0, b""))


def record(number: int, name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    head += b"\0" * (-len(head) % 4)
    return head + data + b"\0" * (-len(data) % 4)


def load_order(root: str, wanted: list[str]) -> list[str]:
    depends = {}
    for line in open(f"{root}/modules.dep", encoding="ascii"):
        module, needs = line.split(":", 1)
        depends[module] = needs.split()
    by_name = {os.path.basename(path).split(".ko")[0].replace("-", "_"): path for path in depends}
    order: list[str] = []
    for name in wanted:
        path = by_name.get(name)
        if path is None:
            continue  # built into this kernel, or not there: the VM's init complains where it matters
        for module in [*reversed(depends[path]), path]:
            if module not in order:
                order.append(module)
    return order


def libraries(program: str) -> list[str]:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return [word for word in listed.split() if word.startswith("/")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    for name in ("init", "modules-root", "version", "busybox"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--program", action="append", default=[])
    parser.add_argument("--file", action="append", default=[], metavar="SOURCE:TARGET")
    options = parser.parse_args()

    archive = Archive()
    for path in "bin sbin usr/bin usr/sbin proc sys dev run tmp var/lib root etc mnt lib lib64 modules".split():
        archive.directory(path)
    archive.file(options.busybox, "bin/busybox", 0o755)
    archive.file(options.init, "init", 0o755)
    root = f"{options.modules_root}/lib/modules/{options.version}"
    order = load_order(root, MODULES)
    for module in order:
        archive.file(f"{root}/{module}", "modules/" + os.path.basename(module), 0o644)
    archive.text("modules/order", "".join(os.path.basename(module) + "\n" for module in order))
    archive.text("etc/mtab", "")
    for program in options.program:
        real = os.path.realpath(program)
        archive.file(real, "usr/sbin/" + os.path.basename(program), 0o755)
        for library in libraries(real):
            archive.file(os.path.realpath(library), library)
    for pair in options.file:
        source, _, target = pair.partition(":")
        archive.file(source, target, 0o755)
    archive.write(options.output)


main()
