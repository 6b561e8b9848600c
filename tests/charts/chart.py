"""Renders the chart with Helm's engine, without a cluster."""

import copy
import pathlib

import helm_python
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/usher"
SITUATIONS = sorted((CHART / "ci").glob("*-values.yaml"))

_loaded = helm_python.Chart.load(str(CHART))


def deep_merge(base, over):
    """Returns `base` with `over` on top, as Helm merges several files of values."""
    merged = copy.deepcopy(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = deep_merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def read_values(name):
    """Returns the values of a file in the chart."""
    return yaml.load((CHART / name).read_text(), yaml.CSafeLoader)


def situation(name, **over):
    """Returns the values of `ci/NAME-values.yaml` with `over` on top."""
    return deep_merge(read_values(f"ci/{name}-values.yaml"), over)


class Rendered:
    """The objects of one rendering."""

    def __init__(self, values, name="edge", namespace="prod", chart=_loaded):
        files = chart.render(values, name=name, namespace=namespace)
        self.notes = next(text for path, text in files.items() if path.endswith("NOTES.txt"))
        self.objects = []
        for path, text in sorted(files.items()):
            if path.endswith(".yaml"):
                self.objects += [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]

    def all(self, kind):
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind):
        found = self.all(kind)
        assert len(found) == 1, f"{len(found)} objects of kind {kind}"
        return found[0]

    @property
    def pod(self):
        return self.one("Deployment")["spec"]["template"]["spec"]

    @property
    def container(self):
        return self.pod["containers"][0]

    @property
    def config_text(self):
        return self.one("ConfigMap")["data"]["usher.toml"]
