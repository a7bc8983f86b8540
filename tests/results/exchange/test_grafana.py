"""The dashboard: what Grafana needs of one, and that its expressions name the metrics that are exported."""

from __future__ import annotations

import json
import re

from fleet_rows import fleet_rows
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from rows import case, run_rows

from membound.results.exchange.grafana import CHOICES, grafana_text
from membound.results.exchange.openmetrics import openmetrics_text


def dashboard(rows):
    return json.loads(grafana_text(rows))


def metrics(rows):
    return {family.name: family for family in text_string_to_metric_families(openmetrics_text(rows))}


def test_every_metric_has_a_panel_and_every_panel_a_metric():
    panels = dashboard(run_rows())["panels"]
    expressions = [panel["targets"][0]["expr"] for panel in panels]
    named = {name for text in expressions for name in re.findall(r"membound_\w+", text)}
    assert named == set(metrics(run_rows()))
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels)


def test_a_panel_has_the_unit_of_its_metric():
    units = {
        panel["targets"][0]["expr"].partition("{")[0]: panel["fieldConfig"]["defaults"]["unit"]
        for panel in dashboard(run_rows())["panels"][1:]
    }
    assert units["membound_time_seconds"] == "s"
    assert units["membound_mbu_ratio"] == "percentunit"
    assert units["membound_achieved_bytes_per_second"] == "Bps"
    assert units["membound_work_bytes"] == "decbytes"


def test_choices_are_labels_that_the_metrics_have():
    rows = fleet_rows()
    (sample, *_) = metrics(rows)["membound_time_seconds"].samples
    assert {*CHOICES, "rack"} <= set(sample.labels)
    assert (sample.labels["node"], sample.labels["rack"]) == ("node-00", "r0")
    assert not {"node", "rack"} & set(metrics(run_rows())["membound_time_seconds"].samples[0].labels)
    variables = dashboard(rows)["templating"]["list"]
    assert [one["name"] for one in variables] == ["source", *CHOICES]
    assert all(one["allValue"] == ".*" for one in variables[1:])  # series without the label count too


def test_the_first_panel_is_each_device_over_the_median_of_its_like():
    panel = dashboard(fleet_rows())["panels"][0]
    assert panel["title"] == "share of the median over devices"
    (expression,) = [target["expr"] for target in panel["targets"]]
    middle = "quantile by (backend, work, threads) (0.5, membound_achieved_bytes_per_second)"
    assert expression.endswith(f"/ on (backend, work, threads) group_left () {middle}")
    assert panel["fieldConfig"]["defaults"]["unit"] == "percentunit"


def test_without_bytes_there_is_no_such_panel():
    panels = dashboard([case(bytes=0, flops=0)])["panels"]
    assert {panel["title"] for panel in panels}.isdisjoint({"share of the median over devices"})
    assert panels
