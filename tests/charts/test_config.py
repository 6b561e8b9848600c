"""The structured values become the same TOML, and the chart adds what it knows."""

import tomllib

import chart
import helm_python
import pytest
from test_situations import check


def toml_of(name="plain", **over):
    return tomllib.loads(chart.Rendered(chart.situation(name, **over)).config_text)


def assert_checked(text, folder):
    checked = check(text, folder, ["USHER_JWT_SECRET", "USHER_ADMIN_TOKEN"])
    assert checked.returncode == 0, checked.stderr


STRANGE = [
    "plain",
    'a "quoted" word',
    "back\\slash",
    "two\nlines\r\tand a tab",
    "\x7f and \x01 and \x1f",
    "<&> é 漢字 😀 \u2028",
    "# no comment",
    "{{ .Values.image }}",
    "'single'",
    " spaces ",
    "",
    "0123",
    "true",
    "1e3",
]


@pytest.mark.parametrize("text", STRANGE)
def test_a_string_stays_as_it_is(text):
    config = toml_of(config={"audit": {"file": text}, "mtls": {"permissions": [text]}})
    assert config["audit"]["file"] == text
    assert config["mtls"]["permissions"] == [text]


def test_a_key_that_is_not_bare_is_quoted():
    headers = {"X-User": "sub", "a.b": "c", 'a "b"': "d", "é": "e"}
    values = chart.situation("plain")
    values["config"]["route"][0]["identity_headers"] = headers
    text = chart.Rendered(values).config_text
    assert tomllib.loads(text)["route"][0]["identity_headers"] == headers


@pytest.mark.parametrize("number", [1, 65536, 100_000_000, 1 << 40])
def test_an_integer_stays_an_integer(number):
    config = toml_of(config={"limits": {"connections": number}, "threads": 4})
    assert config["limits"]["connections"] == number
    assert isinstance(config["limits"]["connections"], int)
    assert isinstance(config["threads"], int)


def test_booleans_lists_and_nested_tables():
    upstream = {
        "name": "chat",
        "servers": ["http://a:1", "http://b:2"],
        "health": {"path": "/healthz"},
    }
    regions = {"eu": {"url": "rediss://eu:6379", "max_in_flight": 10}}
    config = toml_of(
        config={
            "upstream": [upstream, upstream | {"name": "other"}],
            "tickets": {"multi_use": True, "bind": [], "max_ttl": "5m"},
            "store": {"url": "rediss://us:6379", "region": "us", "regions": regions},
        }
    )
    assert config["upstream"] == [upstream, upstream | {"name": "other"}]
    assert config["tickets"] == {"multi_use": True, "bind": [], "max_ttl": "5m"}
    assert config["store"]["regions"] == regions


def test_keys_of_the_top_come_before_the_first_table():
    text = chart.Rendered(
        chart.situation("plain", config={"threads": 2, "node": "a", "takeover": "/run/t"})
    ).config_text
    assert tomllib.loads(text)["takeover"] == "/run/t"
    assert text.index("threads = 2") < text.index("[")


def test_an_empty_list_of_tables_is_left_out_of_the_tables():
    assert toml_of(config={"verifier": []})["verifier"] == []


def test_null_is_refused():
    with pytest.raises(helm_python.HelmValuesError, match="/config/threads.*null"):
        toml_of(config={"threads": None})


def test_the_chart_adds_addresses_state_and_token():
    config = toml_of("tls-secret")
    assert config["state_dir"] == "/var/lib/usher"
    assert config["listener"] == [
        {
            "address": "[::]:8443",
            "certificates": [{"cert": "/etc/usher/tls/tls.crt", "key": "/etc/usher/tls/tls.key"}],
        }
    ]
    assert config["admin"] == {"address": "[::]:9090", "token_env": "USHER_ADMIN_TOKEN"}
    assert config["drain"] == {"delay": "10s", "window": "60s"}
    assert config["context"]["key_files"] == [
        "/etc/usher/keys/next.pem",
        "/etc/usher/keys/current.pem",
    ]
    assert "store" not in config


def test_ports_are_in_the_addresses():
    config = toml_of(ports={"listener": 8000, "admin": 9000})
    assert config["listener"] == [{"address": "[::]:8000", "plain": True}]
    assert config["admin"]["address"] == "[::]:9000"


