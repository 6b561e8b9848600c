"""Validates reports of `usher bench`: JSON by the published schema, HTML by a strict parser.

    python bench_report.py SCHEMA FILE...

Exits with 0 if all are valid, and names the first that is not.
"""

import json
import sys

import html5lib
import jsonschema


def main(schema_file, *files):
    with open(schema_file) as file:
        schema = json.load(file)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for name in files:
        with open(name, encoding="utf-8") as file:
            text = file.read()
        try:
            if name.endswith(".json"):
                validator.validate(json.loads(text))
            else:
                html5lib.HTMLParser(strict=True).parse(text)
        except Exception as error:
            sys.exit(f"{name} is not valid: {error}")


main(*sys.argv[1:])
