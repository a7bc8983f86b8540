"""The charts: what they are drawn from, that their definitions are valid, and why one is left out."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
from report_rows import report_rows
from rows import case, ceiling

from membound.results.report.cases import cases_of
from membound.results.report.ceilings import ceilings_of
from membound.results.report.charts import figures_of
from membound.results.report.drawing import Figure, png_of, styled, ticks
from membound.results.report.machines_chart import drop
from membound.results.report.pictures import file_svg, page_svg
from membound.results.report.points import shown_points
from membound.results.report.shares_chart import format_of


@cache
def figures() -> dict[str, Figure]:
    rows = report_rows(evil=True)
    found = figures_of(cases_of(rows), ceilings_of(rows), shown_points(rows))
    return {one.name: one for one in found}


def data_of(name: str) -> list[dict[str, object]]:
    """Every line of every table that a chart is drawn from."""
    tables = figures()[name].chart.to_dict()["datasets"].values()  # to_dict checks the definition
    return [line for table in tables for line in table]


def test_every_chart_of_the_list_is_drawn():
    assert not [one.absent for one in figures().values() if one.chart is None]
    assert set(figures()) == {
        *("roofline-1", "roofline-2", "shares-1", "shares-2", "time-1", "time-2", "bytes"),
        *("batch-1", "batch-2", "context-1", "context-2", "machines"),
        *(f"history-{n}" for n in range(1, 6)),
        *("load-ttft", "load-tpot"),
    }


def test_the_roofline_has_ceilings_with_their_spread_and_every_case():
    lines = data_of("roofline-1")
    slope = [line for line in lines if line.get("slope")]
    assert {line["roof"] for line in slope} == {"read 20.0 GB/s"}
    assert all(line["low"] == pytest.approx(0.8 * line["middle"]) for line in slope)
    assert all(line["high"] == pytest.approx(1.1 * line["middle"]) for line in slope)
    level = [line for line in lines if line.get("slope") is False]
    assert {line["middle"] for line in level} == {4e11}
    assert min(line["intensity"] for line in level) == pytest.approx(20.0)  # the ridge: 4e11 / 2e10
    assert sum("tip" in line for line in lines) == 10


def test_shares_have_intervals_and_grades():
    lines = [line for line in data_of("shares-1") if "tip" in line]
    assert {line["group"] for line in lines} == {"step bf16"}
    assert {line["backend"]: line["validity"] for line in lines}["alpha:cpu"] == "clean"
    assert "contended" in {line["validity"] for line in lines}
    assert all(line["low"] < line["share"] < line["high"] for line in lines)


def test_the_knee_is_where_the_ceilings_cross():
    """bytes / 2e10 equals FLOPs / 4e11 at about batch 16."""
    caption = figures()["batch-1"].caption
    at = float(re.search(r"cross at batch ([\d.]+)", caption)[1])
    assert at == pytest.approx(16.0, rel=0.05)
    assert "knee" in str(data_of("batch-1"))


def test_parts_add_up():
    lines = data_of("time-1")
    shares: dict[object, float] = {}
    for line in lines:
        if "amount" in line:
            shares[line["bar"]] = shares.get(line["bar"], 0.0) + line["amount"]
    assert all(share == pytest.approx(1.0) for share in shares.values())
    assert {line.get("part") for line in lines} >= {"what the ceilings allow", "launching", "the rest"}
    of_bytes = [line for line in data_of("bytes") if "amount" in line]
    assert {line["part"] for line in of_bytes} == {"weights", "cache"}


def test_machines_with_nearly_equal_times_do_not_hide_one_another():
    lines = [
        {"work": work, "time_ms": time}
        for work, time in [
            ("a", 1.0),
            ("b", 5.0),
            ("a", 1.001),
            ("a", 2.0),
            ("b", 5.0),
            ("b", 5.0),
            ("c", 9.0),
        ]
    ]
    drop(lines)
    assert [line["drop"] for line in lines] == [17, 17, 24, 17, 24, 31, 17]
    many = [{"work": "a", "time_ms": 1.0} for _ in range(12)]
    drop(many)
    assert [line["drop"] for line in many] == pytest.approx(np.linspace(17, 31, 12))
    assert {line["drop"] for line in data_of("machines") if "drop" in line} >= {17}


def test_the_history_has_both_runs_and_says_that_they_are_too_few():
    assert {line["run"] for line in data_of("history-1") if "run" in line} == {
        "2026-11-01 10:00",
        "2026-11-02 10:00",
    }
    assert "2 runs are too few to tell changes." in figures()["history-1"].caption


def test_runs_are_called_by_their_commits_where_rows_name_them():
    values = {"bytes": 10**8, "flops": 10**8}
    rows = [
        case(run_id=run, started_at=day, versions=versions, **values)
        for run, day, versions in (
            ("run-a", "2026-11-01T10:00:00+00:00", {"commit": "3196ee3d1f0c"}),
            ("run-b", "2026-11-02T10:00:00+00:00", {"commit": "3196ee3d1f0c-dirty"}),
            ("run-c", "2026-11-03T10:00:00+00:00", {"numpy": "2.0"}),
        )
    ]
    found = {one.name: one for one in figures_of(cases_of(rows), ceilings_of(rows), [])}
    tables = found["history-1"].chart.to_dict()["datasets"].values()
    runs = [line["run"] for table in tables for line in table if "tip" in line]
    assert runs == ["3196ee3d1", "3196ee3d1-dirty", "2026-11-03 10:00"]


@pytest.mark.parametrize(
    ("rows", "name", "why"),
    [
        ([case()], "roofline-1", "no read ceiling was measured"),
        ([case()], "shares", "no case has a time and a measured ceiling"),
        ([case()], "batch", "no work was measured at 3 or more values of m, batch"),
        ([case()], "context", "no work was measured at 3 or more values of context, tokens"),
        ([case()], "machines", "no work was measured on two machines"),
        ([case()], "history", "in two of these runs"),
        ([case()], "bytes", "no case says of what its bytes are made"),
        ([case()], "load", "there is no point of load"),
        ([ceiling("read", 1e9, "bytes/s")], "roofline", "no case has a time, bytes and FLOPs"),
    ],
)
def test_a_chart_without_data_is_left_out_with_its_reason(rows, name, why):
    found = {one.name: one for one in figures_of(cases_of(rows), ceilings_of(rows), shown_points(rows))}
    assert found[name].chart is None
    assert why in found[name].absent


def test_a_mark_is_a_link_in_the_page_and_none_in_a_file():
    chart = figures()["roofline-2"].chart
    page, file = page_svg(chart, "a <b>", "roofline-2"), file_svg(chart)
    links = re.findall(r'<a href="#c\d+"><title>([^<]*)</title>', page)
    assert len(links) == 10
    assert all("95 % interval" in link for link in links)
    assert 'aria-label="a &lt;b&gt;"' in page
    assert "<a " not in file
    assert file.count("95 % interval") == page.count("95 % interval")
    assert "\x1b" not in page + file
    assert "\\x1b[31m" in page
    assert not re.search(r"\d\.\d{6}", page)
    opacities = re.findall(r'fill-opacity="([\d.]+)"', page)
    assert opacities.count("0.35") >= 5  # contended
    assert opacities.count("0.9") >= 5
    assert set(re.findall(r"https?://[^\"'\s)]+", page + file)) == {"http://www.w3.org/2000/svg"}


def test_png_and_svg_come_from_one_definition():
    chart = styled(figures()["bytes"].chart)
    assert png_of(chart).startswith(b"\x89PNG")


def test_ticks_and_formats():
    assert ticks(0.5, 30) == [0.5, 1, 2, 5, 10, 20]
    assert ticks(1, 1e6) == [1, 10, 100, 1e3, 1e4, 1e5, 1e6]
    assert format_of("linear:n=8,k=32,m=1,weight=int8,act=int8") == "linear int8 act int8"
    assert format_of("attention:context=8,kv=f32") == "attention f32"
