"""Each condition of the templates, in both cases."""

import json
import shutil

import chart
import helm_python
import pytest
import yaml


def render(name="tls-secret", **over):
    return chart.Rendered(chart.situation(name, **over))


def spec(kind, name="tls-secret", **over):
    return render(name, **over).one(kind)["spec"]


def environment(rendered):
    return {one["name"]: one for one in rendered.container.get("env", [])}


ACME = {"domains": ["a.example.com"], "terms_agreed": True}
NGINX = {"nginx.ingress.kubernetes.io/backend-protocol": "HTTPS"}
ONE_LESS = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}

# Names, labels, image.


def test_names():
    assert render().one("Service")["metadata"]["name"] == "edge-usher"
    names = {
        ("usher-eu", "", ""): "usher-eu",
        ("edge", "gate", ""): "edge-gate",
        ("edge", "", "socket"): "socket",
        ("a" * 53, "b" * 30, ""): "a" * 53 + "-" + "b" * 9,
    }
    for (release, name, full), wanted in names.items():
        values = chart.situation("plain", nameOverride=name, fullnameOverride=full)
        rendered = chart.Rendered(values, name=release)
        assert rendered.one("Service")["metadata"]["name"] == wanted


def test_a_long_name_leaves_room_for_an_ending():
    values = chart.situation("operator", fullnameOverride="n" * 63)
    values["tls"] = {"certManager": chart.situation("cert-manager")["tls"]["certManager"]}
    rendered = chart.Rendered(values)
    names = [one["metadata"]["name"] for one in rendered.objects]
    names.append(rendered.one("Certificate")["spec"]["secretName"])
    assert all(len(name) <= 63 for name in names)
    assert "n" * 57 + "-admin" in names
    assert "n" * 59 + "-tls" in names


def test_namespace():
    assert {one["metadata"]["namespace"] for one in render().objects} == {"prod"}
    rendered = render(namespaceOverride="other")
    assert {one["metadata"]["namespace"] for one in rendered.objects} == {"other"}


