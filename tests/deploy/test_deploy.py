"""What users install: Kustomize and Helm render the same objects, wrong values are refused, every manifest is valid.

    python3 tests/deploy/test_deploy.py             run (needs PyYAML; fetches kubectl and helm)
    UPDATE=1 python3 tests/deploy/test_deploy.py    write the golden files anew
"""
from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
KUSTOMIZE = ROOT / "deploy/kubernetes"
CHART = ROOT / "deploy/helm/nifcloud-additional-storage-csi"
GOLDEN = Path(__file__).parent / "golden"
SYSTEM = "/usr/sbin:/usr/bin:/sbin:/bin"
NAMESPACE = "kube-system"
NAME = "nifcloud-additional-storage-csi"
KEYS = {"access_key_id": "KEY", "secret_access_key": "SECRET", "region": "jp-east-1"}
EVERYTHING = GOLDEN / "everything.values.yaml"


@functools.cache
def clients() -> Path:
    done = subprocess.run([ROOT / "scripts/kube-clients.sh"], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def run(*command: object, ok: bool = True) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if (done.returncode == 0) != ok:
        raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout[-500:]}{done.stderr[-2000:]}")
    return done.stdout if ok else done.stderr


def documents(text: str) -> list[dict]:
    return [document for document in yaml.safe_load_all(text) if document]


def kustomize(*components: str, overlay: str = "base") -> list[dict]:
    """Renders a copy: overlay dev reads files that the user puts beside it."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["cp", "-r", KUSTOMIZE, f"{scratch}/kubernetes"], check=True)
        for file, value in KEYS.items():
            Path(scratch, "kubernetes/overlays/dev", file).write_text(value)
        Path(scratch, "kustomization.yaml").write_text(yaml.safe_dump({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
            "resources": [f"kubernetes/{overlay}"],
            "components": [f"kubernetes/components/{component}" for component in components],
        }))
        return documents(run(clients() / "kubectl", "kustomize", scratch))


def helm_command(*options: str) -> tuple:
    # The name and the version that a cluster would tell.
    return (clients() / "helm", "template", "driver", CHART, "--namespace", NAMESPACE,
            "--kube-version", "1.36.0", *options)


def helm(*options: str) -> list[dict]:
    return documents(run(*helm_command(*options)))


def key(document: dict) -> str:
    metadata = document["metadata"]
    return f"{document['kind']}/{metadata.get('namespace', '')}/{metadata['name']}"


def alike(documents_: list[dict]) -> dict[str, dict]:
    """By name, without what differs by nature: the packager's labels, defaults that are written out or left out."""
    result = {}
    for document in documents_:
        labels = document["metadata"].get("labels", {})
        for label in ("app.kubernetes.io/managed-by", "app.kubernetes.io/instance", "helm.sh/chart"):
            labels.pop(label, None)
        for container in containers(document):
            if container.get("imagePullPolicy") == "IfNotPresent":
                del container["imagePullPolicy"]
        result[key(document)] = document
    return result


def pod(document: dict) -> dict:
    return document.get("spec", {}).get("template", {}).get("spec", {}) if "template" in document.get("spec", {}) else {}


def containers(document: dict) -> list[dict]:
    return pod(document).get("containers", [])


def workload(rendered: list[dict], kind: str) -> dict:
    return next(document for document in rendered if document["kind"] == kind)


def overlays() -> list[str]:
    return sorted(f"overlays/{path.name}" for path in (KUSTOMIZE / "overlays").iterdir() if path.is_dir())


