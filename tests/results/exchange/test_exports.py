"""Every export, read back by whoever reads such files: the rows again, or the figures of the summary."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import resource
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from rows import case, ceiling, failed, run_rows

import membound
from membound.results.exchange.csv_file import plain_text_of
from membound.results.exchange.dashboards import NameTwice
from membound.results.exchange.exports import EXPORTERS, ExportFormatError, export, format_of
from membound.results.exchange.formats import read_foreign
from membound.results.exchange.llm_d_report import NoReport
from membound.results.stats import COLUMNS, records, summarize
from membound.results.store import StoreError, load_rows
from membound.results.turns import StoredTurn

FILES = Path(__file__).with_name("files")
HOSTILE = [
    '=cmd|"/c calc"!A1',
    "+1",
    "-1+2",
    "@x",
    "a\x1b[2Jb",
    'q"u,o\nte',
    "<script>",
    "'tick",
    "\n=1+1",
    "\uff1d1+1",
]


def rows():
    turn = StoredTurn(round=0, at_s=1.5, time_s=2e-3, launches=3, before={"read": 1e10}, disturbance=0.0)
    return [
        *run_rows(),
        case("gamma:cpu", samples=[], turns=[turn], stored_bytes=5, telemetry={"wall_s": 1.0}),
        failed("crashed", "SIGSEGV", backend="delta:cpu"),
        ceiling("launch", 2e-6, "s", config={"a": [1, None]}),
    ]


def written(tmp_path, name, these):
    path = tmp_path / f"out{EXPORTERS[name].suffixes[0] if EXPORTERS[name].suffixes else '.json'}"
    assert export(these, path, name) == name
    return path


@pytest.mark.parametrize("name", ["jsonl", "parquet", "sqlite"])
def test_formats_of_rows_give_back_the_same_rows(tmp_path, name):
    path = written(tmp_path, name, rows())
    assert load_rows(path) == rows()
    assert records(membound.load(path)) == records(summarize(rows()))
    assert load_rows(path.rename(tmp_path / "of_no_ending")) == rows()


def test_the_database_has_the_summary_too(tmp_path):
    base = sqlite3.connect(written(tmp_path, "sqlite", rows()))
    found = dict(base.execute("select backend, mbu from cases where mbu is not null").fetchall())
    base.close()
    assert found == {x["backend"]: x["mbu"] for x in records(summarize(rows())) if x["mbu"] is not None}


def test_csv_gives_back_the_figures_of_the_summary(tmp_path):
    found = list(csv.DictReader(io.StringIO(written(tmp_path, "csv", rows()).read_text())))
    expected = records(summarize(rows()))
    assert len(found) == len(expected)
    for line, told in zip(found, expected, strict=True):
        for name in COLUMNS:
            if name in line:
                value = told[name]
                cell = plain_text_of(line[name]) if isinstance(value, str) else line[name]
                assert cell == ("" if value is None else str(value))
            else:
                low, high = told[name] or (None, None)
                assert (line[f"{name}_low"], line[f"{name}_high"]) == tuple(
                    "" if x is None else str(x) for x in (low, high)
                )


def test_junit_gives_back_times_failures_and_skips(tmp_path):
    root = ElementTree.parse(written(tmp_path, "junit", rows())).getroot()
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("5", "1", "1")
    expected = {(x["backend"], x["work"]): x for x in records(summarize(rows()))}
    for one in suite:
        told = expected[one.get("classname"), one.get("name")]
        assert one.get("time") == (None if told["time_s"] is None else repr(told["time_s"]))
        kinds = {child.tag for child in one} - {"properties"}
        assert kinds == {"ok": set(), "crashed": {"failure"}, "unsupported": {"skipped"}}[told["status"]]


def test_openmetrics_gives_back_every_figure(tmp_path):
    families = list(text_string_to_metric_families(written(tmp_path, "openmetrics", rows()).read_text()))
    found = {f.name: {s.labels["backend"]: s.value for s in f.samples} for f in families}
    for column, name in (("time_s", "membound_time_seconds"), ("mbu", "membound_mbu_ratio")):
        assert found[name] == {
            x["backend"]: x[column] for x in records(summarize(rows())) if x[column] is not None
        }
    assert {f.name: f.unit for f in families}["membound_work_bytes"] == "bytes"


def test_github_action_benchmark_gives_back_time_and_range(tmp_path):
    found = json.loads(written(tmp_path, "github-action-benchmark", rows()).read_text())
    timed = [x for x in records(summarize(rows())) if x["time_s"] is not None]
    assert [(x["name"], x["value"], x["unit"]) for x in found] == [
        (f"{x['backend']} {x['work']}", x["time_s"], "s") for x in timed
    ]
    low, high = timed[0]["time_ci_s"]
    assert found[0]["range"] == f"± {(high - low) / 2:.3g}"


def test_bencher_gives_back_nanoseconds_with_their_interval(tmp_path):
    found = json.loads(written(tmp_path, "bencher", rows()).read_text())
    told = records(summarize(rows()))[0]
    latency = found[f"{told['backend']} {told['work']}"]["latency"]
    assert latency["value"] == pytest.approx(told["time_s"] * 1e9)
    assert [latency["lower_value"], latency["upper_value"]] == pytest.approx(
        [x * 1e9 for x in told["time_ci_s"]]
    )
    assert found[f"{told['backend']} {told['work']}"]["of-bound"]["value"] == told["of_bound"]


def test_two_runs_have_names_of_their_own_and_one_name_is_never_given_twice(tmp_path):
    two = [case(), case(run_id="run-b")]
    assert len(json.loads(written(tmp_path, "bencher", two).read_text())) == 2
    with pytest.raises(NameTwice, match="two cases are called"):
        export([case("a:cpu", "x y"), case("a:cpu x", "y")], tmp_path / "t.json", "bencher")
    assert not (tmp_path / "t.json").exists()


def test_markdown_is_what_show_prints(tmp_path):
    from membound.results.views.markdown import run_markdown

    assert written(tmp_path, "markdown", rows()).read_text() == run_markdown(rows())


@pytest.mark.parametrize("name", ["vllm-serve.json", "guidellm.json", "aiperf.json"])
def test_a_benchmark_report_has_the_tools_own_statistics(tmp_path, name):
    found = read_foreign(FILES / name).rows
    report = json.loads(written(tmp_path, "llm-d", found).read_text())
    aggregate = report["results"]["request_performance"]["aggregate"]
    assert (report["version"], report["run"]) == ("0.2", {"uid": found[0].run_id})
    assert aggregate["requests"] == {"total": 10, "failures": 0}
    first = aggregate["latency"]["time_to_first_token"]
    assert first["units"] == "s"
    told = next(r for r in found if "time_to_first_token" in r.work).config["reported"]
    assert first["mean"] == pytest.approx(told["mean"])
    assert first["p50"] == pytest.approx(
        told["p50"], rel=0.05
    )  # guidellm takes the lower of two middle values
    assert {one["units"] for one in aggregate["throughput"].values()} == {"queries/s", "tokens/s"}
    if name == "vllm-serve.json":
        source = json.loads((FILES / name).read_text())
        assert aggregate["throughput"]["output_token_rate"]["mean"] == pytest.approx(
            source["output_throughput"]
        )


def test_a_report_is_of_one_load():
    with pytest.raises(NoReport, match="these rows hold none"):
        EXPORTERS["llm-d"].write(Path("nowhere"), rows())
    with pytest.raises(NoReport, match="these rows hold 2; export one at a time"):
        EXPORTERS["llm-d"].write(Path("nowhere"), read_foreign(FILES / "sglang.jsonl").rows)


@pytest.mark.parametrize("name", [name for name in EXPORTERS if name != "llm-d"])
def test_texts_of_strangers_stay_texts(tmp_path, name):
    hostile = [case(f"b{i}:cpu", device=text, work=f"custom:name={text}") for i, text in enumerate(HOSTILE)]
    path = written(tmp_path, name, hostile)
    raw = path.read_bytes()
    if name not in ("parquet", "sqlite"):
        assert b"\x1b" not in raw
    if name == "csv":
        cells = [line["device"] for line in csv.DictReader(io.StringIO(raw.decode()))]
        assert not [cell for cell in cells if cell[:1] in "=+-@\n\uff1d"]
        assert [plain_text_of(cell) for cell in cells][:4] == HOSTILE[:4]
        assert [plain_text_of(cell) for cell in cells[7:]] == HOSTILE[7:]
    if name == "junit":
        assert len(ElementTree.fromstring(raw)[0]) == len(HOSTILE)
    if name == "openmetrics":
        families = list(text_string_to_metric_families(raw.decode()))
        assert {s.labels["device"] for s in families[0].samples} >= {HOSTILE[0], HOSTILE[5], "<script>"}
    if name in ("jsonl", "parquet", "sqlite"):
        assert load_rows(path) == hostile


@contextmanager
def files_of_at_most(size):
    """Writing beyond that fails half way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100])
