#!/usr/bin/env python3
"""Writes the dashboards and the alert rules of the chart from one source.

    scripts/dashboards/generate.py           # writes charts/usher/dashboards and charts/usher/rules
    scripts/dashboards/generate.py --check   # fails if the files differ

Fails on a query for a metric, a label or an outcome that docs/metrics.md and docs/errors.md do not
have, on a unit that does not fit the metric, and on a runbook or a panel that does not exist.
"""

import json
import re
import sys
from pathlib import Path

from alerts import ALERTS, RECORDINGS, Alert
from metrics import ROOT, Catalogue, UnknownName, result_labels
from panels import DASHBOARDS, ONE_USER, Dashboard, Panel

CHART = ROOT / "charts" / "usher"
DATASOURCE = {"type": "prometheus", "uid": "$datasource"}
COLUMNS = 24
# The histograms that keep traces as exemplars (docs/metrics.md).
TRACED = (
    "usher_upgrade_duration_seconds", "usher_upgrade_phase_duration_seconds",
    "usher_ticket_issue_duration_seconds",
)  # fmt: skip
# Operators replace this by the address of their copy. The chart does by its value `links.runbooks`.
RUNBOOKS = "docs/runbooks"


def filtered(query: str, catalogue: Catalogue, by_route: bool) -> str:
    """Adds the filters of the variables to every metric of the query."""

    def add(found: re.Match) -> str:
        labels = catalogue.family(found[1])[2]
        filters = ['job=~"$job"', 'instance=~"$instance"']
        if by_route and "route" in labels:
            filters.append('route=~"$route"')
        if found[2]:
            filters.append(found[2].strip("{}"))
        return f"{found[1]}{{{', '.join(filters)}}}"

    query = re.sub(r"\b((?:usher|process)_\w+)(\{[^}]*\})?", add, catalogue.expand(query))
    return query.replace("[R]", "[$__rate_interval]")


def check_unit(panel: Panel, query: str) -> None:
    """Raises an error for a unit that does not fit the metrics of the query."""
    unit, share = panel.unit, re.search(r"\)\s*/\s*sum|_open / usher_\w+_limit|_open_fds / ", query)
    if "$" in query:
        # A line for a variable that people set, beside the metric that it is compared with.
        return
    if "_timestamp_seconds" in query or "_time_seconds" in query:
        left = "dtdurations" if query.endswith("- time()") else "dateTimeFromNow"
        good = "s" if query.startswith("time() -") else left
    elif "_seconds_bucket" in query:
        good = "s"
    elif "cpu_seconds" in query:
        good = "short"
    elif "_memory_bytes" in query:
        good = "decbytes"
    elif share and "bytes" in query:
        good = "bytes"
    elif "bytes_total" in query:
        good = "Bps"
    elif share and "active" not in query:
        good = "percentunit"
    elif "rate(" in query:
        good = ("cps", "reqps", "ops")
    else:
        good = ("short", "none")
    if unit not in good if isinstance(good, tuple) else unit != good:
        raise UnknownName(f"{panel.title}: the unit is {unit}, and the query needs {good}: {query}")


def has_exemplars(query: str) -> bool:
    """Returns true for one query of each histogram with exemplars: they are the same for all."""
    return "quantile(0.99" in query and any(f"{name}_bucket" in query for name in TRACED)


