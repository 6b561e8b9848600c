"""The values and objects in the pages about Kubernetes are valid."""

import json
import re
import subprocess
import textwrap

import chart
import pytest
import yaml

PAGES = ["kubernetes.md", "kubernetes-scaling.md", "gateway-api.md"]
BLOCK = re.compile(r"^( *)```yaml\n(.*?)^\1```$", re.M | re.S)


def blocks():
    for name in PAGES:
        text = (chart.ROOT / "docs" / name).read_text()
        for found in BLOCK.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield pytest.param(yaml.safe_load(textwrap.dedent(found[2])), id=f"{name}:{line}")


ALL = list(blocks())
OBJECTS = [one for one in ALL if "apiVersion" in one.values[0]]
# The rules of the Prometheus adapter are the values of another chart.
VALUES = [one for one in ALL if not {"apiVersion", "rules"} & set(one.values[0])]


def test_the_pages_have_examples():
    assert len(VALUES) >= 9
    assert len(OBJECTS) == 1


@pytest.mark.parametrize("values", VALUES)
def test_the_values_render(values):
    base = chart.situation("plain")
    base["tls"] = {} if "tls" in values else {"existingSecret": "usher-tls"}
    chart.Rendered(chart.deep_merge(base, values))


def test_the_first_values_of_the_page_are_complete():
    rendered = chart.Rendered(VALUES[0].values[0], name="usher")
    assert rendered.one("Deployment")["metadata"]["name"] == "usher"


def test_the_objects_are_valid():
    judged = subprocess.run(
        ["node", str(chart.ROOT / "tests/charts/validate.mjs")],
        input=json.dumps([one.values[0] for one in OBJECTS]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(json.loads(judged.stdout)) == {""}


def test_every_situation_is_counted():
    words = {16: "sixteen"}
    for path in (chart.ROOT / "docs/kubernetes.md", chart.CHART / "README.md"):
        assert words[len(chart.SITUATIONS)] in path.read_text()
