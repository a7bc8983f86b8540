"""A dashboard for Grafana of the metrics that `openmetrics.py` writes.

>>> path.write_text(grafana_text(rows))      # Grafana: Dashboards, New, Import

It has a panel for each metric that these rows have, choices of backend, work, node and run, and, above all, each device's
share of the median over devices, by which a slow one is seen. The data source is chosen when it is imported. Fields are those
of Grafana's dashboard model, https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from membound.results.exchange.openmetrics import GAUGES, LABELS, PLACE
from membound.results.row import Row
from membound.results.stats import COLUMNS, records, summarize

SCHEMA = 39
"""Of Grafana 10.4 and 11; newer versions migrate it."""
UNITS = {"seconds": "s", "bytes": "decbytes", "ratio": "percentunit"}
"""Grafana's names for the units of OpenMetrics; rates of bytes are in bytes a second."""
RATE = "Bps"
CHOICES = ("node", "backend", "work", "run_id")
HEIGHT, WIDTH = 8, 12
"""Of a panel, in cells of a grid that is 24 wide."""
SOURCE = {"type": "prometheus", "uid": "${source}"}
SAID = ("node", "backend", "device", "work")
"""Labels in the legend of a series."""
SAME = "backend, work, threads"
"""Labels of series that may be compared."""


def grafana_text(rows: Iterable[Row]) -> str:
    """The dashboard as JSON."""
    lines = records(summarize(rows))
    found = {column: one for column, one in GAUGES.items() if any(x[column] is not None for x in lines)}
    panels = []
    if "achieved_bytes_per_s" in found:
        panels.append(_share_panel(found["achieved_bytes_per_s"][0]))
    panels += [_panel(COLUMNS[column], name, unit) for column, (name, unit) in found.items()]
    for number, panel in enumerate(panels):
        panel["id"] = number + 1
        panel["gridPos"] = {
            "h": HEIGHT,
            "w": WIDTH,
            "x": number % 2 * WIDTH,
            "y": number // 2 * HEIGHT,
        }
    dashboard = {
        "title": "membound",
        "uid": "membound",
        "tags": ["membound"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "time": {"from": "now-30d", "to": "now"},
        "templating": {"list": [_source(), *map(_choice, CHOICES)]},
        "panels": panels,
    }
    return json.dumps(dashboard, indent=2, allow_nan=False) + "\n"


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "data source", "type": "datasource", "query": "prometheus"}


def _choice(label: str) -> dict[str, Any]:
    """A list of the values of a label, of which several can be chosen; at first all are."""
    metric = GAUGES["time_s"][0]
    return {
        "name": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": f"label_values({metric}, {label})", "refId": label},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def _chosen(metric: str) -> str:
    filters = ", ".join(f'{label}=~"${label}"' for label in CHOICES)
    return f"{metric}{{{filters}}}"


def _panel(title: str, metric: str, unit: str) -> dict[str, Any]:
    grafana = UNITS.get(unit, RATE if metric.endswith("bytes_per_second") else "short")
    return _series(title, _chosen(metric), grafana)


def _share_panel(metric: str) -> dict[str, Any]:
    """Every series over the median of those of the same backend, work and threads."""
    middle = f"quantile by ({SAME}) (0.5, {metric})"
    return _series(
        "share of the median over devices",
        f"{_chosen(metric)} / on ({SAME}) group_left () {middle}",
        "percentunit",
    )


def _series(title: str, expression: str, unit: str) -> dict[str, Any]:
    legend = " ".join(f"{{{{{label}}}}}" for label in (*PLACE, *LABELS) if label in SAID)
    return {
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "targets": [{"refId": "A", "datasource": SOURCE, "expr": expression, "legendFormat": legend}],
        "fieldConfig": {
            "defaults": {"unit": unit, "custom": {"drawStyle": "line", "showPoints": "always"}},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "min", "max"]}
        },
    }
