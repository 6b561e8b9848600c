"""The values, their schema and their table in the README agree, and wrong values are refused.

The part of the schema for `config` is generated, and held by a test of `src/config/pages.rs`.
"""

import json
import os
import re
import shutil
import subprocess

import chart
import definitions
import helm_python
import pytest
import yaml

SCHEMA = json.loads((chart.CHART / "values.schema.json").read_text())
DEFAULTS = chart.read_values("values.yaml")
# Annotations, labels, names of alerts, and what other charts read too.
FREE = re.compile(r"(annotations|labels|nodeSelector|global|thresholds)$", re.I)


def objects_of(schema, path=""):
    """Yields the path and the schema of every object, without those of lists and of `config`."""
    if path == ".config":
        return
    if schema.get("type") == "object" and path:
        yield path[1:], schema
    for key, inner in schema.get("properties", {}).items():
        yield from objects_of(inner, f"{path}.{key}")


def keys_of(values, path=""):
    for key, value in values.items():
        yield f"{path}{key}"
        if isinstance(value, dict):
            yield from keys_of(value, f"{path}{key}.")


def test_every_value_is_in_the_schema():
    def missing(values, schema, path=""):
        for key, value in values.items():
            inner = schema.get("properties", {}).get(key)
            if inner is None and "properties" in schema:
                yield f"{path}{key}"
            elif isinstance(value, dict) and inner:
                yield from missing(value, inner, f"{path}{key}.")

    assert list(missing(DEFAULTS, SCHEMA)) == []


def test_every_property_of_the_schema_is_a_value():
    # The schema names more than the defaults only inside objects of Kubernetes.
    inside = ("global.", "strategy.", "tls.certManager.privateKey.", "httpRoute.timeouts.")
    known = set(keys_of(DEFAULTS))
    for path, schema in objects_of(SCHEMA):
        for key in schema.get("properties", {}):
            name = f"{path}.{key}"
            assert name in known or name.startswith(inside), name


def test_objects_are_strict():
    for path, schema in objects_of(SCHEMA):
        if not FREE.search(path):
            assert schema.get("additionalProperties") is False, path
    for name, schema in SCHEMA["$defs"].items():
        if "properties" in schema:
            assert schema["additionalProperties"] is False, name


def test_the_definitions_are_those_of_kubernetes():
    made = definitions.text(definitions.with_definitions(SCHEMA))
    assert made == definitions.SCHEMA.read_text(), "run scripts/test-chart.sh write"


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"replicas": 3}, "additional properties 'replicas' not allowed"),
        ({"replicaCount": "3"}, "/replicaCount.*want null or integer"),
        ({"image": {"digest": "sha256:12"}}, "/image/digest"),
        ({"config": {"limits": {"conections": 1}}}, "/config/limits.*'conections' not allowed"),
        ({"config": {"drain": {"window": 30}}}, "/config/drain/window.*want string"),
        ({"config": {"route": [{"path": "/a"}]}}, "/config/route/0.*missing propert"),
        ({"redis": {"url": "redis://user:secret@host"}}, "/redis/url"),
        ({"drain": {"delay": 10}}, "/drain/delay"),
        ({"extraEnv": [{"name": "A", "from": 1}]}, "/extraEnv/0"),
        ({"podAnnotations": {"a": 1}}, "/podAnnotations/a"),
        ({"service": {"type": "ExternalName"}}, "/service/type"),
        ({"tlsRoute": {"apiVersion": "v2"}}, "/tlsRoute/apiVersion"),
        ({"secretEnv": [{"name": "A"}]}, "/secretEnv/0"),
        ({"links": {"runbooks": 'https://a.example.com/"'}}, "/links/runbooks"),
        ({"links": {"grafana": "grafana.example.com"}}, "/links/grafana"),
    ],
)
def test_the_schema_refuses(over, message):
    with pytest.raises(helm_python.HelmValuesError, match=message):
        chart.Rendered(chart.situation("plain", **over))


GATEWAY = [{"name": "edge"}]
MOUNT = {"name": "a", "mountPath": "/a"}
TEXT = chart.situation("text")["configText"]


