"""Nodes that come and go in order: the startup taint, and the plugin that outlasts its node's volumes."""
from __future__ import annotations

import time

from api import ApiError
from cluster import STARTUP_TAINT, Failure, patiently, wait
from driver import NAME, NAMESPACE
from kit import SPARE, SPARE_LANE, World, attached_to, audited, expect, is_ready, kubelet_works, walk
from walks_article import empty_spare_node, spare_nodes

# Ignores the signal to end, so that its volume stays in use for its whole grace period.
STUBBORN = "trap '' TERM; while :; do sleep 1; done"
GRACE = 12


def plugin(world: World, node: str) -> dict:
    """The node's one driver pod that is Ready and not on its way out."""
    def found() -> dict | None:
        pods = [pod for pod in world.driver.staying("node", node) if is_ready(pod)]
        return pods[0] if len(pods) == 1 else None
    return wait(f"the driver's pod on {node}", found, 90)


@walk(SPARE_LANE)
def the_plugin_of_a_drained_node_stays_until_its_volumes_are_detached(world: World) -> None:
    here, there = spare_nodes(world)
    world.cluster.kubectl("cordon", there)
    try:
        world.claim("leaves")
        world.deployment("leaves", "leaves", terminationGracePeriodSeconds=GRACE, container={"command": ["sh", "-c", STUBBORN]})
        pod = world.running("leaves")
        written = world.write(pod["metadata"]["name"])
        expect(pod["spec"]["nodeName"] == here and len(attached_to(world, here)) == 1, "the volume is not where it was wanted")

        # A roll of the DaemonSet is no drain: the plugin goes at once, although the volume stays.
        old = plugin(world, here)
        world.api.delete("Pod", old["metadata"]["name"], NAMESPACE)
        wait("the plugin of a node that stays ends at once", lambda: ended(world, old), 30)
        expect(attached_to(world, here), "the volume was detached by a roll of the plugin")

        # As the end of a machine: cordoned, and all its pods told to go at the same time.
        old = plugin(world, here)
        world.cluster.kubectl("uncordon", there)
        world.cluster.kubectl("cordon", here)
        begun = time.monotonic()
        world.api.delete("Pod", pod["metadata"]["name"], world.space)
        world.api.delete("Pod", old["metadata"]["name"], NAMESPACE)
        watched = outlasts(world, here, old)
        world.figures["drained node: its volumes detached after (s)"] = round(watched - begun, 2)
        expect(watched - begun > GRACE * 0.8, "the pod ended before its grace period: the walk proves nothing")
        wait("the plugin ends when the volumes are gone", lambda: ended(world, old), 40)
        moved = world.running("leaves", other_than=pod["metadata"]["uid"])
        expect(moved["spec"]["nodeName"] == there, f"the pod runs on {moved['spec']['nodeName']}")
        world.check(moved["metadata"]["name"], written)

        asked = [r for r in audited(world) if r.get("objectRef", {}).get("resource") == "volumeattachments" and r["verb"] == "list"
                 and r["user"]["username"].endswith("-node")]
        expect(asked and all(r["responseStatus"]["code"] == 200 for r in asked), f"what pre-stop asked: {asked[-3:]}")
        failed = [e for e in world.api.list("Event", NAMESPACE) if e["reason"] == "FailedPreStopHook"]
        expect(not failed, f"hooks that failed: {[e.get('message') for e in failed]}")
    finally:
        world.cluster.kubectl("uncordon", here, there)
    plugin(world, here)


def outlasts(world: World, node: str, old: dict) -> float:
    """Looks at the plugin while volumes are attached to its node; the time at which there was none any more."""
    end = time.monotonic() + patiently(120)
    while time.monotonic() < end:
        # This order: a volume seen after the plugin's end is one that the plugin did not wait for.
        gone = ended(world, old)
        attached = attached_to(world, node)
        if not attached:
            return time.monotonic()
        expect(not gone, f"the plugin of {node} ended while {attached} were attached")
        time.sleep(0.1)
    raise Failure(f"still attached to {node}: {attached_to(world, node)}")


def ended(world: World, pod: dict) -> bool:
    """The pod's container has ended, or the pod is gone."""
    now = world.api.find("Pod", pod["metadata"]["name"], NAMESPACE)
    if now is None or now["metadata"]["uid"] != pod["metadata"]["uid"]:
        return True
    return not any("running" in c["state"] for c in now["status"].get("containerStatuses", []))


