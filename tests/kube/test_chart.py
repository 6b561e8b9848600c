"""A real API server accepts the chart's objects, keeps them as they are, and admits the pods."""

import json
import os
import pathlib

import pytest
import yaml
from cluster import Cluster, eventually, program

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/usher"
# A folder with the definitions of the Gateway API, cert-manager and Prometheus' operator.
DEFINITIONS = os.environ.get("USHER_KUBE_CRDS", "")
OPERATORS = ("cert-manager.io/", "gateway.networking.k8s.io/", "monitoring.coreos.com/")
VALUES = {path.name.removesuffix("-values.yaml"): [path] for path in CHART.glob("ci/*-values.yaml")}
VALUES["ha"] = [*VALUES["redis"], CHART / "values-ha.yaml"]
NAMES = sorted(VALUES)
# It asks for the network of the machine, which the restricted level refuses.
PRIVILEGED = "extras"
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("kube")) as started:
        if DEFINITIONS:
            started.run("kubectl", "create", "--filename", DEFINITIONS)
            wait = ("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
            started.run("kubectl", *wait)
        # What the values of the situations name.
        make_namespace(started, "monitoring")
        make_namespace(started, "edge")
        runtime = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": "runsc"}
        account = {"apiVersion": "v1", "kind": "ServiceAccount"}
        started.create(
            {**runtime, "metadata": {"name": "gvisor"}},
            {**account, "metadata": {"name": "shared", "namespace": "edge"}},
        )
        yield started


def make_namespace(cluster, name, labels=None):
    metadata = {"name": name, "labels": labels or {}}
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})


class Release:
    """One situation in a namespace of its own."""

    def __init__(self, cluster, situation, namespace):
        self.cluster, self.namespace = cluster, namespace
        make_namespace(cluster, namespace, {} if situation == PRIVILEGED else RESTRICTED)
        files = [f"--values={path}" for path in VALUES[situation]]
        self.chart = ["edge", str(CHART), f"--namespace={namespace}", *files]
        text = cluster.run("helm", "template", *self.chart).stdout
        self.objects = [one for one in yaml.safe_load_all(text) if one]
        # As Helm does. kubectl has one namespace for all objects, and refuses those of another.
        for one in self.objects:
            one["metadata"].setdefault("namespace", namespace)
        self.text = yaml.safe_dump_all(self.objects)
        if not DEFINITIONS and any(one["apiVersion"].startswith(OPERATORS) for one in self.objects):
            pytest.skip("USHER_KUBE_CRDS is not set")
        self.deployment = next(one for one in self.objects if one["kind"] == "Deployment")

    def helm(self, verb, *more):
        done = self.cluster.run("helm", verb, *self.chart, *more)
        assert "Warning" not in done.stderr, done.stderr

    def kubectl(self, *arguments):
        done = self.cluster.run("kubectl", *arguments, "--filename=-", stdin=self.text)
        # Warnings of the API server come here too.
        assert done.stderr == "", done.stderr
        return done.stdout

    def stored(self):
        """Returns the stored objects by kind and name."""
        text = self.kubectl("get", "--output=json", "--ignore-not-found")
        items = json.loads(text)["items"] if text else []
        return {identity(one): one for one in items}

    def replicas(self):
        return self.stored()[identity(self.deployment)]["spec"]["replicas"]

    def faults(self):
        """Returns the fields that the API server holds otherwise than they were rendered."""
        stored = self.stored()
        return [
            f"{one['kind']}{fault}"
            for one in self.objects
            for fault in differences(one, stored[identity(one)])
        ]

    def pod(self, name):
        """Returns a pod as the Deployment makes it."""
        template = self.deployment["spec"]["template"]
        where = {"name": name, "namespace": self.deployment["metadata"]["namespace"]}
        metadata = {**template["metadata"], **where}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


@pytest.fixture
def release(cluster, request):
    def make(situation):
        test = request.node.originalname.removeprefix("test_").replace("_", "-")
        return Release(cluster, situation, f"{test}-{situation}"[:63].strip("-"))

    return make


def identity(one):
    return one["kind"], one["metadata"]["name"]


