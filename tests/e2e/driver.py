"""The emulated cloud as a process outside of the cluster, and the driver installed from its rendered manifests."""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import leftovers
from cluster import GATEWAY, STARTUP_TAINT, Cluster, Failure, patiently, run, wait

REPOSITORY = Path(__file__).resolve().parents[2]
DRIVER = "additional-storage.csi.nifcloud.com"
NAME = "nifcloud-additional-storage-csi"
NAMESPACE = "kube-system"
LOG_LEVEL = "info,additional_storage_csi=debug"
# Where a node sees the links to its disks; the driver has the kubelet's directory anyway.
DEVICES = "/var/lib/kubelet/e2e-devices"
API_PORT, ADMIN_PORT = 8080, 8081
KEYS = {"access_key_id": "EMULATORKEY", "secret_access_key": "emulator-secret"}


class Cloud:
    """The emulator: NIFCLOUD's computing API on the control plane's address, loop devices behind it."""

    def __init__(self, cluster: Cluster, binary: Path) -> None:
        self.cluster = cluster
        self.binary = binary
        self.data = cluster.dir / "cloud"

    def start(self) -> None:
        config = self.cluster.dir / "emulator.toml"
        vms = [f'[[vms]]\nname = "{node.name}"\nzone = "{node.zone}"\nqmp = "{node.dir}/qmp"\n' for node in self.cluster.nodes]
        kind = "loop" if self.cluster.loop else "qmp"
        config.write_text(f'backend = "{kind}"\ndata_dir = "{self.data}"\ndevice_dir = "{self.cluster.devices}"\n'
                          + "".join(vms), encoding="utf-8")
        self.cluster.start(
            "emulator", str(self.binary), "emulator", f"--config={config}", f"--listen={GATEWAY}:{API_PORT}",
            f"--admin-listen={GATEWAY}:{ADMIN_PORT}", "--allow-non-loopback")
        wait("the emulator", self.state, 30)

    def stop(self) -> None:
        """Asks it to end, so that it lets go of its loop devices; what a killed one left is taken down."""
        process = self.cluster.processes.get("emulator")
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                pass
        self.cluster.stop("emulator")

    def kill(self) -> None:
        """Without warning; the loop devices stay, and so does what is mounted on them."""
        self.cluster.stop("emulator")

    def sweep(self) -> None:
        """Loop devices over this run's images."""
        leftovers.end_loops(lambda image: image.startswith(f"{self.cluster.dir}/"))

    def admin(self, method: str, path: str, body: object = None):
        data, headers = (None, {}) if body is None else (json.dumps(body).encode(), {"Content-Type": "application/json"})
        request = urllib.request.Request(
            f"http://{GATEWAY}:{ADMIN_PORT}{path}", method=method, headers=headers, data=data)
        with urllib.request.urlopen(request, timeout=patiently(30)) as answer:  # noqa: S310  (our own emulator)
            text = answer.read()
        return json.loads(text) if text else None

    def state(self) -> dict:
        return self.admin("GET", "/state")

    def disk(self, name: str) -> dict | None:
        disks = self.state()["disks"]
        return disks.get(name) if isinstance(disks, dict) else next((d for d in disks if d["name"] == name), None)

    def history(self) -> list[dict]:
        return self.admin("GET", "/history")


