#!/usr/bin/env python3
"""Prints the bill of materials of the program: CycloneDX 1.6, from Cargo.lock and cargo.

    packaging/sbom.py [TARGET]

It names the libraries that are in the program for this target, and not those of tests, benches or
build scripts. The same sources give the same bytes: the time is SOURCE_DATE_EPOCH.
"""

import datetime
import json
import os
import re
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINE = re.compile(r"(\d+)(\S+) v(\S+)")


def cargo(*arguments):
    command = ["cargo", *arguments, "--locked"]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def edges(target):
    """Returns each library of the program, by name and version, with those that it uses."""
    tree = cargo("tree", "--package", "usher-edge", "--edges", "normal,no-proc-macro", "--target", target,
                 "--prefix", "depth", "--no-dedupe", "--format", "{p}")
    uses, path = {}, []
    for line in tree.splitlines():
        depth, name, version = LINE.match(line).groups()
        path[int(depth):] = [(name, version)]
        uses.setdefault(path[-1], set())
        if len(path) > 1:
            uses[path[-2]].add(path[-1])
    return uses


def purl(package):
    name, version = package
    return f"pkg:cargo/{name}@{version}"


def component(package, metadata, checksums):
    name, version = package
    entry = {"type": "library", "bom-ref": purl(package), "name": name, "version": version, "purl": purl(package)}
    described = metadata[package]
    if described["license"]:
        # `MIT/Apache-2.0` is the old form.
        entry["licenses"] = [{"expression": described["license"].replace("/", " OR ")}]
    if described["repository"]:
        entry["externalReferences"] = [{"type": "vcs", "url": described["repository"]}]
    if package in checksums:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksums[package]}]
    return entry


def main():
    host = subprocess.run(["rustc", "-vV"], check=True, stdout=subprocess.PIPE, text=True).stdout
    target = sys.argv[1] if len(sys.argv) > 1 else re.search(r"host: (\S+)", host)[1]
    packages = json.loads(cargo("metadata", "--format-version", "1"))["packages"]
    metadata = {(one["name"], one["version"]): one for one in packages}
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    checksums = {(one["name"], one["version"]): one["checksum"] for one in lock if "checksum" in one}
    uses = edges(target)
    program = next(iter(uses))
    components = [component(one, metadata, checksums) for one in sorted(uses) if one != program]
    own = {**component(program, metadata, checksums), "type": "application", "name": "usher"}
    time = datetime.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), datetime.timezone.utc)
    body = {
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": own,
            "properties": [{"name": "cargo:target", "value": target}],
        },
        "components": components,
        "dependencies": [{"ref": purl(one), "dependsOn": sorted(map(purl, uses[one]))} for one in sorted(uses)],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    bom = {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1, **body}
    print(json.dumps(bom, indent=2))


if __name__ == "__main__":
    main()