def test_common_labels_and_annotations():
    over = {"commonLabels": {"team": "a"}, "commonAnnotations": {"owner": "b"}}
    for one in render("operator", **over).objects:
        assert one["metadata"]["labels"]["team"] == "a"
        assert one["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        assert one["metadata"]["annotations"]["owner"] == "b"
    assert "annotations" not in render().one("Service")["metadata"]


def test_an_annotation_of_one_object_counts_over_the_common_one():
    over = {"commonAnnotations": {"a": "1", "b": "1"}, "service": {"annotations": {"a": "2"}}}
    metadata = render(**over).one("Service")["metadata"]
    assert metadata["annotations"] == {"a": "2", "b": "1"}


def test_labels_and_annotations_of_pods():
    template = spec("Deployment")["template"]["metadata"]
    assert template == {
        "labels": {"app.kubernetes.io/name": "usher", "app.kubernetes.io/instance": "edge"}
    }
    over = {
        "podLabels": {"tier": "a", "app.kubernetes.io/name": "wrong"},
        "podAnnotations": {"b": "c"},
        "commonLabels": {"team": "d"},
        "commonAnnotations": {"e": "f"},
        "deploymentAnnotations": {"g": "h"},
    }
    deployment = render(**over).one("Deployment")
    template = deployment["spec"]["template"]["metadata"]
    assert template["labels"]["tier"] == "a"
    assert template["labels"]["team"] == "d"
    assert template["labels"]["app.kubernetes.io/name"] == "usher"
    assert template["annotations"] == {"b": "c", "e": "f"}
    assert deployment["metadata"]["annotations"] == {"g": "h", "e": "f"}


def test_a_new_version_of_the_chart_alone_restarts_no_pod():
    text = yaml.safe_dump(spec("Deployment")["template"])
    assert "helm.sh/chart" not in text


@pytest.mark.parametrize(
    ("image", "registry", "wanted"),
    [
        ({"digest": ""}, "", "registry.example.com/usher:0.1.0"),
        ({"digest": "", "tag": "9"}, "", "registry.example.com/usher:9"),
        ({"repository": "usher", "registry": "r", "digest": ""}, "", "r/usher:0.1.0"),
        ({"repository": "usher", "registry": "r", "digest": ""}, "g", "g/usher:0.1.0"),
        ({"repository": "usher", "registry": "r/", "digest": ""}, "", "r/usher:0.1.0"),
        (
            {"repository": "usher", "tag": "9", "digest": "sha256:" + "a" * 64},
            "",
            "usher@sha256:" + "a" * 64,
        ),
    ],
)
def test_image(image, registry, wanted):
    rendered = render(image=image, **{"global": {"imageRegistry": registry}})
    assert rendered.container["image"] == wanted
    assert rendered.container["imagePullPolicy"] == "IfNotPresent"


def test_pull_secrets():
    assert "imagePullSecrets" not in render().pod
    over = {"imagePullSecrets": [{"name": "a"}], "global": {"imagePullSecrets": [{"name": "b"}]}}
    assert render(**over).pod["imagePullSecrets"] == [{"name": "b"}, {"name": "a"}]


# Configuration, Secrets, volumes.


def test_the_configuration_is_mounted_as_a_folder():
    rendered = render()
    assert {"name": "config", "configMap": {"name": "edge-usher"}} in rendered.pod["volumes"]
    mount = rendered.container["volumeMounts"][0]
    assert mount == {"name": "config", "mountPath": "/etc/usher/config", "readOnly": True}
    assert rendered.container["args"] == [
        "run",
        "--watch",
        "--config",
        "/etc/usher/config/usher.toml",
    ]


def test_an_existing_config_map():
    rendered = render("configmap")
    assert rendered.all("ConfigMap") == []
    assert {"name": "config", "configMap": {"name": "usher-config"}} in rendered.pod["volumes"]
    assert rendered.container["args"][-1] == "/etc/usher/config/edge.toml"
    assert [one["containerPort"] for one in rendered.container["ports"]] == [9443, 9191]
    assert rendered.pod["terminationGracePeriodSeconds"] == 15 + 90 + 5 + 10
    assert rendered.one("Service")["spec"]["ports"][0]["name"] == "https"
    plain = render("configmap", tls={"enabled": False, "existingSecret": ""})
    assert plain.one("Service")["spec"]["ports"][0]["name"] == "http"


def test_a_changed_configuration_restarts_pods_only_if_asked():
    def checksum(**over):
        metadata = spec("Deployment", **over)["template"]["metadata"]
        return metadata.get("annotations", {}).get("checksum/config")

    assert checksum() is None
    first = checksum(restartOnChange=True)
    assert len(first) == 64
    assert checksum(restartOnChange=True, config={"threads": 2}) != first
    existing = spec("Deployment", "configmap", restartOnChange=True)
    assert "annotations" not in existing["template"]["metadata"]


def test_secrets_in_the_environment():
    env = environment(render("sentinel"))
    assert {
        name: (one["valueFrom"]["secretKeyRef"]["name"], one["valueFrom"]["secretKeyRef"]["key"])
        for name, one in env.items()
    } == {
        "USHER_JWT_SECRET": ("usher", "jwt-secret"),
        "USHER_ADMIN_TOKEN": ("usher", "admin-token"),
        "USHER_REDIS_PASSWORD": ("usher-redis", "redis-password"),
        "USHER_SENTINEL_PASSWORD": ("usher-redis", "sentinel-password"),
    }
    assert "USHER_SENTINEL_PASSWORD" not in environment(render("redis"))
    without = render("sentinel", redis={"existingSecret": {"passwordKey": ""}})
    assert "USHER_REDIS_PASSWORD" not in environment(without)
    assert "USHER_REDIS_PASSWORD" not in environment(render())


def test_no_environment():
    values = chart.situation("configmap", secretEnv=[])
    values["admin"] = {}
    assert "env" not in chart.Rendered(values).container


def test_extra_environment():
    rendered = render(
        extraEnv=[{"name": "RUST_BACKTRACE", "value": "1"}],
        extraEnvFrom=[{"configMapRef": {"name": "more"}}],
    )
    assert environment(rendered)["RUST_BACKTRACE"]["value"] == "1"
    assert rendered.container["envFrom"] == [{"configMapRef": {"name": "more"}}]
    assert "envFrom" not in render().container


def test_extra_environment_may_supply_what_the_configuration_reads():
    secrets = [{"secretRef": {"name": "all"}}]
    render(secretEnv=[], extraEnvFrom=secrets)
    reference = {"secretKeyRef": {"name": "a", "key": "b"}}
    render(secretEnv=[], extraEnv=[{"name": "USHER_JWT_SECRET", "valueFrom": reference}])


@pytest.mark.parametrize(
    ("name", "volume", "folder", "secret"),
    [
        ("tls-secret", "tls", "/etc/usher/tls", "usher-tls"),
        ("cert-manager", "tls", "/etc/usher/tls", "edge-usher-tls"),
        ("tls-secret", "context-keys", "/etc/usher/keys", "usher-context"),
        ("redis", "redis-ca", "/etc/usher/redis", "redis-ca"),
    ],
)
def test_mounted_secrets(name, volume, folder, secret):
    rendered = render(name)
    [found] = [one for one in rendered.pod["volumes"] if one["name"] == volume]
    assert found["secret"]["secretName"] == secret
    assert found["secret"]["defaultMode"] == 0o440
    mount = {"name": volume, "mountPath": folder, "readOnly": True}
    assert mount in rendered.container["volumeMounts"]
    plain = render("plain")
    assert volume not in {one["name"] for one in plain.pod["volumes"]}
    assert volume not in {one["name"] for one in plain.container["volumeMounts"]}


def test_only_the_authority_of_redis_is_mounted():
    [found] = [one for one in render("redis").pod["volumes"] if one["name"] == "redis-ca"]
    assert found["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]


def test_state():
    volumes = render(stateSizeLimit="1Gi").pod["volumes"]
    assert {"name": "state", "emptyDir": {"sizeLimit": "1Gi"}} in volumes


# The pod.


def test_extras_of_the_pod():
    rendered = render("extras")
    pod, container = rendered.pod, rendered.container
    assert [one["name"] for one in pod["containers"]] == ["usher", "audit"]
    assert [one["name"] for one in pod["initContainers"]] == ["wait"]
    assert container["args"][-2:] == ["--log-format", "json"]
    assert {"name": "second", "containerPort": 8444} in container["ports"]
    assert {"name": "audit", "mountPath": "/var/log/usher"} in container["volumeMounts"]
    assert {"name": "audit", "emptyDir": {}} in pod["volumes"]
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert pod["runtimeClassName"] == "gvisor"
    assert pod["schedulerName"] == "default-scheduler"
    assert pod["hostNetwork"] is True
    assert pod["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert pod["dnsConfig"] == {"options": [{"name": "ndots", "value": "1"}]}
    assert pod["hostAliases"] == [{"ip": "10.0.0.9", "hostnames": ["chat.internal"]}]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert pod["tolerations"] == [{"key": "edge", "operator": "Exists"}]
    assert list(pod["affinity"]) == ["podAntiAffinity"]
    assert render("extras", dnsPolicy="Default").pod["dnsPolicy"] == "Default"


def test_what_is_not_asked_for_is_not_there():
    rendered = render("plain")
    pod, container = rendered.pod, rendered.container
    unwanted = "initContainers priorityClassName runtimeClassName schedulerName hostNetwork dnsPolicy"
    unwanted += " dnsConfig hostAliases nodeSelector tolerations affinity imagePullSecrets"
    assert not set(unwanted.split()) & set(pod)
    assert not {"lifecycle", "envFrom"} & set(container)
    assert len(pod["containers"]) == 1
    assert [one["name"] for one in container["ports"]] == ["listener", "admin"]
    assert "minReadySeconds" not in spec("Deployment", "plain")


def test_replicas_and_strategy():
    deployment = spec("Deployment", replicaCount=4, minReadySeconds=7, revisionHistoryLimit=1)
    assert deployment["replicas"] == 4
    assert deployment["minReadySeconds"] == 7
    assert deployment["revisionHistoryLimit"] == 1
    assert deployment["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    assert "replicas" not in spec("Deployment", "autoscaling")
    recreate = spec("Deployment", strategy={"type": "Recreate"})
    assert recreate["strategy"] == {"type": "Recreate"}
    assert "strategy" not in spec("Deployment", strategy=None)
    assert "replicas" not in spec("Deployment", replicaCount=None)


def test_resources():
    assert render().container["resources"]["limits"] == {"memory": "1Gi"}
    assert render(resources={"limits": {"cpu": "2"}}).container["resources"]["limits"]["cpu"] == "2"


def test_probes():
    container = render().container
    get = {name: container[name]["httpGet"] for name in container if name.endswith("Probe")}
    assert get == {
        "startupProbe": {"path": "/livez", "port": "admin"},
        "livenessProbe": {"path": "/livez", "port": "admin"},
        "readinessProbe": {"path": "/readyz", "port": "admin"},
    }
    assert container["readinessProbe"]["failureThreshold"] == 1


@pytest.mark.parametrize(
    "handler",
    [
        {"httpGet": {"port": 1}},
        {"exec": {"command": ["a"]}},
        {"tcpSocket": {"port": 1}},
        {"grpc": {"port": 1}},
    ],
)
def test_a_probe_with_a_handler_of_its_own(handler):
    container = render(livenessProbe=handler).container
    wanted = {"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6} | handler
    assert container["livenessProbe"] == wanted


def test_security_context_can_be_changed():
    over = {"podSecurityContext": {"runAsUser": 1}, "securityContext": {"runAsGroup": 2}}
    rendered = render(**over)
    assert rendered.pod["securityContext"]["runAsUser"] == 1
    assert rendered.container["securityContext"]["runAsGroup"] == 2
    assert rendered.container["securityContext"]["readOnlyRootFilesystem"] is True


def test_service_account():
    rendered = render(serviceAccount={"annotations": {"a": "b"}})
    account = rendered.one("ServiceAccount")
    assert account["metadata"]["name"] == rendered.pod["serviceAccountName"] == "edge-usher"
    assert account["metadata"]["annotations"] == {"a": "b"}
    assert account["automountServiceAccountToken"] is False
    named = render(serviceAccount={"name": "own"})
    assert named.one("ServiceAccount")["metadata"]["name"] == named.pod["serviceAccountName"] == "own"
    existing = render(serviceAccount={"create": False, "name": "shared"})
    assert existing.all("ServiceAccount") == []
    assert existing.pod["serviceAccountName"] == "shared"
    assert render(serviceAccount={"create": False}).pod["serviceAccountName"] == "default"


# Stop and drain.


@pytest.mark.parametrize(
    ("over", "seconds"),
    [
        ({}, 10 + 60 + 5 + 10),
        ({"drain": {"delay": "0s", "window": "1500ms", "margin": 0}}, 0 + 2 + 5),
        ({"drain": {"delay": "1m", "window": "1h"}}, 60 + 3600 + 5 + 10),
        ({"drain": {"window": " 1 d "}}, 10 + 86400 + 5 + 10),
        ({"config": {"drain": {"window": "2m"}}}, 10 + 120 + 5 + 10),
        ({"config": {"keepalive": {"close_timeout": "20s"}}}, 10 + 60 + 20 + 10),
        ({"lifecycle": {"preStop": {"sleep": {"seconds": 8}}}}, 8 + 10 + 60 + 5 + 10),
        ({"lifecycle": {"preStop": {"exec": {"command": ["a"]}}}}, 10 + 60 + 5 + 10),
        ({"terminationGracePeriodSeconds": 75}, 75),
        ({"terminationGracePeriodSeconds": 400}, 400),
    ],
)
def test_grace_period(over, seconds):
    assert render(**over).pod["terminationGracePeriodSeconds"] == seconds


def test_grace_period_of_a_text():
    assert render("text").pod["terminationGracePeriodSeconds"] == 5 + 120 + 5 + 10
    values = chart.situation("text")
    values["configText"] = values["configText"].split("[drain]")[0]
    # The defaults of Usher.
    assert chart.Rendered(values).pod["terminationGracePeriodSeconds"] == 0 + 30 + 5 + 10


def test_pre_stop():
    assert render(drain={"preStop": True}).container["lifecycle"] == {
        "preStop": {
            "exec": {
                "command": [
                    "/usr/local/bin/usher",
                    "drain",
                    "--config",
                    "/etc/usher/config/usher.toml",
                ]
            }
        }
    }
    start = {"exec": {"command": ["/a"]}}
    both = render(drain={"preStop": True}, lifecycle={"postStart": start}).container["lifecycle"]
    assert set(both) == {"preStop", "postStart"}
    assert render(lifecycle={"postStart": start}).container["lifecycle"] == {"postStart": start}


# Availability.


def test_budget():
    budget = spec("PodDisruptionBudget")
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert "minAvailable" not in budget
    zero = spec("PodDisruptionBudget", podDisruptionBudget={"maxUnavailable": 0})
    assert zero["maxUnavailable"] == 0
    least = spec("PodDisruptionBudget", podDisruptionBudget={"minAvailable": "50%"})
    assert least["minAvailable"] == "50%"
    assert "maxUnavailable" not in least
    without = spec("PodDisruptionBudget", podDisruptionBudget={"unhealthyPodEvictionPolicy": ""})
    assert "unhealthyPodEvictionPolicy" not in without
    assert render(podDisruptionBudget={"enabled": False}).all("PodDisruptionBudget") == []


def test_autoscaler():
    assert render().all("HorizontalPodAutoscaler") == []
    scaler = spec("HorizontalPodAutoscaler", "autoscaling")
    assert scaler["scaleTargetRef"]["name"] == "edge-usher"
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 30)
    assert scaler["metrics"] == [
        {
            "type": "Pods",
            "pods": {
                "metric": {"name": "usher_sessions_active"},
                "target": {"type": "AverageValue", "averageValue": "10k"},
            },
        }
    ]
    for number, quantity in ((1, "1"), (1500, "1500"), (30000, "30k"), (2000000, "2M")):
        over = {"sessionsPerPod": number}
        scaled = spec("HorizontalPodAutoscaler", "autoscaling", autoscaling=over)
        assert scaled["metrics"][0]["pods"]["target"]["averageValue"] == quantity
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 600
    assert scaler["behavior"]["scaleDown"]["policies"] == [
        {"type": "Pods", "value": 1, "periodSeconds": 300}
    ]


def test_autoscaler_with_metrics_of_its_own():
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}},
    }
    assert spec("HorizontalPodAutoscaler", "autoscaling", autoscaling={"metrics": [metric]})[
        "metrics"
    ] == [metric]


def test_the_metric_of_the_autoscaler_exists():
    table = (chart.ROOT / "docs/metrics.md").read_text()
    assert f"`{chart.read_values('values.yaml')['autoscaling']['metric']}` | gauge" in table


def test_topology_spread():
    constraints = render().pod["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in constraints] == [
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    ]
    own = {"app.kubernetes.io/name": "usher", "app.kubernetes.io/instance": "edge"}
    assert all(one["labelSelector"] == {"matchLabels": own} for one in constraints)
    selector = {"labelSelector": {"matchLabels": {"a": "b"}}}
    [given] = render(topologySpreadConstraints=[constraints[0] | selector]).pod[
        "topologySpreadConstraints"
    ]
    assert given["labelSelector"] == selector["labelSelector"]
    assert "topologySpreadConstraints" not in render(topologySpreadConstraints=[]).pod


# Exposure.


def test_service():
    assert spec("Service")["ports"] == [
        {
            "name": "https",
            "port": 443,
            "targetPort": "listener",
            "protocol": "TCP",
            "appProtocol": "kubernetes.io/wss",
        }
    ]
    assert spec("Service", "plain")["ports"] == [
        {
            "name": "http",
            "port": 80,
            "targetPort": "listener",
            "protocol": "TCP",
            "appProtocol": "kubernetes.io/ws",
        }
    ]
    assert set(spec("Service")) == {"type", "selector", "ports"}


def test_service_of_a_second_plain_listener():
    listeners = [{"address": "[::]:8443"}, {"address": "[::]:8080", "plain": True}]
    over = {"config": {"listener": listeners}}
    assert spec("Service", **over)["ports"][0]["name"] == "https"
    leads_there = spec("Service", **over, ports={"listener": 8080})
    assert leads_there["ports"][0]["name"] == "http"


def test_service_of_two_plain_listeners_on_one_port():
    listeners = [{"address": f"10.0.0.{one}:8443", "plain": True} for one in (1, 2)]
    [port] = spec("Service", "plain", config={"listener": listeners})["ports"]
    assert (port["name"], port["port"], port["appProtocol"]) == ("http", 80, "kubernetes.io/ws")


def test_fields_of_the_service():
    service = {
        "type": "LoadBalancer",
        "port": 8443,
        "nodePort": 30443,
        "appProtocol": "https",
        "clusterIP": "10.0.0.1",
        "loadBalancerClass": "a",
        "loadBalancerSourceRanges": ["10.0.0.0/8"],
        "externalTrafficPolicy": "Local",
        "internalTrafficPolicy": "Cluster",
        "ipFamilyPolicy": "SingleStack",
        "ipFamilies": ["IPv4"],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "extraPorts": [{"name": "second", "port": 9}],
    }
    metadata = {"annotations": {"a": "b"}, "labels": {"c": "d"}}
    one = render(service=service | metadata).one("Service")
    assert one["metadata"]["annotations"] == {"a": "b"}
    assert one["metadata"]["labels"]["c"] == "d"
    first, second = one["spec"]["ports"]
    assert (first["port"], first["nodePort"], first["appProtocol"]) == (8443, 30443, "https")
    assert second == {"name": "second", "port": 9}
    for key in set(service) - {"port", "nodePort", "appProtocol", "extraPorts"}:
        assert one["spec"][key] == service[key]


def test_ingress():
    assert render().all("Ingress") == []
    one = render("ingress").one("Ingress")
    assert one["metadata"]["annotations"] == {"haproxy.org/timeout-tunnel": "1h"}
    assert one["spec"]["ingressClassName"] == "haproxy"
    assert one["spec"]["tls"] == [{"secretName": "ws-example-com", "hosts": ["ws.example.com"]}]
    backend = {"service": {"name": "edge-usher", "port": {"number": 80}}}
    first, second = one["spec"]["rules"]
    assert first["http"]["paths"] == [{"path": "/", "pathType": "Prefix", "backend": backend}]
    assert second["http"]["paths"] == [{"path": "/ws", "pathType": "Exact", "backend": backend}]
    hosts = [{"host": "a", "paths": [{"path": "/b"}]}]
    strange = spec("Ingress", "ingress", ingress={"hosts": [{"host": "a", "paths": [{"path": "/x: #y"}]}]})
    assert strange["rules"][0]["http"]["paths"][0]["path"] == "/x: #y"
    bare = spec("Ingress", "ingress", ingress={"className": "", "tls": [], "hosts": hosts})
    assert not {"ingressClassName", "tls"} & set(bare)
    assert bare["rules"][0]["http"]["paths"][0]["pathType"] == "Prefix"


# With the fields that the API server would add to an element of a list.
GATEWAY = {
    "group": "gateway.networking.k8s.io",
    "kind": "Gateway",
    "name": "edge",
    "namespace": "gateways",
}
BACKEND = {"group": "", "kind": "Service", "name": "edge-usher", "port": 443, "weight": 1}


def test_http_route():
    assert render().all("HTTPRoute") == []
    rendered = render("http-route")
    assert rendered.one("HTTPRoute")["spec"] == {
        "parentRefs": [{**GATEWAY, "sectionName": "https"}],
        "hostnames": ["ws.example.com"],
        "rules": [
            {
                "backendRefs": [BACKEND],
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "timeouts": {"request": "0s"},
            }
        ],
    }
    assert rendered.one("BackendTLSPolicy")["spec"] == {
        "targetRefs": [{"group": "", "kind": "Service", "name": "edge-usher"}],
        "validation": {
            "hostname": "usher.example.com",
            "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "internal-ca"}],
        },
    }


def test_http_route_with_more_and_with_less():
    values = chart.situation("http-route")
    values["httpRoute"] = {"enabled": True, "parentRefs": [{"name": "a"}], "matches": []}
    rendered = chart.Rendered(values)
    assert rendered.all("BackendTLSPolicy") == []
    route = rendered.one("HTTPRoute")["spec"]
    assert "hostnames" not in route
    filled = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "a"}
    assert route["parentRefs"] == [filled]
    other = [{"group": "", "kind": "Service", "name": "a"}]
    assert spec("HTTPRoute", "http-route", httpRoute={"parentRefs": other})["parentRefs"] == other
    assert list(route["rules"][0]) == ["backendRefs"]
    redirect = {"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}
    more = {"filters": [redirect], "annotations": {"a": "b"}, "labels": {"c": "d"}}
    one = render("http-route", httpRoute=more).one("HTTPRoute")
    assert one["spec"]["rules"][0]["filters"] == [redirect]
    assert one["metadata"]["annotations"] == {"a": "b"}
    assert one["metadata"]["labels"]["c"] == "d"
    policy = render("http-route", httpRoute=more).one("BackendTLSPolicy")
    assert policy["metadata"]["annotations"] == {"a": "b"}
    rules = [{"backendRefs": [{"name": "other", "port": 1}]}]
    assert spec("HTTPRoute", "http-route", httpRoute={"rules": rules})["rules"] == rules


def test_the_system_authorities_for_the_gateway():
    tls = {"caCertificateRefs": [], "wellKnownCACertificates": "System"}
    policy = spec("BackendTLSPolicy", "http-route", httpRoute={"backendTLS": tls})
    assert policy["validation"] == {
        "hostname": "usher.example.com",
        "wellKnownCACertificates": "System",
    }


def test_no_policy_without_a_route():
    assert render("http-route", httpRoute={"enabled": False}).all("BackendTLSPolicy") == []


def test_tls_route():
    assert render().all("TLSRoute") == []
    metadata = {"annotations": {"a": "b"}, "labels": {"c": "d"}}
    one = render("tls-route", tlsRoute=metadata).one("TLSRoute")
    assert one["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert one["metadata"]["annotations"] == {"a": "b"}
    assert one["metadata"]["labels"]["c"] == "d"
    assert one["spec"] == {
        "parentRefs": [{**GATEWAY, "sectionName": "passthrough"}],
        "hostnames": ["ws.example.com"],
        "rules": [{"backendRefs": [BACKEND]}],
    }


def test_certificate():
    assert render().all("Certificate") == []
    metadata = {"annotations": {"a": "b"}}
    one = render("cert-manager", tls={"certManager": metadata}).one("Certificate")
    assert one["metadata"]["annotations"] == {"a": "b"}
    assert one["spec"] == {
        "secretName": "edge-usher-tls",
        "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer", "group": "cert-manager.io"},
        "dnsNames": ["ws.example.com"],
        "duration": "2160h",
        "renewBefore": "720h",
        "privateKey": {"algorithm": "ECDSA", "rotationPolicy": "Always"},
        "usages": ["digital signature", "key encipherment", "server auth"],
    }
    named = spec("Certificate", "cert-manager", tls={"certManager": {"secretName": "own"}})
    assert named["secretName"] == "own"
    rsa = {"privateKey": {"algorithm": "RSA", "size": 4096}}
    key = spec("Certificate", "cert-manager", tls={"certManager": rsa})["privateKey"]
    assert key == {"algorithm": "RSA", "size": 4096, "rotationPolicy": "Always"}


def test_network_policy():
    assert render().all("NetworkPolicy") == []
    policy = spec("NetworkPolicy", "network-policy")
    values = chart.situation("network-policy")["networkPolicy"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [
        {"ports": [{"port": "listener", "protocol": "TCP"}], "from": values["listenerFrom"]},
        {"ports": [{"port": "admin", "protocol": "TCP"}], "from": values["adminFrom"]},
    ]
    dns, *rules = policy["egress"]
    assert dns["to"] == values["egress"]["dnsTo"]
    assert [one["protocol"] for one in dns["ports"]] == ["UDP", "TCP"]
    wanted = [
        {**rule, "ports": [{**port, "protocol": "TCP"} for port in rule["ports"]]}
        for rule in values["egress"]["rules"]
    ]
    assert rules == wanted


def test_network_policy_with_the_fewest_values():
    policy = spec("NetworkPolicy", networkPolicy={"enabled": True})
    assert policy["ingress"] == [{"ports": [{"port": "listener", "protocol": "TCP"}]}]
    assert len(policy["egress"]) == 1
    assert "to" not in policy["egress"][0]
    more = {"extraPorts": [{"containerPort": 8444, "name": "second"}]}
    policy = spec("NetworkPolicy", networkPolicy={"enabled": True}, **more)
    assert policy["ingress"][0]["ports"][1:] == [{"port": 8444, "protocol": "TCP"}]
    rule = {"ports": [{"port": 8444, "protocol": "UDP"}, {"port": 8445, "protocol": "TCP"}]}
    over = {"enabled": True, "egress": {"enabled": False}}
    over["extraIngress"] = [{"ports": [rule["ports"][0], {"port": 8445}]}]
    policy = spec("NetworkPolicy", networkPolicy=over)
    assert policy["policyTypes"] == ["Ingress"]
    assert "egress" not in policy
    assert policy["ingress"][1] == rule


def test_network_policy_of_short_entries():
    allow = [
        {"port": 6379, "namespace": "data"},
        {"port": 9000, "podLabels": {"app": "chat"}},
        {"port": 9001, "namespace": "a", "podLabels": {"app": "b"}, "protocol": "UDP"},
        {"port": 8080, "cidr": "10.0.0.0/8"},
        {"port": 443},
    ]
    policy = spec("NetworkPolicy", networkPolicy={"enabled": True, "egress": {"allow": allow}})
    data = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "data"}}}
    both = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "a"}},
        "podSelector": {"matchLabels": {"app": "b"}},
    }
    assert policy["egress"][1:] == [
        {"to": [data], "ports": [{"port": 6379, "protocol": "TCP"}]},
        {
            "to": [{"podSelector": {"matchLabels": {"app": "chat"}}}],
            "ports": [{"port": 9000, "protocol": "TCP"}],
        },
        {"to": [both], "ports": [{"port": 9001, "protocol": "UDP"}]},
        {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 8080, "protocol": "TCP"}]},
        {"ports": [{"port": 443, "protocol": "TCP"}]},
    ]