def test_what_the_user_wrote_counts():
    config = toml_of(
        "tls-secret",
        config={
            "state_dir": "/data",
            "listener": [
                {"address": "0.0.0.0:8443", "plain": True, "trusted_peers": ["10.0.0.0/8"]},
                {"address": "[::]:8444", "plain": True},
            ],
            "admin": {"address": "0.0.0.0:9090", "token_file": "/data/token"},
            "drain": {"window": "5m"},
            "context": {"ttl": "30s", "key_files": ["/data/key.pem"]},
        },
    )
    assert config["state_dir"] == "/data"
    assert config["listener"] == [
        {"address": "0.0.0.0:8443", "plain": True, "trusted_peers": ["10.0.0.0/8"]},
        {"address": "[::]:8444", "plain": True},
    ]
    assert config["admin"] == {"address": "0.0.0.0:9090", "token_file": "/data/token"}
    assert config["drain"] == {"delay": "10s", "window": "5m"}
    assert config["context"] == {"ttl": "30s", "key_files": ["/data/key.pem"]}


def test_a_listener_with_plain_false_is_not_overwritten():
    values = chart.situation("tls-secret")
    certificates = [{"cert": "/c", "key": "/k"}]
    values["config"]["listener"] = [{"plain": False, "certificates": certificates}]
    listener = tomllib.loads(chart.Rendered(values).config_text)["listener"][0]
    assert listener["plain"] is False
    assert listener["certificates"] == certificates


SECRET = {"cert": "/etc/usher/tls/tls.crt", "key": "/etc/usher/tls/tls.key"}
ACME = {"domains": ["a.example.com"], "terms_agreed": True}


@pytest.mark.parametrize("extra", [{"plain": False}, {"certificates": []}])
def test_a_default_that_is_written_out_is_as_if_left_out(extra, tmp_path):
    listeners = {"listener": [extra]}
    text = chart.Rendered(chart.situation("tls-secret", config=listeners)).config_text
    assert tomllib.loads(text)["listener"][0]["certificates"] == [SECRET]
    assert_checked(text, tmp_path)


def test_acme_needs_no_certificate(tmp_path):
    over = {"config": {"listener": [{"acme": True}], "acme": ACME}}
    text = chart.Rendered(chart.situation("plain", tls={"enabled": True}, **over)).config_text
    [listener] = tomllib.loads(text)["listener"]
    assert listener == {"address": "[::]:8443", "acme": True}
    assert_checked(text, tmp_path)
    off = chart.Rendered(chart.situation("plain", **over | {"tls": {"enabled": False}}))
    assert "plain" not in tomllib.loads(off.config_text)["listener"][0]


def test_acme_beside_a_secret_that_serves_until_the_first_order(tmp_path):
    config = {"listener": [{"acme": True}], "acme": ACME}
    text = chart.Rendered(chart.situation("tls-secret", config=config)).config_text
    [listener] = tomllib.loads(text)["listener"]
    assert listener["certificates"] == [SECRET]
    assert_checked(text, tmp_path)


def test_redis():
    assert toml_of("redis")["store"] == {
        "url": "rediss://redis.data.svc:6379",
        "username": "usher",
        "password_env": "USHER_REDIS_PASSWORD",
        "ca_file": "/etc/usher/redis/ca.crt",
    }
    assert toml_of("sentinel")["store"]["sentinel_password_env"] == "USHER_SENTINEL_PASSWORD"
    assert toml_of("autoscaling")["store"] == {"url": "redis://redis.data.svc:6379"}
    assert toml_of("autoscaling", config={"store": {"timeout": "1s"}})["store"] == {
        "timeout": "1s",
        "url": "redis://redis.data.svc:6379",
    }
    without = chart.situation("redis")
    without["redis"]["existingSecret"]["passwordKey"] = ""
    assert "password_env" not in tomllib.loads(chart.Rendered(without).config_text)["store"]


def test_the_text_is_kept_to_the_letter():
    values = chart.situation("text")
    assert chart.Rendered(values).config_text == values["configText"]
    values["configText"] = "  # The first line is indented.\n\n" + values["configText"]
    assert chart.Rendered(values).config_text == values["configText"]


def test_files_of_the_configuration_may_be_in_volumes_of_the_user():
    values = chart.situation("text")
    values["tls"] = {}
    values["extraVolumes"] = [{"name": "own", "emptyDir": {}}]
    for folder in ("/etc/usher/tls", "/etc/usher/tls/tls.crt", "/etc/usher"):
        values["extraVolumeMounts"] = [{"name": "own", "mountPath": folder}]
        chart.Rendered(values)


def test_rendering_does_not_change_the_values():
    values = chart.situation("redis")
    first = chart.Rendered(values).objects
    assert chart.Rendered(values).objects == first
