"""Runs beside and before this one. Everything that a run makes outside of its own directory carries its process id: two runs
at the same time share nothing but the caches, and what a run that was killed left behind is found, and ended."""
from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from cluster import remove_groups, run

OWN = re.compile(r"(?:e2e|run|quickstart)-(\d+)(?:-.*)?")
# Images of emulated disks: of a run (in any checkout, which may be gone), and in a node of one that is gone.
IMAGE = re.compile(r".*/target/e2e/(?:run|quickstart)-(\d+)/.*")
ORPHAN = re.compile(r"/var/lib/nifcloud-emulator/disks/.* \(deleted\)")
# GiB that a run may take for a while, most of it for the journals of new file systems.
ROOM = 10
_locks: list[int] = []


def one_at_a_time(directory: Path) -> None:
    """Waits for another run in the same checkout, whose logs and figures would be overwritten. Held until this process ends."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
    _locks.append(lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"e2e: waiting for another run in this checkout to end (lock: {directory}/lock)", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def end_when_told() -> None:
    """A request to end, or a terminal that is closed, is Ctrl-C: everything is taken down."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))


def enough_room(directory: Path) -> None:
    """A run on a disk that fills up does not fail where one would see it: the cluster's database ends, and every request hangs."""
    free = shutil.disk_usage(directory).free >> 30
    if free < ROOM:
        raise SystemExit(f"e2e: {free} GiB are free at {directory}, a run needs {ROOM}: make room there")


def alive(number: str) -> bool:
    """Whether a run with this process id goes on; what bears our own id is older than we are."""
    try:
        command = Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return False
    return b"tests/e2e/" in command and int(number) != os.getpid()


def dead(directory: Path, pattern: str = "*") -> list[Path]:
    found = [(path, OWN.fullmatch(path.name)) for path in directory.glob(pattern)] if directory.is_dir() else []
    return [path for path, own in found if own and not alive(own[1])]


def sweep(runs: Path) -> None:
    """Ends what killed runs left: processes, namespaces, cgroups, loop devices, directories of this checkout."""
    namespaces = dead(Path("/run/netns"), "e2e-*")
    for namespace in namespaces:
        for process in run("ip", "netns", "pids", namespace.name, check=False).stdout.split():
            try:
                os.kill(int(process), signal.SIGKILL)
            except ProcessLookupError:
                pass
    if namespaces:
        time.sleep(0.5)
    for namespace in namespaces:
        run("ip", "netns", "del", namespace.name, check=False)
    for name in {path.name for path in dead(Path("/sys/fs/cgroup"), "*/e2e-*")}:
        remove_groups(name)
    for directory in dead(runs):
        shutil.rmtree(directory, ignore_errors=True)
    end_loops(lambda image: ORPHAN.fullmatch(image) or (own := IMAGE.fullmatch(image)) and not alive(own[1]))


def end_loops(chosen: Callable[[str], object]) -> None:
    """Ends the loop devices over chosen images, which an emulator that was killed leaves behind, and those over these devices, by
    which a kubelet holds the device of a raw block volume."""
    listed = json.loads(run("losetup", "--json", "-l", "-O", "NAME,BACK-FILE,BACK-INO,BACK-MAJ:MIN", check=False).stdout or "{}")
    devices = {str(device["name"]): device for device in listed.get("loopdevices", [])}
    ours = [name for name, device in devices.items() if chosen(str(device["back-file"]))]
    # The file of a kubelet's is a device node, whose path was in a node's namespaces; its inode is the same everywhere.
    inodes = {file_identity(os.stat(name)) for name in ours}
    holders = [name for name, device in devices.items()
               if (str(device["back-maj:min"]).strip(), str(device["back-ino"]).strip()) in inodes]
    for name in holders + ours:
        run("losetup", "-d", name, check=False)


def file_identity(status: os.stat_result) -> tuple[str, str]:
    """As losetup writes it: the file system's device, and the inode."""
    return f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}", str(status.st_ino)