def panel_json(
    panel: Panel, number: int, place: dict, queries: list[str], description: str
) -> dict:
    defaults: dict = {"unit": panel.unit}
    if panel.unit == "percentunit":
        defaults |= {"min": 0, "max": 1}
    elif panel.unit not in ("dateTimeFromNow", "dtdurations"):
        defaults["min"] = 0
    if panel.names:
        options = {
            str(value): {"text": text, "index": value} for value, text in panel.names.items()
        }
        defaults["mappings"] = [{"type": "value", "options": options}]
        good_first = ("green", *("orange",) * (len(panel.names) - 2), "red")
        colours = good_first if panel.bad_is_high else ("orange", "green")
        steps = zip((None, *range(1, len(colours))), colours)
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [{"color": colour, "value": value} for value, colour in steps],
        }
        defaults["color"] = {"mode": "thresholds"}
    options: dict = {}
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
        defaults["custom"] = {
            "stacking": stacking,
            "fillOpacity": 20 if panel.stacked else 0,
            "showPoints": "never",
        }
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    elif panel.kind == "stat":
        options = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "graphMode": "area",
        }
        if panel.unit == "dateTimeFromNow":
            options["graphMode"] = "none"
    elif panel.kind == "state-timeline":
        options = {
            "mergeValues": True,
            "showValue": "never",
            "rowHeight": 0.9,
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        }
    targets = [
        {
            "datasource": DATASOURCE,
            "expr": query,
            "legendFormat": legend,
            "refId": chr(ord("A") + place_),
        }
        | ({"exemplar": True} if has_exemplars(query) else {})
        for place_, (query, (_, legend)) in enumerate(zip(queries, panel.queries))
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
    }


def variables(dashboard: Dashboard) -> list[dict]:
    def asked(name: str, label: str, query: str) -> dict:
        return {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": DATASOURCE,
            "definition": query,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "includeAll": True,
            "allValue": ".+",
            "multi": True,
            "current": {"text": ["All"], "value": ["$__all"]},
        }

    result = [
        {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "refresh": 1,
        },
        asked("job", "Job", "label_values(usher_build_info, job)"),
        asked("instance", "Node", 'label_values(usher_build_info{job=~"$job"}, instance)'),
    ]
    for name, label, value, kind in dashboard.variables:
        if kind == "query":
            result.append(asked(name, label, value))
        else:
            current = {"text": value, "value": value}
            result.append(
                {
                    "name": name,
                    "label": label,
                    "type": "textbox",
                    "query": value,
                    "current": current,
                    "options": [{**current, "selected": True}],
                }
            )
    return result


def place_of(alert: Alert) -> tuple[str, str]:
    """Returns the dashboard and the title of the panel that shows the alert."""
    named = re.match(r"(usher-\w+): (.*)", alert.panel)
    return (named[1], named[2]) if named else ("usher-overview", alert.panel)


def runbooks_of(dashboard: Dashboard, panel: Panel) -> list[str]:
    """Returns a sentence for each runbook of the alerts that the panel shows."""
    alerts = [one for one in ALERTS if place_of(one) == (dashboard.uid, panel.title)]
    pages = dict.fromkeys(f"{RUNBOOKS}/{one.runbook}.md" for one in alerts)
    return [f"Runbook: {page}" for page in pages]


def panel_ids(boards: list[dict]) -> dict[tuple[str, str], int]:
    """Returns the number of each panel by its dashboard and its title."""
    return {(board["uid"], one["title"]): one["id"] for board in boards for one in board["panels"]}


