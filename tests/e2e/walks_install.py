"""Install, upgrade and uninstall as users do it, and what is left afterwards: nothing, and every volume."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

from cluster import Failure, patiently, run, wait
from driver import DRIVER, NAME, NAMESPACE, REPOSITORY
from kit import LAST, World, expect, walk

LABEL = f"app.kubernetes.io/name={NAME}"
CHART = REPOSITORY / "deploy/helm" / NAME
KINDS = ("deployments,daemonsets,pods,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,csidrivers,"
         "storageclasses,volumeattributesclasses,poddisruptionbudgets,secrets,services,networkpolicies,configmaps,"
         "controllerrevisions,replicasets,endpointslices,csistoragecapacities,priorityclasses,"
         "validatingadmissionpolicies,validatingadmissionpolicybindings")


def objects(world: World) -> set[str]:
    """What an installation could leave, in its namespace and beside all namespaces."""
    return {name for name in world.cluster.kubectl("get", KINDS, "-n", NAMESPACE, "-o", "name").split()
            if not name.startswith(("persistentvolume/", "storageclass.storage.k8s.io/walk-"))}


def nothing_of_the_driver(world: World) -> None:
    """Nothing with its label anywhere, and nothing at all that was not there before it was installed. The leases of the
    sidecars' elections are theirs: no manifest made them, they hold nothing, and the next installation takes them over."""
    def left() -> str:
        labelled = world.cluster.kubectl("get", KINDS, "-A", "-l", LABEL, "-o", "name", "--ignore-not-found").split()
        return " ".join(sorted({*labelled, *(objects(world) - world.before)}))
    try:
        wait("no object of the driver", lambda: not left(), 90, every=1)
    except Failure as failure:
        raise Failure(f"{failure}: {left()}") from failure
    for node in world.cluster.nodes:
        wait(f"{node.name} without the driver", lambda node=node: not world.driver.registered(node.name), 60)
        kubelet = node.dir / "var/lib/kubelet"
        sockets = [str(path) for directory in (kubelet / "plugins_registry", kubelet / "plugins" / DRIVER)
                   if directory.exists() for path in directory.rglob("*") if path.is_socket()]
        expect(not sockets, f"sockets are left: {sockets}")


@walk(LAST)
def volumes_survive_a_reinstall_by_the_readmes_commands_and_every_overlay_passes_the_api_servers_check(world: World) -> None:
    def install() -> None:
        every_overlay_passes_the_api_servers_check(world)
        world.driver.install_as_the_readme_says()
    survives(world, world.driver.uninstall, install)
    wait("the README's example writes", lambda: world.cluster.kubectl("exec", "example-1", "--", "cat", "/data/log"), 120)
    world.cluster.kubectl("delete", "-f", str(REPOSITORY / "deploy/kubernetes/examples/statefulset.yaml"))
    world.cluster.kubectl("delete", "pvc", "data-example-0", "data-example-1", f"--timeout={patiently(60):.0f}s")


def every_overlay_passes_the_api_servers_check(world: World) -> None:
    # A copy: some overlays want files that a user puts beside them.
    copy = world.cluster.dir / "overlays"
    shutil.copytree(REPOSITORY / "deploy/kubernetes", copy)
    overlays = sorted(path for path in (copy / "overlays").iterdir() if path.is_dir())
    expect(len(overlays) >= 4, f"overlays: {overlays}")
    for overlay in overlays:
        for key in ("access_key_id", "secret_access_key", "region"):
            (overlay / key).write_text("x", encoding="ascii")
        answer = world.cluster.kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-k", str(overlay))
        expect(f"{NAME}-node" in answer, f"{overlay.name}: {answer}")
    for component in sorted((copy / "components").iterdir()):
        if component.name != "monitoring":  # its kinds come with the Prometheus operator
            use = copy / "overlays" / f"with-{component.name}"
            use.mkdir()
            (use / "kustomization.yaml").write_text(json.dumps({
                "kind": "Kustomization", "resources": ["../../base"], "components": [f"../../components/{component.name}"],
            }), encoding="utf-8")
            world.cluster.kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-k", str(use))


@walk(LAST)
def volumes_survive_a_change_from_kustomize_to_helm_and_back(world: World) -> None:
    helm = Helm(world)
    survives(world, world.driver.uninstall, helm.install)
    helm.upgrade_changes_a_flag()
    survives(world, helm.uninstall, world.driver.install)


def survives(world: World, uninstall, install) -> None:
    """A pod with a volume lives through the driver's absence; its volume serves the next pod."""
    name = f"lives{len(world.api.list('PersistentVolumeClaim', world.space))}"
    world.claim(name)
    world.deployment(name, name)
    pod = world.running(name)
    written = world.write(pod["metadata"]["name"])
    volume = world.bound(name)["metadata"]["name"]
    uninstall()
    nothing_of_the_driver(world)
    world.check(pod["metadata"]["name"], written)
    expect(world.api.find("PersistentVolume", volume), "the PV is gone")
    install()
    world.driver.wait_installed()
    world.api.delete("Pod", pod["metadata"]["name"], world.space)
    other = world.running(name, 120, other_than=pod["metadata"]["uid"])
    world.check(other["metadata"]["name"], written)


class Helm:
    """The chart, by the real helm."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.values = world.cluster.dir / "values.json"

    def __call__(self, *arguments: str) -> str:
        home = self.world.cluster.dir / "helm"
        return run(str(self.world.cluster.bin / "helm"), f"--kubeconfig={self.world.cluster.kubeconfig}", "-n", NAMESPACE,
                   *arguments, timeout=240, env={"HOME": str(home), "PATH": "/usr/bin:/bin"}).stdout

    def install(self) -> None:
        self.values.write_text(json.dumps(self.world.driver.helm_values()), encoding="utf-8")
        self("install", NAME, str(CHART), "-f", str(self.values), "--wait", f"--timeout={patiently(180):.0f}s")

    def upgrade_changes_a_flag(self) -> None:
        self("upgrade", NAME, str(CHART), "-f", str(self.values), "--set", "log.format=json", "--wait", f"--timeout={patiently(180):.0f}s")
        pod = self.world.driver.staying("controller")[0]
        environment = next(c for c in pod["spec"]["containers"] if c["name"] == "driver")["env"]
        expect({"name": "LOG_FORMAT", "value": "json"} in environment, f"the controller's environment: {environment}")
        self.world.driver.wait_installed()

    def uninstall(self) -> None:
        self("uninstall", NAME, "--wait", f"--timeout={patiently(180):.0f}s")


