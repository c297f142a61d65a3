"""Everything that has volumes is restarted under them: kubelets, the driver, its controller, the API server, the cloud."""
from __future__ import annotations

import random
import time

from cluster import SPARE_ZONE, patiently, wait
from driver import NAME, NAMESPACE
from images import OTHER_TAG
from kit import ALONE, CALM, XFS, World, digest, expect, is_ready, kill_container, kill_kubelet, kubelet_works, processes, walk
from walks_article import drain

PIPE = "trap exit TERM; n=$(tail -n 1 /data/log 2>/dev/null || echo 0); while n=$((n+1)); echo $n >> /data/log; do sync; sleep 0.1; done"


def start_writers(world: World, count: int) -> dict[str, str]:
    """Pods that write the numbers from 1 on; name -> uid."""
    for number in range(count):
        world.claim(f"writer{number}")
        world.pod(f"writer{number}", f"writer{number}", container={"command": ["sh", "-c", PIPE]})
    return {f"writer{n}": world.running(f"writer{n}")["metadata"]["uid"] for n in range(count)}


def still_writing(world: World, writers: dict[str, str]) -> None:
    """The same pods, never restarted, still write, and no number is missing."""
    for name, uid in writers.items():
        # The pods of a node that was not ready for a moment are marked so, and Kubernetes takes its time to take that back.
        wait(f"{name} Ready", lambda name=name: is_ready(world.api.get("Pod", name, world.space)), 60)
        pod = world.api.get("Pod", name, world.space)
        expect(pod["metadata"]["uid"] == uid, f"{name} is not the pod that it was")
        expect(pod["status"]["containerStatuses"][0]["restartCount"] == 0, f"{name} was restarted")
        last = int(world.exec(name, "tail -n 1 /data/log"))
        wait(f"{name} writes on", lambda name=name, last=last: int(world.exec(name, "tail -n 1 /data/log")) > last, 20)
        wrong = world.exec(name, "awk '$0 != NR {print NR \": \" $0}' /data/log | head -n 3")
        expect(not wrong, f"{name}'s lines are not 1, 2, 3, ...: {wrong}")


def a_new_claim_works(world: World, name: str, limit: float = 90) -> None:
    world.claim(name)
    world.pod(name, name)
    world.running(name, limit)
    world.write(name, mib=1)


@walk(CALM)
def kubelets_restart_under_live_volumes_and_on_drained_nodes(world: World) -> None:
    writers = start_writers(world, 3)
    workers = [node.name for node in world.cluster.nodes if not node.control and node.zone != SPARE_ZONE]
    for node in workers:
        kill_kubelet(world, node)
    for node in workers:
        kubelet_works(world, node)
    still_writing(world, writers)
    for name in writers:
        world.api.delete("Pod", name, world.space)
    # The order of an upgrade, node by node: drain, restart, uncordon. Pods move inside their zone, or wait for its only node.
    zones = sorted({world.cluster.node(node).zone for node in workers})
    pods, written = {}, {}
    for zone in zones:
        world.claim(zone)
        world.deployment(zone, zone, nodeSelector={"topology.kubernetes.io/zone": zone})
        pods[zone] = world.running(zone)
        written[zone] = world.write(pods[zone]["metadata"]["name"])
    moves = 0
    for node in workers:
        drain(world, node)
        kill_kubelet(world, node)
        kubelet_works(world, node)
        world.cluster.kubectl("uncordon", node)
        for zone in zones:
            if pods[zone]["spec"]["nodeName"] == node:
                pods[zone] = world.running(zone, other_than=pods[zone]["metadata"]["uid"])
                moves += 1
            world.check(pods[zone]["metadata"]["name"], written[zone])
    expect(moves >= len(zones), f"{moves} moves while every node of {zones} was drained")


