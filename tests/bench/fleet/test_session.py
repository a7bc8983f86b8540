"""One fleet from its first line to its exit status, without Ray: who is found, replaced and found again, what a full disk leaves."""

from __future__ import annotations

import io
import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fleets import ASK, CASES, World, node
from rich.console import Console

from membound.bench.fleet import collect, session
from membound.bench.fleet.collect import Patience
from membound.bench.fleet.fleet_error import FleetError
from membound.bench.fleet.fleet_file import RunWriter
from membound.bench.fleet.found import Found
from membound.bench.fleet.order import Facts
from membound.bench.fleet.session import Where, fleet_session, resumed_session
from membound.results.store import StoreError, load_rows
from membound.version import __version__

MACHINE = {"cpu": "Test CPU", "isa": ["avx2"], "architecture": "x86_64"}


def facts(number):
    return Facts("host", f"boot-{number}", __version__, "3.11.7", MACHINE, ())


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    """Sessions on a made-up cluster, what they said, and nodes that are left out."""
    made = SimpleNamespace(world=World([node(1), node(2)]), left_out=[], spare={})
    made.out, made.said = tmp_path / "fleets", Console(file=io.StringIO(), width=200)
    made.where = Where("auto", made.out, patience=Patience(300.0, 60.0, 20.0))

    @contextmanager
    def reached(ask, where):
        yield made.world

    def found(cluster, wanted, order):
        nodes = cluster.nodes()
        return Found(nodes[: wanted or len(nodes)], {n.id: facts(n.id) for n in nodes}, list(made.left_out))

    def surveyed(cluster, nodes, order):
        return (
            {n.id: facts(n.id) for n in nodes if n.id in made.spare},
            [(n, "no") for n in nodes if n.id not in made.spare],
        )

    monkeypatch.setattr(session, "reached", reached)
    monkeypatch.setattr(session, "find_nodes", found)
    monkeypatch.setattr(session, "survey_all", surveyed)

    def on(world):
        made.world = world
        monkeypatch.setattr(collect, "time", world.clock)

    def begin(**asked):
        return fleet_session(replace(ASK, **asked), made.where, made.said, made.said)

    made.on, made.begin = on, begin
    made.go_on = lambda: resumed_session("latest", made.where, made.said, made.said)
    on(made.world)
    return made


def once(rows):
    counts = Counter((row.run_id, row.backend, row.replicate, row.work) for row in rows)
    assert set(counts.values()) == {1}
    return len(rows)


def test_a_fleet_says_who_takes_part_and_ends_with_0(fleet):
    done = fleet.begin()
    assert (done.exit_status, once(load_rows(done.stored))) == (0, 6)
    said = fleet.said.file.getvalue()
    assert said.startswith("2 nodes on 2 machines, all of one kind: Test CPU, avx2, Python 3.11, membound")
    assert "host#2 all: done: 3 cases" in said
    record = json.loads(json.dumps(done.record()))
    assert (record["path"], record["interrupted"], record["left_out"]) == (str(done.path), False, [])
    assert [
        (one["node"], one["state"], one["rows"], one["cases"], one["failed"]) for one in record["suites"]
    ] == [
        ("host", "done", 3, 3, 0),
        ("host#2", "done", 3, 3, 0),
    ]
    assert {one["kind"] for one in record["suites"]} == {
        f"Test CPU, avx2, Python 3.11, membound {__version__}"
    }


def test_who_is_left_out_or_fails_is_exit_status_1_with_the_reason(fleet):
    fleet.left_out.append((node(3), "it has membound 0.0.9"))
    done = fleet.begin()
    assert done.exit_status == 1
    assert done.record()["left_out"] == [{"node": "host#3", "reason": "it has membound 0.0.9"}]
    fleet.left_out.clear()
    fleet.on(World([node(1)], lambda one, suite: setattr(suite, "fails", "no backend")))
    done = fleet.begin()
    assert done.exit_status == 1
    assert [(one["state"], one["reason"]) for one in done.record()["suites"]] == [("failed", "no backend")]