# Monitoring.


@pytest.mark.parametrize(
    ("name", "kind", "value", "key"),
    [
        ("operator", "ServiceMonitor", "serviceMonitor", "endpoints"),
        ("pod-monitor", "PodMonitor", "podMonitor", "podMetricsEndpoints"),
    ],
)
def test_monitors(name, kind, value, key):
    assert render().all(kind) == []
    over = {"annotations": {"a": "b"}, "interval": "5s", "scrapeTimeout": "4s", "namespace": "mon"}
    over |= {"relabelings": [{"action": "keep"}], "metricRelabelings": [{"action": "drop"}]}
    one = render(name, **{value: over}).one(kind)
    assert one["metadata"]["namespace"] == "mon"
    assert one["metadata"]["annotations"] == {"a": "b"}
    assert one["metadata"]["labels"]["release"] == "prometheus"
    assert one["spec"]["jobLabel"] == "app.kubernetes.io/name"
    assert one["spec"]["namespaceSelector"] == {"matchNames": ["prod"]}
    assert one["spec"][key] == [
        {
            "port": "admin",
            "path": "/metrics",
            "interval": "5s",
            "scrapeTimeout": "4s",
            "authorization": {"credentials": {"name": "usher", "key": "admin-token"}},
            "relabelings": [{"action": "keep"}],
            "metricRelabelings": [{"action": "drop"}],
        }
    ]
    less = {"interval": "", "scrapeTimeout": "", "relabelings": [], "metricRelabelings": []}
    values = chart.situation(name, **{value: less | {"namespace": ""}})
    values["admin"] = {}
    values["config"]["admin"] = {"token_file": "/token"}
    one = chart.Rendered(values).one(kind)
    assert one["metadata"]["namespace"] == "prod"
    assert one["spec"][key] == [{"port": "admin", "path": "/metrics"}]


