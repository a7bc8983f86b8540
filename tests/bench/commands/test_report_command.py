"""`membound report`: what it writes, from any mix of sources, and what it refuses."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from claims import whole_claim, write_claim
from report_rows import report_rows
from rows import run_rows, write

from membound.bench.cli import main


def status_of(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["report", *map(str, arguments)])
    return int(stopped.value.code or 0)


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)


def test_all_kinds_of_sources_stand_in_one_page(tmp_path, capsys, no_charts):
    write(tmp_path / "run.jsonl", report_rows())
    claim = write_claim(tmp_path / "claims", whole_claim())
    renamed = tmp_path / "evidence.txt"
    renamed.write_bytes(claim.read_bytes())
    foreign = Path(__file__).parents[2] / "results/exchange/files/llama-bench.jsonl"
    page = tmp_path / "page.html"
    assert status_of(tmp_path / "run.jsonl", renamed, foreign, "--html", page) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "membound: charts need vl_convert, which is not installed: pip install 'membound[report]'; the report has no charts",
        f"written: {page}",
    ]
    html = page.read_text()
    assert "load:rate=10" in html
    assert "claim-" in html
    assert "tg32 llama 7B Q4_0" in html
    assert "No charts: charts need vl_convert" in html
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_markdown_goes_to_standard_output(tmp_path, capsys):
    path = write(tmp_path / "run.jsonl", run_rows())
    assert status_of(path) == 0
    assert "- **Which is fastest**: alpha:cpu in 1 of 1 works, 2.04 times as fast" in capsys.readouterr().out


def test_json_has_the_answers(tmp_path, capsys):
    path = write(tmp_path / "run.jsonl", report_rows())
    assert status_of(path, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["machine"] for one in told["answers"]] == ["Test CPU, 2 threads", "Other CPU, 2 threads"]
    assert {won["backend"] for won in told["answers"][0]["works"]} == {"alpha:cpu"}
    assert all(won["of_bound_ci"][0] < won["of_bound"] for won in told["answers"][0]["works"])


def test_charts_are_written_as_png_and_beside_the_markdown(tmp_path):
    path = write(tmp_path / "run.jsonl", run_rows())
    assert status_of(path, "--png", tmp_path / "png", "--markdown", tmp_path / "report.md") == 0
    pngs, svgs = ({one.stem for one in (tmp_path / folder).iterdir()} for folder in ("png", "report-plots"))
    assert pngs == svgs == {"roofline-1", "shares-1", "time-1"}
    text = (tmp_path / "report.md").read_text()
    assert all(f"](report-plots/{name}.svg)" in text for name in svgs)
    assert "History is left out: no work was measured" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl", "--html", "page.html"], "no run 'none.jsonl'"),
        (["claim-none", "--html", "page.html"], "'claim-none' is the start of 0 claims"),
        (["empty", "--html", "page.html"], "empty holds neither runs nor claims"),
        (["torn.jsonl", "--html", "page.html"], "torn.jsonl, line 1: "),
        (["foreign.json", "--html", "page.html"], "foreign.json"),
        (["run.jsonl", "--html", "empty"], "empty is a folder; name a file"),
        (["run.jsonl", "--html", "none/page.html"], "there is no folder none"),
        (["run.jsonl", "--markdown", "empty"], "empty is a folder; name a file"),
        (["run.jsonl", "--html", "pipe"], "pipe is no file; name one"),
        (["run.jsonl", "--png", "run.jsonl"], "run.jsonl is no folder; name one"),
        (
            ["run.jsonl", "--html", "x", "--markdown", "x"],
            "x is named for both the page and the Markdown; name two files",
        ),
        (
            ["run.jsonl", "--html", "x", "--markdown", "empty/../x"],
            "is named for both the page and the Markdown",
        ),
        (
            ["run.jsonl", "--html", "new.md", "--markdown", "link.md"],
            "link.md is named for both the page and the Markdown",
        ),
        (
            ["run.jsonl", "--html", "x", "--png", "x"],
            "x cannot be a file and the folder of the charts; name another one",
        ),
        (
            ["run.jsonl", "--html", "x-plots", "--markdown", "x.md"],
            "x-plots cannot be a file and the folder of the charts",
        ),
        (["run.jsonl", "--html", "page.html", "--markdown", "torn.md"], "torn-plots is no folder; name one"),
        (["run.jsonl", "--png", "none/charts"], "there is no folder none"),
        (["blank.jsonl"], "no rows"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "run.jsonl", run_rows())
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "torn.jsonl").write_text('{"run_id":5}\n')
    (tmp_path / "foreign.json").write_text('{"a": 1}')
    (tmp_path / "blank.jsonl").write_text("")
    (tmp_path / "torn-plots").write_text("a file")
    (tmp_path / "new.md").write_text("old")
    (tmp_path / "link.md").symlink_to("new.md")
    before = sorted(tmp_path.rglob("*"))
    assert status_of(*arguments) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_png_without_the_libraries_is_refused(tmp_path, capsys, no_charts):
    path = write(tmp_path / "run.jsonl", run_rows())
    assert status_of(path, "--png", tmp_path / "png", "--html", tmp_path / "page.html") == 2
    assert "pip install 'membound[report]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]
