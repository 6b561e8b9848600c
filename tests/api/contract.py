"""Holds answers to docs/openapi.yaml, and notes which documented answers were seen."""

import copy
import json
from pathlib import Path

import yaml
from openapi_core import Config, OpenAPI
from openapi_core.datatypes import RequestParameters
from openapi_core.exceptions import OpenAPIError
from openapi_spec_validator import OpenAPIV31SpecValidator
from werkzeug.datastructures import Headers, ImmutableMultiDict

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/openapi.yaml"
VERBS = ("get", "post", "put", "patch", "delete", "head", "options", "trace")
JSON_KINDS = ("application/problem+json", "application/jwk-set+json")
# The reference is the same for every address; the validator needs one for each listener.
BASES = {"client": "http://client", "admin": "http://admin"}


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, which YAML readers accept in silence."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(None, None, f"a key stands twice: {keys}", node.start_mark)
        return super().construct_mapping(node, deep)


def load() -> dict:
    document = yaml.load(DOCUMENT.read_text(), _Loader)
    OpenAPIV31SpecValidator(document).validate()
    return document


class _Request:
    """A request in the form that openapi-core reads."""

    def __init__(self, base: str, method: str, path: str, headers: dict, body: bytes):
        path, _, query = path.partition("?")
        pairs = [pair.partition("=")[::2] for pair in query.split("&") if pair]
        self.host_url, self.path, self.method, self.body = base, path, method.lower(), body or None
        self.content_type = headers.get("Content-Type", "application/json")
        self.parameters = RequestParameters(
            query=ImmutableMultiDict(pairs), header=Headers(headers), cookie=ImmutableMultiDict()
        )


class _Answer:
    def __init__(self, answer):
        self.status_code, self.data = answer.status, answer.body
        self.headers = Headers(answer.headers)
        self.content_type = self.headers.get("Content-Type", "")


class Contract:
    """The document, for the validator and as a list of answers."""

    def __init__(self, document: dict):
        self.document = document
        media = dict.fromkeys(JSON_KINDS, json.loads)
        media["application/openmetrics-text"] = lambda text, **_: text.decode()
        self._api = OpenAPI.from_dict(_strict(document), Config(spec_validator_cls=None, extra_media_type_deserializers=media))
        self.seen: set[tuple[str, str, str]] = set()

    def operations(self):
        """Yields (path, verb, operation)."""
        for path, item in self.document["paths"].items():
            for verb in VERBS:
                if verb in item:
                    yield path, verb, item[verb]

    def documented(self) -> set[tuple[str, str, str]]:
        """Returns (operation, status, code) for each answer. Without a body, the code is empty."""
        return {
            (operation["operationId"], status, code)
            for _, _, operation in self.operations()
            for status, answer in operation["responses"].items()
            for code in self.codes(answer) or [""]
        }

    def codes(self, answer: dict) -> list[str]:
        """Returns the error codes that the bodies of an answer may have."""
        found = []
        for media in self._of(answer).get("content", {}).values():
            schema = self._of(media["schema"])
            for one in schema.get("oneOf", [schema]):
                for part in [self._of(one), *map(self._of, one.get("allOf", []))]:
                    code = part.get("properties", {}).get("code", {})
                    found += code.get("enum", [code["const"]] if "const" in code else [])
        return sorted(set(found))

    def judge_answer(self, verb: str, template: str, path: str, answer) -> str | None:
        """Returns the fault of an answer, and notes it as seen."""
        operation = self.document["paths"][template][verb.lower()]
        base = BASES[operation["tags"][0]]
        query = path.partition("?")[1:]
        path = path.partition("?")[0] if "{" in template else template
        request = _Request(base, verb, path + "".join(query), {}, b"")
        try:
            self._api.validate_response(request, _Answer(answer))
        except OpenAPIError as error:
            return _explained(error)
        status = str(answer.status)
        if status not in operation["responses"]:
            status = "default"
        code = answer.json.get("code", "") if int(answer.status) >= 400 and answer.json else ""
        self.seen.add((operation["operationId"], status, "" if status == "default" else code))
        return None

    def judge_body(self, verb: str, template: str, path: str, headers: dict, body: bytes) -> str | None:
        """Returns the fault of a request's body and query by the document."""
        base = BASES[self.document["paths"][template][verb.lower()]["tags"][0]]
        request = _Request(base, verb, path, {"Authorization": "Bearer t", **headers}, body)
        try:
            self._api.validate_request(request)
        except OpenAPIError as error:
            return _explained(error)
        return None

    def _of(self, part: dict) -> dict:
        """Follows a reference."""
        if "$ref" not in part:
            return part
        found = self.document
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        return found


def _explained(error: Exception) -> str:
    texts = []
    while error is not None:
        faults = getattr(error, "schema_errors", None) or []
        texts += [type(error).__name__ + ": " + str(error), *[fault.message for fault in faults]]
        error = error.__cause__
    return " | ".join(dict.fromkeys(texts))


def _strict(document: dict) -> dict:
    """Returns a copy in which no answer has an unknown field, with one address for each listener.

    The document itself allows more fields, because a newer Usher may add some.
    """
    strict = copy.deepcopy(document)
    strict["servers"] = [{"url": BASES["client"]}]
    for item in strict["paths"].values():
        if "servers" in item:
            item["servers"] = [{"url": BASES["admin"]}]
    for schema in strict["components"]["schemas"].values():
        if "properties" in schema and "additionalProperties" not in schema:
            schema["unevaluatedProperties"] = False
    # A credential may be in any place, or be wrong: only Usher judges it.
    for item in strict["paths"].values():
        for verb in VERBS:
            if verb in item:
                item[verb]["security"] = [{}]
    return json.loads(json.dumps(strict))
