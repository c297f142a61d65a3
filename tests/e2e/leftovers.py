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
from pathlib import Path

from cluster import remove_groups, run

OWN = re.compile(r"(?:e2e|run|quickstart)-(\d+)(?:-.*)?")
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
        end_loops(directory)
        shutil.rmtree(directory, ignore_errors=True)


def end_loops(directory: Path) -> None:
    """Ends loop devices over images below a run's directory, which an emulator that was killed leaves behind."""
    listed = json.loads(run("losetup", "--json", "-l", "-O", "NAME,BACK-FILE", check=False).stdout or "{}")
    for device in listed.get("loopdevices", []):
        if str(device["back-file"]).startswith(f"{directory}/"):
            run("losetup", "-d", device["name"], check=False)
