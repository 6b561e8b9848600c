"""Values that YAML or a user writes in another way than the chart expects: bare keys, names that look
like numbers, names that Kubernetes refuses."""

import functools
import json
import re

import chart
import helm_python
import kubernetes_validate
import pytest

DEFAULTS = chart.read_values("values.yaml")
NEWEST = kubernetes_validate.latest_version()

kubernetes_validate.utils.schema_contents = functools.cache(
    kubernetes_validate.utils.schema_contents
)


def everything(**over):
    """Returns values that make every object at once."""
    values = {}
    for name in ("network-policy", "redis", "ingress", "operator", "http-route", "cert-manager"):
        values = chart.deep_merge(values, chart.situation(name))
    values["tls"] = {"certManager": values["tls"]["certManager"]}
    values["dashboards"]["enabled"] = "dashboards" in over
    values["prometheusRule"]["enabled"] = bool({"prometheusRule", "links"} & set(over))
    values["autoscaling"] = {"enabled": True}
    return chart.deep_merge(values, over)


@functools.cache
def validate(text):
    one = json.loads(text)
    group = one["apiVersion"].split("/")[0]
    if "." not in group or group.endswith(".k8s.io") and "gateway" not in group:
        kubernetes_validate.validate(one, NEWEST, strict=True)
    else:
        assert all(isinstance(label, str) for label in one["metadata"]["labels"].values())
    assert "<no value>" not in text and "<nil>" not in text


def accepted(rendered):
    """Fails unless Kubernetes accepts the built-in objects, and none has an empty value."""
    for one in rendered.objects:
        validate(json.dumps(one, sort_keys=True))
    return rendered


def paths(values, path=()):
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from paths(value, (*path, key))


def at(path, value):
    for key in reversed(path):
        value = {key: value}
    return value


# Bare keys.


@pytest.mark.parametrize("path", list(paths(DEFAULTS)), ids=".".join)
def test_a_bare_key_is_empty_or_is_named_in_the_message(path):
    try:
        rendered = chart.Rendered(everything(**at(path, None)))
    except helm_python.HelmValuesError as refused:
        assert f"missing property '{path[-1]}'" in str(refused)
    except helm_python.HelmRenderError as refused:
        assert re.search(r"execution error at \(.*\): .", str(refused)), refused
        assert path[-1] in str(refused)
    else:
        accepted(rendered)


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_a_bare_probe_is_off(probe):
    container = chart.Rendered(chart.situation("plain", **{probe: None})).container
    assert probe not in container
    assert len([name for name in container if name.endswith("Probe")]) == 2


# Names.


def test_names_that_look_like_numbers_stay_names():
    over = {
        "nameOverride": "true",
        "fullnameOverride": "y",
        "namespaceOverride": "1",
        "ingress": {"className": "1"},
        "serviceAccount": {"name": "007"},
        "priorityClassName": "1",
        "runtimeClassName": "0x1",
        "schedulerName": "1e3",
        "contextKeys": {"existingSecret": "3"},
        "redis": {"existingSecret": {"name": "4"}, "tls": {"existingSecret": "5", "caKey": "6"}},
        "admin": {"existingSecret": {"name": "7", "key": "8"}},
        "tls": {"certManager": {"secretName": "9"}},
        "podMonitor": {"namespace": "1"},
        "image": {"repository": "1", "tag": "2"},
    }
    rendered = accepted(chart.Rendered(everything(**over), name="2024"))
    assert rendered.one("Deployment")["metadata"]["labels"]["app.kubernetes.io/instance"] == "2024"
    assert rendered.one("Ingress")["spec"]["ingressClassName"] == "1"
    assert rendered.one("Certificate")["spec"]["secretName"] == "9"
    assert rendered.container["args"][-1] == "/etc/usher/config/usher.toml"
    accepted(chart.Rendered(chart.situation("configmap", existingConfigMap={"name": "1"})))
    accepted(chart.Rendered(chart.situation("tls-secret", tls={"existingSecret": "3"})))


