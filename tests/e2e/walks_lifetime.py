"""The ends of a volume's life: deleted while it is made, kept, taken over, one too many for its node."""
from __future__ import annotations

from cluster import run, wait
from driver import DRIVER
from kit import CLASS, SPARE_LANE, XFS, World, expect, walk
from walks_article import empty_spare_node, spare_nodes

# Slots of a VM.
PLACES = 14
ZONE_KEY = "topology.additional-storage.csi.nifcloud.com/zone"


@walk()
def a_claim_deleted_while_its_disk_is_made_leaves_no_disk(world: World) -> None:
    claim = world.claim("hasty")
    disk = claim["metadata"]["uid"].replace("-", "")
    rule = world.cloud.admin("POST", "/faults", {"action": "CreateVolume", "disk": disk, "effect": "hold_before"})["id"]
    try:
        world.pod("hasty", "hasty")
        held = wait("the cloud holds the create", lambda: [h for h in world.cloud.admin("GET", "/held") if disk in str(h)])
        world.api.delete("Pod", "hasty", world.space)
        world.api.delete("PersistentVolumeClaim", "hasty", world.space)
        world.cloud.admin("POST", f"/held/{held[0]['id']}/release")
    finally:
        world.cloud.admin("DELETE", f"/faults/{rule}")
    world.gone("Pod", "hasty")
    wait("the create arrived", lambda: any(
        e["disk"] == disk and e["action"] == "CreateVolume" and e["committed"] for e in world.cloud.history()))
    world.disk_gone(disk, 120)
    wait("no PV of it", lambda: not [pv for pv in world.api.list("PersistentVolume") if claim["metadata"]["uid"] in
                                    pv["metadata"]["name"]], 60)


