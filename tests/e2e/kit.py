"""What walks are made of: claims, pods, checked data, and the world they run in."""
from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from api import Api
from cluster import Cluster, Failure, wait
from driver import NAME, Cloud, Driver

IMAGE = "localhost/test:1"
CLASS = "nifcloud-standard-flash"
# For many disks: a new ext4 of 100 GiB takes half a gigabyte of the machine for its journal, xfs a tenth of that.
XFS = "nifcloud-standard-flash-xfs"
# Where a walk runs. SHARED walks run side by side and disturb nobody. SPARE walks run one after the other on the nodes
# of a zone of their own, beside the shared ones and then the CALM ones: those want the other nodes for themselves.
# ALONE walks disturb everybody; LAST ones uninstall the driver as well. MACHINES walks have a cluster of virtual machines, and no others have.
SHARED, CALM, SPARE_LANE, ALONE, LAST, MACHINES = "shared", "calm", "spare", "alone", "last", "machines"
# The label and taint of the spare nodes.
SPARE = "e2e-spare"
# Pods leave a node that is gone at once, not after Kubernetes' five minutes.
QUICK = [{"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
         for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")]


@dataclass
class World:
    """What a walk gets. `space` is its own namespace, deleted afterwards with all in it."""

    cluster: Cluster
    cloud: Cloud
    driver: Driver
    logs: Path
    # SHA-256 of the driver's builds by the tag of their image; "" is the installed one.
    builds: dict[str, str] = field(default_factory=dict)
    # Objects that were there before the driver was installed.
    before: set[str] = field(default_factory=set)
    figures: dict[str, float] = field(default_factory=dict)
    space: str = "default"
    spare: bool = False

    @property
    def api(self) -> Api:
        return self.cluster.api

    # --- objects

    def claim(self, name: str, size: str = "10Gi", storage_class: str | None = CLASS, **spec) -> dict:
        body = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
        if storage_class is not None:
            body["storageClassName"] = storage_class
        return self.apply({"kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {**body, **spec}})

    def pod(self, name: str, *claims: str, node: str | None = None, **spec) -> dict:
        return self.apply({"kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
                           "spec": self.spec(*claims, node=node, **spec)})

    def deployment(self, name: str, *claims: str, **spec) -> dict:
        labels = {"app": name}
        return self.apply({"kind": "Deployment", "metadata": {"name": name}, "spec": {
            "replicas": 1, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": self.spec(*claims, **spec)}}})

    def spec(self, *claims: str, node: str | None = None, **spec) -> dict:
        """A pod's spec; the pods of a spare walk go to the spare nodes, and nobody else's do."""
        if self.spare:
            spec.setdefault("tolerations", [{"key": SPARE, "operator": "Exists"}, *QUICK])
            spec.setdefault("nodeSelector", {SPARE: "yes"})
        if node:
            spec.setdefault("nodeSelector", {})["kubernetes.io/hostname"] = node
        return pod_spec(*claims, **spec)

    def apply(self, thing: dict) -> dict:
        return self.api.apply(thing, self.space)

    # --- waiting

    def running(self, app: str, limit: float = 90, other_than: str | None = None) -> dict:
        """The app's one Ready pod (another one than the pod with this uid)."""
        def ready() -> dict | None:
            for pod in self.api.list("Pod", self.space, f"app={app}"):
                if pod["metadata"]["uid"] != other_than and "deletionTimestamp" not in pod["metadata"] and is_ready(pod):
                    return pod
            return None
        try:
            return wait(f"{self.space}: a Ready pod of {app}", ready, limit, every=0.1)
        except Failure as failure:
            events = "; ".join(self.events()[-6:])
            raise Failure(f"{failure}; events: {events}") from failure

    def newest(self, app: str) -> str:
        """The name of the app's pod that is not on its way out."""
        def living() -> str | None:
            pods = [p for p in self.api.list("Pod", self.space, f"app={app}") if "deletionTimestamp" not in p["metadata"]]
            return pods[0]["metadata"]["name"] if len(pods) == 1 else None
        return wait(f"a new pod of {app}", living, 30)

    def gone(self, kind: str, name: str, limit: float = 60) -> None:
        namespaced = None if kind in ("PersistentVolume", "VolumeAttachment", "Node") else self.space
        wait(f"{kind} {name} gone", lambda: self.api.find(kind, name, namespaced) is None, limit)

    def bound(self, claim: str, limit: float = 60) -> dict:
        """The PV of a claim."""
        def volume() -> str | None:
            return self.api.get("PersistentVolumeClaim", claim, self.space)["spec"].get("volumeName")
        return self.api.get("PersistentVolume", wait(f"claim {claim} bound", volume, limit))

    def handle(self, claim: str) -> str:
        return self.bound(claim)["spec"]["csi"]["volumeHandle"]

    def disk_gone(self, handle: str, limit: float = 60) -> None:
        wait(f"disk {handle} gone from the cloud", lambda: self.cloud.disk(handle) is None, limit)

    def events(self, about: str | None = None) -> list[str]:
        fields = f"involvedObject.name={about}" if about else ""
        found = self.api.list("Event", self.space, fields=fields)
        found.sort(key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "")
        return [f"{e['involvedObject'].get('name')}: {e['reason']}: {e.get('message', '')}" for e in found]

    def event(self, about: str, pattern: str, limit: float = 60) -> str:
        """Waits for an event about an object whose text matches."""
        def seen() -> str | None:
            return next((text for text in self.events(about) if re.search(pattern, text)), None)
        return wait(f"an event about {about} that says {pattern!r}", seen, limit)

    # --- inside a pod

    def exec(self, pod: str, script: str, timeout: float = 60) -> str:
        return self.cluster.kubectl("exec", "-n", self.space, pod, "--", "sh", "-c", script, timeout=timeout)

    def write(self, pod: str, path: str = "/data/file", mib: int = 8) -> str:
        """Random bytes and their checksum beside them, flushed; returns the checksum."""
        return self.exec(pod, f"head -c {mib << 20} /dev/urandom > {path} && sha256sum {path} > {path}.sum && sync && "
                              f"cut -d' ' -f1 {path}.sum").strip()

    def check(self, pod: str, expected: str, path: str = "/data/file") -> None:
        """The pod reads the file again: it must be what was written."""
        found = self.exec(pod, f"sha256sum < {path} | cut -d' ' -f1").strip()
        if found != expected:
            raise Failure(f"{path} in {pod} has checksum {found}, {expected} was written")


def pod_spec(*claims: str, mode: str = "mount", **spec) -> dict:
    """A pod that holds its claims: the first at /data, more at /data1, ... (raw block: /dev/data, ...)."""
    def suffix(index: int) -> str:
        return str(index) if index else ""
    volumes = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims]
    container: dict = {"name": "main", "image": IMAGE, "command": ["sh", "-c", "trap exit TERM; while :; do sleep 1; done"]}
    if mode == "block":
        container["volumeDevices"] = [{"name": c, "devicePath": f"/dev/data{suffix(i)}"} for i, c in enumerate(claims)]
    else:
        container["volumeMounts"] = [{"name": c, "mountPath": f"/data{suffix(i)}"} for i, c in enumerate(claims)]
    container |= spec.pop("container", {})
    return {"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": volumes, **spec}


def is_ready(pod: dict) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def processes(world: World, role: str) -> list[Path]:
    """The driver's processes of a role in this cluster, as directories of /proc (native nodes only)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            if command[0].endswith(NAME.encode()) and command[1:2] == [role.encode()] and (
                    f"/{world.cluster.name}/" in (process / "cgroup").read_text(encoding="ascii")):
                found.append(process)
        except OSError:
            continue
    return found


def attached_to(world: World, node: str) -> list[str]:
    """The VolumeAttachments of a node."""
    return [a["metadata"]["name"] for a in world.api.list("VolumeAttachment") if a["spec"]["nodeName"] == node]


def audited(world: World) -> list[dict]:
    """Requests of the driver's two accounts to the API server."""
    lines = (world.cluster.dir / "audit.log").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def kill_container(world: World, pod: dict, container: dict | None = None) -> None:
    """SIGKILL from the node: inside its container a server is pid 1, which no signal of its own namespace kills."""
    identity = (container or pod["status"]["containerStatuses"][0])["containerID"].removeprefix("containerd://")
    world.cluster.in_node(pod["spec"]["nodeName"], f"ctr -n k8s.io tasks kill -s SIGKILL {identity}", check=False)


def kill_kubelet(world: World, node: str) -> None:
    """SIGKILL; the node's init starts another."""
    old = world.cluster.in_node(node, "pidof kubelet").strip()
    world.cluster.in_node(node, f"kill -9 {old}")
    wait(f"another kubelet on {node}",
         lambda: world.cluster.in_node(node, "pidof kubelet || true").strip() not in ("", old), 60)


def kubelet_works(world: World, node: str) -> None:
    """It answers by itself: what the API server tells of a node may be a minute old."""
    wait(f"{node}'s kubelet", lambda: world.api.request("GET", f"/api/v1/nodes/{node}/proxy/healthz") == "ok", 60)
    wait(f"{node} Ready", lambda: world.cluster.ready(node), 60)
    wait(f"{node} with the driver", lambda: world.driver.registered(node), 60)


def expect(truth: object, message: str) -> None:
    if not truth:
        raise Failure(message)


# --- the register of walks

@dataclass
class Walk:
    promise: str
    run: Callable[[World], None]
    lane: str
    order: int
    long: bool


WALKS: list[Walk] = []
_lock = threading.Lock()


def walk(lane: str = SHARED, long: bool = False) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Registers a walk under its function's name. A long one starts before the others."""
    def register(function: Callable[[World], None]) -> Callable[[World], None]:
        with _lock:
            WALKS.append(Walk(function.__name__, function, lane, len(WALKS), long))
        return function
    return register


def seconds_since(start: float) -> float:
    return round(time.monotonic() - start, 2)