def test_the_service_of_the_admin_port_is_there_for_the_monitor_alone():
    services = render("operator").all("Service")
    [admin] = [one for one in services if one["metadata"]["name"] == "edge-usher-admin"]
    assert admin["spec"]["clusterIP"] == "None"
    assert admin["spec"]["publishNotReadyAddresses"] is True
    assert [one["port"] for one in admin["spec"]["ports"]] == [9090]
    assert len(render("pod-monitor").all("Service")) == 1


RULES = """\
groups:
  - name: usher
    interval: 1m
    rules:
      - record: usher:sessions
        expr: sum(usher_sessions_active)
      - alert: UsherDown
        expr: up{job="usher"} == 0
        labels:
          severity: page
        annotations:
          summary: "{{ $labels.instance }} is down"
      - alert: UsherFull
        expr: vector(1)
"""


@pytest.fixture
def with_files(tmp_path):
    """Loads a copy of the chart with two files of rules and two dashboards of a test."""
    copy = tmp_path / "usher"
    shutil.copytree(chart.CHART, copy, ignore=shutil.ignore_patterns("rules", "dashboards"))
    (copy / "rules").mkdir()
    (copy / "rules/a.yaml").write_text(RULES)
    (copy / "rules/b.yaml").write_text(RULES.replace("name: usher", "name: other"))
    (copy / "dashboards").mkdir()
    for name in ("overview", "fleet"):
        (copy / f"dashboards/{name}.json").write_text('{\n  "title": "{{ instance }} \\\\d"\n}\n')
    with helm_python.Chart.load(str(copy)) as loaded:
        yield loaded


