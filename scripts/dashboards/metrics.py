"""Reads the metric table and the error table, and checks queries against them.

`docs/metrics.md` and `docs/errors.md` are generated from the code. So a query that passes here
names only metrics, labels and outcomes that exist.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Labels that Prometheus adds itself.
TARGET_LABELS = {"job", "instance"}
# Counters whose `outcome` is a refusal or `accepted`.
REFUSAL_COUNTERS = {
    "usher_upgrades_total", "usher_http_requests_rejected_total", "usher_tickets_refused_total",
}  # fmt: skip
# `up` is a series that Prometheus writes for each target, `ALERTS` one for each alert.
OTHER_SERIES = {"up": TARGET_LABELS}
# Refusals that no alert counts as a failure of Usher, although the side at fault is not the client:
# a node that drains says so, and the backend's own refusal is its answer.
PLANNED = {"draining", "upstream_declined"}


class UnknownName(Exception):
    """A query names a metric, a label or a value that does not exist."""


def _rows(page: str, columns: int) -> list[list[str]]:
    """Returns the cells of all table rows with this number of columns, without header lines."""
    rows = []
    for line in (ROOT / "docs" / page).read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == columns and not cells[0].startswith("---"):
            rows.append(cells)
    return rows


class Catalogue:
    """Every metric with its kind and labels, and every outcome with the side at fault."""

    def __init__(self):
        self.kinds, self.labels = {}, {}
        for name, kind, labels, _ in _rows("metrics.md", 4):
            if name.startswith(("`usher_", "`process_")):
                self.kinds[name.strip("`")] = kind
                self.labels[name.strip("`")] = set(re.findall(r"`(\w+)`", labels))
        self.sides = {
            label.strip("`"): side
            for code, _, _, label, side, _, _ in _rows("errors.md", 7)
            if code.startswith("`")
        }
        self.reasons = {row[0].strip("`") for row in _rows("errors.md", 5) if row[0][0] == "`"}
        if len(self.kinds) < 50 or len(self.sides) < 30 or len(self.reasons) < 10:
            raise UnknownName("docs/metrics.md or docs/errors.md has another form than expected")

    def outcomes(self, *, client: bool) -> str:
        """Returns the refusals that clients cause, or the others, as a regular expression."""
        return "|".join(
            label
            for label, side in self.sides.items()
            if (side == "client") == client and label not in PLANNED
        )

    def expand(self, query: str) -> str:
        """Writes the sets of outcomes into a query."""
        query = query.replace("%CLIENT%", self.outcomes(client=True))
        query = query.replace("%SERVER%", self.outcomes(client=False))
        return re.sub(r"\s+", " ", query).strip()

    def family(self, series: str) -> tuple[str, str, set[str]]:
        """Returns the family of a series, its kind and its labels."""
        if series in OTHER_SERIES:
            return series, "gauge", OTHER_SERIES[series]
        family = re.sub(r"_(bucket|sum|count)$", "", series)
        if self.kinds.get(family) == "histogram":
            if family == series:
                raise UnknownName(f"{series} is a histogram: use _bucket, _sum or _count")
            labels = {"le"} if series.endswith("_bucket") else set()
            return family, "counter", self.labels[family] | labels
        if series not in self.kinds:
            raise UnknownName(f"{series} is not in docs/metrics.md")
        return series, self.kinds[series], self.labels[series]

    def check(self, query: str, recorded: dict[str, set[str]] | None = None) -> None:
        """Raises `UnknownName` for a query that asks for something that does not exist.

        `recorded` has the series of recording rules, with their labels.
        """
        recorded = recorded or {}
        allowed = set()
        pattern = r"(?<![\w:\"$])((?:usher|job|instance):\w+(?::\w+)?|(?:usher|process)_\w+|up)\b(\{[^}]*\})?(\[)?"
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', query)
        found = list(re.finditer(pattern, query))
        if not found:
            raise UnknownName(f"no metric in {query}")
        families = [one[1] for one in found if one[1].startswith(("usher_", "process_"))]
        if len(re.findall(r"(?<![\w:])(?:usher|process)_\w+", bare)) != len(families):
            raise UnknownName(f"a metric that is not understood in {query}")
        for one in found:
            series, selector, ranged = one[1], one[2] or "", one[3]
            if ":" in series:
                if series not in recorded:
                    raise UnknownName(f"{series} is not recorded by any rule")
                kind, labels = "gauge", recorded[series]
            else:
                _, kind, labels = self.family(series)
            self._check_selector(series, selector, labels)
            before = query[: one.start()]
            function = re.search(r"(\w+)\($", before)
            counts = function and function[1] in ("rate", "increase", "irate", "resets")
            if kind == "counter" and ranged and not counts:
                raise UnknownName(f"{series} is a counter: rate or increase, not {before[-20:]}")
            if counts and kind != "counter":
                raise UnknownName(f"{series} is no counter: {query}")
            allowed |= labels | TARGET_LABELS
        for names in re.findall(r"\b(?:by|on|without|ignoring|group_left)\s*\(([^)]*)\)", query):
            for name in filter(None, (name.strip() for name in names.split(","))):
                if name not in allowed:
                    raise UnknownName(f"no metric of the query has the label {name}: {query}")

    def _check_selector(self, series: str, selector: str, labels: set[str]) -> None:
        for name, _, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', selector):
            if name not in labels | TARGET_LABELS:
                raise UnknownName(f"{series} has no label {name}")
            known = None
            if series in REFUSAL_COUNTERS and name == "outcome":
                known = {*self.sides, "accepted"}
            elif name == "reason":
                known = self.reasons
            if known and "$" not in value and not set(value.split("|")) <= known:
                raise UnknownName(f"{series} has no {name} {set(value.split('|')) - known}")


def result_labels(query: str) -> set[str] | None:
    """Returns the labels of the result where the query groups by name at its outermost call."""
    found = re.match(r"\(?\s*(?:sum|max|min|count|avg)\s*by\s*\(([^)]*)\)", query.strip())
    return {name.strip() for name in found[1].split(",")} if found else None
