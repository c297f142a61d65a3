"""How long a claim takes and where the time goes; what the driver costs. Rows `e2e/...` of target/bench.json."""
from __future__ import annotations

import re
import statistics
import time
from datetime import datetime

from cluster import wait
from driver import NAME, NAMESPACE
from kit import CALM, CLASS, World, audited, expect, is_ready, processes, seconds_since, walk
from walks_article import spare_nodes

ENDED = re.compile(r'(\S+Z)\s+DEBUG rpc\{.*?method="csi\.v1\.\w+/(\w+)"(?: volume_id="(\w+)")?.*?\}: rpc ended code=Ok elapsed_us=(\d+)')
# Calls that the cloud works on for seconds; the others only change its books.
SLOW = {"CreateVolume", "AttachVolume", "DetachVolume", "ExtendVolumeSize", "DeleteVolume"}
# Of the pod whose token it is, in an audit record.
NODE_NAME = "authentication.kubernetes.io/node-name"

# How the user agents of the sidecars begin; all others in the pods of the driver are its own.
SIDECARS = ("csi-provisioner", "csi-attacher", "csi-resizer")


def rpcs(world: World, handle: str) -> dict[str, tuple[float, float]]:
    """Method -> (begin, end) of a volume's successful calls, in seconds of the wall clock, from the driver's logs."""
    found: dict[str, tuple[float, float]] = {}
    for node in world.cluster.nodes:
        for log in (node.dir / "var/log/pods").glob(f"{NAMESPACE}_{NAME}*/driver/*.log"):
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
                if handle in line and (match := ENDED.search(line)):
                    end = datetime.fromisoformat(match[1].replace("Z", "+00:00")).timestamp()
                    found.setdefault(match[2], (end - int(match[4]) / 1e6, end))
    return found


def split(world: World, claim: str, begun: float, ready: float) -> dict[str, float]:
    """Seconds of each part of the way from a pod with a new claim to the pod's readiness."""
    calls = rpcs(world, world.handle(claim))
    missing = {"CreateVolume", "ControllerPublishVolume", "NodeStageVolume", "NodePublishVolume"} - set(calls)
    expect(not missing, f"the driver's log shows no {missing} of {claim}")
    create, publish, stage = (calls[m] for m in ("CreateVolume", "ControllerPublishVolume", "NodeStageVolume"))
    return {
        "total": ready - begun,
        "schedule and provisioner": create[0] - begun,
        "create (driver and cloud)": create[1] - create[0],
        "bind and attacher": publish[0] - create[1],
        "publish (driver and cloud)": publish[1] - publish[0],
        "kubelet sees the attachment": stage[0] - publish[1],
        "stage (mkfs and mount)": stage[1] - stage[0],
        "publish to the pod and start": ready - stage[1],
    }


def one_claim(world: World, name: str) -> dict[str, float]:
    world.claim(name)
    begun = time.time()
    world.pod(name, name)
    world.running(name)
    return split(world, name, begun, time.time())


def record(world: World, title: str, runs: list[dict[str, float]]) -> None:
    for part in runs[0]:
        world.figures[f"{title}: {part} (s)"] = round(statistics.median(run[part] for run in runs), 3)


def resident(world: World, role: str) -> list[float]:
    """MiB of each of the driver's processes of a role in this cluster."""
    found = []
    for process in processes(world, role):
        try:
            found.append(int(re.search(r"VmRSS:\s+(\d+)", (process / "status").read_text(encoding="ascii"))[1]) / 1024)
        except (OSError, TypeError):
            continue
    return found


@walk(CALM)
def a_claim_costs_one_slow_operation_of_the_cloud_and_the_driver_asks_kubernetes_nothing(world: World) -> None:
    figures, before = world.figures, len(audited(world))
    profiles = (("fast cloud", 5), ("realistic cloud", 2))
    handles = []
    try:
        for profile, count in profiles:
            world.cloud.admin("PUT", "/latency", profile.split()[0])
            runs = []
            for number in range(count):
                name = f"{profile.split()[0]}{number}"
                runs.append(one_claim(world, name))
                handles.append(world.handle(name))
            record(world, f"claim to running pod, {profile}", runs)
    finally:
        world.cloud.admin("PUT", "/latency", "fast")
    history = [e for e in world.cloud.history() if e["disk"] in handles and e["committed"]]
    slow = [e for e in history if e["action"] in SLOW]
    figures["slow cloud operations per claim"] = len(slow) / len(handles)
    figures["cloud writes per claim, slow and quick"] = len(history) / len(handles)
    expect(audited(world), "the API server's audit log is empty, although the sidecars ask all the time")
    expect(len(slow) == len(handles), f"{len(handles)} claims cost {[e['action'] for e in slow]}")
    requests = audited(world)[before:]
    # On the spare nodes other walks go on, and make nodes leave and join; the driver may ask about those.
    requests = [r for r in requests if not set(spare_nodes(world)) & set(r["user"].get("extra", {}).get(NODE_NAME, []))]
    own = [r for r in requests if not r.get("userAgent", "").startswith(SIDECARS)]
    figures["API server requests of the driver itself per claim"] = len(own) / len(handles)
    figures["API server requests of its sidecars per claim"] = round((len(requests) - len(own)) / len(handles), 1)
    expect(not own, f"the driver itself asked: {[(r['verb'], r['requestURI']) for r in own[:5]]}")

    for claim in [claim["metadata"]["name"] for claim in world.api.list("PersistentVolumeClaim", world.space)]:
        world.api.delete("Pod", claim, world.space)
        world.api.delete("PersistentVolumeClaim", claim, world.space)
    for handle in handles:
        world.disk_gone(handle)
    begun = time.time()
    labels = {"app": "ten"}
    world.apply({"kind": "StatefulSet", "metadata": {"name": "ten"}, "spec": {
        "replicas": 10, "serviceName": "ten", "podManagementPolicy": "Parallel", "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": world.spec("data") | {"volumes": []}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": CLASS,
            "resources": {"requests": {"storage": "10Gi"}}}}]}})
    ready: dict[str, float] = {}

    def all_ready() -> bool:
        for pod in world.api.list("Pod", world.space, "app=ten"):
            if is_ready(pod):
                ready.setdefault(pod["metadata"]["name"], time.time())
        return len(ready) == 10
    wait("ten Ready pods", all_ready, 180, every=0.1)
    figures["StatefulSet of 10 to running, fast cloud (s)"] = round(max(ready.values()) - begun, 2)
    record(world, "StatefulSet of 10, median pod", [split(world, f"data-{pod}", begun, end) for pod, end in ready.items()])
    for role, count in (("node", 4), ("controller", 2)):  # the spare nodes may be off
        sizes = resident(world, role)
        expect(len(sizes) >= count, f"{len(sizes)} processes of role {role}, {count} were expected")
        figures[f"resident memory of the {role} container, largest (MiB)"] = round(max(sizes), 1)