@pytest.fixture
def without_files(tmp_path):
    copy = tmp_path / "usher"
    shutil.copytree(chart.CHART, copy, ignore=shutil.ignore_patterns("rules", "dashboards"))
    with helm_python.Chart.load(str(copy)) as loaded:
        yield loaded


def test_rules(with_files):
    values = chart.situation("operator", prometheusRule={"namespace": "mon", "annotations": {"a": "b"}})
    one = chart.Rendered(values, chart=with_files).one("PrometheusRule")
    assert one["metadata"]["namespace"] == "mon"
    assert one["metadata"]["annotations"] == {"a": "b"}
    assert one["metadata"]["labels"]["release"] == "prometheus"
    groups = one["spec"]["groups"]
    assert [group["name"] for group in groups] == ["usher", "other", "our-own"]
    assert groups[0]["interval"] == "1m"
    record, down, full = groups[0]["rules"]
    assert "labels" not in record
    assert down["labels"] == {"severity": "page", "team": "edge"}
    assert down["annotations"] == {"summary": "{{ $labels.instance }} is down"}
    assert full["labels"] == {"team": "edge"}
    assert groups[2]["rules"][0]["annotations"] == {"summary": "{{ $value }} sessions"}


def test_rules_that_are_left_out(with_files):
    values = chart.situation("operator")
    values["prometheusRule"] = {"enabled": True, "disabled": ["UsherDown"]}
    [group, _] = chart.Rendered(values, chart=with_files).one("PrometheusRule")["spec"]["groups"]
    assert [rule.get("alert") for rule in group["rules"]] == [None, "UsherFull"]
    assert "labels" not in group["rules"][1]
    del values["prometheusRule"]["enabled"]
    assert chart.Rendered(values, chart=with_files).all("PrometheusRule") == []