def dashboard_json(dashboard: Dashboard, catalogue: Catalogue) -> dict:
    by_route = any(name == "route" for name, *_ in dashboard.variables)
    panels, number, top = [], 1, 0
    if by_route:
        place = {"x": 0, "y": 0, "w": COLUMNS, "h": 6}
        panels.append(
            {
                "id": number,
                "type": "text",
                "title": "One user",
                "description": "How to follow one user.",
                "gridPos": place,
                "options": {"mode": "markdown", "content": ONE_USER},
            }
        )
        number, top = 2, 6
    for row in dashboard.rows:
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        panels.append(
            {
                "id": number,
                "type": "row",
                "title": row.title,
                "gridPos": place,
                "collapsed": False,
                "panels": [],
            }
        )
        number, top, left, height = number + 1, top + 1, 0, 0
        for panel in row.panels:
            queries = []
            for query, _ in panel.queries:
                expanded = catalogue.expand(query)
                catalogue.check(expanded)
                check_unit(panel, expanded)
                queries.append(filtered(query, catalogue, by_route))
            if left + panel.width > COLUMNS:
                left, top, height = 0, top + height, 0
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            description = " ".join((panel.description, *runbooks_of(dashboard, panel)))
            panels.append(panel_json(panel, number, place, queries, description))
            number, left, height = number + 1, left + panel.width, max(height, panel.height)
        top += height
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["usher"],
        "editable": False,
        "graphTooltip": 1,
        "schemaVersion": 38,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "links": [
            {
                "type": "dashboards",
                "tags": ["usher"],
                "title": "Usher",
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": variables(dashboard)},
        "annotations": {"list": []},
        "panels": panels,
    }


def links(alert: Alert, panels: dict[tuple[str, str], int]) -> dict[str, str]:
    """Returns the annotations that lead to the runbook and to the panel of an alert."""
    dashboard, title = place_of(alert)
    if (dashboard, title) not in panels:
        raise UnknownName(f"{alert.name}: {dashboard} has no panel {title}")
    page, number = f"{RUNBOOKS}/{alert.runbook}.md", panels[dashboard, title]
    if not (ROOT / page).exists():
        raise UnknownName(f"{alert.name}: {page} does not exist")
    of_instance = "$labels.instance" in alert.summary
    filters = "".join(
        f"&var-{name}={{{{ $labels.{name} | urlquery }}}}"
        for name in ("job", *("instance",) * of_instance)
    )
    return {
        "runbook_url": page,
        # Grafana's own names for the panel of an alert, and the link for everything else.
        "__dashboardUid__": dashboard,
        "__panelId__": str(number),
        "dashboard_url": f"/d/{dashboard}?viewPanel={number}{filters}",
    }


def rules_text(catalogue: Catalogue, panels: dict[tuple[str, str], int]) -> str:
    """Returns the rule groups as YAML. A string in JSON is one in YAML, too."""
    recorded = {rule.name: {"job"} for rule in RECORDINGS}
    lines = [
        "# Generated from scripts/dashboards/alerts.py by scripts/dashboards/generate.py.",
        "groups:",
        "  - name: usher-recordings",
        "    rules:",
    ]
    for rule in RECORDINGS:
        query = catalogue.expand(rule.query)
        catalogue.check(query, recorded)
        lines += [f"      - record: {rule.name}", f"        expr: {json.dumps(query)}"]
    lines += ["  - name: usher-alerts", "    rules:"]
    for alert in ALERTS:
        query = catalogue.expand(alert.query)
        catalogue.check(query, recorded)
        labels = result_labels(query)
        for name in re.findall(r"\$labels\.(\w+)", alert.summary + alert.description):
            if labels is not None and name not in labels:
                raise UnknownName(f"{alert.name}: the result has no label {name}")
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(query)}",
            f"        for: {alert.wait}",
            "        labels:",
            f"          severity: {alert.severity}",
            "        annotations:",
            f"          summary: {json.dumps(alert.summary)}",
            f"          description: {json.dumps(alert.description)}",
        ]
        lines += [
            f"          {name}: {json.dumps(text)}" for name, text in links(alert, panels).items()
        ]
    return "\n".join(lines) + "\n"


def outputs() -> dict[Path, str]:
    """Returns the text of every generated file."""
    catalogue = Catalogue()
    boards = [dashboard_json(dashboard, catalogue) for dashboard in DASHBOARDS]
    files = {
        CHART / "dashboards" / f"{board['uid']}.json": json.dumps(board, indent=2, ensure_ascii=False) + "\n"
        for board in boards
    }
    files[CHART / "rules" / "usher.yaml"] = rules_text(catalogue, panel_ids(boards))
    return files


def main() -> int:
    try:
        files = outputs()
    except UnknownName as error:
        print(f"dashboards: {error}", file=sys.stderr)
        return 1
    if sys.argv[1:] == ["--check"]:
        stale = [
            path for path, text in files.items() if not path.exists() or path.read_text() != text
        ]
        written = {*(CHART / "dashboards").glob("*"), *(CHART / "rules").glob("*")}
        stale += sorted(written - set(files))
        for path in stale:
            print(
                f"dashboards: {path.relative_to(ROOT)} is not what generate.py writes",
                file=sys.stderr,
            )
        return int(bool(stale))
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
