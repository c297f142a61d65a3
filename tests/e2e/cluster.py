"""A live Kubernetes on one machine: the control plane as plain processes, nodes made of namespaces.

Everything lives in network namespaces of its own; nothing listens in the machine's network:

    10.200.0.1         control plane and bridge (API server on 443, also at the service address 10.96.0.1)
    10.200.0.(10+i)    node i
    10.244.i.0/24      pods of node i
"""
from __future__ import annotations

import base64
import ctypes
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from api import Api

HERE = Path(__file__).resolve().parent
GATEWAY, SERVICE = "10.200.0.1", "10.96.0.1"
REGION = "jp-east-1"
# The zone whose nodes are drained, cut and filled by some walks; the others' pods stay away.
SPARE_ZONE = "east-13"
# On every node from its registration until the driver works there.
STARTUP_TAINT = "additional-storage.csi.nifcloud.com/agent-not-ready"


# How much longer than planned everything may take: for a machine that has much else to do, or one that is emulated. Only
# what fails takes longer for it.
_patience = float(os.environ.get("E2E_PATIENCE", "2"))


def patiently(seconds: float) -> float:
    return seconds * _patience


def be_patient(factor: float) -> None:
    """From now on everything may take so many times longer."""
    global _patience  # noqa: PLW0603
    _patience *= factor


_given_up = threading.Event()


def give_up() -> None:
    """From now on nothing is waited for: somebody wants the run to end."""
    _given_up.set()


def given_up() -> bool:
    return _given_up.is_set()


class Failure(Exception):
    """Something that a test promised did not happen."""


def run(*command: str, check: bool = True, timeout: float = 120, **options) -> subprocess.CompletedProcess:
    result = subprocess.run(command, text=True, capture_output=True, timeout=patiently(timeout), check=False, **options)
    if check and result.returncode:
        raise Failure(f"{' '.join(command[:6])}: exit {result.returncode}: {(result.stderr or result.stdout)[-800:]}")
    return result


def wait(what: str, probe, limit: float = 60, every: float = 0.25):
    """Calls `probe` until it answers something true; an exception counts as no."""
    limit = patiently(limit)
    end = time.monotonic() + limit
    last: object = None
    while time.monotonic() < end:
        if given_up():
            raise Failure(f"{what}: given up")
        try:
            last = probe()
            if last:
                return last
        except Exception as error:  # noqa: BLE001  (told below if it was the last)
            last = error
        time.sleep(every)
    raise Failure(f"{what}: not within {limit:.0f} s; last seen: {str(last)[:600]}")


@dataclass
class Node:
    name: str
    number: int
    zone: str
    dir: Path
    control: bool = False
    process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"10.200.0.{10 + self.number}"