def test_thresholds():
    def expressions(**thresholds):
        one = render("operator", prometheusRule={"thresholds": thresholds}).one("PrometheusRule")
        rules = [rule for group in one["spec"]["groups"] for rule in group["rules"]]
        return {rule["alert"]: rule["expr"] for rule in rules if "alert" in rule}

    before = expressions()
    thresholds = {
        "UsherSessionsFall": 200,
        "UsherConnectionsNearlyFull": 0.95,
        "UsherCertificateExpiresSoon": 14,
        "ManySessions": 5,
    }
    after = expressions(**thresholds)
    for name, end in {
        "UsherSessionsFall": "> 200",
        "UsherConnectionsNearlyFull": "> 0.95",
        "UsherCertificateExpiresSoon": "< 14 * 86400",
        "ManySessions": "> 5",
    }.items():
        assert after[name].endswith(end) and not before[name].endswith(end)
        assert before[name].startswith(after[name].removesuffix(end))
    assert {name for name in before if before[name] != after[name]} == set(thresholds)


def test_a_group_whose_rules_are_all_left_out():
    over = {"disabled": ["ManySessions"]}
    groups = [
        group["name"]
        for one in render("operator", prometheusRule=over).all("PrometheusRule")
        for group in one["spec"]["groups"]
    ]
    assert "our-own" not in groups


