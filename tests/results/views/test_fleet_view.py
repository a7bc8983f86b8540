"""A fleet on a terminal and as Markdown: outliers first, in 80 columns, whatever nodes are called."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from fleet_rows import fleet_rows
from hostile_text import HOSTILE, TAGS

from membound.results.fleet.device_run import device_runs
from membound.results.fleet.outliers import FleetComparison, compare_fleet
from membound.results.fleet.record import fleet_record
from membound.results.predict.catalogue import Catalogue
from membound.results.views.console import PlainConsole
from membound.results.views.fleet import fleet_markdown, fleet_view

NOTHING = Catalogue({}, {})


def compared(**more) -> FleetComparison:
    return compare_fleet(device_runs(fleet_rows(**more)), NOTHING)


def printed(found: FleetComparison, width: int = 80) -> str:
    out = StringIO()
    PlainConsole(file=out, width=width).print(fleet_view(found))
    return out.getvalue()


def test_the_outlier_stands_first_with_what_it_has_that_others_have_not():
    text = printed(compared(slow={4: 0.9}))
    lines = text.splitlines()
    assert lines[0] == "1 outlier of 12 devices."
    assert lines[1].startswith("node-04 cuda:0, rack r1: 9.5 % slower in all figures together (z -")
    assert "  accelerator.ecc: on (11 of 12: off)" in lines
    assert "  device_memory_clock_ratio: 0.8 (median of 12: 1)" in lines
    assert "nothing was measured of node-lost cuda:0: crashed: the node died" in lines
    assert "at most 5% give any alarm" in " ".join(text.split())
    assert "Test GPU, 12 devices, membound 0.1.0, Python 3.12.3, up to avx2" in text
    assert max(map(len, lines)) <= 80


def test_a_clean_fleet_says_so_and_a_small_one_that_nothing_can_be_told():
    assert printed(compared()).startswith("No outliers of 12 devices.\n")
    small = printed(compared(count=5))
    assert small.startswith(
        "Nothing can be told of 5 devices: it takes 8 of one make with the same figure.\n"
    )
    assert "too few to tell outliers: it takes 8" in " ".join(small.split())


def test_devices_that_were_measured_together_are_not_set_beside_those_that_were_alone():
    """Of nine devices each, half as fast together: neither is an outlier of the other."""
    busy = {n: f"busy-{n}" for n in range(9)}
    alone, together = fleet_rows(9), fleet_rows(9, slow=dict.fromkeys(busy, 0.5), names=busy)
    for row in together:
        row.machine = row.machine | {"beside": f"{row.machine['node']} cuda:1"}
    found = compare_fleet(device_runs([*alone, *together]), NOTHING)
    assert (len(found.groups), found.outliers) == (2, ())
    assert sorted(group.make.beside for group in found.groups) == ["", "others"]
    assert "Python 3.12.3, up to avx2, beside others" in " ".join(printed(found).split())


@pytest.mark.parametrize("text", HOSTILE)
def test_names_of_nodes_are_text(text):
    found = compared(slow={4: 0.9}, names={4: text})
    shown, markdown = printed(found), fleet_markdown(found)
    assert "\x1b" not in shown + markdown
    assert not [tag for tag in TAGS if tag in markdown]
    assert max(map(len, shown.splitlines())) <= 80
    assert fleet_record(found)["outliers"][0]["node"] == text


def test_json_has_the_rule_every_share_and_the_differences():
    record = json.loads(json.dumps(fleet_record(compared(slow={4: 0.9})), allow_nan=False))
    assert record["rule"] == {
        "false_alarms": 0.05,
        "least_difference": 0.03,
        "fewest_devices": 8,
        "tests": 48,
    }
    (group,) = record["groups"]
    assert group["devices"] == len(group["members"]) == 12
    assert [one["work"] for one in group["figures"]][:2] == ["all figures", "read"]
    read = group["sustained"][0]
    assert (read["work"], read["devices"], read["unit"]) == ("read", 12, "bytes/s")
    assert read["ci"][0] <= read["total"] <= read["ci"][1]
    member = next(one for one in group["members"] if one["node"] == "node-04")
    assert member["rack"] == "r1"
    assert {one["work"] for one in member["shares"]} == {one["work"] for one in group["figures"]}
    (outlier,) = record["outliers"]
    assert outlier["share"] == pytest.approx(0.9, abs=0.01)
    assert {one["field"] for one in outlier["differences"]} >= {"accelerator.ecc"}
    assert record["without_figures"][0]["reasons"] == ["crashed: the node died"]


def test_markdown_has_the_tables():
    text = fleet_markdown(compared(slow={4: 0.9}))
    assert "**1 outlier of 12 devices.**" in text
    assert "In all they read " in text
    assert text.index("In all they read ") < text.index("| figure |")
    assert "| figure | devices | median | paper | ± | slowest | fastest | from |" in text
    assert "| cuda:0 read | 12 | 998.0 |" in text
