"""A suite on a node, without Ray: measured as a run is, handed over row by row, continued after a kill."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import pytest
from fleets import ASK
from small_runs import SPECS, WORKS

from membound.bench.fleet import node_run
from membound.bench.fleet.node_file import NodeFile, node_folder
from membound.bench.fleet.node_run import NodeRun
from membound.bench.fleet.order import ALL
from membound.bench.machine.environment import COMPANY
from membound.bench.planning import choice
from membound.bench.planning.probe import Found
from membound.bench.protocol import messages as m
from membound.results.row import Row

RUN = "20261129T121500-fleet-1f3a.host.all"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, workers):
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(tmp_path / "cache"))
    found = [Found("numba:cpu", "a processor", True), Found("numba:cuda", "a board", True)]
    monkeypatch.setattr(choice, "probe", lambda *_: found)
    return workers


def order(device=ALL, **more):
    return replace(ASK, works=WORKS, backends=["numba:cpu"], threads=1, **more).order(RUN, device)


def all_of(run, have=0):
    """Everything that a suite hands over from a row on, and the last answer."""
    lines = []
    while not (handed := run.hand_over(have + len(lines), 20.0)).ended:
        lines += handed.lines
    return lines, handed


def cases(lines):
    return sorted(Row.from_json(line.decode()[: line.rfind(b',"checksum"')] + "}").work for line in lines)


def test_a_suite_is_a_run_whose_name_was_given():
    run = NodeRun(order())
    lines, last = all_of(run)
    rows = [Row.from_json(line[: line.rfind(b',"checksum"')].decode() + "}") for line in lines]
    assert last.failed == ""
    assert {row.run_id for row in rows} == {RUN}
    assert sorted(row.work for row in rows if row.kind == "case") == sorted(SPECS)
    assert sorted(work for _, _, work in last.cases) == sorted(SPECS)
    run.forget()
    assert list(node_folder().iterdir()) == []


def test_workers_hear_of_the_suites_beside_theirs(here):
    heard = set()

    def acts(worker, command):
        heard.add(os.environ.get(COMPANY))
        return None

    here.acts = acts
    all_of(NodeRun(replace(order(), beside="node-2 cpu")))
    assert heard == {"node-2 cpu"}
    heard.clear()
    all_of(NodeRun(replace(order(), run_id=f"{RUN}2")))
    assert heard == {None}


def test_what_was_not_taken_is_handed_over_by_the_next_try():
    lines, _ = all_of(NodeRun(order()))
    again, last = all_of(NodeRun(order()), have=1)
    assert again == lines[1:]
    assert last.failed == ""


def test_a_suite_that_was_killed_goes_on_and_repeats_no_row(here):
    stop = threading.Event()

    def acts(worker, command):
        if isinstance(command, m.Prepare) and stop.is_set():
            raise KeyError("the harness is gone")
        return None

    here.acts = acts
    lines, _ = all_of(NodeRun(order()))
    file = NodeFile(RUN)
    partial = file.path.with_name(file.path.name + ".partial")
    one_case = next(line for line in lines if b'"kind":"case"' in line)
    kept = lines[: lines.index(one_case) + 1]
    file.clear()
    known = replace(order(), known=tuple(kept))
    again, last = all_of(NodeRun(known), have=len(kept))
    assert last.failed == ""
    works = [Row.from_json(line[: line.rfind(b',"checksum"')].decode() + "}") for line in [*kept, *again]]
    assert sorted(row.work for row in works if row.kind == "case") == sorted(SPECS)
    assert not partial.exists()


def test_whatever_goes_wrong_is_said(here):
    def acts(worker, command):
        raise KeyError("what nobody thought of")

    here.acts = acts
    _, last = all_of(NodeRun(order()))
    assert last.failed == "KeyError: 'what nobody thought of'"


def test_a_device_that_no_backend_works_on_is_said():
    _, last = all_of(NodeRun(replace(order(), device="npu:0", backends=())))
    assert last.failed == "no backend works on npu:0"


def test_an_environment_that_is_not_there_is_made_first(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(
        node_run.build, "create", lambda recipe, force, tell: made.append((recipe.name, force))
    )
    all_of(NodeRun(replace(order(), environments=("vllm",))))
    assert made == [("vllm", False)]