@pytest.mark.parametrize(
    ("release", "over"),
    [
        ("my.app", {}),
        ("1edge", {}),
        ("edge", {"nameOverride": "edge", "fullnameOverride": ""}),
        ("2024", {"nameOverride": "2024"}),
    ],
)
def test_a_name_that_kubernetes_refuses(release, over):
    values = chart.situation("plain", **over)
    if release == "edge":
        accepted(chart.Rendered(values, name=release))
        return
    with pytest.raises(helm_python.HelmRenderError, match="set fullnameOverride"):
        chart.Rendered(values, name=release)
    accepted(chart.Rendered(values | {"fullnameOverride": "edge"}, name=release))


@pytest.mark.parametrize(
    "over",
    [
        {"fullnameOverride": "My_Edge"},
        {"fullnameOverride": "1edge"},
        {"fullnameOverride": "edge-"},
        {"fullnameOverride": "a\nb: c"},
        {"fullnameOverride": "e" * 64},
        {"nameOverride": "a: b"},
        {"namespaceOverride": "a.b"},
        {"serviceAccount": {"name": "My_Account"}},
        {"tls": {"existingSecret": "a/b"}},
        {"secretEnv": [{"name": "A", "secretName": "A_B", "secretKey": "a"}]},
        {"secretEnv": [{"name": "A", "secretName": "a", "secretKey": "a b"}]},
        {"imagePullSecrets": [{"name": ""}]},
    ],
    ids=str,
)
def test_the_schema_refuses_the_name(over):
    with pytest.raises(helm_python.HelmValuesError, match="does not match pattern|maxLength"):
        chart.Rendered(chart.situation("plain", **over))


# Keys that do not exist.


PEER = {"namespaceSelecter": {"matchLabels": {"a": "b"}}}


@pytest.mark.parametrize(
    "over",
    [
        {"securityContext": {"readOnlyRootFilesytem": False}},
        {"podSecurityContext": {"runAsNonRot": True}},
        {"livenessProbe": {"periodSecond": 5}},
        {"livenessProbe": {"httpGet": {"port": 1, "pathh": "/"}}},
        {"autoscaling": {"behavior": {"scaleDown": {"stabilisationWindowSeconds": 1}}}},
        {"autoscaling": {"metrics": [{"type": "Resource", "resourse": {}}]}},
        {"lifecycle": {"preStop": {"sleeep": {"seconds": 1}}}},
        {"extraEnv": [{"name": "A", "valueFrom": {"secretKeyReff": {}}}]},
        {"extraEnvFrom": [{"secretRef": {"nam": "a"}}]},
        {"tolerations": [{"keyy": "a"}]},
        {"affinity": {"nodeAffinity": {"requird": {}}}},
        {"topologySpreadConstraints": [{"maxSkeww": 1}]},
        {"networkPolicy": {"adminFrom": [PEER]}},
        {"networkPolicy": {"egress": {"rules": [{"too": []}]}}},
        {"networkPolicy": {"extraIngress": [{"form": []}]}},
        {"extraPorts": [{"containerPort": 1, "nam": "a"}]},
        {"extraVolumes": [{"name": "a", "emptydir": {}}]},
        {"extraVolumeMounts": [{"name": "a", "mountPath": "/a", "readonly": True}]},
        {"extraContainers": [{"name": "a", "image": "b", "imagePullPolici": "c"}]},
        {"initContainers": [{"name": "a", "image": "b", "arg": []}]},
        {"resources": {"limit": {}}},
        {"service": {"extraPorts": [{"name": "a", "port": 1, "targetport": 2}]}},
        {"service": {"sessionAffinityConfig": {"clientIp": {}}}},
        {"podMonitor": {"relabelings": [{"sourceLabel": []}]}},
        {"prometheusRule": {"extraGroups": [{"name": "a", "rules": [{"exp": "1"}]}]}},
        {"httpRoute": {"parentRefs": [{"name": "a", "section": "b"}]}},
    ],
    ids=str,
)
def test_the_schema_refuses_the_key(over):
    with pytest.raises(helm_python.HelmValuesError, match="additional properties '.*' not allowed"):
        chart.Rendered(chart.situation("plain", **over))