class Rendering(unittest.TestCase):
    maxDiff = None

    def test_kustomize_and_helm_render_the_same_objects(self):
        by_kustomize, by_helm = alike(kustomize()), alike(helm())
        self.assertEqual(sorted(by_kustomize), sorted(by_helm))
        for name, document in by_kustomize.items():
            self.assertEqual(document, by_helm[name], name)

    def test_the_components_are_the_charts_options(self):
        by_kustomize = alike(kustomize("monitoring", "network-policy"))
        by_helm = alike(helm("--set", "monitoring.enabled=true,networkPolicy.enabled=true"))
        self.assertEqual(sorted(by_kustomize), sorted(by_helm))
        for name, document in by_kustomize.items():
            for one in (document, by_helm[name]):
                if one["kind"] == "Service":
                    one["spec"]["ports"].sort(key=lambda port: port["port"])
            self.assertEqual(document, by_helm[name], name)

    def test_what_is_rendered_changes_only_on_purpose(self):
        rendered = {
            "kustomize-emulator.yaml": kustomize(overlay="overlays/emulator"),
            "helm-everything.yaml": helm("--values", str(EVERYTHING)),
        }
        for file, documents_ in rendered.items():
            text = yaml.safe_dump_all(sorted(documents_, key=key), sort_keys=True, width=120)
            if os.environ.get("UPDATE"):
                (GOLDEN / file).write_text(text)
            self.assertEqual((GOLDEN / file).read_text(), text, f"{file}: if this is wanted, run with UPDATE=1")

    def test_every_value_of_the_chart_does_something(self):
        defaults = yaml.safe_load((CHART / "values.yaml").read_text())
        everything = yaml.safe_load(EVERYTHING.read_text())

        def leaves(tree, path=()):
            if isinstance(tree, dict) and tree and path[-1:] != ("resources",):
                for name, value in tree.items():
                    yield from leaves(value, (*path, name))
            else:
                yield path

        plain = helm()
        for path in leaves(defaults):
            value = everything
            for name in path:
                self.assertIn(name, value, f"{EVERYTHING.name} lacks {'.'.join(path)}")
                value = value[name]
            values: dict = {}
            inner = values
            for name in path[:-1]:
                inner = inner.setdefault(name, {})
            inner[path[-1]] = value
            # These two mean nothing alone.
            if path[0] == "credentials" and path[-1] != "secretName":
                values["credentials"] = everything["credentials"]
            if path[0] == "monitoring":
                values.setdefault("monitoring", {})["enabled"] = True
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                yaml.safe_dump(values, file)
                file.flush()
                self.assertNotEqual(plain, helm("--values", file.name), ".".join(path))

    def test_the_form_of_rancher_asks_only_for_values_that_exist(self):
        defaults = yaml.safe_load((CHART / "values.yaml").read_text())
        questions = yaml.safe_load((CHART / "questions.yaml").read_text())["questions"]
        for question in questions + [sub for q in questions for sub in q.get("subquestions", [])]:
            value = defaults
            for name in question["variable"].split("."):
                self.assertIn(name, value, question["variable"])
                value = value[name]
            if "default" in question:
                self.assertEqual(question["default"], value, question["variable"])


class Refusals(unittest.TestCase):
    WRONG = [
        "controller.replicas=0", "controller.replicas=two", "node.kubletDir=/x", "node.kubeletDir=var/lib/kubelet",
        "node.kubeletDir=/var/lib/kubelet/", "node.maxVolumes=15", "node.reserveSlots=14", "node.maxUnavailable=0",
        "image.digest=abc", "image.pullPolicy=Sometimes", "credentials.create=true", "credentials.secretName=",
        "storageClasses[0].parameters.type=floppy", "storageClasses[0].parameters.accountingType=daily",
        "storageClasses[0].reclaimPolicy=Recycle", "storageClasses[0].parameter.type=flash", "log.format=xml",
        "sidecars.resizer.timeout=5", "sidecars.attacher.image=", "csiDriver.nodeAllocatableUpdatePeriodSeconds=5",
        "monitoring.interval=often", "controller.extraArgs[0]=api-rate=5", "replicas=3",
    ]

    def test_a_wrong_value_is_refused_by_its_name(self):
        for setting in self.WRONG:
            refusal = run(*helm_command("--set", setting), ok=False)
            last = re.split(r"[.\[]", setting.split("=")[0])[0]
            self.assertTrue(last in refusal and "values don't meet" in refusal, f"{setting}: {refusal}")

    def test_an_old_kubernetes_is_refused(self):
        command = [word if word != "1.36.0" else "1.34.0" for word in helm_command()]
        self.assertIn("1.35", run(*command, ok=False))


