"""What needs a kernel and a SCSI bus of its own: hot-plug through the real kubelet, online growth of ext4, power cuts."""
from __future__ import annotations

from cluster import wait
from kit import CLASS, MACHINES, World, expect, walk
from walks_article import outlives_its_pod, waits_or_moves
from walks_growth import GIB, ask, has, visible


@walk(MACHINES)
def on_real_scsi_a_claims_data_outlives_its_pod(world: World) -> None:
    pod = outlives_its_pod(world)
    device = world.exec(pod["metadata"]["name"], "grep ' /data ' /proc/mounts").split()[0]
    expect(device.startswith("/dev/sd"), f"the volume is on {device}")


@walk(MACHINES)
def on_real_scsi_a_drained_pod_waits_for_its_zone_or_moves_with_its_disk(world: World) -> None:
    waits_or_moves(world, *[node.name for node in world.cluster.nodes if not node.control])


@walk(MACHINES)
def on_real_scsi_ext4_grows_under_its_pod(world: World) -> None:
    world.claim("grows", storage_class=CLASS)
    world.pod("grows", "grows")
    world.running("grows")
    written = world.write("grows")
    ask(world, "grows", "200Gi")
    has(world, "grows", "200Gi")
    expect(visible(world, "grows") > 190 * GIB, f"the pod sees {visible(world, 'grows')} bytes")
    world.check("grows", written)


@walk(MACHINES)
def on_real_scsi_fourteen_disks_serve_one_pod_and_leave_no_device(world: World) -> None:
    names = [f"disk{number}" for number in range(1, 15)]
    for name in names:
        world.claim(name)
    world.pod("full", *names, node="node2")
    world.running("full", 180)
    mounts = world.exec("full", "grep -c '^/dev/sd.* /data' /proc/mounts").strip()
    expect(mounts == "14", f"{mounts} disks are mounted")
    handles = [world.handle(name) for name in names]
    world.api.delete("Pod", "full", world.space)
    wait("all disks detached", lambda: not any((world.cloud.disk(h) or {}).get("attachment") for h in handles), 120)
    world.gone("Pod", "full")
    host = {"name": "sys", "hostPath": {"path": "/sys", "type": "Directory"}}
    spec = world.spec(node="node2") | {"volumes": [host]}
    spec["containers"][0]["volumeMounts"] = [{"name": "sys", "mountPath": "/host/sys", "readOnly": True}]
    world.apply({"kind": "Pod", "metadata": {"name": "looks", "labels": {"app": "looks"}}, "spec": spec})
    world.running("looks")
    left = world.exec("looks", "ls /host/sys/class/scsi_disk /host/sys/class/scsi_device").split()
    expect(not [name for name in left if not name.endswith(":")], f"SCSI devices are left on node2: {left}")


@walk(MACHINES)
def on_real_scsi_synced_data_survives_a_power_cut_of_the_node(world: World) -> None:
    world.claim("cut")
    world.pod("cut", "cut", node="node1", restartPolicy="Always")
    world.running("cut")
    written = world.write("cut")
    node = world.cluster.node("node1")
    world.cluster.power_off(node)
    world.cluster.power_on(node)
    world.cloud.admin("POST", "/vms/node1/replug")

    def again() -> bool:
        status = world.api.get("Pod", "cut", world.space)["status"]
        return status["containerStatuses"][0]["restartCount"] > 0 and status["containerStatuses"][0]["ready"]
    wait("the pod runs again", again, 120)
    world.check("cut", written)
