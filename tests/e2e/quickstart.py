#!/usr/bin/env python3
"""The quick start of the documentation, word by word, on a live Kubernetes: the commands under "The embedded cloud" in
docs/en/install.md install overlay `emulator`, the example StatefulSet writes, its pod is deleted, its data is there.

  quickstart.py --driver BINARY

The last line is "1 passed, 0 failed".
"""
from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

import images  # noqa: E402
import leftovers  # noqa: E402
from cluster import Cluster, Failure, run, wait  # noqa: E402
from driver import NAME, NAMESPACE, REPOSITORY, Driver, documented, rendered_images, user  # noqa: E402

EXAMPLE = "deploy/kubernetes/examples/statefulset.yaml"

started = time.monotonic()


def say(text: str) -> None:
    print(f"quickstart: {time.monotonic() - started:6.1f} s  {text}", flush=True)


class Quickstart:
    def __init__(self, binary: Path) -> None:
        self.dir = REPOSITORY / "target/e2e" / f"quickstart-{os.getpid()}"
        leftovers.sweep(self.dir.parent)
        self.dir.mkdir(parents=True)
        programs, root = map(Path, subprocess.run(
            ["bash", str(HERE / "setup.sh")], check=True, text=True, stdout=subprocess.PIPE).stdout.split())
        stripped = self.dir / "driver"
        run("strip", "-o", str(stripped), str(binary))
        images.build(root, programs, stripped, rendered_images(programs / "kubectl"), self.dir / "images")
        self.cluster = Cluster(programs, root, self.dir, ["east-11"], self.dir / "images")
        self.driver = Driver(self.cluster)

    def user(self, script: str) -> str:
        """A user's shell, in a copy of the repository's manifests."""
        checkout = self.dir / "checkout"
        if not checkout.exists():
            shutil.copytree(REPOSITORY / "deploy", checkout / "deploy")
        say("$ " + script.strip().replace("\n", "\n" + " " * 22 + "$ "))
        return user(self.cluster, script, checkout)

    def one_machine(self) -> None:
        """The embedded cloud is for one machine: the control plane's node takes the pods, the other one takes none."""
        self.user("kubectl taint nodes node0 node-role.kubernetes.io/control-plane- && kubectl drain node1 --ignore-daemonsets")

    def walk(self) -> None:
        say("starting the cluster")
        self.cluster.up()
        self.one_machine()
        self.user(documented("docs/en/install.md", "The embedded cloud"))
        self.driver.wait_installed(240)
        say("the driver is installed, its cloud beside it")
        self.user(f"kubectl apply -f {EXAMPLE}")
        lines = self.lines("example-0")
        self.lines("example-1")
        size = self.user("kubectl get pvc data-example-0 -o jsonpath={.status.capacity.storage}")
        if size != "100Gi":
            raise Failure(f"the claim has {size}")
        self.user("kubectl delete pod example-0 --grace-period=1")
        again = self.lines("example-0", new=True)
        if again[:len(lines)] != lines:
            raise Failure(f"written {lines}, read after the restart {again}")
        say("the data outlived its pod")
        self.user(f"kubectl delete -f {EXAMPLE} --grace-period=1 --timeout=90s && kubectl delete pvc --all --timeout=90s")
        wait("no PV left", lambda: not self.cluster.api.list("PersistentVolume"), 120)
        self.user("kubectl delete -k deploy/kubernetes/overlays/emulator --timeout=90s")
        say("nothing is left behind")

    def lines(self, pod: str, new: bool = False) -> list[str]:
        """What the pod has written, once it is Ready and has written something (more than it found, if `new`)."""
        def written() -> list[str] | None:
            uid = self.cluster.api.get("Pod", pod, "default")
            ready = any(c["type"] == "Ready" and c["status"] == "True" for c in uid.get("status", {}).get("conditions", []))
            if not ready or "deletionTimestamp" in uid["metadata"]:
                return None
            found = self.cluster.kubectl("exec", pod, "--", "cat", "/data/log").splitlines()
            return found if len(found) > (1 if new else 0) else None
        return wait(f"lines of {pod}", written, 180)

    def end(self) -> None:
        say("taking everything down")
        for step in (lambda: self.driver.save_logs(REPOSITORY / "target/e2e/quickstart-logs"), self.cluster.down, self.sweep,
                     lambda: shutil.rmtree(self.dir)):
            try:
                step()
            except Exception as error:  # noqa: BLE001  (the other steps must run)
                say(f"while taking down: {error}")

    def sweep(self) -> None:
        """Loop devices of an emulator that was killed with its node."""
        leftovers.end_loops(lambda image: str(self.dir) in image or leftovers.ORPHAN.fullmatch(image))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", type=Path, required=True, help="the driver's static binary")
    options = parser.parse_args()
    leftovers.end_when_told()
    quickstart = Quickstart(options.driver)
    try:
        quickstart.walk()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        say(f"FAILED {error}")
        for command in (["get", "pods,pvc,pv,csinodes,events", "-A"], ["-n", NAMESPACE, "logs", f"deployment/{NAME}-controller", "driver"],
                        ["-n", NAMESPACE, "logs", f"deployment/{NAME}-controller", "emulator"]):
            try:
                print(quickstart.cluster.kubectl(*command, check=False))
            except Exception as other:  # noqa: BLE001
                print(other)
        print("0 passed, 1 failed")
        return 1
    finally:
        quickstart.end()
    print("1 passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
