"""Who takes part in a fleet, of which kinds they are, and what that comes to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleets import ASK, FLEET, node

from membound.bench.fleet import found
from membound.bench.fleet.dry_run import FleetPlan
from membound.bench.fleet.fleet_error import FleetError
from membound.bench.fleet.found import find_nodes
from membound.bench.fleet.order import ALL, Estimate, Facts
from membound.version import __version__

MACHINE = {"cpu": "Test CPU", "isa": ["avx2", "avx512f"], "architecture": "x86_64"}
FACTS = Facts("host", "boot-1", __version__, "3.11.7", MACHINE, ())


class Surveyed:
    """A cluster whose nodes say at once what they are; a text is why one cannot."""

    def __init__(self, *facts):
        self.facts = {node(number + 1).id: one for number, one in enumerate(facts)}

    def nodes(self):
        return [node(number + 1) for number in range(len(self.facts))]

    def survey(self, one, order):
        return one.id

    def ready(self, references, timeout_s):
        return [one for one in references if self.facts[one] is not None]

    def result(self, reference):
        facts = self.facts[reference]
        return (None, facts) if isinstance(facts, str) else (facts, "")


def test_nodes_of_one_kind_are_one_line():
    seen = find_nodes(Surveyed(FACTS, replace(FACTS, boot="boot-2")), 0, None)
    assert list(seen.lines()) == [
        f"2 nodes on 2 machines, all of one kind: Test CPU, avx2 avx512f, Python 3.11, membound {__version__}"
    ]
    assert [one.run_id for one in seen.assigned(FLEET, 1)] == [f"{FLEET}.host.all", f"{FLEET}.host#2.all"]


def test_kinds_are_told_apart_and_machines_that_nodes_share_are_seen():
    other = replace(FACTS, machine=MACHINE | {"isa": ["avx2"]})
    lines = list(find_nodes(Surveyed(FACTS, other, replace(FACTS, python="3.12.1"), FACTS), 0, None).lines())
    assert lines[0] == "4 nodes on 1 machine of 3 kinds, which are told apart and never averaged:"
    assert lines[1].startswith("  host, host#4: Test CPU, avx2 avx512f, Python 3.11")
    assert lines[2].startswith("  host#2: Test CPU, avx2, Python 3.11")
    assert lines[3].startswith("  host#3: Test CPU, avx2 avx512f, Python 3.12")
    assert lines[4] == "nodes of one machine take turns, unless --together is given"


def test_who_cannot_take_part_is_named_with_the_reason():
    seen = find_nodes(
        Surveyed(
            FACTS, replace(FACTS, membound="0.0.9"), replace(FACTS, missing=("numba", "rich")), "no module"
        ),
        0,
        None,
    )
    assert [one.name for one in seen.nodes] == ["host"]
    assert {one.name: why.partition(":")[0] for one, why in seen.left_out} == {
        "host#2": f"it has membound 0.0.9, and this is {__version__}",
        "host#3": "it lacks numba, rich",
        "host#4": "no module",
    }


def test_a_node_that_does_not_answer_is_left_out(monkeypatch):
    monkeypatch.setattr(found, "SURVEY_S", 0.05)
    seen = find_nodes(Surveyed(FACTS, None), 0, None)
    assert seen.left_out == [(node(2), "it did not say within 0 s what it is")]


def test_nodes_that_give_way_to_others_are_named():
    lines = list(find_nodes(Surveyed(FACTS, replace(FACTS, nice=15)), 0, None).lines())
    assert "suites give way to other programs on host#2: start Ray with RAY_worker_niceness=0" in lines


def test_some_nodes_take_part_and_the_others_stand_by():
    seen = find_nodes(Surveyed(FACTS, FACTS, FACTS), 2, None)
    assert [one.name for one in seen.nodes] == ["host", "host#2"]
    assert node(3).id in seen.facts


@pytest.mark.parametrize(
    ("cluster", "wanted", "message"),
    [
        (Surveyed(), 0, "no node of the cluster has processors"),
        (Surveyed("no module"), 0, "no node can take part; host: no module"),
        (Surveyed(FACTS, "no module"), 2, "--nodes 2: 1 can take part; host#2: no module"),
    ],
)
def test_too_few_nodes_are_one_line(cluster, wanted, message):
    with pytest.raises(FleetError, match=message):
        find_nodes(cluster, wanted, None)


def test_a_plan_adds_up_what_the_nodes_say():
    """Two nodes of one machine take turns, a third one does not wait for them."""
    facts = [replace(FACTS, estimate=Estimate(("cpu", "cuda:0"), 4, seconds)) for seconds in (60.0, 90.0)]
    facts.append(replace(facts[1], boot="boot-2"))
    plan = FleetPlan(ASK, find_nodes(Surveyed(*facts), 0, None), 1_000_000)
    assert (plan.suites, plan.cases, plan.minutes) == (3, 12, 2.5)
    assert plan.record()["nodes"][0]["devices"] == [ALL]
    assert list(plan.lines())[-1] == (
        "3 suites, 12 cases, at most about 2 minutes; 1 MB go to each node, about 408 kB come back"
    )
    apart = replace(plan, ask=replace(ASK, every_device=True, together=True, passes=2))
    assert (apart.suites, apart.cases, apart.minutes) == (12, 24, 3.0)
    assert apart.record()["nodes"][0]["devices"] == ["cpu", "cuda:0"]