class Promises(unittest.TestCase):
    def rendered(self):
        yield "base", kustomize()
        for overlay in overlays():
            yield overlay, kustomize(overlay=overlay)
        yield "helm", helm()
        yield "helm everything", helm("--values", str(EVERYTHING))

    def test_the_clouds_keys_are_in_the_drivers_container_of_the_controller_and_nowhere_else(self):
        for name, rendered in self.rendered():
            node, controller = workload(rendered, "DaemonSet"), workload(rendered, "Deployment")
            self.assertIsNone(re.search(r"secret(Name|KeyRef|Ref)|ACCESS_KEY", json.dumps(node)), name)
            for container in containers(controller):
                mounts = {mount["name"] for mount in container["volumeMounts"]}
                # Nobody holds both the cloud's keys and the cluster's token.
                self.assertLessEqual(len(mounts & {"keys", "kubernetes"}), 1, f"{name}: {container['name']}")
                self.assertEqual("keys" in mounts, container["name"] == "driver", name)

    def test_nobody_has_a_right_to_everything_or_to_secrets_and_nodes_may_only_look_and_lose_a_taint(self):
        for name, rendered in self.rendered():
            for document in rendered:
                for rule in document.get("rules", []):
                    for words in (rule["verbs"], rule["resources"], rule["apiGroups"]):
                        self.assertNotIn("*", words, name)
                    self.assertNotIn("secrets", rule["resources"], name)
                if document["kind"] in ("ClusterRole", "Role") and document["metadata"]["name"] == f"{NAME}-node":
                    rights = {(resource, verb) for rule in document["rules"]
                              for resource in rule["resources"] for verb in rule["verbs"]}
                    self.assertEqual(rights, {("nodes", "get"), ("nodes", "patch"), ("csinodes", "get"),
                                              ("volumeattachments", "list")}, name)
                for subject in document.get("subjects", []):
                    # A binding gives a role to the account of the same name.
                    self.assertEqual(subject["name"], document["roleRef"]["name"], name)

    def test_a_nodes_hook_and_its_drain_fit_into_the_pods_last_seconds(self):
        for name, rendered in self.rendered():
            spec = pod(workload(rendered, "DaemonSet"))
            (driver,) = spec["containers"]
            self.assertEqual(driver["lifecycle"]["preStop"]["exec"]["command"], [f"/{NAME}", "pre-stop"], name)
            self.assertGreaterEqual(spec["terminationGracePeriodSeconds"], 240 + 30, name)

    def test_the_controller_is_locked_up(self):
        for name, rendered in self.rendered():
            spec = pod(workload(rendered, "Deployment"))
            self.assertTrue(spec["securityContext"]["runAsNonRoot"], name)
            self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"}, name)
            self.assertFalse(spec["automountServiceAccountToken"], name)
            for container in spec["containers"]:
                # The emulator makes loop devices.
                if container["name"] == "emulator":
                    continue
                self.assertEqual(container["securityContext"], {
                    "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
                }, f"{name}: {container['name']}")
                self.assertIn("livenessProbe", container, name)

    def test_the_nodes_directory_is_the_same_inside_and_outside(self):
        for name, rendered in self.rendered():
            spec = pod(workload(rendered, "DaemonSet"))
            (driver,) = spec["containers"]
            kubelet = next(env["value"] for env in driver["env"] if env["name"] == "KUBELET_DIR")
            mount = next(mount for mount in driver["volumeMounts"] if mount["name"] == "kubelet")
            volume = next(volume for volume in spec["volumes"] if volume["name"] == "kubelet")
            self.assertEqual((kubelet, kubelet), (mount["mountPath"], volume["hostPath"]["path"]), name)

    def test_a_variable_is_known_before_it_is_used(self):
        for name, rendered in self.rendered():
            for document in rendered:
                for container in containers(document):
                    known: set[str] = set()
                    for env in container.get("env", []):
                        used = re.findall(r"\$\(([A-Z_]+)\)", env.get("value", ""))
                        self.assertLessEqual(set(used), known, f"{name}: {env}")
                        known.add(env["name"])

    def test_the_driver_knows_every_flag_and_variable_that_it_is_given(self):
        source = (ROOT / "src/cli.rs").read_text() + (ROOT / "src/cloud/nifcloud/credentials.rs").read_text()
        variables = set(re.findall(r'"([A-Z][A-Z_]+)"', source))
        variables |= {f"{variable}_FILE" for variable in variables if "ACCESS_KEY" in variable}
        fields = {name.replace("_", "-") for name in re.findall(r"pub (\w+):", source)}
        fields |= set(re.findall(r'long = "([a-z-]+)"', source))
        for name, rendered in self.rendered():
            for document in rendered:
                for container in containers(document):
                    if not container["image"].split("@")[0].split(":")[0].endswith(NAME):
                        continue
                    for env in container.get("env", []):
                        if env["name"] != "EXTRA":
                            self.assertIn(env["name"], variables, name)
                    for arg in container["args"]:
                        if arg.startswith("--") and not arg.startswith("--extra"):
                            self.assertIn(arg[2:].split("=")[0], fields, name)

    def test_every_container_of_the_driver_has_the_same_image_with_a_version(self):
        for name, rendered in self.rendered():
            used = {container["image"] for document in rendered for container in containers(document)
                    if NAME in container["image"]}
            used.discard("registry.example/team/nifcloud-additional-storage-csi:controller")
            self.assertEqual(len(used), 1, f"{name}: {used}")
            self.assertRegex(used.pop(), r"[:@].+$", name)

    def test_a_selector_chooses_the_drivers_own_pods(self):
        for name, rendered in self.rendered():
            templates = [document["spec"]["template"]["metadata"]["labels"]
                         for document in rendered if pod(document)]
            for document in rendered:
                spec = document.get("spec", {})
                selector = {"Service": spec.get("selector"), "NetworkPolicy": spec.get("podSelector"),
                            "PodDisruptionBudget": spec.get("selector"), "Deployment": spec.get("selector"),
                            "DaemonSet": spec.get("selector")}.get(document["kind"])
                if selector is None:
                    continue
                labels = selector.get("matchLabels", selector)
                # Without the application's name it would choose others' pods as well.
                self.assertEqual(labels["app.kubernetes.io/name"], NAME, f"{name}: {key(document)}")
                chosen = [template for template in templates if labels.items() <= template.items()]
                self.assertEqual(len(chosen), 1, f"{name}: {key(document)}")


