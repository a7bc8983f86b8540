"""Several devices: which there are, alone and beside busy ones, and companions that are really busy."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from rows import MACHINE, case, ceiling

from membound.bench import api, cli
from membound.bench.machine.environment import COMPANY
from membound.bench.machine.placement import Placement, PlacementError
from membound.bench.measure.turns import Watch
from membound.bench.planning.choice import OptionError
from membound.bench.planning.plan import Options
from membound.bench.run import companion, devices
from membound.bench.run.companion import CompanionError, companions, meant_beside
from membound.bench.run.devices import Place, places_of
from membound.bench.run.session import Session
from membound.results.scaling.together import together_of, whole, whole_ci
from membound.results.views.together import whole_records

NODES = {"node0": (0, 1), "node1": (2, 3), "cpus1": (1,)}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Two nodes; `chosen` are the backends that are found."""
    found = SimpleNamespace(chosen=("alpha:cpu", "beta:cpu+x"))
    monkeypatch.setattr(devices, "choose_backends", lambda *_: found)
    monkeypatch.setattr(devices, "placement_of", lambda name: Placement(name, NODES[name], ()))
    nodes = [Placement(name, NODES[name], ()) for name in ("node0", "node1")]
    monkeypatch.setattr(devices, "placements", lambda: [*nodes, Placement("node0:node1", (0, 1), (1,))])

    @contextmanager
    def nowhere(name: str):
        yield

    monkeypatch.setattr(devices, "placed", nowhere)
    monkeypatch.setattr(devices, "default_threads", lambda: 2)
    return found


def test_all_are_the_nodes_of_a_machine_without_accelerators(machine):
    backends = ("alpha:cpu", "beta:cpu+x")
    assert places_of(["all"], [], Options()) == [
        Place("node0", backends, "node0"),
        Place("node1", backends, "node1"),
    ]


def test_all_are_the_accelerators_where_there_are_some(machine):
    machine.chosen = ("alpha:cpu", "alpha:gpu:0+graph", "beta:gpu:0", "alpha:gpu:1")
    found = places_of(["all"], [], Options())
    assert found == [
        Place("gpu:0", ("alpha:gpu:0+graph", "beta:gpu:0")),
        Place("gpu:1", ("alpha:gpu:1",)),
    ]
    assert [one.companion for one in found] == ["alpha:gpu:0", "alpha:gpu:1"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["node0"], "--devices takes two or more to compare, and this is node0"),
        (["node0", "gpu:7"], "device 'gpu:7': none of the backends asked for runs on it"),
        (["node0", "cpus1"], "devices node0 and cpus1 share CPU 1"),
    ],
)
def test_bad_input_gets_a_line(machine, asked, words):
    with pytest.raises(OptionError, match=words):
        places_of(asked, [], Options())


def test_each_is_measured_alone_and_then_beside_the_others(machine, monkeypatch):
    asked = []

    def run(works, backends, options, talk, progress):
        asked.append(options)
        told = {"placement": options.placement} | (
            {"beside": ", ".join(options.beside)} if options.beside else {}
        )
        left = 0.8 if options.beside else 1.0
        common = {"run_id": f"run-{len(asked)}", "machine": MACHINE | told}
        rows = [
            one
            for n in range(3)
            for one in (
                case(samples=[0.01 / left * (1 + 0.01 * n)], replicate=n, **common),
                ceiling(
                    "read",
                    1e10 * left,
                    "bytes/s",
                    backend="cpu",
                    config={"turns": 3, "lowest": 1, "highest": 2},
                    **common,
                ),
            )
        ]
        return Session(Path(f"{len(asked)}.jsonl"), rows, False)

    monkeypatch.setattr(devices, "run_session", run)
    quiet = Console(quiet=True)
    done = devices.devices_session([], Options(), places_of(["all"], [], Options()), quiet, quiet)
    assert [(one.placement, one.threads, one.beside) for one in asked] == [
        ("node0", 2, ()),
        ("node1", 2, ()),
        ("node0", 2, ("node1",)),
        ("node1", 2, ("node0",)),
    ]
    assert [(one.device, one.work.split()[0:2]) for one in done.found][:2] == [
        ("node0", ["alpha:cpu", one]) for one in [done.found[0].work.split()[1]]
    ] + [("node1", ["alpha:cpu", done.found[0].work.split()[1]])]
    assert all(one.efficiency == pytest.approx(0.8) for one in done.found)
    low, high = done.found[0].ci
    assert low < 0.8 < high < 0.85
    assert whole(done.found[:2]) == pytest.approx(0.8)
    low, high = whole_ci(done.found[:2])
    assert 0.75 < low < 0.8 < high < 0.85
    record = done.record()
    assert record["devices"][0]["efficiency"] == pytest.approx(0.8)
    assert [(one["devices"], one["work"].split()[1]) for one in record["all"]] == [
        (["node0", "node1"], work) for work in (done.found[0].work.split()[1], "read")
    ]
    read = record["all"][1]
    assert (read["alone"], read["together"]) == (pytest.approx(2e10), pytest.approx(1.6e10))
    console = Console(width=80, record=True, file=StringIO())
    console.print(done.view())
    shown = [line.split() for line in console.export_text().splitlines() if line.startswith("all ")]
    assert [line[:4] for line in shown][1] == ["all", "20.0", "16.0", "80%"]
    assert all("–" in line[4] and len(line[4]) > 1 for line in shown)
    assert done.exit_status == 0


