"""Thread counts and placements: which runs there are, that each is placed, and what they come to."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rows import MACHINE, case

from membound.bench import api, cli
from membound.bench.machine import placement
from membound.bench.machine.placement import Placement, PlacementError
from membound.bench.planning.choice import OptionError
from membound.bench.planning.plan import Options
from membound.bench.run import scaling
from membound.bench.run.session import Session
from membound.bench.run.stored_plan import plan_of, text_of
from membound.results.store import load_rows

NODES = {"node0": (0, 1, 2, 3), "node0:node1": (0, 1, 2, 3), "node1": (4, 5)}


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine of two nodes; where this process was put, in order."""
    seen: list[str] = []
    found = [Placement(name, cpus, ()) for name, cpus in NODES.items()]
    monkeypatch.setattr(scaling, "placements", lambda: found)
    monkeypatch.setattr(scaling, "default_threads", lambda: 2)

    def of(name: str) -> Placement:
        seen.append(name)
        return replace(next(one for one in found if one.name == name), name=name)

    monkeypatch.setattr(scaling, "placement_of", of)
    real = tuple(os.sched_getaffinity(0))
    monkeypatch.setattr(placement, "placement_of", lambda name: Placement(name, real, ()))
    return seen


def test_every_placement_has_every_count(two_nodes):
    assert list(scaling.points_of([1, 2], ["all"])) == [
        *(("node0", 1), ("node0", 2), ("node0:node1", 1), ("node0:node1", 2), ("node1", 1), ("node1", 2))
    ]
    assert list(scaling.points_of([], ["node1"])) == [("node1", 2)]
    assert list(scaling.points_of([], [])) == [("", 2)]
    assert list(scaling.points_of([1, 4], [])) == [("", 1), ("", 4)]
    assert [name for name, _ in scaling.points_of([1], ["node1", "all"])] == ["node1", "node0", "node0:node1"]


def test_more_threads_than_a_placement_has_cpus_are_refused(two_nodes):
    with pytest.raises(OptionError, match="threads=3 must be at most 2, the CPUs of placement node1"):
        list(scaling.points_of([1, 3], ["node1"]))


def sessions(monkeypatch: pytest.MonkeyPatch, interrupted_at: int = -1) -> list[Options]:
    """Runs that measure a rate of 10 GB/s a thread up to two; the options of each."""
    asked: list[Options] = []

    def run(works: Any, backends: Any, options: Options, talk: Any, progress: Any) -> Session:
        number = len(asked)
        asked.append(options)
        machine = MACHINE | ({"placement": options.placement} if options.placement else {})
        rate = 1e10 * min(options.threads, 2)
        rows = [
            case(
                samples=[1e8 / rate * (1 + 0.001 * n)], replicate=n, threads=options.threads, machine=machine
            )
            for n in range(3)
        ]
        for row in rows:
            row.run_id = f"run-{number}"
        return Session(Path(f"run-{number}.jsonl"), rows, number == interrupted_at)

    monkeypatch.setattr(scaling, "run_session", run)
    return asked


def done(points: list[tuple[str, int]]) -> scaling.ScalingSession:
    quiet = Console(quiet=True)
    return scaling.scaling_session([], [], Options(), points, quiet, quiet)


def test_a_run_for_each_and_the_knee_of_all(monkeypatch):
    asked = sessions(monkeypatch)
    found = done([("", threads) for threads in (1, 2, 3, 4)])
    assert [one.threads for one in asked] == [1, 2, 3, 4]
    (curve,) = found.curves
    assert curve.knee.threads == pytest.approx(2.0, rel=0.01)
    assert found.exit_status == 0
    record = json.loads(json.dumps(found.record()))
    assert record["runs"] == [f"run-{n}.jsonl" for n in range(4)]
    assert [line["threads"] for line in record["cases"]] == [1, 2, 3, 4]


def test_an_interrupt_ends_what_would_follow(monkeypatch):
    asked = sessions(monkeypatch, interrupted_at=1)
    found = done([("", 1), ("", 2), ("", 4)])
    assert (len(asked), found.exit_status) == (2, 130)


def test_a_table_has_each_placement(monkeypatch):
    sessions(monkeypatch)
    found = done([(place, threads) for place in ("node0", "node0:node1") for threads in (1, 2)])
    console = Console(width=80, record=True, file=StringIO())
    console.print(found.view())
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert [line.split()[:3] for line in text.splitlines() if line.startswith("node0")][:4] == [
        ["node0", "1", "10.0"],
        ["node0", "2", "20.0"],
        ["node0:node1", "1", "10.0"],
        ["node0:node1", "2", "20.0"],
    ]
    assert "a knee takes 3 thread counts to be told" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threads", "1,x"], "'x' is not a whole number"),
        (["--threads", "1,"], "'' is not a whole number"),
        (["--threads", "0,1"], "threads=0 must be from 1"),
        (["--placement", "here"], "placement 'here' is none: write node0"),
        (["--placement", "node77"], "this process may use no CPU of node77"),
        (["--resume", "latest", "--placement", "node0"], "leave out works and other options"),
    ],
)
def test_bad_input_gets_a_line(options, words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", *options])
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert words in said


def test_rows_and_plans_keep_the_placement(tmp_path, monkeypatch, workers):
    """With workers that answer at once: the harness is placed while it measures, and a plan that is resumed says where."""
    from small_runs import SPECS

    seen = []
    first = min(os.sched_getaffinity(0))
    name = f"cpus{first}"
    monkeypatch.setattr(
        api, "choose_backends", lambda *_: type("Choice", (), {"chosen": ("ok:cpu",), "device_memory": {}})
    )
    workers.acts = lambda *_: seen.append(sorted(os.sched_getaffinity(0)))
    options = Options(threads=1, replicates=1, quick=True, out=tmp_path, placement=name)
    monkeypatch.setattr("membound.backends.registry.entry_for", lambda name: name)
    plan, _ = api.prepare(list(SPECS), [], options)
    assert plan_of(text_of(plan)) == plan
    assert plan.placement == name
    path, rows = api.measure(plan, scaling_silent())
    assert {row.machine["placement"] for row in load_rows(path)} == {name}
    assert {row.machine["cpus"] for row in rows} == {1}
    assert seen
    assert all(cpus == [first] for cpus in seen)
    with pytest.raises(PlacementError):
        api.measure(replace(plan, placement="node999"), scaling_silent())


def scaling_silent():
    from membound.bench.run.progress import Silent

    return Silent()
