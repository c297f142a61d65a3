"""Growth, with the pod running and without; a change of attributes."""
from __future__ import annotations

from cluster import wait
from kit import CLASS, XFS, World, expect, walk

GIB = 1 << 30


def ask(world: World, claim: str, size: str) -> None:
    world.api.patch("PersistentVolumeClaim", claim, {"spec": {"resources": {"requests": {"storage": size}}}}, world.space)


def has(world: World, claim: str, size: str, limit: float = 90) -> None:
    """Waits until the claim's status says that it has what it asked for, file system included."""
    def grown() -> bool:
        status = world.api.get("PersistentVolumeClaim", claim, world.space)["status"]
        return status["capacity"]["storage"] == size and not status.get("conditions")
    wait(f"claim {claim} has {size}", grown, limit)
    real = world.bound(claim)["spec"]["capacity"]["storage"]
    expect(real == f"{-(-int(size[:-2]) // 100) * 100}Gi", f"the PV of {claim} has {real}, {size} were asked for")


def visible(world: World, pod: str, path: str = "/data") -> int:
    """Bytes of the file system as the pod sees it."""
    return int(world.exec(pod, f"df -k {path} | tail -n 1 | awk '{{print $2}}'")) * 1024


@walk()
def a_volume_grows_while_its_pod_writes(world: World) -> None:
    # xfs: this kernel lets nobody without more rights grow a mounted ext4; the VM tier does that one.
    world.claim("grows", "100Gi", storage_class=XFS)
    writer = "trap exit TERM; while date >> /data/log; do sync; sleep 0.1; done"
    world.pod("grows", "grows", container={"command": ["sh", "-c", writer]})
    world.running("grows")
    written = world.write("grows")
    ask(world, "grows", "150Gi")
    has(world, "grows", "150Gi")
    expect(visible(world, "grows") > 190 * GIB, f"the pod sees {visible(world, 'grows')} bytes")
    world.check("grows", written)
    before = int(world.exec("grows", "wc -l < /data/log"))
    wait("the writer still writes", lambda: int(world.exec("grows", "wc -l < /data/log")) > before, 20)
    disk = world.cloud.disk(world.handle("grows"))
    expect(disk and disk["size"] == 200, f"the cloud's disk: {disk}")


@walk()
def a_raw_block_volume_grows_under_its_pod(world: World) -> None:
    world.claim("raw", volumeMode="Block")
    world.pod("raw", "raw", mode="block")
    world.running("raw")
    ask(world, "raw", "300Gi")
    has(world, "raw", "300Gi")
    size = world.exec("raw", "blockdev --getsize64 /dev/data").strip()
    expect(size == str(300 * GIB), f"the device has {size} bytes")


@walk()
def a_detached_volume_grows_and_its_file_system_with_the_next_pod(world: World) -> None:
    world.claim("rests", storage_class=CLASS)
    world.pod("first", "rests")
    world.running("first")
    written = world.write("first")
    world.api.delete("Pod", "first", world.space)
    world.gone("Pod", "first")
    handle = world.handle("rests")
    wait("the disk detached", lambda: not (world.cloud.disk(handle) or {}).get("attachment"), 60)
    ask(world, "rests", "200Gi")

    def larger() -> bool:
        disk = world.cloud.disk(handle) or {}
        return disk["size"] == 200 and not disk["attachment"]
    wait("the cloud's disk grown, and detached again", larger, 90)
    world.pod("second", "rests")
    world.running("second")
    has(world, "rests", "200Gi")
    expect(visible(world, "second") > 190 * GIB, f"the pod sees {visible(world, 'second')} bytes")
    world.check("second", written)


@walk()
def a_claim_changes_its_accounting_by_a_volume_attributes_class(world: World) -> None:
    classes = {kind: f"{world.space}-{kind}" for kind in ("hourly", "monthly")}
    for kind, name in classes.items():
        world.api.apply({"kind": "VolumeAttributesClass", "metadata": {"name": name}, "parameters": {"accountingType": kind},
                         "driverName": "additional-storage.csi.nifcloud.com"})
    try:
        world.claim("paid", volumeAttributesClassName=classes["hourly"])
        world.pod("paid", "paid")
        world.running("paid")
        world.api.patch("PersistentVolumeClaim", "paid",
                        {"spec": {"volumeAttributesClassName": classes["monthly"]}}, world.space)

        def changed() -> bool:
            status = world.api.get("PersistentVolumeClaim", "paid", world.space)["status"]
            return status.get("currentVolumeAttributesClassName") == classes["monthly"]
        wait("the claim has the class monthly", changed, 60)
        disk = world.cloud.disk(world.handle("paid")) or {}
        # The cloud's numbers: 1 monthly, 2 hourly; a change counts from the next month on.
        expect((disk["accounting"], disk["next_accounting"]) == ("2", "1"), f"the cloud's disk: {disk}")
        world.api.delete("Pod", "paid", world.space)
        world.api.delete("PersistentVolumeClaim", "paid", world.space)
        world.gone("PersistentVolumeClaim", "paid")
    finally:
        for name in classes.values():
            world.api.delete("VolumeAttributesClass", name)