def differences(wanted, stored, path=""):
    if isinstance(wanted, dict) and isinstance(stored, dict):
        for key, value in wanted.items():
            yield from differences(value, stored.get(key), f"{path}.{key}")
    elif isinstance(wanted, list) and isinstance(stored, list) and len(wanted) == len(stored):
        for index, value in enumerate(wanted):
            yield from differences(value, stored[index], f"{path}[{index}]")
    elif wanted != stored:
        yield f"{path}: {wanted!r} became {stored!r}"


@pytest.mark.parametrize("name", NAMES)
def test_objects_are_kept(release, name):
    one = release(name)
    one.kubectl("apply", "--dry-run=server", "--validate=strict")
    created = one.kubectl("apply", "--validate=strict").splitlines()
    assert len(created) == len(one.objects)
    assert all(line.endswith(" created") for line in created), created
    assert one.faults() == []
    # kubectl sends the selector of every PodDisruptionBudget again.
    again = one.kubectl("apply").splitlines()
    changed = [line for line in again if not line.endswith(" unchanged")]
    assert [line for line in changed if not line.startswith("poddisruptionbudget")] == []
    one.kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=gitops")
    assert one.kubectl("diff", "--server-side", "--field-manager=gitops") == ""
    one.kubectl("delete")
    assert one.stored() == {}


@pytest.mark.parametrize("name", NAMES)
def test_pods_are_admitted(cluster, release, name):
    one = release(name)
    one.kubectl("apply")
    pod = one.pod("by-hand")
    assert cluster.create(pod).stderr == ""
    if program("kube-controller-manager"):

        def made():
            pods = cluster.all("pods", pod["metadata"]["namespace"])
            owned = [each for each in pods if "ownerReferences" in each["metadata"]]
            return owned if len(owned) == one.replicas() else None

        pods = eventually(made, "all pods of the Deployment")
        assert {each["status"]["phase"] for each in pods} == {"Pending"}
    one.kubectl("delete")


def test_a_pod_with_more_rights_is_refused(cluster, release):
    one = release("plain")
    one.kubectl("apply")
    pod = one.pod("by-hand")
    pod["spec"]["containers"][0]["securityContext"] = {}
    refused = cluster.create(pod, check=False)
    assert refused.returncode != 0
    assert 'violates PodSecurity "restricted:latest"' in refused.stderr
    one.kubectl("delete")


@pytest.mark.parametrize("name", NAMES)
def test_a_release_lives(cluster, release, name):
    one = release(name)
    one.helm("install")
    before = one.stored()
    one.helm("upgrade")
    for key, new in one.stored().items():
        # The controllers write into the status of some kinds, and an autoscaler into `replicas`.
        if key[0] == "Deployment":
            assert new["spec"]["template"] == before[key]["spec"]["template"]
        elif "status" not in new:
            assert new["metadata"]["resourceVersion"] == before[key]["metadata"]["resourceVersion"]
    one.helm("upgrade", "--set=revisionHistoryLimit=7,commonLabels.new=label")
    assert one.stored()[identity(one.deployment)]["metadata"]["labels"]["new"] == "label"
    cluster.run("helm", "rollback", "edge", "1", f"--namespace={one.namespace}")
    assert one.faults() == []
    cluster.run("helm", "uninstall", "edge", f"--namespace={one.namespace}")
    assert one.stored() == {}


def test_another_autoscaler_keeps_its_number(cluster, release):
    one = release("plain")
    one.helm("install", "--set=replicaCount=null")
    where = ("deployment/edge-usher", f"--namespace={one.namespace}")
    cluster.run("kubectl", "scale", "--replicas=5", *where)
    one.helm("upgrade", "--set=replicaCount=null,minReadySeconds=1")
    assert one.replicas() == 5
    cluster.run("helm", "uninstall", "edge", f"--namespace={one.namespace}")


def test_the_autoscaler_takes_over(cluster, release):
    if "v3." in cluster.run("helm", "version", "--short").stdout:
        pytest.skip("Helm 3 does not apply on the server's side")
    one = release("redis")
    one.helm("install", "--set=replicaCount=5")
    metadata = {"name": "edge-usher", "namespace": one.namespace}
    kept = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    cluster.run(
        *("kubectl", "apply", "--server-side", "--field-manager=autoscaler", "--filename=-"),
        stdin=yaml.safe_dump({**kept, "spec": {"replicas": 5}}),
    )
    one.helm("upgrade", "--set=autoscaling.enabled=true")
    assert one.replicas() == 5
    cluster.run("helm", "uninstall", "edge", f"--namespace={one.namespace}")
