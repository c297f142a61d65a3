#!/usr/bin/env python3
"""Runs the walks on a live Kubernetes: builds what is missing, starts a cluster, the emulated cloud and the driver,
walks, and takes everything down, also after a failure or Ctrl-C.

  run.py --driver BINARY [--other BINARY] [--vm] [--only PATTERN] [--list] [--keep]

The last line is "N passed, N failed". Logs: target/e2e/logs (logs-vm). `--keep` waits for Enter before everything is taken down.
"""
from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

import images  # noqa: E402
import leftovers  # noqa: E402
from cluster import SPARE_ZONE, Cluster, Failure, give_up, given_up, run, wait  # noqa: E402
from driver import REPOSITORY, Cloud, Driver, rendered_images  # noqa: E402
import kit  # noqa: E402
from kit import ALONE, CALM, LAST, MACHINES, SHARED, SPARE, SPARE_LANE, WALKS, Walk, World, audited  # noqa: E402
from machines import Machines, prepare_lab  # noqa: E402

# node0 is the control plane's, in the first zone; node1, node2, ... are these. The last zone's nodes are spare.
ZONES = ["east-11", "east-11", "east-12", SPARE_ZONE, SPARE_ZONE]
MACHINE_ZONES = ["east-11", "east-11"]
SIDE_BY_SIDE = 4
started = time.monotonic()


def say(text: str) -> None:
    print(f"e2e: {time.monotonic() - started:6.1f} s  {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", type=Path, help="the driver's static binary")
    parser.add_argument("--other", type=Path, help="another build of it, which a walk rolls to and back from")
    parser.add_argument("--only", default="", help="walks whose name matches")
    parser.add_argument("--vm", action="store_true", help="the walks on virtual machines with real SCSI")
    parser.add_argument("--list", action="store_true", help="name the walks")
    parser.add_argument("--keep", action="store_true", help="wait for Enter before the end")
    options = parser.parse_args()
    # Loss comes last on the spare nodes: one of them does not return.
    for module in ("article", "lifetime", "drain", "loss", "postgres", "growth", "claims", "figures", "upheaval", "install", "machines"):
        importlib.import_module(f"walks_{module}")
    chosen = [walk for walk in WALKS if re.search(options.only, walk.promise) and (walk.lane == MACHINES) == options.vm]
    if options.list:
        print("\n".join(walk.promise for walk in chosen))
        return 0
    if not chosen or not options.driver:
        parser.error("no walk matches" if options.driver else "--driver is needed")
    if os.geteuid() or not Path("/dev/loop-control").exists():
        parser.error("needs root and loop devices")
    leftovers.end_when_told()
    return Suite(options, chosen).run()