@walk(ALONE)
def the_driver_is_rolled_to_another_build_and_back_while_pods_write(world: World) -> None:
    writers = start_writers(world, 3)
    expect(len(set(world.builds.values())) == 2, f"two builds are needed (--other): {world.builds}")
    for number, (tag, build) in enumerate(((OTHER_TAG, OTHER_TAG), ("v0.1.0", ""))):
        world.driver.install(tag)
        for workload in (f"deployment/{NAME}-controller", f"daemonset/{NAME}-node"):
            world.cluster.kubectl("rollout", "status", "-n", NAMESPACE, workload, f"--timeout={patiently(120):.0f}s")
        images = {c["image"] for pod in world.driver.staying("node") for c in pod["spec"]["containers"]}
        expect(all(image.endswith(f":{tag}") for image in images), f"the node pods run {images}")
        world.driver.wait_installed()
        for role in ("node", "controller"):
            # A pod that was replaced may take some seconds to end.
            wait(f"{role} processes of the build {tag}", lambda role=role, build=build: {
                digest(process / "exe") for process in processes(world, role)} == {world.builds[build]}, 60, every=2)
        still_writing(world, writers)
        a_new_claim_works(world, f"during{number}")
    # What was staged by one build is released by another.
    for name in writers:
        world.api.delete("Pod", name, world.space)
        world.gone("Pod", name)


@walk(ALONE)
def twenty_claims_survive_a_controller_killed_at_random(world: World) -> None:
    chance, count = random.Random(20), 20
    for number in range(count):
        world.claim(f"claim{number}", storage_class=XFS)
        world.pod(f"claim{number}", f"claim{number}")
    end = time.monotonic() + 25
    kills = 0
    while time.monotonic() < end:
        time.sleep(chance.uniform(0.3, 3))
        pods = world.driver.pods("controller")
        if not pods:
            continue
        pod = chance.choice(pods)
        running = [c for c in pod["status"].get("containerStatuses", []) if "running" in c["state"]]
        if not running:
            continue
        if chance.random() < 0.3:
            world.api.delete("Pod", pod["metadata"]["name"], NAMESPACE, grace=0)
        else:
            victim = chance.choice([c for c in running if c["name"] == "driver"] or running)
            kill_container(world, pod, victim)
        kills += 1
    for number in range(count):
        world.running(f"claim{number}", 240)
    names = {world.api.get("PersistentVolumeClaim", f"claim{n}", world.space)["metadata"]["uid"].replace("-", "")
             for n in range(count)}
    disks = {disk["name"] for disk in world.cloud.state()["disks"].values() if disk["name"] in names}
    expect(disks == names, f"{kills} kills: {len(disks)} disks for {len(names)} claims")
    creates = [e for e in world.cloud.history() if e["action"] == "CreateVolume" and e["committed"] and e["disk"] in names]
    expect(len(creates) == count, f"{len(creates)} creates for {count} claims")
    world.driver.wait_installed()


@walk(ALONE)
def another_replica_leads_when_the_leader_goes(world: World) -> None:
    def leaders() -> dict[str, str]:
        return {lease["metadata"]["name"]: lease["spec"].get("holderIdentity", "")
                for lease in world.api.list("Lease", NAMESPACE) if "csi-nifcloud" in lease["metadata"]["name"]}
    before = leaders()
    expect(len(before) >= 3, f"leases: {before}")
    for pod in {pod for pod in (p["metadata"]["name"] for p in world.driver.pods("controller"))
                if any(pod in holder for holder in before.values())}:
        world.api.delete("Pod", pod, NAMESPACE, grace=0)
    a_new_claim_works(world, "after", 120)
    wait("other leaders", lambda: all(leaders()[name] != holder for name, holder in before.items()), 60)
    world.driver.wait_installed()


@walk(ALONE)
def claims_survive_a_restart_of_the_api_server_and_of_the_cloud(world: World) -> None:
    writers = start_writers(world, 2)
    for number in range(5):
        world.claim(f"claim{number}")
        world.pod(f"claim{number}", f"claim{number}")
    world.cluster.stop("kube-apiserver")
    time.sleep(3)
    world.cluster.start_api_server()
    world.cloud.kill()
    for number in range(5, 8):
        world.claim(f"claim{number}")
        world.pod(f"claim{number}", f"claim{number}")
    time.sleep(3)
    world.cloud.start()
    for number in range(8):
        world.running(f"claim{number}", 180)
    still_writing(world, writers)
    world.driver.wait_installed()