@pytest.mark.parametrize("name", EXPORTERS)
def test_a_disk_that_is_full_leaves_no_part_of_a_file(tmp_path, name, size):
    some = run_rows() if name != "llm-d" else read_foreign(FILES / "vllm-serve.json").rows
    (tmp_path / "there.x").write_text("mine")
    for path, again in ((tmp_path / "out.x", False), (tmp_path / "there.x", True)):
        with files_of_at_most(size), pytest.raises(StoreError, match=f"{path} cannot be written: "):
            export(some, path, name, replace=again)
    assert [path.name for path in tmp_path.iterdir()] == ["there.x"]
    assert (tmp_path / "there.x").read_text() == "mine"


def test_a_file_is_replaced_only_where_that_is_asked_for(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("mine")
    with pytest.raises(StoreError, match="is there already; name another file, or give --force"):
        export(rows(), path)
    assert path.read_text() == "mine"
    export(rows(), path, replace=True)
    assert path.read_text().startswith("run_id,backend")
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_mask()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(StoreError, match="is no file; name one"):
        export(rows(), tmp_path / "folder.csv", replace=True)
    with pytest.raises(StoreError, match="cannot be written: No such file or directory"):
        export(rows(), tmp_path / "nowhere" / "out.csv")


def current_mask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_ending_of_a_name_is_its_format():
    assert [format_of(Path(f"x{s}")) for one in EXPORTERS.values() for s in one.suffixes] == [
        name for name, one in EXPORTERS.items() for _ in one.suffixes
    ]
    with pytest.raises(
        ExportFormatError, match=re.escape("x.json does not tell its format; give --format: csv, ")
    ):
        format_of(Path("x.json"))
    with pytest.raises(ExportFormatError, match="no format 'xls'; there are csv, jsonl, parquet"):
        format_of(Path("x.xls"), "xls")