class Image(unittest.TestCase):
    def contents(self) -> list[list[str]]:
        lines = (ROOT / "deploy/image/contents.txt").read_text().splitlines()
        return [line.split() for line in lines if line.strip() and not line.startswith("#")]

    def test_every_tool_that_the_driver_calls_is_in_the_image_and_from_the_package_that_it_names(self):
        source = (ROOT / "src/host/command.rs").read_text()
        called = set(re.findall(r'^    [A-Z0-9_]+ = "([a-z0-9_.]+)" in "([a-z0-9-]+)";', source, re.MULTILINE))
        self.assertGreater(len(called), 5)
        self.assertLessEqual(called, {(name, package) for name, package, _ in self.contents()})

    def test_a_package_has_one_version(self):
        packages = subprocess.run([ROOT / "deploy/image/gather.sh", "packages"], capture_output=True, text=True, check=True)
        names = [line.split("=")[0] for line in packages.stdout.split()]
        self.assertEqual(sorted(set(names)), sorted(names))

    def test_what_was_gathered_runs_alone(self):
        programs = [name for name, _, _ in self.contents() if not name.startswith("/")]
        missing = [name for name in programs if not shutil.which(name, path=SYSTEM)]
        if missing or os.geteuid() or not shutil.which("dpkg-query"):
            self.skipTest(f"needs root, Debian and {missing or 'nothing else'}")
        with tempfile.TemporaryDirectory() as scratch:
            run(ROOT / "deploy/image/gather.sh", scratch)
            for name in programs:
                done = subprocess.run(["chroot", scratch, name, "-V"], capture_output=True, text=True,
                                      check=False, env={"PATH": SYSTEM})
                # 127 and a word about the loader: a library is missing. Any other complaint is the program's own.
                self.assertNotEqual(done.returncode, 127, done.stderr)
                self.assertNotIn("shared librar", done.stderr, name)
            owners = {path.name for path in Path(scratch, "var/lib/dpkg/status.d").iterdir()}
            self.assertLessEqual({package for name, package, _ in self.contents() if name in programs}, owners)

    def test_the_dockerfile_copies_only_what_its_context_lets_in(self):
        ignored = (ROOT / ".dockerignore").read_text()
        for line in (ROOT / "Dockerfile").read_text().splitlines():
            if line.startswith("COPY ") and "--from" not in line:
                for name in line.split()[1:-1]:
                    self.assertIn(f"!{name}\n", ignored)
                    self.assertTrue((ROOT / name).exists(), name)


if __name__ == "__main__":
    unittest.main()
