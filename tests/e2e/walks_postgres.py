"""What people put on such disks: PostgreSQL, three of it, under load, killed, scaled and grown."""
from __future__ import annotations

import random
import subprocess
import time

from cluster import patiently, wait
from kit import CLASS, XFS, World, expect, is_ready, kill_container, walk
from walks_growth import ask, has

REPLICAS = 3
# initdb once, the log directory on a disk of its own; checksums make a torn or lost page an error.
START = r"""
set -e
if [ ! -s /data/pg/PG_VERSION ]; then
  rm -rf /data/pg /wal/log
  initdb -D /data/pg --waldir=/wal/log --data-checksums -U postgres --auth=trust --no-instructions >&2
fi
exec postgres -D /data/pg -c listen_addresses= -c unix_socket_directories=/tmp -c shared_buffers=16MB -c max_connections=20 \
  -c fsync=on -c synchronous_commit=on -c logging_collector=off
"""
PROBE = {"exec": {"command": ["pg_isready", "-q", "-h", "/tmp", "-U", "postgres"]}, "periodSeconds": 1, "timeoutSeconds": 5}


def database(replicas: int) -> dict:
    def claim(name: str, storage_class: str) -> dict:
        return {"metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOncePod"], "storageClassName": storage_class,
            "resources": {"requests": {"storage": "10Gi"}}}}
    labels = {"app": "db"}
    return {"kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {
        "replicas": replicas, "serviceName": "db", "selector": {"matchLabels": labels}, "podManagementPolicy": "Parallel",
        "template": {"metadata": {"labels": labels}, "spec": {
            "terminationGracePeriodSeconds": 20,
            "securityContext": {"runAsUser": 70, "runAsGroup": 70, "runAsNonRoot": True, "fsGroup": 70,
                                "fsGroupChangePolicy": "OnRootMismatch"},
            "topologySpreadConstraints": [{
                "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
                "nodeTaintsPolicy": "Honor", "labelSelector": {"matchLabels": labels}}],
            "containers": [{
                "name": "postgres", "image": "localhost/postgres:15", "command": ["bash", "-c", START],
                "readinessProbe": PROBE, "volumeMounts": [{"name": "data", "mountPath": "/data"},
                                                          {"name": "wal", "mountPath": "/wal"}]}]}},
        "volumeClaimTemplates": [claim("data", XFS), claim("wal", CLASS)]}}


def sql(world: World, pod: str, statement: str, timeout: float = 60) -> str:
    return world.cluster.kubectl("exec", "-n", world.space, pod, "--", "psql", "-h", "/tmp", "-U", "postgres", "-XAtqc",
                                 statement, timeout=timeout).strip()


def ready(world: World, name: str, other_than: str = "", limit: float = 120) -> dict:
    def probe() -> dict | None:
        pod = world.api.find("Pod", name, world.space)
        return pod if pod and pod["metadata"]["uid"] != other_than and is_ready(pod) else None
    return wait(f"{name} ready", probe, limit)


def restarts(world: World, pod: str) -> int:
    return world.api.get("Pod", pod, world.space)["status"]["containerStatuses"][0]["restartCount"]


class Writer:
    """Commits numbered rows one by one through the life and death of its server, and remembers what was confirmed."""

    def __init__(self, world: World, pod: str) -> None:
        self.world, self.pod = world, pod
        self.confirmed: set[int] = set()
        self.next = 0

    def burst(self, count: int) -> None:
        """One session; whatever it printed was committed."""
        numbers = range(self.next, self.next + count)
        self.next += count
        statements = "".join(f"INSERT INTO kept VALUES ({n}) RETURNING n;\n" for n in numbers)
        result = subprocess.run(
            [str(self.world.cluster.bin / "kubectl"), f"--kubeconfig={self.world.cluster.kubeconfig}", "exec", "-i", "-n",
             self.world.space, self.pod, "--", "psql", "-h", "/tmp", "-U", "postgres", "-XAtq"],
            input=statements, text=True, capture_output=True, timeout=patiently(120), check=False)
        self.confirmed |= {int(line) for line in result.stdout.split() if line.isdigit()}

    def verify(self) -> None:
        there = {int(line) for line in sql(self.world, self.pod, "SELECT n FROM kept").split()}
        lost = sorted(self.confirmed - there)
        expect(self.confirmed and not lost, f"{self.pod}: {len(lost)} of {len(self.confirmed)} rows lost: {lost[:10]}")


