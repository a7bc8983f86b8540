"""What ships with the package is found by name from anywhere, and its index says what is in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rows import LINEAR, case, run_rows, write

from membound.bench import cli
from membound.results.published_runs import INDEX, entry_of, folder, index_json, index_of
from membound.results.report.published import index_cells, published_markdown
from membound.results.store import StoreError
from membound.results.stored_runs import find_run


def test_an_entry_says_what_a_run_came_to():
    entry = entry_of("here", [*run_rows(), case("gamma:cpu", status="crashed", samples=())])
    assert (entry.folder, entry.run, entry.machine, entry.threads) == ("here", "run-a", "Test CPU", 2)
    assert (entry.works, entry.cases, entry.failed) == (2, 4, 1)
    assert entry.backends == ["alpha:cpu", "beta:cpu+x"]
    assert entry.verdicts == {"memory": 1}
    assert entry.lowest_of_bound == entry.highest_of_bound == pytest.approx(100e6 / 11e9 / 0.01015, rel=1e-3)


def test_the_index_is_in_order_of_time_and_readable_without_us(tmp_path):
    for run, at in (("b", "2026-01-01"), ("a", "2026-01-02")):
        write(tmp_path / "place" / f"{run}.jsonl", [case(run_id=run, started_at=at)])
    entries = index_of(tmp_path)
    assert [entry.run for entry in entries] == ["b", "a"]
    assert [one["folder"] for one in json.loads(index_json(entries))] == ["place", "place"]


def test_the_page_has_each_work_with_its_fastest_and_the_next():
    rows = run_rows()
    entry = entry_of("here", rows)
    text = published_markdown([entry], {"run-a": rows}, {"run-a": "plots/run-a.svg"})
    assert index_cells(entry)[-2:] == ["11.0 GB/s", "90% to 90%"]
    assert (
        "| `linear n=4096 k=4096 m=1 bf16` | alpha:cpu | 10.15 ms | 90% | 2% | memory | beta:cpu+x ×2.04 |"
        in text
    )
    assert "![Share of the machine's limit by work and backend](plots/run-a.svg)" in text
    assert LINEAR not in text


def test_published_runs_are_found_by_the_start_of_their_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = json.loads((folder() / INDEX).read_text())
    assert find_run("published") == folder()
    for entry in known:
        assert find_run(f"published/{entry['run']}").parent.name == entry["folder"]
    with pytest.raises(StoreError, match=f"'2' is the start of {len(known)} published runs; there are 2026"):
        find_run("published/2")
    with pytest.raises(StoreError, match="'x' is the start of 0 published runs; there are 2026"):
        find_run("published/x")
    Path("published").mkdir()
    write(Path("published/mine.jsonl"), [case()])
    assert find_run("published") == Path("published")
    assert find_run("published/mine.jsonl") == Path("published/mine.jsonl")


def test_show_lists_them_and_shows_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    known = json.loads((folder() / INDEX).read_text())
    smallest = min(known, key=lambda entry: entry["cases"])
    with pytest.raises(SystemExit, match="0"):
        cli.main(["show", f"published/{smallest['run']}"])
    assert capsys.readouterr().out.startswith(f"run {smallest['run']}, {smallest['machine']}")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["show", "published"])
    shown = capsys.readouterr().out
    assert [entry["run"] in shown for entry in known] == [True] * len(known)
