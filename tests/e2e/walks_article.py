"""The walk of the article that every user of the driver starts with: a claim, a pod, its data after the pod's end."""
from __future__ import annotations

import time

from cluster import SPARE_ZONE, patiently, wait
from kit import SPARE_LANE, World, attached_to, expect, seconds_since, walk


@walk()
def a_claim_of_10_gib_becomes_a_disk_of_100_and_its_data_outlives_the_pod(world: World) -> None:
    outlives_its_pod(world)


def outlives_its_pod(world: World) -> dict:
    """Returns the second pod."""
    # The article's class, with the cloud's magnetic disks.
    kind = f"{world.space}-standard"
    world.api.apply({"kind": "StorageClass", "provisioner": "additional-storage.csi.nifcloud.com", "metadata": {"name": kind},
                     "parameters": {"type": "standard"}, "volumeBindingMode": "WaitForFirstConsumer"})
    world.claim("article", "10Gi", storage_class=kind)
    world.deployment("article", "article")
    first = world.running("article")
    volume = world.bound("article")
    expect(volume["spec"]["capacity"]["storage"] == "100Gi", f"the PV has {volume['spec']['capacity']}")
    disk = world.cloud.disk(volume["spec"]["csi"]["volumeHandle"])
    expect(disk and disk["size"] == 100 and disk["disk_type"] == "Standard Storage", f"the cloud's disk: {disk}")
    written = world.write(first["metadata"]["name"])
    world.api.delete("Pod", first["metadata"]["name"], world.space)
    second = world.running("article", other_than=first["metadata"]["uid"])
    world.check(second["metadata"]["name"], written)
    world.api.delete("StorageClass", kind)
    return second


@walk(SPARE_LANE)
def a_drained_pod_waits_for_its_zone_or_moves_inside_it_with_its_disk(world: World) -> None:
    waits_or_moves(world, *spare_nodes(world))


def waits_or_moves(world: World, here: str, there: str) -> None:
    """`here` and `there` are all nodes of a zone that take pods."""
    world.cluster.kubectl("cordon", there)
    try:
        world.claim("moves")
        world.deployment("moves", "moves")
        pod = world.running("moves")
        expect(pod["spec"]["nodeName"] == here, f"the pod runs on {pod['spec']['nodeName']}")
        written = world.write(pod["metadata"]["name"])
        handle = world.handle("moves")

        drain(world, here)
        waiting = world.newest("moves")
        world.event(waiting, r"FailedScheduling.*(unschedulable|didn't match)")
        world.cluster.kubectl("uncordon", here)
        pod = world.running("moves")
        world.check(pod["metadata"]["name"], written)

        world.cluster.kubectl("uncordon", there)
        begun = time.monotonic()
        drain(world, here)
        moved = world.running("moves", other_than=pod["metadata"]["uid"])
        world.figures["drain to running elsewhere (s)"] = seconds_since(begun)
        expect(moved["spec"]["nodeName"] == there, f"the pod runs on {moved['spec']['nodeName']}, not on {there}")
        attachment = (world.cloud.disk(handle) or {}).get("attachment") or {}
        expect(attachment.get("vm") == there, f"the cloud says that the disk is at {attachment}")
        world.check(moved["metadata"]["name"], written)
    finally:
        world.cluster.kubectl("uncordon", here, there)


def spare_nodes(world: World) -> list[str]:
    return [node.name for node in world.cluster.nodes if node.zone == SPARE_ZONE]


def empty_spare_node(world: World) -> str:
    """One without volumes; those of the walk before may still be on their way."""
    return wait("a spare node without volumes", lambda: next(
        (name for name in spare_nodes(world) if not attached_to(world, name)), None), 120)


def drain(world: World, node: str) -> None:
    world.cluster.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
                          f"--timeout={patiently(60):.0f}s")