def static_volume(world: World, name: str, handle: str, zone: str, claim: str, **csi) -> dict:
    """A PV as a person, or the Go driver, writes it."""
    return world.api.apply({"kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
        "capacity": {"storage": "100Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": CLASS,
        "persistentVolumeReclaimPolicy": "Delete", "claimRef": {"namespace": world.space, "name": claim},
        "csi": {"driver": DRIVER, "volumeHandle": handle, "fsType": "ext4", **csi},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": ZONE_KEY, "operator": "In", "values": [zone]}]}]}}}})


@walk()
def a_retained_disk_is_imported_again_by_its_handle_with_its_data(world: World) -> None:
    world.claim("kept")
    world.pod("kept", "kept")
    world.running("kept")
    written = world.write("kept")
    volume = world.bound("kept")
    name, handle = volume["metadata"]["name"], volume["spec"]["csi"]["volumeHandle"]
    zone = (world.cloud.disk(handle) or {})["zone"]
    world.api.patch("PersistentVolume", name, {"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
    world.api.delete("Pod", "kept", world.space)
    world.api.delete("PersistentVolumeClaim", "kept", world.space)
    world.gone("PersistentVolumeClaim", "kept")
    wait("the PV released", lambda: world.api.get("PersistentVolume", name)["status"]["phase"] == "Released", 60)
    world.api.delete("PersistentVolume", name)
    world.gone("PersistentVolume", name)
    expect(world.cloud.disk(handle), "the disk was deleted, although its PV says Retain")

    static_volume(world, f"{world.space}-again", handle, zone, "again")
    world.claim("again", volumeName=f"{world.space}-again")
    world.pod("again", "again")
    world.running("again")
    world.check("again", written)


@walk()
def a_volume_of_the_go_driver_mounts_and_is_deleted_here_unedited(world: World) -> None:
    uid = "0f4c1b9e-5a37-4f0e-9f7c-3a5d1e8b7a21"
    handle, unique = uid.replace("-", ""), "vol-gogogogo"
    image = world.cloud.data / "disks" / f"{unique}.img"
    content = world.cluster.dir / "go-driver"
    content.mkdir()
    (content / "old").write_text("written under the Go driver\n", encoding="ascii")
    image.parent.mkdir(parents=True, exist_ok=True)
    with open(image, "wb") as disk:
        disk.truncate(100 << 30)
    # No UUID of ours in it: the Go driver let mkfs choose one.
    run("mkfs.ext4", "-q", "-F", "-d", str(content), "-E", "lazy_itable_init=1,nodiscard", str(image))
    world.cloud.admin("POST", "/disks", {
        "name": handle, "unique_id": unique, "size": 100, "disk_type": "High-Speed Flash Storage A", "zone": "east-12",
        "accounting": "2", "next_accounting": "2", "description": f"pvc-{uid}", "created": "2025-01-01T00:00:00.000Z",
        "attachment": None, "change": None})
    static_volume(world, f"pvc-{uid}", handle, "east-12", "old", volumeAttributes={
        "storage.kubernetes.io/csiProvisionerIdentity": f"1735689600000-8081-{DRIVER}"})
    world.api.patch("PersistentVolume", f"pvc-{uid}", {"metadata": {"annotations": {
        "pv.kubernetes.io/provisioned-by": DRIVER}}})
    world.claim("old", volumeName=f"pvc-{uid}")
    world.pod("old", "old")
    world.running("old")
    text = world.exec("old", "cat /data/old")
    expect(text == "written under the Go driver\n", f"the file says {text!r}")
    world.api.delete("Pod", "old", world.space)
    world.api.delete("PersistentVolumeClaim", "old", world.space)
    world.disk_gone(handle, 90)


@walk(SPARE_LANE)
def the_fifteenth_disk_waits_for_another_node_and_says_why(world: World) -> None:
    full, other = spare_nodes(world)
    names = [f"disk{number}" for number in range(1, 15)]
    for name in names:
        world.claim(name, storage_class=XFS)
    world.pod("full", *names, node=full)
    world.running("full", 180)
    world.claim("more")
    world.pod("more", "more", node=full)
    world.event("more", r"FailedScheduling.*exceed max volume count")
    # Without the demand for that node it goes to the other one of the zone.
    world.claim("elsewhere")
    world.pod("elsewhere", "elsewhere")
    expect(world.running("elsewhere")["spec"]["nodeName"] == other, "it does not run on the node with room")
    world.api.delete("Pod", "full", world.space)
    world.running("more", 120)


@walk(SPARE_LANE)
def a_disk_attached_by_hand_takes_a_place_on_its_node_until_it_is_imported(world: World) -> None:
    name = empty_spare_node(world)

    def places() -> int:
        return (world.driver.registered(name) or {})["allocatable"]["count"]
    handle = "byhand01"
    # The kubelet asks the driver anew; ten seconds is the shortest time that Kubernetes allows.
    world.api.patch("CSIDriver", DRIVER, {"spec": {"nodeAllocatableUpdatePeriodSeconds": 10}})
    try:
        wait("all places of the node", lambda: places() == PLACES, 90)
        world.cloud.admin("POST", "/disks", {"name": handle, "attachment": {"vm": name}})
        # The driver gives a disk that has just come a minute: it might be a volume on its way.
        wait("one place less on the node", lambda: places() == PLACES - 1, 120)
        static_volume(world, f"{world.space}-byhand", handle, world.cluster.node(name).zone, "byhand")
        world.api.patch("PersistentVolume", f"{world.space}-byhand", {"metadata": {"annotations": {
            "pv.kubernetes.io/provisioned-by": DRIVER}}})
        world.claim("byhand", volumeName=f"{world.space}-byhand")
        world.pod("byhand", "byhand", node=name)
        world.running("byhand")
        world.write("byhand")
        wait("the place again, as the disk counts as a volume now", lambda: places() == PLACES, 60)
        world.api.delete("Pod", "byhand", world.space)
        world.api.delete("PersistentVolumeClaim", "byhand", world.space)
        world.disk_gone(handle, 90)
    finally:
        world.api.patch("CSIDriver", DRIVER, {"spec": {"nodeAllocatableUpdatePeriodSeconds": 60}})


@walk(SPARE_LANE)
def a_claim_whose_node_can_take_no_disk_is_made_for_another_node(world: World) -> None:
    name = empty_spare_node(world)
    others = [other for other in spare_nodes(world) if other != name]
    # The VM gets another name in the control panel: the cloud knows no VM of the node's name any more.
    world.cloud.admin("POST", f"/vms/{name}/rename", {"to": f"{name}x"})
    try:
        world.cluster.kubectl("cordon", *others)
        world.claim("chosen")
        world.pod("chosen", "chosen")
        world.event("chosen", rf"ResourceExhausted.*{name}, the selected node, cannot take a disk: it does not exist")
        world.cluster.kubectl("uncordon", *others)
        world.cluster.kubectl("cordon", name)
        # A claim keeps its node unless its driver says that another may do: then this pod would wait for ever.
        pod = world.running("chosen", 120)
        expect(pod["spec"]["nodeName"] in others, f"it runs on {pod['spec']['nodeName']}")
        world.write("chosen")
    finally:
        world.cloud.admin("POST", f"/vms/{name}x/rename", {"to": name})
        world.cluster.kubectl("uncordon", *spare_nodes(world))
