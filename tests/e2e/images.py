"""Container images without a registry: tars for `ctr images import`, made from files.

localhost/pause:1   a tiny ELF that sleeps for ever (what a pod's sandbox runs)
localhost/test:1    busybox, the pods of the walks and of the examples
localhost/postgres:15  PostgreSQL from the distribution's packages
and under the very names that the manifests have: the sidecars, and the driver's static binary with the file-system
tools of the node's root. control/ is for the control plane's node alone, main/ for those that are neither that nor spare.
"""
from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import subprocess
import tarfile
from pathlib import Path

# What deploy/kubernetes/examples run.
BUSYBOX = "busybox:1.37"
# The driver's other build.
OTHER_TAG, OTHER_TAR = "e2e-other", "driver-other.tar"


class Image:
    """One layer and a configuration."""

    def __init__(self, *tags: str, entrypoint: list[str] | None = None, command: list[str] | None = None) -> None:
        self.tags = list(tags)
        self.config: dict = {"Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
        if entrypoint:
            self.config["Entrypoint"] = entrypoint
        if command:
            self.config["Cmd"] = command
        self._buffer = io.BytesIO()
        self._layer = tarfile.open(fileobj=self._buffer, mode="w")
        self._seen: set[str] = set()
        self._merged = False

    def merge_usr(self) -> None:
        """/bin, /sbin and /lib are links into /usr, as in the image that the Dockerfile makes."""
        for name in ("bin", "sbin", "lib", "lib64"):
            self.directory(f"usr/{name}")
            self.link(name, f"usr/{name}")
        self._merged = True

    def _place(self, path: str) -> str:
        path = path.strip("/")
        return f"usr/{path}" if self._merged and path.split("/")[0] in ("bin", "sbin", "lib", "lib64") else path

    def directory(self, path: str, mode: int = 0o755) -> None:
        path = self._place(path)
        parent = os.path.dirname(path)
        if not path or path in self._seen:
            return
        self.directory(parent)
        self._seen.add(path)
        info = tarfile.TarInfo(path)
        info.type, info.mode = tarfile.DIRTYPE, mode
        self._layer.addfile(info)

    def data(self, path: str, content: bytes, mode: int = 0o644) -> None:
        path = self._place(path)
        if path in self._seen:
            return
        self.directory(os.path.dirname(path))
        self._seen.add(path)
        info = tarfile.TarInfo(path)
        info.size, info.mode = len(content), mode
        self._layer.addfile(info, io.BytesIO(content))

    def link(self, path: str, target: str) -> None:
        path = path.strip("/")
        if path in self._seen:
            return
        self.directory(os.path.dirname(path))
        self._seen.add(path)
        info = tarfile.TarInfo(path)
        info.type, info.linkname = tarfile.SYMTYPE, target
        self._layer.addfile(info)

    def program(self, root: Path, path: str) -> None:
        """A program of a node's root with its shared libraries, at the same paths."""
        real = resolve(root, path)
        self.data(path, real.read_bytes(), 0o755)
        for library in libraries(root, real):
            self.data(library, resolve(root, library).read_bytes(), 0o755)

    def write(self, target: Path) -> None:
        if not self._layer.closed:
            self._layer.close()
        layer = self._buffer.getvalue()
        config = json.dumps({
            "architecture": "amd64", "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
        }).encode()
        manifest = json.dumps([{"Config": "config.json", "RepoTags": self.tags, "Layers": ["layer.tar"]}]).encode()
        with tarfile.open(target, "w") as archive:
            for name, content in (("config.json", config), ("layer.tar", layer), ("manifest.json", manifest)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def resolve(root: Path, path: str) -> Path:
    """The file behind a path inside `root`, following symlinks as if `root` were /."""
    current = Path("/")
    parts = [part for part in path.split("/") if part]
    for _ in range(200):
        if not parts:
            return root / str(current).lstrip("/")
        part = parts.pop(0)
        if part == "..":
            current = current.parent
            continue
        inside = root / str(current / part).lstrip("/")
        if inside.is_symlink():
            target = os.readlink(inside)
            parts = [p for p in target.split("/") if p] + parts
            current = Path("/") if target.startswith("/") else current
        else:
            current = current / part
    raise RuntimeError(f"too many symlinks: {path}")


def libraries(root: Path, program: Path) -> list[str]:
    """Paths inside `root` of the shared libraries that a program needs."""
    inside = "/" + str(program.relative_to(root))
    listed = subprocess.run(["chroot", str(root), "/usr/bin/ldd", inside], capture_output=True, text=True, check=False)
    return [word for word in listed.stdout.split() if word.startswith("/")]


def pause_program() -> bytes:
    """mov eax, 34 (pause); syscall; jump back."""
    code = b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7"
    base, start = 0x400000, 64 + 56
    size = start + len(code)
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return head + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + code


def contents() -> list[str]:
    """Programs (by name) and files (by path) of the driver's image: the list that the Dockerfile reads as well."""
    listed = (Path(__file__).resolve().parents[2] / "deploy/image/contents.txt").read_text()
    lines = [line.split() for line in listed.splitlines() if line.strip() and not line.startswith("#")]
    return [line[0] for line in lines]


def find_tool(root: Path, name: str) -> str:
    for directory in ("/usr/sbin", "/sbin", "/usr/bin", "/bin"):
        if os.path.lexists(root / f"{directory}/{name}".lstrip("/")):
            return f"{directory}/{name}"
    raise RuntimeError(f"{name} is not in the node's root")


def build(root: Path, programs: Path, driver: Path, names: list[str], out: Path, other: Path | None = None) -> None:
    """Makes all images; `names` are those of the manifests. `other` is another build of the driver, to be rolled to."""
    for part in ("control", "main"):
        (out / part).mkdir(parents=True, exist_ok=True)
    pause = Image("localhost/pause:1", entrypoint=["/pause"])
    pause.data("pause", pause_program(), 0o755)
    pause.write(out / "0-pause.tar")

    # Also by the name that the examples have.
    test = Image("localhost/test:1", canonical(BUSYBOX), command=["/bin/sh"])
    test.data("bin/busybox", (root / "bin/busybox").read_bytes(), 0o755)
    applets = subprocess.run([str(root / "bin/busybox"), "--list"], capture_output=True, text=True, check=True)
    for applet in applets.stdout.split():
        test.link(f"bin/{applet}", "busybox")
    for directory in "etc root usr/bin usr/sbin var mnt proc sys dev data".split():
        test.directory(directory)
    test.directory("tmp", 0o1777)
    test.data("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    test.write(out / "test.tar")

    postgres_image(root).write(out / "main/postgres.tar")
    for name in names:
        program = name.rsplit("/", 1)[-1].split(":")[0].split("@")[0]
        if (programs / program).exists():
            sidecar = Image(canonical(name), entrypoint=[f"/{program}"])
            sidecar.data(program, (programs / program).read_bytes(), 0o755)
            sidecar.write(out / "control" / f"{program}.tar")
        else:
            driver_image(root, driver, canonical(name)).write(out / "driver.tar")
            if other:
                next_name = canonical(f"{name.rsplit(':', 1)[0]}:{OTHER_TAG}")
                driver_image(root, other, next_name).write(out / OTHER_TAR)


def driver_image(root: Path, driver: Path, tag: str) -> Image:
    image = Image(tag, entrypoint=["/nifcloud-additional-storage-csi"])
    image.merge_usr()
    image.data("nifcloud-additional-storage-csi", driver.read_bytes(), 0o755)
    for name in contents():
        if not name.startswith("/"):
            image.program(root, find_tool(root, name))
        # A node's root has no certificates: nothing in it talks to the cloud.
        elif (root / name.lstrip("/")).exists():
            image.data(name, (root / name.lstrip("/")).read_bytes())
    for directory in "etc proc sys dev run var/lib/kubelet csi keys".split():
        image.directory(directory)
    image.directory("tmp", 0o1777)
    return image


def postgres_image(root: Path) -> Image:
    """The distribution's PostgreSQL with the libraries that its programs and its own modules need."""
    image = Image("localhost/postgres:15")
    image.directory("tmp", 0o1777)
    for directory in "etc proc sys dev data wal var/lib".split():
        image.directory(directory)
    image.data("etc/passwd", b"root:x:0:0:root:/root:/bin/bash\npostgres:x:70:70:PostgreSQL:/tmp:/bin/bash\n")
    image.data("etc/group", b"root:x:0:\npostgres:x:70:\n")
    for program in ("bash", "sleep", "mkdir", "cat", "ls", "df", "chmod", "rm", "ln", "sync"):
        image.program(root, find_tool(root, program))
    image.link("bin/sh", "bash")
    base = "/usr/lib/postgresql/15"
    for program in ("initdb", "postgres", "pg_ctl", "pg_isready", "psql", "pgbench", "pg_amcheck", "pg_checksums"):
        image.program(root, f"{base}/bin/{program}")
    for module in ("dict_snowball", "plpgsql", "amcheck"):
        image.program(root, f"{base}/lib/{module}.so")
    for tree in ("usr/share/postgresql/15", "usr/share/zoneinfo"):
        for file in sorted((root / tree).rglob("*")):
            if file.is_file() and "/man/" not in str(file):
                image.data(str(file.relative_to(root)), file.read_bytes())
    image.config["Env"] = [f"PATH={base}/bin:/usr/bin:/bin", "LC_ALL=C", "HOME=/tmp"]
    return image


def canonical(name: str) -> str:
    """The name as containerd keeps it: with its registry."""
    first, _, rest = name.partition("/")
    if rest and ("." in first or ":" in first or first == "localhost"):
        return name
    return f"docker.io/{name}" if rest else f"docker.io/library/{name}"
