"""Files of pytest-benchmark as rows: membound's own benchmarks, other people's, and damaged ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from benchmark_files import SAMPLES, content, stored, write
from rows import LINEAR, case, ceiling

import membound
from membound.bench.cli import main
from membound.results.exchange.pytest_benchmark import FIGURES, info_of, rows_from
from membound.results.row import RowError
from membound.results.stats import COLUMNS, records, summarize


def test_a_benchmark_of_the_fixture_comes_back_as_the_row_that_it_was(tmp_path):
    row = case(samples=SAMPLES, launches=3, error=1e-5, telemetry={"wall_s": 1.0})
    limits = [ceiling("read", 2e10, "bytes/s"), ceiling("fma_f32", 1e12, "FLOP/s")]
    path = write(tmp_path / "bench.json", stored(row, limits))
    assert rows_from(path) == [*limits, row]
    table = membound.load(path)
    assert list(table.columns) == list(COLUMNS)
    (line,) = records(table)
    assert (line["work"], line["time_s"], line["min_s"]) == (LINEAR, 0.011, 0.010)
    assert line["mbu"] == pytest.approx(100e6 / 0.011 / 2e10)
    info = json.loads(path.read_text())["benchmarks"][0]["extra_info"]
    assert {name: info[name] for name in FIGURES} == {name: line[name] for name in FIGURES}


def test_every_figure_is_a_column_of_the_summary():
    assert set(FIGURES) <= set(COLUMNS)


def test_another_projects_benchmark_has_times_and_nothing_else(tmp_path):
    (row,) = rows_from(write(tmp_path / "0001_x.json", content()))
    assert (row.run_id, row.backend, row.device) == ("0001_x", "test_it[x-1]:cpu", "Some CPU")
    assert row.work == 'custom:name="tests/test_a.py::test_it[x:1,2]"'
    assert (row.bytes, row.flops, row.samples_s, row.launches) == (0, 0, SAMPLES, 3)
    (line,) = records(summarize([row]))
    assert (line["time_s"], line["mbu"], line["verdict"]) == (0.011, None, "inconclusive")


@pytest.mark.parametrize(
    ("info", "versions"),
    [
        ({"id": "0f3a" * 10, "dirty": False}, {"commit": "0f3a" * 10}),
        ({"id": "0f3a" * 10, "dirty": True}, {"commit": "0f3a" * 10 + "-dirty"}),
        ({"id": "unversioned", "dirty": False}, {}),
        ({"id": None}, {}),
        (None, {}),
    ],
)
def test_another_projects_commit_is_that_of_its_rows(tmp_path, info, versions):
    (row,) = rows_from(write(tmp_path / "a.json", content(commit_info=info)))
    assert row.versions == versions


def test_a_file_without_raw_samples_keeps_their_summary_and_says_so(tmp_path):
    (row,) = rows_from(write(tmp_path / "a.json", content(data=None)))
    assert row.samples_s == [0.010, 0.010, 0.011, 0.0165, 0.030]
    assert row.config == {"samples": "min, q1, median, q3, max of 5: the file holds no raw ones"}
    ours = info_of(case(config={"a": 1}), dict.fromkeys(FIGURES))
    (row,) = rows_from(write(tmp_path / "b.json", content(ours, data=None)))
    assert np.median(row.samples_s) == 0.011
    assert row.config == {"a": 1, "samples": "min, q1, median, q3, max of 5: the file holds no raw ones"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"benchmarks": [', "is not JSON"),
        ("[]", "has none of the formats that can be read"),
        ('{"benchmarks": 3, "machine_info": {}}', "has no list of benchmarks"),
        (
            '{"benchmarks": [{"name": "a"}], "machine_info": {}}',
            r"stats of benchmarks\[0\] has neither data nor a median",
        ),
        ('{"benchmarks": [3], "machine_info": {}}', r"stats of benchmarks\[0\] is no object"),
        ('{"benchmarks": [], "membound": []}', "membound of the file is no object"),
        ('{"benchmarks": [], "membound": {"ceilings": [{"schema_version": 99}]}}', "newer membound"),
        (
            '{"benchmarks": [], "membound": {"ceilings": [{"schema_version": 1, "x": 2}]}}',
            "unknown field 'x'",
        ),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(RowError, match=message) as raised:
        membound.load(path)
    assert str(raised.value).startswith(str(path))


def test_such_files_are_shown_and_compared_like_runs(tmp_path, capsys):
    paths = []
    for name, scale in (("before", 1.0), ("after", 0.5)):
        row = case(samples=[scale * s for s in SAMPLES], run_id=name)
        found = stored(row, [ceiling("read", 2e10, "bytes/s", run_id=name)])
        found["benchmarks"][0]["stats"]["data"] = row.samples_s
        paths.append(str(write(tmp_path / f"{name}.json", found)))
        with pytest.raises(SystemExit, match="0"):
            main(["show", paths[-1], "--json"])
        (line,) = json.loads(capsys.readouterr().out)
        assert line["time_s"] == pytest.approx(scale * 0.011)
    assert membound.compare(*paths).time_ratio.iloc[0] == pytest.approx(0.5)


# What versions of pytest-benchmark leave out or null


@pytest.mark.parametrize("version", ["2.5.0", "4.0.0", "5.3.1"])
@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda file, one: None, {"device": "Some CPU"}),
        (lambda file, one: file.update(machine_info=None), {"device": "", "machine": {}}),
        (lambda file, one: file["machine_info"].update(cpu=None), {"device": "", "machine": {}}),
        (lambda file, one: file["machine_info"].update(cpu={"brand_raw": None}), {"device": ""}),
        (lambda file, one: file["machine_info"].update(cpu={"brand": "Old CPU"}), {"device": "Old CPU"}),
        (lambda file, one: file.update(datetime=None, commit_info=None, membound=None), {"started_at": ""}),
        (lambda file, one: file.pop("datetime"), {"started_at": ""}),
        (lambda file, one: one.update(extra_info=None, params=None, group=None, options=None), {}),
        (lambda file, one: one["stats"].update(iterations=None, rounds=None, data=None), {"launches": 1}),
        (
            lambda file, one: one["stats"].update(data=None, q1=None, max=None),
            {"samples_s": [0.011], "config": {"samples": "median of 5: the file holds no raw ones"}},
        ),
    ],
)
def test_what_a_version_leaves_out_or_null_is_not_known(tmp_path, version, edit, expected):
    file = content()
    file["version"] = version
    edit(file, file["benchmarks"][0])
    (row,) = rows_from(write(tmp_path / "a.json", file))
    assert {name: getattr(row, name) for name in expected} == expected
    (line,) = records(summarize([row]))
    assert line["time_s"] == 0.011


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda one: one.update(name=None), r"name of benchmarks\[0\] is None, not a text"),
        (lambda one: one.update(fullname=3), r"fullname of benchmarks\[0\] is 3, not a text"),
        (lambda one: one.update(stats=None), r"stats of benchmarks\[0\] has neither data nor a median"),
        (lambda one: one.update(stats=[1]), r"stats of benchmarks\[0\] is no object"),
        (lambda one: one.update(extra_info="x"), r"extra_info of benchmarks\[0\] is no object"),
        (
            lambda one: one.update(extra_info={"membound": "x"}),
            r"membound in extra_info of benchmarks\[0\] is no row",
        ),
    ],
)
def test_a_field_that_cannot_be_is_named_without_a_word_of_python(tmp_path, edit, says):
    file = content()
    edit(file["benchmarks"][0])
    with pytest.raises(RowError, match=says) as raised:
        rows_from(write(tmp_path / "a.json", file))
    assert "Error(" not in str(raised.value)
    assert "NoneType" not in str(raised.value)


def test_a_summary_has_no_percentile_that_would_be_made_of_five_numbers(tmp_path):
    (line,) = records(summarize(rows_from(write(tmp_path / "a.json", content(data=None)))))
    assert (line["min_s"], line["time_s"], line["p95_s"]) == (0.010, 0.011, None)
    assert (line["achieved_bytes_per_s"], line["achieved_flops_per_s"]) == (None, None)


def test_names_that_differ_in_a_comma_alone_are_two_benchmarks(tmp_path):
    file = content()
    file["benchmarks"].append(file["benchmarks"][0] | {"fullname": "tests/test_a.py::test_it[x:1;2]"})
    first, second = rows_from(write(tmp_path / "a.json", file))
    assert first.work != second.work