class Driver:
    """The driver as users install it: Kustomize renders, kubectl applies."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.overlay = cluster.dir / "overlay"
        # The directory that was applied.
        self.installed = self.overlay

    def write_overlay(self, tag: str) -> None:
        """What a user writes: the Secret, and here also where the emulated cloud and its devices are."""
        self.overlay.mkdir(exist_ok=True)
        for key, value in (*KEYS.items(), ("region", "jp-east-1")):
            (self.overlay / key).write_text(value, encoding="ascii")
        (self.overlay / "kustomization.yaml").write_text(json.dumps({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
            "resources": [os.path.relpath(REPOSITORY / "deploy/kubernetes/base", self.overlay)],
            "secretGenerator": [{"name": NAME, "namespace": NAMESPACE, "files": ["access_key_id", "secret_access_key", "region"]}],
            "images": [{"name": NAME, "newTag": tag}],
            "patches": [{"target": {"kind": kind}, "patch": json.dumps(changes)} for kind, changes in self.surroundings().items()],
        }), encoding="utf-8")

    def surroundings(self) -> dict[str, list[dict]]:
        """By kind of workload (as JSON patches) what differs from a user's cluster: where the cloud and its devices are, more log,
        and the one node that has the sidecars' images."""
        def add(path: str, value: object) -> dict:
            return {"op": "add", "path": f"/spec/template/spec/{path}", "value": value}

        def variable(name: str, value: str) -> dict:
            return add("containers/0/env/-", {"name": name, "value": value})
        return {
            "Deployment": [variable("NIFCLOUD_ENDPOINT", f"http://{GATEWAY}:{API_PORT}"),
                           variable("NIFCLOUD_ALLOW_INSECURE_ENDPOINT", "true"), variable("LOG_LEVEL", LOG_LEVEL),
                           add("nodeSelector/node-role.kubernetes.io~1control-plane", "")],
            "DaemonSet": [variable("LOG_LEVEL", LOG_LEVEL)] + ([variable("DEVICE_DIR", DEVICES)] if self.cluster.loop else [])}

    def install(self, tag: str = "v0.1.0") -> None:
        self.write_overlay(tag)
        self.cluster.kubectl("apply", "--server-side", "-k", str(self.overlay))
        self.installed = self.overlay

    def install_as_the_readme_says(self) -> None:
        """Its commands, one by one; between them what makes this cloud out of NIFCLOUD."""
        checkout = self.cluster.dir / "readme"
        shutil.copytree(REPOSITORY / "deploy", checkout / "deploy")
        for key, value in KEYS.items():
            (checkout / key).write_text(value, encoding="ascii")
        for command in documented("README.md", "Install on Kubernetes").replace("\\\n", "").splitlines():
            user(self.cluster, command, checkout)
            if " -k " in command:
                self.installed = checkout / command.split(" -k ")[1]
                for kind, changes in self.surroundings().items():
                    workload = f"{kind.lower()}/{NAME}-{'controller' if kind == 'Deployment' else 'node'}"
                    self.cluster.kubectl("patch", "-n", NAMESPACE, workload, "--type=json", "-p", json.dumps(changes))
                # All nodes at once: a roll would take them one by one.
                for pod in self.pods("node"):
                    self.cluster.api.delete("Pod", pod["metadata"]["name"], NAMESPACE)
                self.cluster.kubectl("rollout", "status", "-n", NAMESPACE, f"daemonset/{NAME}-node", f"--timeout={patiently(90):.0f}s")

    def uninstall(self) -> None:
        """What was installed last; the Secret of its own is a user's, who made it."""
        self.cluster.kubectl("delete", "-k", str(self.installed), f"--timeout={patiently(90):.0f}s", timeout=150)
        self.cluster.kubectl("delete", "secret", "-n", NAMESPACE, NAME, "--ignore-not-found")

    def helm_values(self) -> dict:
        """The overlay's settings in the chart's words."""
        return {
            "credentials": {"create": True, "region": "jp-east-1", "accessKeyId": KEYS["access_key_id"],
                            "secretAccessKey": KEYS["secret_access_key"]},
            "log": {"level": LOG_LEVEL},
            "controller": {"endpoint": f"http://{GATEWAY}:{API_PORT}",
                           "extraEnv": [{"name": "NIFCLOUD_ALLOW_INSECURE_ENDPOINT", "value": "true"}],
                           "nodeSelector": {"node-role.kubernetes.io/control-plane": ""}},
            "node": {"extraEnv": [{"name": "DEVICE_DIR", "value": DEVICES}]}}

    def wait_installed(self, limit: float = 120) -> None:
        api = self.cluster.api

        def controller() -> bool:
            status = api.get("Deployment", f"{NAME}-controller", NAMESPACE).get("status", {})
            return status.get("readyReplicas", 0) >= 1 and status.get("unavailableReplicas", 0) == 0
        for node in self.cluster.nodes:
            wait(f"CSINode of {node.name} with the driver", lambda node=node: self.registered(node.name), limit)
            wait(f"{node.name} without the startup taint", lambda node=node: not self.held_back(node.name), limit)
        wait("the controller", controller, limit)

    def held_back(self, node: str) -> bool:
        """Whether the node has the startup taint."""
        taints = self.cluster.api.get("Node", node)["spec"].get("taints", [])
        return any(taint["key"] == STARTUP_TAINT for taint in taints)

    def registered(self, node: str) -> dict | None:
        csi_node = self.cluster.api.find("CSINode", node) or {"spec": {}}
        return next((d for d in csi_node["spec"].get("drivers") or [] if d["name"] == DRIVER), None)

    def pods(self, component: str, node: str | None = None) -> list[dict]:
        fields = f"spec.nodeName={node}" if node else ""
        return self.cluster.api.list("Pod", NAMESPACE, f"app.kubernetes.io/component={component}", fields)

    def staying(self, component: str, node: str | None = None) -> list[dict]:
        """Without those that were replaced and are on their way out."""
        return [pod for pod in self.pods(component, node) if "deletionTimestamp" not in pod["metadata"]]

    def save_logs(self, target: Path) -> None:
        """All containers' logs, also of those that ended, straight from the nodes' disks."""
        target.mkdir(parents=True, exist_ok=True)
        for node in self.cluster.nodes:
            logs = node.dir / "var/log"
            for log in sorted((logs / "pods").glob(f"{NAMESPACE}_{NAME}*/*/*.log")):
                pod = log.parts[-3].split("_")[1]
                (target / f"{node.name}.{pod}.{log.parts[-2]}.{log.name}").write_bytes(log.read_bytes())
            for service in ("kubelet", "containerd", "images"):
                if (logs / f"{service}.log").exists():
                    (target / f"{node.name}.{service}.log").write_bytes((logs / f"{service}.log").read_bytes())
        if not self.cluster.loop:
            self._ask_for_logs(target)
        for log in [*self.cluster.dir.glob("*.log"), *self.cluster.dir.glob("node*/*.log")]:
            name = log.name if log.parent == self.cluster.dir else f"{log.parent.name}.{log.name}"
            (target / name).write_bytes(log.read_bytes())

    def _ask_for_logs(self, target: Path) -> None:
        """From machines, whose disks nobody can look into: what their kubelets still tell."""
        for node in self.cluster.nodes:
            for service in () if node.control else ("kubelet", "containerd"):
                text = self.cluster.kubectl("get", "--raw", f"/api/v1/nodes/{node.name}/proxy/logs/{service}.log", check=False)
                (target / f"{node.name}.{service}.log").write_text(text, encoding="utf-8")
        for pod in self.pods("node"):
            name = pod["metadata"]["name"]
            text = self.cluster.kubectl("logs", "-n", NAMESPACE, name, "--timestamps", check=False)
            (target / f"{pod['spec'].get('nodeName')}.{name}.log").write_text(text, encoding="utf-8")


def rendered_images(kubectl: Path) -> list[str]:
    """The images that the manifests name."""
    text = run(str(kubectl), "kustomize", str(REPOSITORY / "deploy/kubernetes/base")).stdout
    images = {line.split("image:", 1)[1].strip() for line in text.splitlines() if line.strip().startswith(("image:", "- image:"))}
    if not images:
        raise Failure("no image in deploy/kubernetes/base")
    return sorted(images)


def documented(page: str, heading: str) -> str:
    """The first shell block under a heading of the documentation."""
    section = (REPOSITORY / page).read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    if block is None:
        raise Failure(f"{page} shows no commands under {heading!r}")
    return block[1]


def user(cluster: Cluster, script: str, directory: Path) -> str:
    """A user's shell."""
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "PATH": f"{cluster.bin}:{os.environ['PATH']}"}
    return run("bash", "-euc", script, cwd=directory, env=environment).stdout
