"""`membound show` and `membound compare`: stored runs by any name, and what cannot be read or compared."""

import json
import os
from dataclasses import replace

import pytest
from cli_calls import FIGURES
from rows import LINEAR, MACHINE, case, run_rows, write

from membound.results.row import SCHEMA_VERSION

pytestmark = pytest.mark.usefixtures("folder")

# show


def test_show_by_file_folder_prefix_and_latest(membound_, folder):
    path = write(folder / "results/runs/20260101T0000-cpu-aaaa.jsonl", run_rows("run-a"))
    newer = write(folder / "results/runs/20260102T0000-cpu-bbbb.jsonl", run_rows("run-b"))
    os.utime(path, (1, 1))
    for name, run in ((path, "run-a"), ("20260101", "run-a"), ("latest", "run-b"), (newer, "run-b")):
        status, out, err = membound_("show", name)
        assert (status, err) == (0, "")
        assert f"run {run}, Test CPU, 2 threads" in out
        assert "10.15 ms" in out
    both = membound_("show", "results/runs")[1]
    assert "run run-a" in both
    assert "run run-b" in both
    assert membound_("show")[1] == membound_("show", "latest")[1]


def test_show_json_is_a_list_of_objects_with_null_for_what_is_missing(membound_, folder):
    write(folder / "results/runs/a.jsonl", run_rows())
    status, out, err = membound_("show", "latest", "--json")
    assert (status, err) == (0, "")
    lines = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert len(lines) == 3
    assert all(set(line) >= FIGURES for line in lines)
    first, last = lines[0], lines[-1]
    assert (first["backend"], first["work"], first["verdict"]) == ("alpha:cpu", LINEAR, "memory")
    assert first["mbu"] == pytest.approx(100e6 / 0.01015 / 11e9, rel=0.01)
    assert len(first["time_ci_s"]) == 2
    assert (last["status"], last["time_s"], last["mbu"], last["verdict"]) == ("unsupported", None, None, None)


def test_a_torn_last_line_is_left_out(membound_, folder):
    path = write(folder / "a.jsonl", run_rows())
    path.write_text(path.read_text()[:-30])
    assert membound_("show", path)[0] == 0


def test_show_refuses_what_cannot_be_read(refused, folder):
    good = case().to_json()
    corrupt = folder / "corrupt.jsonl"
    corrupt.write_text(f"{good}\nnot json\n{good}\n")
    assert "corrupt.jsonl, line 2: not JSON" in refused("show", corrupt)
    newer = folder / "newer.jsonl"
    newer.write_text(good.replace(f'"schema_version":{SCHEMA_VERSION}', '"schema_version":999') + "\n")
    assert "written by a newer membound (schema 999" in refused("show", newer)
    empty = folder / "empty.jsonl"
    empty.write_text("")
    assert "holds no rows" in refused("show", empty)
    assert corrupt.read_text() == f"{good}\nnot json\n{good}\n"


def test_an_unknown_or_ambiguous_run_is_refused_with_what_is_there(refused, folder):
    assert "no run 'latest': there are no runs in results/runs yet" in refused("show")
    write(folder / "results/runs/2026a.jsonl", run_rows())
    write(folder / "results/runs/2026b.jsonl", run_rows())
    assert "no run 'nope' in results/runs; the latest there: 2026a, 2026b" in refused("show", "nope")
    assert "'2026' is the start of 2 runs" in refused("show", "2026")


# compare


def test_compare_two_runs(membound_, folder):
    write(folder / "results/runs/a.jsonl", run_rows("run-a"))
    write(folder / "results/runs/b.jsonl", run_rows("run-b", scale=2.0))
    status, out, _ = membound_("compare", "a", "b")
    assert status == 0
    assert "A: run run-a" in out
    assert "slower by at least 95 %" in out
    told = json.loads(membound_("compare", "a", "b", "--json")[1])
    lines = told["pairs"]
    assert [x["pairs"] for x in told["groups"]] == [1, 1]
    assert (told["without_partner"], told["doubt"]) == ([], "")
    assert lines[0]["time_ratio"] == pytest.approx(2.0)
    assert lines[0]["differs"] is True
    assert lines[-1]["time_ratio"] is None


def test_compare_two_backends_of_a_run(membound_, folder):
    path = write(folder / "a.jsonl", run_rows())
    status, out, _ = membound_("compare", path, "--backends", "alpha:cpu", "beta:cpu+x", "--json")
    assert status == 0
    (line,) = json.loads(out)["pairs"]
    assert line["time_ratio"] == pytest.approx(2.04, rel=0.01)


def test_compare_refuses(refused, membound_, folder):
    a = write(folder / "a.jsonl", run_rows("run-a"))
    other = [replace(r, machine=MACHINE | {"cpu": "Other"}) for r in run_rows("run-b")]
    b = write(folder / "b.jsonl", other)
    assert "different machines (cpu: 'Test CPU' against 'Other')" in refused("compare", a, b)
    assert membound_("compare", a, b, "--force")[0] == 0
    assert "name two runs, or one run and two backends" in refused("compare", a)
    assert "name two runs, or one run and two backends" in refused("compare", a, b, "--backends", "x", "y")
    assert "has no backend 'x'" in refused("compare", a, "--backends", "x", "alpha:cpu")
    assert "no run 'c'" in refused("compare", a, "c")
    write(folder / "both.jsonl", run_rows("run-a") + run_rows("run-b"))
    assert "holds 2 runs" in refused("compare", "both.jsonl", a)
