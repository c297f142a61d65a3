"""The walk of the article that every user of the driver starts with: a claim, a pod, its data after the pod's end."""
from __future__ import annotations

from kit import World, expect, walk


@walk()
def a_claim_of_10_gib_becomes_a_disk_of_100_and_its_data_outlives_the_pod(world: World) -> None:
    world.claim("article", "10Gi")
    world.deployment("article", "article")
    first = world.running("article")
    volume = world.bound("article")
    expect(volume["spec"]["capacity"]["storage"] == "100Gi", f"the PV has {volume['spec']['capacity']}")
    disk = world.cloud.disk(volume["spec"]["csi"]["volumeHandle"])
    expect(disk and disk["size"] == 100, f"the cloud's disk: {disk}")
    written = world.write(first["metadata"]["name"])
    world.api.delete("Pod", first["metadata"]["name"], world.space)
    second = world.running("article", other_than=first["metadata"]["uid"])
    world.check(second["metadata"]["name"], written)
