"""Every file in `ci` gives objects that Kubernetes and the operators accept, and a valid usher.toml."""

import functools
import json
import os
import subprocess

import chart
import helm_python
import kubernetes_validate
import pytest
import yaml

# The oldest one that the chart accepts, and the last four.
KUBERNETES = ["1.30", "1.34", "1.35", "1.36", "1.37"]
USHER = os.environ.get("USHER_BIN", str(chart.ROOT / "target/debug/usher"))
OPERATORS = ("monitoring.coreos.com/", "cert-manager.io/", "gateway.networking.k8s.io/")
NAMES = [path.name.removesuffix("-values.yaml") for path in chart.SITUATIONS]

RENDERED = {name: chart.Rendered(chart.situation(name)) for name in NAMES}
RENDERED["ha"] = chart.Rendered(
    chart.deep_merge(chart.situation("redis"), chart.read_values("values-ha.yaml"))
)


# Without this, each validation reads all definitions of Kubernetes from the disk.
kubernetes_validate.utils.schema_contents = functools.cache(
    kubernetes_validate.utils.schema_contents
)


def is_operators(one):
    return one["apiVersion"].startswith(OPERATORS)


def check(text, folder, environment):
    """Runs `usher check --offline` and returns the finished process."""
    path = folder / "usher.toml"
    path.write_text(text)
    return subprocess.run(
        [USHER, "check", "--offline", str(path)],
        env={name: "0123456789abcdef" * 4 for name in environment},
        capture_output=True,
        text=True,
    )


def test_there_are_ten_situations():
    assert len(NAMES) >= 10


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_accepts_the_objects(version):
    objects = {
        json.dumps(one, sort_keys=True): (name, one)
        for name, rendered in RENDERED.items()
        for one in rendered.objects
        if not is_operators(one)
    }
    for name, one in objects.values():
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except kubernetes_validate.ValidationError as fault:
            pytest.fail(f"{name}: {one['kind']}: {fault.json_path}: {fault.message}")


def test_an_unknown_field_is_not_accepted():
    one = RENDERED["plain"].one("Service")
    broken = chart.deep_merge(one, {"spec": {"nonsense": 1}})
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES[0], strict=True)


def test_the_operators_accept_their_objects():
    objects = [one for all in RENDERED.values() for one in all.objects if is_operators(one)]
    objects += [
        chart.Rendered(chart.situation("tls-route", tlsRoute={"apiVersion": version})).one("TLSRoute")
        for version in ("gateway.networking.k8s.io/v1alpha3", "gateway.networking.k8s.io/v1alpha2")
    ]
    broken = chart.deep_merge(RENDERED["tls-route"].one("TLSRoute"), {"spec": {"rules": 5}})
    judged = subprocess.run(
        ["node", str(chart.ROOT / "tests/charts/validate.mjs")],
        input=json.dumps([*objects, broken]),
        capture_output=True,
        text=True,
        check=True,
    )
    *messages, last = json.loads(judged.stdout)
    faults = [(one["kind"], text) for one, text in zip(objects, messages) if text != ""]
    assert faults == []
    assert "rules must be array" in last
    assert {one["kind"] for one in objects} == {
        "BackendTLSPolicy",
        "Certificate",
        "HTTPRoute",
        "PodMonitor",
        "PrometheusRule",
        "ServiceMonitor",
        "TLSRoute",
    }


@pytest.mark.parametrize("name", [name for name in RENDERED if name != "configmap"])
def test_usher_accepts_the_configuration(name, tmp_path):
    rendered = RENDERED[name]
    config = next(one for one in rendered.all("ConfigMap") if "usher.toml" in one.get("data", {}))
    environment = [one["name"] for one in rendered.container["env"]]
    checked = check(config["data"]["usher.toml"], tmp_path, environment)
    assert checked.returncode == 0, checked.stderr
    assert "error" not in checked.stderr


@pytest.mark.parametrize("name", NAMES)
def test_helm_finds_no_fault(name):
    found = helm_python.lint(str(chart.CHART), values=chart.situation(name), strict=True)
    assert [one for one in found["messages"] if one["severity"] >= 2] == []


@pytest.mark.parametrize("name", RENDERED)
def test_no_object_is_there_twice(name):
    names = [
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
        for one in RENDERED[name].objects
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", RENDERED)
def test_no_secret_is_made(name):
    assert RENDERED[name].all("Secret") == []


@pytest.mark.parametrize("name", RENDERED)
def test_every_selector_finds_the_pods(name):
    rendered = RENDERED[name]
    deployment = rendered.one("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [one["spec"]["selector"] for one in rendered.all("Service")]
    for kind, key in [
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
        ("PodMonitor", "selector"),
    ]:
        selectors += [one["spec"][key]["matchLabels"] for one in rendered.all(kind)]
    for selector in selectors:
        assert selector.items() <= labels
    for monitor in rendered.all("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        found = [
            one for one in rendered.all("Service") if wanted <= one["metadata"]["labels"].items()
        ]
        assert [one["metadata"]["name"] for one in found] == ["edge-usher-admin"]


@pytest.mark.parametrize("name", RENDERED)
def test_every_mount_has_a_volume_and_every_file_a_mount(name):
    pod = RENDERED[name].pod
    volumes = {one["name"] for one in pod["volumes"]}
    mounts = [
        mount
        for container in pod["containers"]
        for mount in container.get("volumeMounts", [])
    ]
    assert {one["name"] for one in mounts} == volumes
    for config in RENDERED[name].all("ConfigMap"):
        text = config.get("data", {}).get("usher.toml", "")
        folders = {one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
        for word in text.split('"'):
            if word.startswith("/etc/usher/"):
                assert word.rsplit("/", 1)[0] in folders, word


@pytest.mark.parametrize("name", RENDERED)
def test_the_container_may_do_nothing_special(name):
    pod, container = RENDERED[name].pod, RENDERED[name].container
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
    }


def test_the_values_of_the_situations_say_what_they_are_for():
    for path in chart.SITUATIONS:
        assert path.read_text().startswith("# "), path
        assert yaml.safe_load(path.read_text())
