"""Commands in turn: what they print becomes pairs, and whatever they do else is one clear line."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from benchmark_files import stored
from rows import case, ceiling, write

from membound.bench.gate.alternate import OUT, SideCommand, alternate
from membound.bench.gate.source import Commands, whole_runs
from membound.bench.gate.trees import GateError
from membound.results.pairs import BASE, HEAD, both_sides
from membound.results.store import load_rows

COPY = f"{sys.executable} -c 'import sys, shutil; shutil.copy(*sys.argv[1:])'"
PRINT = f"{sys.executable} -c 'import sys; sys.stdout.write(open(sys.argv[1]).read())'"


def foreign(path: Path, *seconds: float) -> Path:
    """A file of pytest-benchmark as other projects make it."""
    found = [
        {
            "name": f"test_{index}",
            "fullname": f"t.py::test_{index}",
            "stats": {"data": [time_s, time_s * 1.01], "iterations": 1, "rounds": 2},
        }
        for index, time_s in enumerate(seconds)
    ]
    path.write_text(
        json.dumps({"benchmarks": found, "machine_info": {}, "version": "5.1.0"}, indent=1), encoding="utf-8"
    )
    return path


def command(text, option="--head-command"):
    return SideCommand.parse(text, option)


def test_json_of_pytest_benchmark_is_read_from_where_out_stands(tmp_path):
    path = foreign(tmp_path / "a.json", 0.01, 0.02)
    rows = command(f"{COPY} {path} {OUT}").rows()
    assert [row.backend for row in rows] == ["test_0:cpu", "test_1:cpu"]
    assert rows[0].samples_s == [0.01, 0.0101]
    assert [row.work for row in command(f"{PRINT} {path}").rows()] == [row.work for row in rows]


def test_rows_are_read_from_standard_output_too(tmp_path):
    path = write(tmp_path / "rows.jsonl", [case(), case("beta:cpu")])
    assert [row.backend for row in command(f"{PRINT} {path}").rows()] == ["alpha:cpu", "beta:cpu"]


def test_the_other_project_may_use_the_fixture(tmp_path):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(stored(case(), [ceiling("read", 1e10, "bytes/s")])))
    (row,) = command(f"{PRINT} {path}").rows()
    assert (row.backend, row.bytes) == ("alpha:cpu", 100_000_000)


def test_pairs_come_in_both_orders_under_one_number(tmp_path):
    base, head = foreign(tmp_path / "a.json", 0.01), foreign(tmp_path / "b.json", 0.011)
    commands = {BASE: command(f"{PRINT} {base}"), HEAD: command(f"{PRINT} {head}")}
    said: list[str] = []
    rows = list(alternate(commands, range(8), "run", 1, said.append))
    assert {said[i] for i in range(0, 16, 2)} == {f"[{n}/8] {side}" for n, side in enumerate_sides(said)}
    assert {said[i].split()[1] for i in range(0, 16, 2)} == {BASE, HEAD}, "each goes first at times"
    (pairs,) = both_sides(rows).values()
    assert list(pairs.log_ratios) == pytest.approx([0.0953] * 8, abs=1e-3)
    assert rows[0].machine["cpu"]
    assert rows[0].command.startswith(sys.executable)


def enumerate_sides(said):
    return [(n, said[2 * n].split()[1]) for n in range(len(said) // 2)]


def test_what_was_suspected_alone_is_kept_of_a_second_stage(tmp_path):
    path = foreign(tmp_path / "a.json", 0.01, 0.02)
    both = {side: command(f"{PRINT} {path}") for side in (BASE, HEAD)}
    source = Commands(both, tmp_path / "out", 1, lambda text: None)
    _, rows = source.measure(None, 2, 0)
    first = next(iter(both_sides(rows)))
    stored_at, again = source.measure([first], 2, 1)
    assert list(both_sides(again)) == [first]
    assert load_rows(stored_at) == again


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "--head-command is empty"),
        ("   ", "--head-command is empty"),
        ("a 'b", "cannot be split into words"),
        ("/no/such/program", "/no/such/program cannot be started: No such file or directory"),
        ("'nul\0byte'", "cannot be started"),
        ("false", "--head-command ended with status 1: it printed nothing"),
        ("sh -c 'echo it broke here >&2; exit 7'", "ended with status 7: it broke here"),
        ("sh -c 'echo said on stdout; exit 3'", "ended with status 3: said on stdout"),
        ("sh -c 'kill -9 $$'", "ended with status -9"),
        ("true", "gave no benchmark"),
        (f"true {OUT}", "wrote nothing to {out}"),
        (f"mkdir {OUT}", "gave no benchmark"),
    ],
)
def test_a_command_that_gives_nothing_says_why(text, words):
    with pytest.raises(GateError) as refused:
        command(text).rows()
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"benchmarks": [{"name": "a"}]}',
        '{"benchmarks": 7}',
        '{"benchmarks": [',
        "no rows at all",
        '{"kind": "case"}',
        "\\xff\\xfe",
    ],
)
def test_output_that_is_no_benchmark_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "out"
    path.write_bytes(text.encode().decode("unicode_escape").encode("latin-1"))
    with pytest.raises(GateError, match=r"the output of --head-command cannot be read|gave no benchmark"):
        command(f"cat {path}").rows()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), 1e999])
def test_times_that_cannot_be_are_refused(tmp_path, value):
    with pytest.raises(GateError, match="the output of --head-command cannot be read"):
        command(f"{PRINT} {foreign(tmp_path / 'a.json', value)}").rows()


def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path):
    """Its grandchild too."""
    pid = tmp_path / "pid"
    hanging = SideCommand(("sh", "-c", f"sleep 1000 & echo $! > {pid}; wait"), "--base-command", limit_s=1.0)
    with pytest.raises(GateError, match="--base-command took longer than 1 s"):
        hanging.rows()
    for _ in range(100):
        if not Path(f"/proc/{pid.read_text().strip()}").exists():
            break
        time.sleep(0.02)
    state = Path(f"/proc/{pid.read_text().strip()}/stat")
    assert not state.exists() or state.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"


def test_whole_runs_are_those_of_the_commits_own_harness(tmp_path):
    """The interpreter stands in for a membound that writes rows into the folder that it is given."""
    kept = write(tmp_path / "rows.jsonl", [case()])
    fake = tmp_path / "python"
    fake.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/said\nfor out; do :; done\n'
        f'while [ "$1" != --out ]; do shift; done\nmkdir -p "$2"; cp {kept} "$2"/a.jsonl; exit 1\n'
    )
    fake.chmod(0o700)
    one = whole_runs(["linear:n=8,k=32"], ["alpha:cpu"], 2, str(fake), HEAD)
    assert [row.backend for row in one.rows()] == ["alpha:cpu"]
    said = (tmp_path / "said").read_text().split()
    assert said[:5] == ["-P", "-m", "membound", "run", "linear:n=8,k=32"]
    assert said[5:10] == ["--quick", "--replicates", "1", "--threads", "2"]
    assert said[-2:] == ["--backends", "alpha:cpu"]
    assert os.path.basename(said[said.index("--out") + 1]) == "out"