def test_dashboards(with_files):
    rendered = chart.Rendered(chart.situation("operator"), chart=with_files)
    maps = [one for one in rendered.all("ConfigMap") if "usher.toml" not in one["data"]]
    assert {one["metadata"]["name"]: list(one["data"]) for one in maps} == {
        "edge-usher-dashboard-overview": ["overview.json"],
        "edge-usher-dashboard-fleet": ["fleet.json"],
    }
    for one in maps:
        assert one["metadata"]["namespace"] == "monitoring"
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert one["metadata"]["annotations"] == {"grafana_folder": "Edge"}
        [text] = one["data"].values()
        assert yaml.safe_load(text) == {"title": "{{ instance }} \\d"}
    off = chart.Rendered(chart.situation("operator", dashboards={"enabled": False}), chart=with_files)
    assert len(off.all("ConfigMap")) == 1


def test_without_rules_and_dashboards(without_files):
    values = chart.situation("operator", prometheusRule={"extraGroups": []})
    rendered = chart.Rendered(values, chart=without_files)
    assert rendered.all("PrometheusRule") == []
    assert len(rendered.all("ConfigMap")) == 1


def annotations_of(links):
    one = chart.Rendered(chart.situation("operator", links=links)).one("PrometheusRule")
    rules = [rule for group in one["spec"]["groups"] for rule in group["rules"]]
    [down] = [rule for rule in rules if rule.get("alert") == "UsherDown"]
    return down["annotations"]


def boards_of(links):
    rendered = chart.Rendered(chart.situation("operator", links=links))
    maps = [one for one in rendered.all("ConfigMap") if "usher.toml" not in one["data"]]
    return {name: text for one in maps for name, text in one["data"].items()}


def test_links_of_alerts_and_panels():
    paths = annotations_of({})
    assert paths["runbook_url"] == "docs/runbooks/down.md"
    assert paths["dashboard_url"].startswith("/d/usher-overview?viewPanel=")
    assert "var-job={{ $labels.job | urlquery }}" in paths["dashboard_url"]
    links = {"runbooks": "https://wiki.example.com/usher/", "grafana": "https://g.example.com"}
    whole = annotations_of(links)
    assert whole["runbook_url"] == "https://wiki.example.com/usher/down.md"
    assert whole["dashboard_url"] == "https://g.example.com" + paths["dashboard_url"]
    assert whole["__dashboardUid__"] == "usher-overview"
    for name, text in boards_of({}).items():
        with_links = boards_of(links)[name]
        assert json.loads(with_links)["uid"] == json.loads(text)["uid"]
        assert with_links.count("https://wiki.example.com/usher/") == text.count("docs/runbooks/")


# The rest.


def test_extra_objects():
    names = [one["metadata"]["name"] for one in render("extras").all("ConfigMap")]
    assert names == ["edge-usher", "edge-more", "edge-usher-text"]