@walk(long=True)
def postgresql_keeps_every_committed_row_through_kills_scaling_and_growth(world: World) -> None:
    world.apply(database(REPLICAS))
    names = [f"db-{number}" for number in range(REPLICAS)]
    pods = [ready(world, name, limit=180) for name in names]
    zones = {world.cluster.node(pod["spec"]["nodeName"]).zone for pod in pods}
    expect(len(zones) == 2, f"the replicas are in {zones}")
    claims = {pv: world.bound(pv)["metadata"]["name"] for name in names for pv in (f"data-{name}", f"wal-{name}")}
    for name in names:
        sql(world, name, "CREATE TABLE kept (n int PRIMARY KEY)")
        world.cluster.kubectl("exec", "-n", world.space, name, "--", "pgbench", "-h", "/tmp", "-U", "postgres", "-i", "-q",
                              "-s", "2", "postgres", timeout=120)
    writers = [Writer(world, name) for name in names]

    # Load, and a pod killed in the middle of it, three times: by the API, and its server by signal.
    chance = random.Random(6)
    for kill in ("pod", "server", "pod"):
        writer = chance.choice(writers)
        load = pgbench(world, writer.pod, 30)
        writer.burst(300)
        old = world.api.get("Pod", writer.pod, world.space)["metadata"]["uid"]
        if kill == "pod":
            world.api.delete("Pod", writer.pod, world.space, grace=0 if chance.random() < 0.5 else None)
            writer.burst(50)  # some of these fail; none that was confirmed may be lost
            ready(world, writer.pod, other_than=old)
        else:
            kill_container(world, world.api.get("Pod", writer.pod, world.space))
            wait(f"{writer.pod} restarted", lambda pod=writer.pod: restarts(world, pod) > 0, 60)
            ready(world, writer.pod)
        load.wait(patiently(60))
        writer.verify()

    # Growth of a data volume under load.
    writer = writers[0]
    load = pgbench(world, writer.pod, 20)
    ask(world, f"data-{writer.pod}", "150Gi")
    claim, end = f"data-{writer.pod}", time.monotonic() + patiently(120)
    while (world.api.get("PersistentVolumeClaim", claim, world.space)["status"]["capacity"]["storage"] != "150Gi"
           and time.monotonic() < end):
        writer.burst(200)
    has(world, f"data-{writer.pod}", "150Gi")
    grown = int(world.exec(writer.pod, "df -k /data").splitlines()[-1].split()[1])
    expect(grown > 190 << 20, f"{writer.pod} sees {grown} KiB")
    expect(load.wait(patiently(90)) == 0, "pgbench failed while its volume grew")

    # 3 -> 1 -> 3: the claims stay, and so do their disks and rows.
    scale(world, 1)
    wait("db-1 and db-2 gone", lambda: not [n for n in names[1:] if world.api.find("Pod", n, world.space)], 90)
    writer.burst(100)
    scale(world, REPLICAS)
    for name in names:
        ready(world, name)
    expect(claims == {claim: world.bound(claim)["metadata"]["name"] for claim in claims}, "claims changed their volumes")
    for writer in writers:
        writer.verify()
        balanced(world, writer.pod)
        sql(world, writer.pod, "CREATE EXTENSION IF NOT EXISTS amcheck")
        sql(world, writer.pod, "SELECT bt_index_check(oid) FROM pg_class WHERE relkind = 'i' AND relname LIKE 'pgbench%'")
    world.figures["PostgreSQL rows confirmed and kept"] = sum(len(writer.confirmed) for writer in writers)


def pgbench(world: World, pod: str, seconds: int) -> subprocess.Popen:
    return subprocess.Popen(
        [str(world.cluster.bin / "kubectl"), f"--kubeconfig={world.cluster.kubeconfig}", "exec", "-n", world.space, pod, "--",
         "pgbench", "-h", "/tmp", "-U", "postgres", "-c", "4", "-T", str(seconds), "-n", "postgres"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def balanced(world: World, pod: str) -> None:
    """Each of pgbench's transactions adds the same sum to an account, a teller and a branch, and writes it down: whole or not."""
    tables = (("abalance", "accounts"), ("tbalance", "tellers"), ("bbalance", "branches"), ("delta", "history"))
    sums = sql(world, pod, "SELECT " + ", ".join(f"(SELECT coalesce(sum({c}), 0) FROM pgbench_{t})" for c, t in tables)).split("|")
    expect(len(set(sums)) == 1, f"{pod}: the sums of accounts, tellers, branches, history are {sums}")


def scale(world: World, replicas: int) -> None:
    world.api.patch("StatefulSet", "db", {"spec": {"replicas": replicas}}, world.space)