@pytest.mark.parametrize(
    ("name", "over", "message"),
    [
        ("plain", {"image": {"repository": ""}}, "image.repository is empty"),
        ("plain", {"configText": "a = 1"}, "exactly one of.*given: config, configText"),
        (
            "plain",
            {"existingConfigMap": {"name": "a"}},
            "exactly one of.*given: config, existingConfigMap",
        ),
        ("text", {"configText": ""}, "exactly one of.*given: none"),
        ("text", {"configText": "[a"}, "configText: toml: line 1"),
        ("text", {"configText": "[admin]\naddress = '[::]:9090'"}, "no listener.*has port 8443"),
        (
            "text",
            {"configText": "[[listener]]\naddress = '[::]:8443'"},
            "no \\[admin\\]: the probes need it",
        ),
        ("text", {"redis": {"url": "redis://a"}}, "redis.url is set with configText"),
        (
            "redis",
            {"config": {"store": {"url": "redis://a"}}},
            "redis.url and config.store.url are both set",
        ),
        ("plain", {"tls": {"enabled": True}}, "the listener has no certificate"),
        ("plain", {"config": {"listener": [{"plain": False}]}}, "tls.enabled is false, but"),
        (
            "cert-manager",
            {"tls": {"existingSecret": "a"}},
            "tls.existingSecret and tls.certManager.enabled are both set",
        ),
        ("cert-manager", {"tls": {"enabled": False}}, "but tls.enabled is false"),
        (
            "cert-manager",
            {"tls": {"certManager": {"issuerRef": {"name": ""}}}},
            "issuerRef.name is empty",
        ),
        ("cert-manager", {"tls": {"certManager": {"dnsNames": []}}}, "dnsNames is empty"),
        (
            "plain",
            {"config": {"listener": [{"address": "[::]:8000"}]}},
            "no listener.*has port 8443",
        ),
        ("plain", {"config": {"listener": [{"address": "127.0.0.1:8443"}]}}, "loopback"),
        ("plain", {"config": {"admin": {"address": "127.0.0.1:9090"}}}, "the probes need"),
        ("plain", {"config": {"admin": {"address": "unix:/run/a:9090"}}}, "the probes need"),
        ("plain", {"config": {"admin": {"address": "[::]:9091"}}}, "the probes need"),
        ("plain", {"admin": {"existingSecret": {"name": ""}}}, "\\[admin\\] has no token"),
        ("plain", {"secretEnv": []}, "USHER_JWT_SECRET, which nothing supplies"),
        (
            "plain",
            {"secretEnv": [], "extraEnv": [{"name": "USHER_JWT_SECRET", "value": "x"}]},
            "extraEnv has the secret USHER_JWT_SECRET as a plain value",
        ),
        (
            "plain",
            {"config": {"store": {"url": "redis://a", "password_env": "PW"}}},
            "PW, which nothing supplies",
        ),
        (
            "plain",
            {"terminationGracePeriodSeconds": 74},
            "is 74, but a stop takes 75",
        ),
        (
            "plain",
            {"terminationGracePeriodSeconds": 60, "config": {"drain": {"window": "2m"}}},
            "is 60, but a stop takes 135",
        ),
        ("text", {"terminationGracePeriodSeconds": 60}, "is 60, but a stop takes 130"),
        (
            "plain",
            {
                "terminationGracePeriodSeconds": 80,
                "lifecycle": {"preStop": {"sleep": {"seconds": 10}}},
            },
            "is 80, but a stop takes 85",
        ),
        (
            "plain",
            {"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}},
            "a budget has one of them",
        ),
        (
            "autoscaling",
            {"autoscaling": {"minReplicas": 31}},
            "minReplicas \\(31\\) is greater than autoscaling.maxReplicas \\(30\\)",
        ),
        ("operator", {"podMonitor": {"enabled": True}}, "collected twice"),
        (
            "plain",
            {"drain": {"preStop": True}, "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}},
            "a container has one preStop hook",
        ),
        ("cert-manager", {"tls": {"certManager": {"duration": "24h30m", "renewBefore": "1470m"}}}, "renewBefore \\(1470m\\) is not less than"),
        (
            "cert-manager",
            {"tls": {"certManager": {"privateKey": {"algorithm": "RSA", "size": 256}}}},
            "size is 256: an RSA key",
        ),
        (
            "cert-manager",
            {"tls": {"certManager": {"privateKey": {"size": 2048}}}},
            "size is 2048: an ECDSA key",
        ),
        ("plain", {"drain": {"delay": "301s"}}, "drain.delay is 301s, and may be 5m at most"),
        ("plain", {"config": {"drain": {"delay": "1h"}}}, "drain.delay is 1h, and may be 5m at most"),
        ("plain", {"ports": {"listener": 9090}}, "ports.listener and ports.admin are both 9090"),
        (
            "redis",
            {"redis": {"url": "redis+sentinel://a:1/main"}},
            "redis.tls.existingSecret is set, but redis.url has no TLS",
        ),
        ("plain", {"config": {"store": {"url": "redis://u:p@a"}}}, "URL of the store has a user"),
        (
            "plain",
            {
                "config": {
                    "store": {"url": "redis://a", "region": "a", "regions": {"b": {"url": "redis://:p@b"}}}
                }
            },
            "the URL of the store has a user",
        ),
        ("text", {"configText": TEXT + '[store]\nurl = "redis://u:p@a"\n'}, "the URL of the store has"),
        (
            "text",
            {"tls": {"existingSecret": ""}},
            "names files in /etc/usher/tls, where nothing is mounted: set tls.existingSecret",
        ),
        (
            "plain",
            {"config": {"context": {"key_files": ["/etc/usher/keys/context.pem"]}}},
            "files in /etc/usher/keys, where nothing is mounted: set contextKeys.existingSecret",
        ),
        (
            "plain",
            {"extraEnv": [{"name": "USHER_ADMIN_TOKEN", "valueFrom": {"secretKeyRef": {"key": "a"}}}]},
            "extraEnv and the chart's own: USHER_ADMIN_TOKEN is there twice",
        ),
        (
            "plain",
            {"secretEnv": [{"name": "USHER_JWT_SECRET", "secretName": "a", "secretKey": "b"}] * 2},
            "USHER_JWT_SECRET is there twice",
        ),
        ("plain", {"extraVolumes": [{"name": "config"}]}, "extraVolumes.*: config is there twice"),
        (
            "plain",
            {"extraVolumes": [{"name": "a"}], "extraVolumeMounts": [MOUNT, MOUNT]},
            "extraVolumeMounts.*: /a is there twice",
        ),
        ("plain", {"extraVolumeMounts": [MOUNT]}, "mounts a, which extraVolumes does not have"),
        (
            "plain",
            {"extraPorts": [{"name": "admin", "containerPort": 1}]},
            "extraPorts.*: admin is there twice",
        ),
        (
            "plain",
            {"extraContainers": [{"name": "usher", "image": "a"}]},
            "extraContainers.*: usher is there twice",
        ),
        ("plain", {"service": {"nodePort": 30000}}, "service.nodePort is set, but"),
        (
            "plain",
            {"service": {"externalTrafficPolicy": "Local"}},
            "service.externalTrafficPolicy is set, but service.type is ClusterIP",
        ),
        (
            "plain",
            {"service": {"loadBalancerClass": "a"}},
            "service.loadBalancerClass is set, but service.type is ClusterIP",
        ),
        (
            "plain",
            {"service": {"type": "NodePort", "loadBalancerSourceRanges": ["10.0.0.0/8"]}},
            "service.loadBalancerSourceRanges is set, but service.type is NodePort",
        ),
        (
            "plain",
            {"service": {"type": "LoadBalancer", "clusterIP": "None"}},
            "service.clusterIP is None, but service.type is LoadBalancer",
        ),
        (
            "plain",
            {"service": {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}},
            "service.sessionAffinityConfig is set, but service.sessionAffinity is not ClientIP",
        ),
        (
            "plain",
            {"service": {"extraPorts": [{"name": "http", "port": 81}]}},
            "service.extraPorts.*: http is there twice",
        ),
        (
            "plain",
            {"service": {"extraPorts": [{"name": "a", "port": 80}]}},
            "service.extraPorts.*: TCP 80 is there twice",
        ),
        (
            "network-policy",
            {"networkPolicy": {"egress": {"allow": [{"port": 1, "cidr": "10.0.0.0/8", "namespace": "a"}]}}},
            "egress.allow has cidr 10.0.0.0/8 beside namespace or podLabels",
        ),
        (
            "operator",
            {"prometheusRule": {"thresholds": {"UsherReconnectStor": 1}}},
            "thresholds: UsherReconnectStor is no alert of the chart",
        ),
        (
            "operator",
            {"prometheusRule": {"thresholds": {"UsherRefusalsJump": 1}}},
            "expression of UsherRefusalsJump does not end with a number",
        ),
        ("plain", {"ingress": {"enabled": True}}, "ingress.hosts is empty"),
        ("plain", {"httpRoute": {"enabled": True}}, "httpRoute.parentRefs names no Gateway"),
        (
            "plain",
            {"httpRoute": {"enabled": True, "parentRefs": GATEWAY, "backendTLS": {"enabled": True}}},
            "backendTLS.enabled is set, but the listener is plain",
        ),
        ("http-route", {"httpRoute": {"backendTLS": {"hostname": ""}}}, "hostname is empty"),
        (
            "http-route",
            {"httpRoute": {"backendTLS": {"caCertificateRefs": []}}},
            "either caCertificateRefs or wellKnownCACertificates",
        ),
        (
            "http-route",
            {"httpRoute": {"backendTLS": {"wellKnownCACertificates": "System"}}},
            "either caCertificateRefs or wellKnownCACertificates",
        ),
        ("tls-route", {"tlsRoute": {"parentRefs": []}}, "tlsRoute.parentRefs names no Gateway"),
        ("tls-route", {"tlsRoute": {"hostnames": []}}, "tlsRoute.hostnames is empty"),
        (
            "plain",
            {"tlsRoute": {"enabled": True, "parentRefs": GATEWAY, "hostnames": ["a"]}},
            "tlsRoute.enabled is set, but the listener is plain",
        ),
    ],
)
def test_the_templates_refuse(name, over, message):
    with pytest.raises(helm_python.HelmRenderError, match=message):
        chart.Rendered(chart.situation(name, **over))


def test_every_message_of_the_templates_is_tested():
    templates = (chart.CHART / "templates").glob("*")
    written = sum(path.read_text().count("fail (") + path.read_text().count('fail "') for path in templates)
    [mark] = test_the_templates_refuse.pytestmark
    messages = {message for _, _, message in mark.args[1]}
    messages.add("set fullnameOverride")  # It needs another name of the release: test_inputs.py.
    assert written <= len(messages), "a `fail` has no test"


def test_the_defaults_alone_are_refused():
    with pytest.raises(helm_python.HelmRenderError, match="image.repository"):
        chart.Rendered({})


def test_the_readme_is_what_is_generated(tmp_path):
    if os.environ.get("USHER_WRITE_DOCS"):
        pytest.skip("the README has just been written")
    readme = tmp_path / "README.md"
    shutil.copy(chart.CHART / "README.md", readme)
    generator = chart.ROOT / "tests/charts/node_modules/.bin/readme-generator"
    values = chart.CHART / "values.yaml"
    made = subprocess.run(
        [generator, "-v", values, "-r", readme], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert readme.read_text() == (chart.CHART / "README.md").read_text(), (
        "run scripts/test-chart.sh write"
    )


def test_all_files_of_values_are_yaml_without_a_key_twice():
    class Strict(yaml.SafeLoader):
        pass

    def construct(loader, node, deep=False):
        keys = [loader.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key twice: {keys}"
        return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, construct)
    for path in [*chart.SITUATIONS, *chart.CHART.glob("values*.yaml")]:
        yaml.load(path.read_text(), Strict)