@pytest.mark.parametrize(
    ("warning", "warned", "quiet"),
    [
        (
            "Several pods without a shared store",
            ("tls-secret", {"replicaCount": 2}),
            ("redis", {}),
        ),
        (
            "Several pods without a shared store",
            ("autoscaling", {"redis": {"url": ""}}),
            ("tls-secret", {}),
        ),
        (
            "a ticket works only from the address that asked for it",
            ("tls-secret", {"replicaCount": 2, "service": {"sessionAffinity": "ClientIP"}}),
            ("redis", {"service": {"sessionAffinity": "ClientIP"}}),
        ),
        (
            "Several pods without a shared store",
            ("tls-secret", {"replicaCount": 2, "config": {"store": {"url": "memory"}}}),
            ("configmap", {"replicaCount": 2}),
        ),
        ("makes its own key", ("plain", {}), ("tls-secret", {})),
        (
            "makes its own key",
            ("text", {}),
            ("plain", {"config": {"context": {"secret_file": "/a"}}}),
        ),
        (
            "makes its own key",
            ("redis", {}),
            (
                "plain",
                {"config": {"context": {"secret_env": "A"}}, "extraEnvFrom": [{"secretRef": {}}]},
            ),
        ),
        ("makes its own key", ("redis", {}), ("configmap", {})),
        (
            "ACME without a shared store",
            ("tls-secret", {"config": {"acme": ACME}}),
            ("redis", {"config": {"acme": ACME}}),
        ),
        (
            "ACME without a shared store",
            ("tls-secret", {"config": {"acme": ACME}}),
            ("tls-secret", {"config": {"acme": ACME, "state_dir": "/kept"}}),
        ),
        ("The listener is plain HTTP", ("plain", {}), ("tls-secret", {})),
        ("a tag and no digest", ("plain", {}), ("tls-secret", {})),
        ("image.tag is not used", ("tls-secret", {"image": {"tag": "9"}}), ("tls-secret", {})),
        ("replicaCount is 0", ("plain", {"replicaCount": 0}), ("plain", {})),
        ("One pod:", ("plain", {}), ("plain", {"replicaCount": 0})),
        (
            "an update waits for a machine",
            ("plain", {"hostNetwork": True}),
            ("plain", {"hostNetwork": True, "strategy": ONE_LESS}),
        ),
        (
            "an update waits for a machine",
            ("plain", {"hostNetwork": True}),
            ("plain", {"hostNetwork": True, "strategy": {"type": "Recreate"}}),
        ),
        (
            "the Gateway of httpRoute speaks plain HTTP",
            ("http-route", {"httpRoute": {"backendTLS": {"enabled": False}}}),
            ("http-route", {}),
        ),
        (
            "many Ingress controllers speak plain HTTP",
            ("tls-secret", {"ingress": {"enabled": True, "hosts": [{"host": "a"}]}}),
            ("ingress", {}),
        ),
        (
            "many Ingress controllers speak plain HTTP",
            ("tls-secret", {"ingress": {"enabled": True, "hosts": [{"host": "a"}]}}),
            (
                "tls-secret",
                {"ingress": {"enabled": True, "hosts": [{"host": "a"}], "annotations": NGINX}},
            ),
        ),
        (
            "networkPolicy protects nothing there",
            ("plain", {"networkPolicy": {"enabled": True}, "hostNetwork": True}),
            ("plain", {"networkPolicy": {"enabled": True}}),
        ),
        ("One pod:", ("plain", {}), ("redis", {})),
        ("One pod:", ("autoscaling", {"autoscaling": {"minReplicas": 1, "maxReplicas": 1}}), ("autoscaling", {})),
        (
            "no pod can be evicted",
            ("redis", {"podDisruptionBudget": {"minAvailable": 2}}),
            ("redis", {"podDisruptionBudget": {"minAvailable": 1}}),
        ),
        (
            "no pod can be evicted",
            ("redis", {"podDisruptionBudget": {"minAvailable": 2}}),
            ("redis", {"podDisruptionBudget": {"minAvailable": "50%"}}),
        ),
        (
            "no pod can be evicted",
            ("redis", {"podDisruptionBudget": {"minAvailable": 2}}),
            ("redis", {"podDisruptionBudget": {"minAvailable": 2, "enabled": False}}),
        ),
        (
            "no pod can be evicted",
            ("redis", {"podDisruptionBudget": {"minAvailable": 2}}),
            ("autoscaling", {"podDisruptionBudget": {"minAvailable": 2}}),
        ),
        (
            "no pod can be evicted",
            ("autoscaling", {"podDisruptionBudget": {"minAvailable": 3}}),
            ("autoscaling", {"podDisruptionBudget": {"minAvailable": "60%"}}),
        ),
        (
            "no pod can be evicted",
            ("redis", {"podDisruptionBudget": {"minAvailable": "100%"}}),
            ("redis", {"podDisruptionBudget": {"maxUnavailable": "1%"}}),
        ),
        (
            # Kubernetes keeps both of the two pods.
            "no pod can be evicted",
            ("redis", {"podDisruptionBudget": {"minAvailable": "51%"}}),
            ("redis", {"podDisruptionBudget": {"minAvailable": "0%"}}),
        ),
        (
            "no pod can be evicted",
            ("redis", {"podDisruptionBudget": {"maxUnavailable": 0}}),
            ("redis", {"podDisruptionBudget": {"maxUnavailable": 1}}),
        ),
        (
            "no pod can be evicted",
            ("redis", {"podDisruptionBudget": {"maxUnavailable": "0%"}}),
            ("redis", {}),
        ),
        (
            "serves the metric usher_sessions_active",
            ("autoscaling", {}),
            ("autoscaling", {"autoscaling": {"metrics": [{"type": "Resource"}]}}),
        ),
        ("A scale-down does not ask", ("autoscaling", {}), ("redis", {})),
        (
            "reach DNS alone",
            ("plain", {"networkPolicy": {"enabled": True}}),
            ("network-policy", {}),
        ),
        (
            "reach DNS alone",
            ("plain", {"networkPolicy": {"enabled": True}}),
            ("plain", {"networkPolicy": {"enabled": True, "egress": {"allow": [{"port": 443}]}}}),
        ),
        (
            "reach DNS alone",
            ("plain", {"networkPolicy": {"enabled": True}}),
            ("plain", {"networkPolicy": {"enabled": True, "egress": {"enabled": False}}}),
        ),
        (
            "keeps Prometheus from the admin port",
            ("operator", {"networkPolicy": {"enabled": True}}),
            ("network-policy", {"podMonitor": {"enabled": True}}),
        ),
        (
            "keeps Prometheus from the admin port",
            ("pod-monitor", {"networkPolicy": {"enabled": True}}),
            ("plain", {"networkPolicy": {"enabled": True}}),
        ),
        (
            "Prometheus has no token",
            (
                "pod-monitor",
                {
                    "admin": {"existingSecret": {"name": ""}},
                    "config": {"admin": {"token_file": "/token"}},
                },
            ),
            ("pod-monitor", {}),
        ),
        ("cannot read an existing ConfigMap", ("configmap", {}), ("text", {})),
    ],
)
def test_notes_warn(warning, warned, quiet):
    name, over = warned
    notes = render(name, **over).notes
    assert any(warning in line for line in notes.splitlines() if line.startswith("WARNING: "))
    name, over = quiet
    assert warning not in render(name, **over).notes


def test_notes():
    notes = render("configmap", image={"tag": "9"}).notes
    assert notes.startswith("Usher 9: edge-usher in namespace prod.")
    by_digest = render("tls-secret", image={"tag": "9"}).notes
    assert by_digest.startswith("Usher sha256:0123456789abcdef")
    scaling = render("autoscaling").notes
    assert "docs/kubernetes-scaling.md" in scaling
    assert "usher status --config /etc/usher/config/edge.toml" in notes
    assert "needs up to 110 s; its grace period is 120 s" in notes
    assert "WARNING" not in render("tls-secret", redis={"url": "redis://a"}, replicaCount=2).notes


def test_the_values_for_a_fleet():
    values = chart.deep_merge(chart.situation("redis"), chart.read_values("values-ha.yaml"))
    rendered = chart.Rendered(values)
    deployment = rendered.one("Deployment")["spec"]
    assert deployment["replicas"] == 3
    assert rendered.pod["terminationGracePeriodSeconds"] == 15 + 300 + 5 + 10
    assert rendered.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert rendered.pod["topologySpreadConstraints"][1]["whenUnsatisfiable"] == "DoNotSchedule"
    assert "Several pods" not in rendered.notes