class Suite:
    def __init__(self, options: argparse.Namespace, walks: list[Walk]) -> None:
        self.options = options
        self.walks = walks
        self.dir = REPOSITORY / "target/e2e" / f"run-{os.getpid()}"
        self.logs = REPOSITORY / "target/e2e" / ("logs-vm" if options.vm else "logs")
        self.passed: list[str] = []
        self.failed: list[str] = []

    def run(self) -> int:
        leftovers.one_at_a_time(self.dir.parent)
        leftovers.sweep(self.dir.parent)
        leftovers.enough_room(self.dir.parent)
        shutil.rmtree(self.logs, ignore_errors=True)
        self.dir.mkdir(parents=True)
        programs, root = map(Path, subprocess.run(
            ["bash", str(HERE / "setup.sh")], check=True, text=True, stdout=subprocess.PIPE).stdout.split())
        self._make_images(programs, root)
        if self.options.vm:
            cluster = Machines(programs, root, self.dir, MACHINE_ZONES, self.dir / "images")
            cluster.lab = prepare_lab(REPOSITORY)
        else:
            cluster = Cluster(programs, root, self.dir, ZONES, self.dir / "images")
        world = World(cluster, Cloud(cluster, self.dir / "driver"), Driver(cluster), self.logs)
        world.builds = {tag: kit.digest(self.dir / name) for tag, name in (("", "driver"), (images.OTHER_TAG, "other"))
                        if (self.dir / name).exists()}
        try:
            self._walk(world)
        except KeyboardInterrupt:
            give_up()
            self.failed.append("interrupted")
        except Exception:  # noqa: BLE001
            traceback.print_exc()
            self.failed.append("the cluster itself")
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            self._end(world)
        self._write_figures(world)
        for name in self.failed:
            print(f"FAILED {name}")
        print(f"{len(self.passed)} passed, {len(self.failed)} failed")
        return 1 if self.failed or len(self.passed) != len(self.walks) else 0

    def _make_images(self, programs: Path, root: Path) -> None:
        say("making images")
        builds = [(self.dir / "driver", self.options.driver)] + ([(self.dir / "other", self.options.other)] if self.options.other else [])
        for stripped, binary in builds:
            run("strip", "-o", str(stripped), str(binary))
        images.build(root, programs, builds[0][0], rendered_images(programs / "kubectl"), self.dir / "images",
                     builds[1][0] if len(builds) > 1 else None)

    def _walk(self, world: World) -> None:
        say("starting the cluster")
        world.cluster.up()
        say("nodes are Ready; starting the cloud, installing the driver")
        world.cloud.start()
        for vm in world.cloud.state()["vms"].values():
            # As NIFCLOUD's cloud controller manager does, which may be there; the zone's label came with the kubelet.
            world.api.patch("Node", vm["name"], {"spec": {"providerID": f"nifcloud:///{vm['zone']}/{vm['unique_id']}"}})
        world.before = sys.modules["walks_install"].objects(world)
        world.driver.install()
        world.driver.wait_installed()
        say("the driver is installed")
        for node in world.cluster.nodes:
            if node.zone == SPARE_ZONE:
                world.api.patch("Node", node.name, {"metadata": {"labels": {SPARE: "yes"}}, "spec": {
                    "taints": [{"key": SPARE, "effect": "NoSchedule"}]}})
        spare = threading.Thread(target=self._lane, args=(world, SPARE_LANE))
        spare.start()
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            try:
                list(pool.map(lambda walk: self._one(world, walk), self._of(SHARED)))
            except KeyboardInterrupt:
                give_up()  # before the pool waits for the walks that it has
                raise
        self._lane(world, CALM)
        spare.join()
        self._lane(world, ALONE)
        self._lane(world, MACHINES)
        self._rights(world)
        self._lane(world, LAST)
        if not self.failed:
            self._nothing_left(world)
        if self.options.keep:
            input(f"KUBECONFIG={world.cluster.kubeconfig} nsenter --net=/run/netns/{world.cluster.name} ...; Enter ends ")

    def _of(self, lane: str) -> list[Walk]:
        return sorted((walk for walk in self.walks if walk.lane == lane), key=lambda walk: (not walk.long, walk.order))

    def _lane(self, world: World, lane: str) -> None:
        for walk in self._of(lane):
            self._one(world, walk)

    def _one(self, world: World, walk: Walk) -> None:
        if given_up():
            return
        begun = time.monotonic()
        mine = dataclasses.replace(world, space=f"walk-{walk.order}", spare=walk.lane == SPARE_LANE)
        try:
            mine.api.apply({"kind": "Namespace", "metadata": {"name": mine.space}})
            wait("the namespace's account", lambda: mine.api.request(
                "GET", f"/api/v1/namespaces/{mine.space}/serviceaccounts/default"), 30)
            walk.run(mine)
            # Kubernetes takes half a minute over a namespace; `_nothing_left` waits for all of them at the end.
            mine.api.delete("Namespace", mine.space)
            self.passed.append(walk.promise)
            say(f"ok      {walk.promise} ({time.monotonic() - begun:.1f} s)")
        except Exception as error:  # noqa: BLE001
            if given_up():
                return
            self.failed.append(walk.promise)
            say(f"FAILED  {walk.promise} ({time.monotonic() - begun:.1f} s): {error}")
            self._keep_evidence(mine, walk, error)

    def _nothing_left(self, world: World) -> None:
        """All claims were deleted with their namespaces: so must be the disks, and what the nodes knew of them."""
        def left() -> list[str]:
            disks = list(world.cloud.state()["disks"])
            volumes = [pv["metadata"]["name"] for pv in world.api.list("PersistentVolume")]
            links = [str(link) for link in world.cluster.devices.glob("*/*")]
            return disks + volumes + links
        try:
            wait("no disk, PV or device left", lambda: not left(), 120)
        except Failure as failure:
            raise Failure(f"{failure}: {left()}") from failure
        say("nothing is left behind")

    @staticmethod
    def _rights(world: World) -> None:
        """The driver's accounts have few rights: whatever the walks made it and its sidecars want was granted. Asked
        before the walks that uninstall, which take the rights away while the pods still end."""
        def received(record: dict) -> float:
            return datetime.fromisoformat(record["requestReceivedTimestamp"].replace("Z", "+00:00")).timestamp()
        forbidden = {(r["verb"], r["requestURI"], r.get("userAgent", "").split("/")[0])
                     for r in audited(world) if r.get("responseStatus", {}).get("code") == 403
                     and not any(begun <= received(r) <= ready for begun, ready in world.cluster.starts)}
        if forbidden:
            raise Failure(f"the API server refused what the driver or its sidecars asked: {sorted(forbidden)}")

    def _keep_evidence(self, world: World, walk: Walk, error: Exception) -> None:
        target = self.logs / walk.promise
        target.mkdir(parents=True, exist_ok=True)
        (target / "error").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        for name, arguments in (("objects", ["get", "pods,pvc,pv,volumeattachments,nodes", "-A", "-o", "wide"]),
                                ("events", ["get", "events", "-A", "--sort-by=.lastTimestamp"]),
                                ("describe", ["describe", "pods,pvc", "-n", world.space])):
            try:
                (target / name).write_text(world.cluster.kubectl(*arguments, check=False), encoding="utf-8")
            except Exception as failure:  # noqa: BLE001
                (target / name).write_text(str(failure), encoding="utf-8")

    def _write_figures(self, world: World) -> None:
        """Rows as `make bench` writes them, beside all others in target/bench.json."""
        file = REPOSITORY / "target/bench.json"
        try:
            rows = {row["name"]: row for row in json.loads(file.read_text(encoding="utf-8"))}
        except (OSError, ValueError):
            rows = {}
        for name, value in sorted(world.figures.items()):
            print(f"{value:>10}  {name}")
            unit = re.search(r"\((\w+)\)$", name)
            name = f"{'e2e-vm' if self.options.vm else 'e2e'}/{name}"
            rows[name] = {"name": name, "value": value, "unit": unit[1] if unit else "", "bound": None, "ratio": None}
        # Whole or not at all, whoever reads it meanwhile.
        new = file.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(list(rows.values()), indent=2) + "\n", encoding="utf-8")
        new.replace(file)

    def _end(self, world: World) -> None:
        say("taking everything down")
        for step in (world.cloud.stop, lambda: world.driver.save_logs(self.logs), world.cluster.down, world.cloud.sweep,
                     lambda: shutil.rmtree(self.dir)):
            try:
                step()
            except Exception as error:  # noqa: BLE001  (the other steps must run)
                say(f"while taking down: {error}")
        say(f"logs: {self.logs}")


if __name__ == "__main__":
    threading.excepthook = lambda args: traceback.print_exception(args.exc_value)
    sys.exit(main())