@dataclass
class Cluster:
    """Started by `up`, ended by `down`; `down` works on a half-started cluster too.

    Node 0 is the control plane's: tainted as such, it alone carries the sidecars' images. The others are `zones`."""

    bin: Path
    root: Path
    dir: Path
    zones: list[str]
    images: Path
    nodes: list[Node] = field(default_factory=list)
    lost: list[Node] = field(default_factory=list)
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)
    # From when to when (wall clock) an API server started: until it has read the roles it refuses what they allow.
    starts: list[tuple[float, float]] = field(default_factory=list)

    # Disks are loop devices, found by links.
    loop = True

    def __post_init__(self) -> None:
        self.name = f"e2e-{os.getpid()}"
        self.pki = self.dir / "pki"
        self.kubeconfig = self.dir / "admin.conf"
        self.devices = self.dir / "devices"
        self.layer = self.dir / "layer"
        for number, zone in enumerate([self.zones[0], *self.zones]):
            name = f"node{number}"
            self.nodes.append(Node(name, number, zone, self.dir / name, control=number == 0))
        self.api = Api(GATEWAY, self.pki)

    # --- life

    def up(self) -> None:
        self.pki.mkdir(parents=True)
        finish_root(self.bin, self.layer)
        self._make_authority()
        self._make_network()
        self._start_control_plane()
        for node in self.nodes:
            self.start_node(node)
        for node in self.nodes:
            wait(f"node {node.name} Ready", lambda node=node: self.ready(node.name), 120)
            if node.control:  # a kubelet may not call itself so
                self.api.patch("Node", node.name, {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}})
        for node in self.nodes:
            wait(f"images in {node.name}", lambda node=node: self.imported(node), 120)

    def imported(self, node: Node) -> bool:
        return (node.dir / "var/lib/images-imported").exists()

    def down(self) -> None:
        for node in self.nodes + self.lost:
            self._kill(node.process)
        for process in reversed(self.processes.values()):
            self._kill(process)
        time.sleep(0.3)
        for namespace in [f"{self.name}-{node.name}" for node in self.nodes + self.lost] + [self.name]:
            run("ip", "netns", "del", namespace, check=False)
        remove_groups(self.name)

    @staticmethod
    def _kill(process: subprocess.Popen | None) -> None:
        if process is None or process.poll() is not None:
            return
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(patiently(30))

    # --- programs (this process lives in the cluster's network since `_make_network`, so its children do)

    def start(self, name: str, *command: str, env: dict | None = None) -> subprocess.Popen:
        log = open(self.dir / f"{name}.log", "ab")  # noqa: SIM115  (the child keeps it)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True, env={**os.environ, **(env or {})})
        self.processes[name] = process
        return process

    def stop(self, name: str) -> None:
        self._kill(self.processes.pop(name, None))

    def kubectl(self, *arguments: str, check: bool = True, stdin: str | None = None, timeout: float = 120) -> str:
        """What a user types. In a user's surroundings: the current directory holds nothing of ours."""
        command = [str(self.bin / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments]
        return run(*command, check=check, timeout=timeout, input=stdin, cwd=self.dir).stdout

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def in_node(self, node: str, script: str, check: bool = True, timeout: float = 60) -> str:
        """Runs a script inside a node's namespaces."""
        top = self.node(node).process
        assert top is not None
        pid = Path(f"/proc/{top.pid}/task/{top.pid}/children").read_text(encoding="ascii").split()[0]
        return run("nsenter", "-a", "-t", pid, "bash", "-c", script, check=check, timeout=timeout).stdout

    # --- parts

    def _make_authority(self) -> None:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        run("openssl", "req", "-x509", *key, "-keyout", f"{self.pki}/ca.key", "-out", f"{self.pki}/ca.crt",
            "-subj", "/CN=e2e-ca", "-days", "2")
        run("openssl", "genrsa", "-out", f"{self.pki}/sa.key", "2048")
        run("openssl", "rsa", "-in", f"{self.pki}/sa.key", "-pubout", "-out", f"{self.pki}/sa.pub")
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        addresses = ["127.0.0.1", GATEWAY, SERVICE]
        self._certificate("apiserver", "/CN=kube-apiserver",
                          ",".join([f"DNS:{n}" for n in names] + [f"IP:{a}" for a in addresses]))
        self._certificate("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
        self._certificate("admin", "/O=system:masters/CN=admin")
        self._write_kubeconfig("admin", self.kubeconfig)

    def _certificate(self, name: str, subject: str, alternative: str | None = None) -> None:
        base = self.pki / name
        extension = ["-addext", f"subjectAltName={alternative}"] if alternative else []
        run("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", f"{base}.key", "-out", f"{base}.csr", "-subj", subject, *extension)
        run("openssl", "x509", "-req", "-in", f"{base}.csr", "-CA", f"{self.pki}/ca.crt", "-CAkey",
            f"{self.pki}/ca.key", "-days", "2", "-out", f"{base}.crt", "-copy_extensions", "copy")

    def _write_kubeconfig(self, name: str, path: Path) -> None:
        def encoded(file: str) -> str:
            return base64.b64encode((self.pki / file).read_bytes()).decode()
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "e2e",
            "clusters": [{"name": "e2e", "cluster": {
                "server": f"https://{GATEWAY}:443", "certificate-authority-data": encoded("ca.crt")}}],
            "users": [{"name": name, "user": {
                "client-certificate-data": encoded(f"{name}.crt"), "client-key-data": encoded(f"{name}.key")}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": name}}],
        }), encoding="utf-8")

    def _make_network(self) -> None:
        run("ip", "netns", "add", self.name)
        for command in ("link set lo up", "link add br0 type bridge", f"addr add {GATEWAY}/24 dev br0",
                        "link set br0 up", f"addr add {SERVICE}/32 dev lo"):
            run("ip", "-n", self.name, *command.split())
        with open(f"/run/netns/{self.name}", encoding="ascii") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0x40000000):
                raise Failure(f"cannot enter the cluster's network: {os.strerror(ctypes.get_errno())}")
        run("sysctl", "-qw", "net.ipv4.ip_forward=1")

    def _start_control_plane(self) -> None:
        pki, bin_ = self.pki, self.bin
        self.start(
            "etcd", f"{bin_}/etcd", f"--data-dir={self.dir}/etcd", "--unsafe-no-fsync", "--log-level=warn",
            "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=default=http://127.0.0.1:2380")
        self.start_api_server()
        self.start(
            "kube-controller-manager", f"{bin_}/kube-controller-manager", f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false", "--bind-address=127.0.0.1", "--node-monitor-grace-period=20s",
            f"--service-account-private-key-file={pki}/sa.key", f"--root-ca-file={pki}/ca.crt")
        self.start("kube-scheduler", f"{bin_}/kube-scheduler", f"--kubeconfig={self.kubeconfig}",
                   "--leader-elect=false", "--bind-address=127.0.0.1")

    def start_api_server(self) -> None:
        pki, begun = self.pki, time.time()
        self.start(
            "kube-apiserver", f"{self.bin}/kube-apiserver", "--etcd-servers=http://127.0.0.1:2379",
            "--bind-address=0.0.0.0", "--secure-port=443", f"--advertise-address={GATEWAY}",
            "--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged=true",
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
            "--kubelet-preferred-address-types=InternalIP", f"--client-ca-file={pki}/ca.crt",
            f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key",
            f"--kubelet-client-certificate={pki}/kubelet-client.crt",
            f"--kubelet-client-key={pki}/kubelet-client.key",
            f"--audit-policy-file={HERE}/audit.yaml", f"--audit-log-path={self.dir}/audit.log",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/sa.pub", f"--service-account-signing-key-file={pki}/sa.key")
        wait("API server", lambda: self.api.request("GET", "/readyz") == "ok", 120)
        self.starts.append((begun, time.time()))

    def start_node(self, node: Node) -> None:
        for directory in ("upper/images", "work", "root", "var"):
            (node.dir / directory).mkdir(parents=True)
        part = "control" if node.control else "spare" if node.zone == SPARE_ZONE else "main"
        for image in [*self.images.glob("*.tar"), *self.images.glob(f"{part}/*.tar")]:
            os.link(image, node.dir / "upper/images" / image.name)
        (self.devices / node.name).mkdir(parents=True, exist_ok=True)
        for path, content in self.node_files(node).items():
            target = node.dir / "upper" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        shutil.copytree(self.root / "var", node.dir / "var", symlinks=True, dirs_exist_ok=True)
        own = f"{self.name}-{node.name}"
        run("ip", "netns", "add", own)
        for command in (
            f"-n {self.name} link add veth{node.number} type veth peer name eth0 netns {own}",
            f"-n {self.name} link set veth{node.number} master br0 up",
            f"-n {own} link set lo up", f"-n {own} link set eth0 up",
            f"-n {own} addr add {node.address}/24 dev eth0", f"-n {own} route add default via {GATEWAY}",
            f"-n {self.name} route replace 10.244.{node.number}.0/24 via {node.address}",
        ):
            run("ip", *command.split())
        self.power_on(node)

    def power_on(self, node: Node) -> None:
        log = open(node.dir / "console", "ab")  # noqa: SIM115
        node.process = subprocess.Popen(
            ["bash", str(HERE / "node/enter.sh"), f"{self.layer}:{self.root}", str(node.dir), f"{self.name}-{node.name}",
             self.name, node.name, str(self.devices / node.name)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def power_off(self, node: Node) -> None:
        """All its processes at once; its mounts go with its namespaces."""
        self._kill(node.process)

    def node_files(self, node: Node, mode: str = "native") -> dict[str, bytes]:
        """What distinguishes a node from the others: path -> content."""
        self._certificate(node.name, f"/O=system:nodes/CN=system:node:{node.name}")
        self._write_kubeconfig(node.name, node.dir / "kubelet.conf")
        network = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": f"10.244.{node.number}.0/24"}]],
                     "routes": [{"dst": "0.0.0.0/0"}]}}]}
        environment = f"MODE={mode}\nGATEWAY={GATEWAY}\nNAME={node.name}\nADDRESS={node.address}\nZONE={node.zone}\nREGION={REGION}\n"
        # As a node pool of a real cluster: pods come when the driver has taken its taint away.
        taints = [f"{STARTUP_TAINT}=:NoSchedule"] + ["node-role.kubernetes.io/control-plane=:NoSchedule"] * node.control
        environment += f"TAINTS={','.join(taints)}\n"
        return {
            "etc/node.env": environment.encode(),
            "etc/kubernetes/kubelet.conf": (node.dir / "kubelet.conf").read_bytes(),
            "etc/kubernetes/ca.crt": (self.pki / "ca.crt").read_bytes(),
            "etc/cni/net.d/10-pods.conflist": json.dumps(network).encode(),
        }

    def ready(self, name: str) -> bool:
        node = self.api.find("Node", name) or {}
        conditions = node.get("status", {}).get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def remove_groups(name: str) -> None:
    """A run's cgroups, in all hierarchies. One whose last process is still on its way out cannot be removed yet."""
    for _ in range(40):
        left = list(Path("/sys/fs/cgroup").glob(f"*/{name}"))
        for hierarchy in left:
            for directory, _, _ in os.walk(hierarchy, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError:
                    pass
        if not left:
            return
        time.sleep(0.25)


def finish_root(programs: Path, target: Path) -> None:
    """The layer over the cached packages: programs and configuration that every node of this run has."""
    for directory in ("proc sys dev run tmp mnt root etc/kubernetes etc/containerd etc/cni/net.d opt/cni bin sbin "
                      "usr/sbin usr/local/bin var images .old").split():
        (target / directory).mkdir(parents=True, exist_ok=True)
    for name in ("iptables", "iptables-save", "iptables-restore"):
        (target / "usr/sbin" / name).symlink_to("xtables-nft-multi")
    (target / "opt/cni/bin").symlink_to("/usr/lib/cni")
    (target / "bin/sh").symlink_to("bash")
    (target / "sbin/init").symlink_to("/bin/busybox")
    for program in ("kube", "containerd", "containerd-shim-runc-v2", "ctr"):
        shutil.copy2(programs / program, target / "usr/local/bin" / program)
    (target / "usr/local/bin/kubelet").symlink_to("kube")
    for script in ("rc", "service"):
        shutil.copy2(HERE / "node" / script, target / "etc" / script)
        (target / "etc" / script).chmod(0o755)
    shutil.copy2(HERE / "node/inittab", target / "etc/inittab")
    shutil.copy2(HERE / "node/containerd.toml", target / "etc/containerd/config.toml")
    shutil.copy2(HERE / "node/kubelet.yaml", target / "etc/kubernetes/kubelet.yaml")
    (target / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n", encoding="ascii")
    (target / "etc/group").write_text("root:x:0:\n", encoding="ascii")
