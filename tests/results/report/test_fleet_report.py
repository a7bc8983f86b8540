"""A fleet in a report: the section, the charts and what they are drawn from."""

from __future__ import annotations

import re

import pytest
from fleet_rows import fleet_rows
from report_rows import EVIL, report_rows

from membound.results.report.drawing import drawing_library
from membound.results.report.fleet import fleet_of, share_of
from membound.results.report.fleet_charts import BINS, bin_of, fleet_figures, places
from membound.results.report.page import page_html
from membound.results.report.whole import whole_report, with_charts
from membound.results.report.whole_markdown import report_markdown

DAYS = [f"2026-11-{day:02}" for day in range(1, 4)]


def figures(**more):
    fleet, _ = fleet_of(fleet_rows(slow={4: 0.9}, **more))
    return {one.name: one for one in fleet_figures(drawing_library(), fleet)}


def data_of(figure):
    return [line for table in figure.chart.to_dict()["datasets"].values() for line in table]


def test_rows_of_named_nodes_are_a_fleet_and_others_are_not():
    fleet, others = fleet_of([*fleet_rows(), *report_rows()])
    assert len(fleet.devices) == 13
    assert len(others) == len(report_rows())
    assert fleet_of(report_rows())[0] is None
    alone = [row for row in fleet_rows() if row.machine["node"] == "node-03"]
    assert fleet_of(alone) == (None, alone)


def test_the_map_has_a_cell_for_each_device_by_rack_and_marks_the_outlier():
    figure = figures()["fleet-map-1"]
    lines = list({line["tip"]: line for line in data_of(figure)}.values())  # marks are a layer of their own
    assert len(lines) == 12
    assert {line["column"] for line in lines} == {"r0", "r1", "r2"}
    (marked,) = [line for line in lines if line["mark"]]
    assert (marked["mark"], marked["share"]) == ("▼", "90 % to 97 %")
    assert "node-04 cuda:0, rack r1" in marked["tip"]
    assert "Columns are racks" in figure.caption


def test_without_racks_devices_follow_each_other_by_name():
    figure = figures(racks=False, count=20)["fleet-map-1"]
    assert "No row names a rack" in figure.caption
    lines = data_of(figure)
    assert {(line["column"], line["line"]) for line in lines} >= {("1", 1), ("16", 1), ("1", 2), ("4", 2)}


def test_places_in_a_rack_do_not_overlap():
    fleet, _ = fleet_of(fleet_rows(30))
    found = places([run for group, run in fleet.devices if group])
    assert len({(column, line) for column, line, _ in found}) == 30


def test_the_distribution_counts_every_device_once():
    lines = data_of(figures()["fleet-spread-1"])
    assert sum(line["devices"] for line in lines) == 12
    assert len([line for line in lines if "tip" in line]) == 1


def test_days_are_drawn_where_there_are_several():
    assert "measured on one day" in figures()["fleet-days-1"].absent
    figure = figures(days=DAYS)["fleet-days-1"]
    lines = data_of(figure)
    assert {line["day"] for line in lines} == set(DAYS)
    assert {line["device"] for line in lines if "device" in line} == {"the fleet", "node-04 cuda:0"}
    assert "3 days are too few to tell changes" in figure.caption


def test_a_fleet_that_falls_on_a_day_says_so_and_one_that_stays_says_that():
    days = [f"2026-11-{day:02}" for day in range(1, 13)]
    fallen = dict.fromkeys(range(10), 0.9)
    rows = [
        row for day in days for row in fleet_rows(10, slow=fallen if day > "2026-11-06" else {}, days=[day])
    ]
    captions = [
        {one.name: one for one in fleet_figures(drawing_library(), fleet_of(some)[0])}["fleet-days-1"].caption
        for some in (rows, fleet_rows(10, days=days))
    ]
    assert captions[0].endswith("The median is 90% of what it was from 2026-11-07 on.")
    assert captions[1].endswith("No change is found.")


@pytest.mark.parametrize(
    ("share", "name"),
    [(0.5, "below 90 %"), (0.95, "90 % to 97 %"), (1.0, "97 % to 103 %"), (1.2, "above 110 %")],
)
def test_bins(share, name):
    assert bin_of(share) == name
    assert list(BINS) == sorted(
        BINS, key=lambda one: [bin_of(s) for s in (0.8, 0.95, 1, 1.05, 1.2)].index(one)
    )


def test_the_page_leads_from_the_answer_to_the_outlier_and_its_row():
    html = page_html(with_charts(whole_report([*fleet_rows(slow={4: 0.9}, names={4: EVIL}), *report_rows()])))
    assert EVIL not in html
    assert "1 outlier of 12 devices." in html
    anchors = set(re.findall(r"<tr id=(d\d+)", html))
    assert len(anchors) == 13
    links = re.findall(r'href="#(d\d+)"', html)
    assert links
    assert set(links) <= anchors
    assert "13 devices of a fleet" in html
    assert html.index("id=fleet>") < html.index("id=charts>") < html.index("id=all-cases>")


def test_a_fleet_alone_makes_a_page_without_cases():
    rows = fleet_rows(slow={4: 0.9})
    report = whole_report(rows)
    assert (report.shown, report.answers) == ([], [])
    html = page_html(report)
    assert "All cases" not in html
    assert "The fleet" in html
    text = report_markdown(report, rows, {})
    assert "## The fleet" in text
    assert "node-04 cuda:0, rack r1: 9.5 % slower" in text


def test_the_share_of_a_device_is_the_mean_of_what_it_has():
    fleet, _ = fleet_of(fleet_rows(slow={4: 0.9}))
    group, run = next(pair for pair in fleet.devices if pair[1].node == "node-04")
    assert share_of(group, run) == pytest.approx(0.9, abs=0.01)
