"""Nodes that are lost: powered off, deleted in the cloud, their kubelet killed in the middle of its work."""
from __future__ import annotations

import hashlib
import time

from cluster import wait
from kit import SPARE, SPARE_LANE, World, expect, kill_kubelet, kubelet_works, walk
from walks_article import spare_nodes

OUT_OF_SERVICE = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}


@walk(SPARE_LANE)
def a_kubelet_killed_while_it_stages_finishes_after_its_restart(world: World) -> None:
    node = spare_nodes(world)[0]
    for number, pause in enumerate((0.0, 0.2)):
        name = f"staged{number}"
        world.claim(name)
        # A kubelet that starts again is not ready for some seconds: these pods are not to leave for that.
        world.pod(name, name, node=node, tolerations=[{"key": SPARE, "operator": "Exists"}])
        handle = world.handle(name)
        wait("the disk attached", lambda name=name: attached(world, name), 60, every=0.02)
        time.sleep(pause)
        kill_kubelet(world, node)
        world.running(name, 120)
        written = world.write(name)
        # One mount of the disk for the node, one for the pod; nothing was mounted twice.
        directory = hashlib.sha256(handle.encode()).hexdigest()
        staged = world.cluster.in_node(node, f"grep {directory}/globalmount /proc/self/mounts").splitlines()
        expect(len(staged) == 1, f"mounts of {handle}: {staged}")
        world.check(name, written)
        expect((world.cloud.disk(handle) or {})["attachment"]["vm"] == node, "the disk is elsewhere")


def attached(world: World, claim: str) -> bool:
    volume = world.bound(claim)["metadata"]["name"]
    return any(a["spec"]["source"].get("persistentVolumeName") == volume and a.get("status", {}).get("attached")
               for a in world.api.list("VolumeAttachment"))


def live_on(world: World, node: str, name: str) -> tuple[dict, str, str]:
    """A deployment with a volume, on a node: its pod, what it wrote, its disk."""
    others = [other for other in spare_nodes(world) if other != node]
    world.cluster.kubectl("cordon", *others)
    world.claim(name)
    world.deployment(name, name)
    pod = world.running(name)
    world.cluster.kubectl("uncordon", *others)
    expect(pod["spec"]["nodeName"] == node, f"the pod runs on {pod['spec']['nodeName']}")
    return pod, world.write(pod["metadata"]["name"]), world.handle(name)


@walk(SPARE_LANE)
def a_powered_off_node_gives_its_disks_to_another_by_the_out_of_service_taint(world: World) -> None:
    lost, other = spare_nodes(world)
    pod, written, handle = live_on(world, lost, "survivor")
    node = world.cluster.node(lost)
    world.cluster.power_off(node)
    world.cloud.admin("POST", f"/vms/{lost}/stop")
    try:
        wait(f"{lost} not ready", lambda: not world.cluster.ready(lost), 120)
        taints = world.api.get("Node", lost)["spec"].get("taints", [])
        world.api.patch("Node", lost, {"spec": {"taints": [*taints, OUT_OF_SERVICE]}})
        moved = world.running("survivor", 150, other_than=pod["metadata"]["uid"])
        expect(moved["spec"]["nodeName"] == other, f"the pod runs on {moved['spec']['nodeName']}")
        world.check(moved["metadata"]["name"], written)
        expect((world.cloud.disk(handle) or {})["attachment"]["vm"] == other, "the cloud has the disk elsewhere")
    finally:
        world.cloud.admin("POST", f"/vms/{lost}/start")
        world.cluster.power_on(node)
        kubelet_works(world, lost)
        wait(f"{lost} without the marks of its absence", lambda: only_spare(world, lost), 90)
    # The node is of use again: what it held before is not in the way.
    world.driver.wait_installed()
    world.claim("back")
    world.pod("back", "back", node=lost)
    world.running("back")


def only_spare(world: World, node: str) -> bool:
    """Takes the taint away again; Kubernetes takes its own when it believes in the node."""
    taints = world.api.get("Node", node)["spec"].get("taints", [])
    if any(taint["key"] == OUT_OF_SERVICE["key"] for taint in taints):
        left = [taint for taint in taints if taint["key"] != OUT_OF_SERVICE["key"]]
        world.api.patch("Node", node, {"spec": {"taints": left}})
        return False
    return [taint["key"] for taint in taints] == [SPARE]


@walk(SPARE_LANE)
def a_vm_deleted_in_the_cloud_frees_its_disks_for_another_node(world: World) -> None:
    other, lost = spare_nodes(world)
    pod, written, handle = live_on(world, lost, "orphan")
    node = world.cluster.node(lost)
    try:
        world.cluster.power_off(node)
        world.cloud.admin("POST", f"/vms/{lost}/delete")
        wait(f"{lost} not ready", lambda: not world.cluster.ready(lost), 120)
        # Without the taint Kubernetes waits six minutes for an unmount that nobody will report.
        taints = world.api.get("Node", lost)["spec"].get("taints", [])
        world.api.patch("Node", lost, {"spec": {"taints": [*taints, OUT_OF_SERVICE]}})
        moved = world.running("orphan", 150, other_than=pod["metadata"]["uid"])
        expect(moved["spec"]["nodeName"] == other, f"the pod runs on {moved['spec']['nodeName']}")
        world.check(moved["metadata"]["name"], written)
        expect((world.cloud.disk(handle) or {})["attachment"]["vm"] == other, "the cloud has the disk elsewhere")
        # What a cloud controller manager does when a VM is gone.
        world.api.delete("Node", lost)
        wait("no attachment left to the lost node", lambda: not [
            a for a in world.api.list("VolumeAttachment") if a["spec"]["nodeName"] == lost], 120)
    finally:
        world.api.delete("Node", lost)
        world.cluster.nodes.remove(node)
        world.cluster.lost.append(node)