def interrupting(world, at):
    """Ctrl-C while that answer is read."""
    result, seen = world.result, []

    def read(reference):
        seen.append(reference)
        if len(seen) == at:
            raise KeyboardInterrupt
        return result(reference)

    world.result = read


def test_what_was_interrupted_goes_on_on_nodes_that_ray_knows_by_other_ids(fleet):
    interrupting(fleet.world, 4)
    cut = fleet.begin()
    assert (cut.exit_status, cut.stored.suffix) == (130, ".partial")
    assert fleet.world.running == set()
    assert (
        f"interrupted; 2 rows are kept: membound fleet --resume {cut.path.name}" in fleet.said.file.getvalue()
    )
    fleet.on(World([replace(node(1), id="0a"), replace(node(2), id="0b")]))
    done = fleet.go_on()
    assert (done.exit_status, once(load_rows(done.path))) == (0, 6)
    assert [one.node.id for one in done.assigned] == ["0a", "0b"]
    assert "2 of 2 suites are left" in fleet.said.file.getvalue()
    assert [path.name for path in fleet.out.iterdir()] == [done.path.name]


def test_a_fleet_that_sends_nothing_takes_no_wheel_when_it_goes_on(fleet):
    interrupting(fleet.world, 4)
    cut = fleet.begin(installed=True)
    fleet.where = replace(fleet.where, wheel=fleet.out / "membound.whl")
    with pytest.raises(
        FleetError, match=rf"^{cut.path.name} was begun with --installed: .* leave out --wheel$"
    ):
        fleet.go_on()
    assert len(load_rows(cut.stored)) == 2


def test_a_host_that_comes_back_is_another_node_and_a_spare_that_cannot_is_left_out(fleet):
    """The first node dies at once. Of those that come, one may not take part, and one has the name of the dead one."""
    unfit, again = replace(node(7), name="other"), replace(node(8), name="host")
    fleet.spare[again.id] = True
    fleet.world.behave = lambda one, suite: _dies(fleet.world, one, [unfit, again])
    done = fleet.begin()
    assert done.exit_status == 1
    assert [(one.node.name, one.state) for one in done.assigned] == [
        ("host", "failed"),
        ("host#2", "done"),
        ("host#3", "done"),
    ]
    assert [(one.name, why) for one, why in done.left_out] == [("other", "no")]
    rows = load_rows(done.path)
    assert once(rows) == 9
    assert Counter((row.machine["node"], row.status) for row in rows) == {
        ("host", "crashed"): 3,
        ("host#2", "ok"): 3,
        ("host#3", "ok"): 3,
    }


def _dies(world, one, coming):
    if one.node.id == node(1).id:
        world.died.add(one.node.id)
        world.alive += coming


def test_nodes_that_stand_by_are_not_measured(fleet):
    done = fleet.begin(nodes=1)
    assert {row.machine["node"] for row in load_rows(done.path)} == {"host"}


def test_a_disk_that_fills_up_ends_all_suites_and_what_lies_there_is_gone_on_with(fleet, monkeypatch):
    real, calls = RunWriter.append, []

    def append(writer, *rows):
        calls.append(len(rows))
        if len(calls) == 3:
            raise StoreError("the row file cannot be written: No space left on device")
        real(writer, *rows)

    monkeypatch.setattr(RunWriter, "append", append)
    with pytest.raises(StoreError, match="No space left on device"):
        fleet.begin()
    assert fleet.world.running == set()
    (partial,) = fleet.out.glob("*.partial")
    stored = partial.read_bytes().count(b"\n")
    assert stored == sum(calls[:2])
    fleet.on(World([node(1), node(2)]))
    done = fleet.go_on()
    assert (done.exit_status, once(load_rows(done.path))) == (0, 2 * len(CASES))
