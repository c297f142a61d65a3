"""What a claim can ask for: file systems, raw blocks, access modes, owners, ephemeral volumes, sub-paths."""
from __future__ import annotations

from cluster import wait
from kit import CLASS, XFS, World, expect, walk


def file_system(world: World, pod: str, path: str = "/data") -> str:
    return world.exec(pod, f"grep ' {path} ' /proc/mounts | head -n 1 | cut -d' ' -f3").strip()


@walk()
def each_class_gives_its_file_system_and_a_claim_without_a_class_the_default(world: World) -> None:
    default = f"{world.space}-default"
    world.api.apply({
        "kind": "StorageClass", "provisioner": "additional-storage.csi.nifcloud.com",
        "metadata": {"name": default, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        # Letter case as the Go driver's users wrote it; no type and no file system: the driver's defaults.
        "parameters": {"AccountingType": "hourly"}, "volumeBindingMode": "WaitForFirstConsumer"})
    try:
        world.claim("ext4", storage_class=CLASS)
        world.claim("xfs", storage_class=XFS)
        world.claim("default", storage_class=None)
        world.pod("all", "ext4", "xfs", "default")
        world.running("all")
        found = [file_system(world, "all", path) for path in ("/data", "/data1", "/data2")]
        expect(found == ["ext4", "xfs", "ext4"], f"file systems {found}")
        claim = world.api.get("PersistentVolumeClaim", "default", world.space)
        expect(claim["spec"]["storageClassName"] == default, f"class {claim['spec']['storageClassName']}")
        disk = world.cloud.disk(world.handle("default"))
        expect(disk and "Flash" in disk["disk_type"], f"the default's disk: {disk}")
    finally:
        world.api.delete("StorageClass", default)


@walk()
def a_raw_block_volume_keeps_its_bytes_from_pod_to_pod(world: World) -> None:
    world.claim("raw", volumeMode="Block")
    world.pod("raw", "raw", mode="block")
    first = world.running("raw")
    script = "dd if=/dev/data bs=1M count=8 skip=100 2>/dev/null | sha256sum"
    world.exec("raw", "dd if=/dev/urandom of=/dev/data bs=1M count=8 seek=100 conv=fsync 2>/dev/null")
    written = world.exec("raw", script)
    size = world.exec("raw", "blockdev --getsize64 /dev/data").strip()
    expect(size == str(100 << 30), f"the device has {size} bytes")
    world.api.delete("Pod", "raw", world.space)
    world.gone("Pod", "raw")
    world.pod("raw", "raw", mode="block")
    world.running("raw", other_than=first["metadata"]["uid"])
    expect(world.exec("raw", script) == written, "the bytes changed")


@walk()
def a_second_pod_is_refused_a_read_write_once_pod_volume_until_the_first_has_gone(world: World) -> None:
    world.claim("only", accessModes=["ReadWriteOncePod"])
    world.pod("first", "only")
    node = world.running("first")["spec"]["nodeName"]
    world.pod("second", "only")
    world.event("second", r"FailedScheduling.*ReadWriteOncePod")
    # Past the scheduler (a pod may name its node), the kubelet and the driver have the last word.
    world.apply({"kind": "Pod", "metadata": {"name": "third"}, "spec": world.spec("only") | {"nodeName": node}})
    world.event("third", r"(FailedMount|FailedScheduling|Failed).*(ReadWriteOncePod|in use by another pod|single writer)")
    world.api.delete("Pod", "third", world.space)
    world.api.delete("Pod", "first", world.space)
    world.running("second")


@walk()
def a_read_only_pod_reads_what_another_wrote_and_can_write_nothing(world: World) -> None:
    world.claim("shared")
    world.pod("writer", "shared")
    node = world.running("writer")["spec"]["nodeName"]
    written = world.write("writer")
    # Beside the writer on its node, and alone afterwards.
    read_only = {"name": "shared", "persistentVolumeClaim": {"claimName": "shared", "readOnly": True}}
    for name in ("beside", "alone"):
        spec = world.spec("shared", node=node) | {"volumes": [read_only]}
        world.apply({"kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
        world.running(name)
        world.check(name, written)
        refusal = world.exec(name, "touch /data/new 2>&1 || true")
        expect("Read-only file system" in refusal, f"touch said {refusal!r}")
        for pod in (name, "writer"):
            world.api.delete("Pod", pod, world.space)
            world.gone("Pod", pod)


@walk()
def the_pods_group_owns_the_volume_and_an_unprivileged_user_writes(world: World) -> None:
    for name, storage_class in (("ext4", CLASS), ("xfs", XFS)):
        world.claim(name, storage_class=storage_class)
    world.pod("user", "ext4", "xfs", securityContext={
        "runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": True, "fsGroup": 2000})
    world.running("user")
    for path in ("/data", "/data1"):
        group = world.exec("user", f"stat -c %g {path}").strip()
        expect(group == "2000", f"{path} belongs to group {group}")
        world.write("user", f"{path}/mine", mib=1)


@walk()
def a_generic_ephemeral_volume_lives_and_dies_with_its_pod(world: World) -> None:
    template = {"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": CLASS,
                         "resources": {"requests": {"storage": "1Gi"}}}}
    spec = world.spec("scratch") | {"volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]}
    world.apply({"kind": "Pod", "metadata": {"name": "batch", "labels": {"app": "batch"}}, "spec": spec})
    world.running("batch")
    world.write("batch")
    handle = world.handle("batch-scratch")
    world.api.delete("Pod", "batch", world.space)
    world.gone("PersistentVolumeClaim", "batch-scratch")
    world.disk_gone(handle)


@walk()
def containers_see_their_sub_paths_and_keep_them_when_a_container_restarts(world: World) -> None:
    world.claim("tree")
    spec = world.spec("tree", restartPolicy="Always")
    first = spec["containers"][0]
    spec["containers"] = [
        first | {"name": name, "volumeMounts": [{"name": "tree", "mountPath": "/data", "subPath": name}]}
        for name in ("left", "right")]
    world.apply({"kind": "Pod", "metadata": {"name": "tree", "labels": {"app": "tree"}}, "spec": spec})
    world.running("tree")
    written = world.write("tree", mib=1)  # kubectl exec enters the first container
    there = world.cluster.kubectl("exec", "-n", world.space, "tree", "-c", "right", "--", "ls", "-A", "/data")
    expect("file" not in there, f"the other container sees {there}")
    world.exec("tree", "kill 1")

    def restarted() -> bool:
        statuses = world.api.get("Pod", "tree", world.space)["status"]["containerStatuses"]
        return any(c["name"] == "left" and c["restartCount"] == 1 and c["ready"] for c in statuses)
    wait("the container restarted", restarted, 60)
    world.check("tree", written)
