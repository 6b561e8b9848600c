"""The objects of Kubernetes that the values hold, as definitions in the schema of the values.

They come from the published schemas of the newest Kubernetes, and are strict: a wrong key is refused.
`scripts/test-chart.sh write` writes them.
"""

import json

import chart
import kubernetes_validate

SCHEMA = chart.CHART / "values.schema.json"
GROUPS = [
    "io.k8s.api.core.v1.",
    "io.k8s.api.networking.v1.",
    "io.k8s.api.autoscaling.v2.",
    "io.k8s.apimachinery.pkg.api.resource.",
    "io.k8s.apimachinery.pkg.apis.meta.v1.",
    "io.k8s.apimachinery.pkg.util.intstr.",
]


def published():
    """Returns the definitions of the newest Kubernetes by their names without a group."""
    newest = kubernetes_validate.latest_version()
    path = f"kubernetes-json-schema/v{newest}-local-strict/_definitions.json"
    full = kubernetes_validate.utils.schema_contents(path, newest)["$defs"]
    found = {}
    for group in reversed(GROUPS):
        for name, definition in full.items():
            if name.startswith(group):
                found[name.removeprefix(group)] = definition
    return found


def shortened(node):
    """Returns the node with short references, and without texts, formats and null."""
    if isinstance(node, list):
        return [shortened(one) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return {"$ref": "#/$defs/" + node["$ref"].rsplit(".", 1)[1]}
    if "oneOf" in node:
        return {"type": [one["type"][0] for one in node["oneOf"]]}
    kept = {}
    for key, value in node.items():
        if key == "type" and isinstance(value, list):
            kept[key] = value[0]
        elif key == "properties":
            kept[key] = {name: shortened(inner) for name, inner in value.items()}
        elif key not in ("description", "format", "default") and not key.startswith("x-"):
            kept[key] = shortened(value)
    return kept


def references(node):
    """Yields the names of all definitions that the node refers to."""
    if isinstance(node, list):
        for one in node:
            yield from references(one)
    elif isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"].rsplit("/", 1)[1]
        for inner in node.values():
            yield from references(inner)


def with_definitions(schema):
    """Returns the schema with the definitions of Kubernetes that it needs.

    Names with a small first letter are the chart's own.
    """
    own = {name: one for name, one in schema["$defs"].items() if name[0].islower()}
    known = published()
    needed = {}
    waiting = list(references([schema["properties"], own]))
    while waiting:
        name = waiting.pop()
        if name not in needed and name not in own:
            needed[name] = shortened(known[name])
            waiting += references(needed[name])
    return schema | {"$defs": own | dict(sorted(needed.items()))}


def text(schema):
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(text(with_definitions(json.loads(SCHEMA.read_text()))))