def test_devices_of_a_kind_stand_below_one_work():
    rows = [
        row
        for number in (0, 1)
        for beside in ("", "other")
        for row in (
            case(f"alpha:gpu:{number}+graph", run_id=f"{number}{beside}", machine={"beside": beside} if beside else {}),
            ceiling("read", 1e10, "bytes/s", backend=f"alpha:gpu:{number}", run_id=f"{number}{beside}",
                    machine={"beside": beside} if beside else {}),
        )
    ]  # fmt: skip
    found = together_of(rows)
    assert [(one.device, one.work.split()[0]) for one in found] == [
        ("gpu:0", "alpha:gpu+graph"),
        ("gpu:1", "alpha:gpu+graph"),
        ("gpu:0", "gpu"),
        ("gpu:1", "gpu"),
    ]
    assert [one.ci for one in found] == [None] * 4
    assert [one["ci"] for one in whole_records(found)] == [None] * 2


# Companions


def busy(pid: int) -> float:
    """Seconds of CPU of a process and of those that it started."""
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if pid in (int(folder.name), int(fields[1])):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_a_companion_is_busy_until_the_block_ends_and_workers_know_of_it(monkeypatch):
    started = []
    real = subprocess.Popen

    def note(*given, **more):
        started.append(real(*given, **more))
        return started[-1]

    monkeypatch.setattr(companion.subprocess, "Popen", note)
    last = max(os.sched_getaffinity(0))
    with companions([f"cpus{last}"]):
        (process,) = [
            one for one in started if companion.__name__ in one.args
        ]  # a guardian starts before the first
        before = busy(process.pid)
        until = time.monotonic() + 20
        while busy(process.pid) - before < 0.1 and time.monotonic() < until:
            time.sleep(0.05)
        assert busy(process.pid) - before >= 0.1
        assert os.environ[COMPANY] == f"cpus{last}"
    assert COMPANY not in os.environ
    assert process.poll() is not None


def test_beside_companions_only_waiting_is_a_disturbance(monkeypatch):
    from membound.bench.measure import turns

    monkeypatch.setattr(turns, "_scheduled", lambda process: {(process, "1"): (0.0, 0.0)})
    busy_s = iter([0.0, 5.0, 0.0, 5.0])
    monkeypatch.setattr(turns, "_busy_s", lambda: next(busy_s))
    monkeypatch.delenv(COMPANY, raising=False)
    assert Watch().disturbance(1.0) > 1
    monkeypatch.setenv(COMPANY, "node1")
    assert Watch().disturbance(1.0) == 0.0


def test_one_that_cannot_be_is_told_in_a_line():
    with (
        pytest.raises(CompanionError, match=r"nosuch:gpu:9 cannot be kept busy: .*nosuch"),
        companions(["nosuch:gpu:9"]),
    ):
        pass


def test_without_names_none_are_started_and_no_worker_hears_of_any(monkeypatch):
    monkeypatch.setenv(COMPANY, "somebody's")
    with companions([]):
        assert COMPANY not in os.environ
    assert os.environ[COMPANY] == "somebody's"


def test_workers_hear_of_company_that_another_suite_is(monkeypatch):
    monkeypatch.delenv(COMPANY, raising=False)
    with meant_beside("node-2 cpu"):
        with companions([]):
            assert os.environ[COMPANY] == "node-2 cpu"
        with meant_beside(""), companions([]):
            assert COMPANY not in os.environ
        assert COMPANY not in os.environ
    with companions([]):
        assert COMPANY not in os.environ


def test_a_command_does_not_believe_that_it_has_company(monkeypatch):
    monkeypatch.setenv(COMPANY, "somebody's")
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert COMPANY not in os.environ


def test_a_run_has_its_companions(monkeypatch, tmp_path):
    heard = []

    @contextmanager
    def noted(names):
        heard.append(tuple(names))
        yield

    monkeypatch.setattr(api, "companions", noted)
    plan = SimpleNamespace(beside=("node1",), placement="node9999", out=tmp_path)
    with pytest.raises(PlacementError):
        api.measure(plan, None)
    assert heard == [("node1",)]