@walk(SPARE_LANE)
def a_new_node_takes_pods_only_when_its_driver_is_registered(world: World) -> None:
    """A machine that joins (again): its kubelet registers it with the startup taint, as in a node pool."""
    name = empty_spare_node(world)
    node = world.cluster.node(name)
    world.cluster.power_off(node)
    # Its pool also marks it as spare: other walks' pods must not come.
    environment = node.dir / "upper/etc/node.env"
    if SPARE not in environment.read_text(encoding="ascii"):
        environment.write_text(environment.read_text(encoding="ascii").replace("TAINTS=", f"TAINTS={SPARE}=:NoSchedule,"), encoding="ascii")
    world.api.delete("Node", name)
    world.api.delete("CSINode", name)
    for pod in world.driver.pods("node", name):
        world.api.delete("Pod", pod["metadata"]["name"], NAMESPACE, grace=0)
    wait(f"{name} forgotten", lambda: not (world.api.find("Node", name) or world.api.find("CSINode", name)
                                           or world.driver.pods("node", name)), 60)
    world.claim("first")
    # Patient with a node that is not ready: Kubernetes may still take it for one when the pod comes, and nobody makes the pod anew.
    world.pod("first", "first", node=name, tolerations=[{"key": SPARE, "operator": "Exists"}])
    world.cluster.power_on(node)
    seen = []
    end = time.monotonic() + patiently(120)
    while time.monotonic() < end:
        # This order: a node that was free before the driver showed up was freed too early.
        if world.api.find("Node", name) is not None:
            tainted = world.driver.held_back(name)
            seen.append(tainted)
            expect(tainted or world.driver.registered(name), f"{name} lost its startup taint before the CSINode showed the driver")
            if not tainted:
                break
        time.sleep(0.05)
    expect(seen and seen[0] and not seen[-1], f"the startup taint of {name}, look by look: {seen[:3]}...{seen[-3:]}")
    world.api.patch("Node", name, {"metadata": {"labels": {SPARE: "yes"}}})
    world.running("first")
    world.write("first")
    patches = [r for r in audited(world) if r["verb"] == "patch" and r.get("objectRef", {}).get("name") == name
               and r["user"]["username"].endswith("-node")]
    expect(patches, "no patch of the Node by the driver's account")
    kubelet_works(world, name)
    plugin(world, name)


@walk(SPARE_LANE)
def a_stolen_token_of_a_node_plugin_changes_nothing_but_its_own_startup_taint(world: World) -> None:
    here, there = spare_nodes(world)
    taints = world.api.get("Node", here)["spec"].get("taints", [])
    world.api.patch("Node", here, {"spec": {"taints": [*taints, {"key": STARTUP_TAINT, "effect": "PreferNoSchedule"}]}})
    thief = {"Impersonate-User": f"system:serviceaccount:{NAMESPACE}:{NAME}-node", "Impersonate-Group": "system:serviceaccounts",
             "Impersonate-Extra-authentication.kubernetes.io%2Fnode-name": here}

    def refused(change: dict, name: str = here) -> str:
        try:
            world.api.request("PATCH", world.api.path("Node", None, name), change, "application/merge-patch+json", thief)
        except ApiError as error:
            return str(error) if error.status in (403, 422) else ""
        return ""
    for change in ({"metadata": {"labels": {"stolen": "yes"}}}, {"spec": {"unschedulable": True}}, {"spec": {"taints": []}},
                   {"spec": {"taints": [*taints, {"key": "stolen", "effect": "NoSchedule"}]}}):
        expect(refused(change), f"the node's account could do {change}")
    expect(refused({"metadata": {"annotations": {"stolen": "yes"}}}, there), "the node's account could change another Node")
    for kind in ("Secret", "PersistentVolume", "Pod"):
        try:
            world.api.request("GET", world.api.path(kind), headers=thief)
            raise Failure(f"the node's account could list {kind}s")
        except ApiError as error:
            expect(error.status == 403, f"{kind}: {error}")
    expect(not refused({"spec": {"taints": taints}}), "the node's account could not remove its startup taint")
    expect(not world.driver.held_back(here), "the startup taint is still there")
