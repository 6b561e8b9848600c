"""Reads two pages of metrics, in OpenMetrics and in the text format, with Prometheus's own library.

    metrics_page.py OPENMETRICS_FILE TEXT_FILE

Prints each exemplar as `SERIES TRACE_ID`. Fails if a page is not well formed, or if the pages do not
have the same families and series.
"""

import sys
from pathlib import Path

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client import parser as text


def read(parser, path):
    """Returns the families by name, the series, and the exemplars."""
    families, series, exemplars = {}, set(), []
    for family in parser.text_string_to_metric_families(Path(path).read_text()):
        assert family.name not in families, f"{family.name} stands twice"
        families[family.name] = family.type, family.documentation
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in series, f"{key} stands twice"
            series.add(key)
            if sample.exemplar:
                exemplars.append((sample.name, sample.exemplar.labels["trace_id"]))
    return families, series, exemplars


open_families, open_series, exemplars = read(openmetrics, sys.argv[1])
text_families, text_series, _ = read(text, sys.argv[2])
assert open_families == text_families, open_families.items() ^ text_families.items()
assert open_series == text_series, open_series ^ text_series
assert len(open_families) > 60, len(open_families)
for name, trace in exemplars:
    print(name, trace)
