"""The Kubernetes API over one TLS connection per thread: what the walks ask a thousand times must not cost a process.

What a user types (apply -k, drain, exec, logs) goes through the real kubectl instead: see `Cluster.kubectl`.
"""
from __future__ import annotations

import http.client
import json
import ssl
import threading
import urllib.parse
from pathlib import Path

# kind -> (group and version, plural name, lies in a namespace)
KINDS: dict[str, tuple[str, str, bool]] = {
    "Namespace": ("v1", "namespaces", False),
    "Node": ("v1", "nodes", False),
    "Pod": ("v1", "pods", True),
    "Event": ("v1", "events", True),
    "Secret": ("v1", "secrets", True),
    "PersistentVolume": ("v1", "persistentvolumes", False),
    "PersistentVolumeClaim": ("v1", "persistentvolumeclaims", True),
    "Deployment": ("apps/v1", "deployments", True),
    "DaemonSet": ("apps/v1", "daemonsets", True),
    "StatefulSet": ("apps/v1", "statefulsets", True),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets", True),
    "Lease": ("coordination.k8s.io/v1", "leases", True),
    "StorageClass": ("storage.k8s.io/v1", "storageclasses", False),
    "VolumeAttributesClass": ("storage.k8s.io/v1", "volumeattributesclasses", False),
    "VolumeAttachment": ("storage.k8s.io/v1", "volumeattachments", False),
    "CSINode": ("storage.k8s.io/v1", "csinodes", False),
    "CSIDriver": ("storage.k8s.io/v1", "csidrivers", False),
    "ClusterRole": ("rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
}


class ApiError(Exception):
    """An answer other than success; `status` is the HTTP status, 0 when there was no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """Requests with the administrator's certificate. Safe to use from several threads."""

    def __init__(self, host: str, pki: Path) -> None:
        self.host = host
        self.pki = pki
        self.local = threading.local()

    def _connection(self) -> http.client.HTTPSConnection:
        connection = getattr(self.local, "connection", None)
        if connection is None:
            context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
            context.load_cert_chain(self.pki / "admin.crt", self.pki / "admin.key")
            connection = http.client.HTTPSConnection(self.host, 443, timeout=30, context=context)
            self.local.connection = connection
        return connection

    def request(self, method: str, path: str, body: object = None, content: str = "application/json",
                headers: dict[str, str] | None = None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", "Content-Type": content, **(headers or {})}
        for attempt in (1, 2):  # a kept connection may have been closed by a restarted server
            connection = self._connection()
            try:
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                text = answer.read()
                break
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.local.connection = None
                if attempt == 2:
                    raise ApiError(0, f"{method} {path}: {error!r}") from error
        if answer.status >= 300:
            try:
                message = json.loads(text)["message"]
            except (ValueError, KeyError, TypeError):
                message = text[:300].decode(errors="replace")
            raise ApiError(answer.status, f"{method} {path}: {message}")
        if "json" in answer.getheader("Content-Type", ""):
            return json.loads(text)
        return text.decode(errors="replace")

    @staticmethod
    def path(kind: str, namespace: str | None = None, name: str | None = None, sub: str | None = None) -> str:
        version, plural, namespaced = KINDS[kind]
        parts = ["/api" if version == "v1" else "/apis", version]
        if namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (plural, name, sub) if part]
        return "/".join(parts)

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict:
        return self.request("GET", self.path(kind, namespace, name))

    def find(self, kind: str, name: str, namespace: str | None = None) -> dict | None:
        """The object, or none when it does not exist."""
        try:
            return self.get(kind, name, namespace)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str, namespace: str | None = None, labels: str = "", fields: str = "") -> list[dict]:
        query = urllib.parse.urlencode({k: v for k, v in (("labelSelector", labels), ("fieldSelector", fields)) if v})
        return self.request("GET", self.path(kind, namespace) + ("?" + query if query else ""))["items"]

    def apply(self, thing: dict, namespace: str | None = None) -> dict:
        """Server-side apply."""
        version, _, namespaced = KINDS[thing["kind"]]
        thing = {"apiVersion": version, **thing}
        name = thing["metadata"]["name"]
        space = thing["metadata"].get("namespace", namespace) if namespaced else None
        path = self.path(thing["kind"], space, name) + "?fieldManager=e2e&force=true"
        return self.request("PATCH", path, thing, "application/apply-patch+yaml")

    def create(self, thing: dict, namespace: str | None = None) -> dict:
        thing = {"apiVersion": KINDS[thing["kind"]][0], **thing}
        return self.request("POST", self.path(thing["kind"], namespace), thing)

    def patch(self, kind: str, name: str, change: dict, namespace: str | None = None, sub: str | None = None) -> dict:
        return self.request("PATCH", self.path(kind, namespace, name, sub), change, "application/merge-patch+json")

    def delete(self, kind: str, name: str, namespace: str | None = None, grace: int | None = None) -> None:
        """Asks for deletion; gone already is fine."""
        body = {"propagationPolicy": "Background"} | ({} if grace is None else {"gracePeriodSeconds": grace})
        try:
            self.request("DELETE", self.path(kind, namespace, name), body)
        except ApiError as error:
            if error.status != 404:
                raise
