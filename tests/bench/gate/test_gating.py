"""A whole gate without the seconds: stages, fresh pairs, labels, interpreters, and runs of fake workers."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import fake_workers
import pytest
from rows import LINEAR, case, failed, write
from small_runs import Heard

from membound.bench.gate import source as sources
from membound.bench.gate.gating import gated, judged_files, known_noise
from membound.bench.gate.source import STAGE, Turns, pace_of
from membound.bench.machine.fingerprint import fingerprint
from membound.bench.planning.choice import Choice
from membound.bench.planning.plan import Options
from membound.bench.protocol import messages as m
from membound.results.gate import Rule
from membound.results.pairs import BASE, HEAD, Case, NotPaired, both_sides, labelled
from membound.results.store import load_rows

NAMES = ("old", "new")
RULE = Rule(pairs=12)
WORKS = ["linear:n=37,k=64,m=1,weight=f32,act=float", "linear:n=37,k=64,m=3,weight=f32,act=float"]


class Simulated:
    """A source whose head takes `factors` times as long, by work; `asked` is what was measured."""

    def __init__(self, factors, invalid=(), failing=()):
        self.factors, self.invalid, self.failing = factors, set(invalid), set(failing)
        self.asked, self.rng = [], random.Random(1)

    def measure(self, cases, pairs, stage):
        self.asked.append((None if cases is None else [one.work for one in cases], pairs, stage))
        works = self.factors if cases is None else [one.work for one in cases]
        return f"rows {stage}", [
            row for work in works for n in range(pairs) for row in self._pair(work, n, stage)
        ]

    def _pair(self, work, number, stage):
        values = {"work": work, "replicate": stage * STAGE + number, "run_id": f"run {stage}"}
        grade = "invalid" if (stage, number) in self.invalid else "clean"
        base = case("alpha:cpu#base", samples=[math.exp(self.rng.gauss(0, 0.01))], grade=grade, **values)
        if work in self.failing:
            return base, failed("error", "no such kernel", backend="alpha:cpu#head", **values)
        factor = self.factors[work] * math.exp(self.rng.gauss(0, 0.01))
        return base, case("alpha:cpu#head", samples=[factor], **values)


def ended(source, noise=None):
    said = []
    verdict = gated(source, RULE, noise or {}, NAMES, said.append)
    return verdict, said


def test_a_quiet_head_is_measured_once():
    source = Simulated({"w:a=1": 1.0, "w:b=1": 1.0})
    verdict, said = ended(source)
    assert (verdict.exit_status, said, source.asked) == (0, [], [(None, 12, 0)])
    assert [one.status for one in verdict.judged] == ["fine", "fine"]
    assert (verdict.base, verdict.head, verdict.rows) == ("old", "new", ("rows 0",))


def test_a_slow_case_is_measured_again_by_itself_and_called_regressed():
    source = Simulated({"w:a=1": 1.0, "w:b=1": 1.2})
    verdict, said = ended(source)
    assert source.asked == [(None, 12, 0), (["w:b=1"], 12, 10)]
    assert said == ["suspected: alpha:cpu w b=1; fresh processes will say"]
    assert verdict.exit_status == 1
    assert {one.case.work: one.status for one in verdict.judged} == {"w:a=1": "fine", "w:b=1": "regressed"}
    slow = verdict.judged[1]
    assert slow.confirmation is not None
    assert slow.confirmation.ratio == pytest.approx(1.2, rel=0.02)


def test_pairs_that_disturbance_took_are_measured_again_once():
    source = Simulated({"w:a=1": 1.0}, invalid=[(0, n) for n in range(5)])
    verdict, _ = ended(source)
    assert source.asked == [(None, 12, 0), (["w:a=1"], 5, 1)]
    (one,) = verdict.judged
    assert one.first is not None
    assert (one.first.pairs, one.aside, one.status) == (12, 5, "fine")


def test_a_machine_that_is_always_disturbed_cannot_tell():
    source = Simulated({"w:a=1": 1.0}, invalid=[(stage, n) for stage in (0, 1) for n in range(12)])
    verdict, _ = ended(source)
    assert verdict.exit_status == 2
    assert verdict.judged[0].reason == "only 0 pairs count; 24 had a disturbed process"


def test_a_head_that_cannot_do_what_the_base_can_has_regressed():
    source = Simulated({"w:a=1": 1.0, "w:b=1": 1.0}, failing=["w:b=1"])
    verdict, _ = ended(source)
    assert source.asked[-1] == (["w:b=1"], 12, 10)
    assert verdict.exit_status == 1
    assert "no such kernel" in verdict.judged[1].reason


# Files


def alternating(tmp_path, factor, count):
    """Two folders of runs, as a loop over `membound run` would leave them."""
    machine, rng = fingerprint(), random.Random(2)
    for index in range(2 * count):
        side, at = ("base", "head")[index % 2], f"2026-11-28T10:{index:02}:00+00:00"
        time_s = (factor if side == "head" else 1.0) * math.exp(rng.gauss(0, 0.01))
        row = case(samples=[time_s], run_id=f"{side} {index}", started_at=at, machine=machine)
        write(tmp_path / side / f"{index}.jsonl", [row])
    return str(tmp_path / "base"), str(tmp_path / "head")


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (1.2, 1), (0.8, 0)])
def test_files_that_were_made_in_turn_are_judged_by_halves(tmp_path, factor, status):
    verdict = judged_files(*alternating(tmp_path, factor, 16), RULE, {})
    assert verdict.exit_status == status
    (one,) = verdict.judged
    assert one.first is not None
    assert one.first.pairs == 8
    assert (one.confirmation is None) == (status == 0)


def test_too_few_files_cannot_tell(tmp_path):
    verdict = judged_files(*alternating(tmp_path, 1.0, 4), RULE, {})
    assert verdict.exit_status == 2
    assert verdict.judged[0].reason == "only 4 pairs count, 6 are needed"


def test_noise_is_found_in_its_folder(tmp_path):
    assert known_noise(tmp_path / "none") == {}
    rows = [
        case(
            f"alpha:cpu#{side}",
            replicate=n,
            machine=fingerprint(),
            samples=[1 + 0.01 * (n % 3) * (side == HEAD)],
        )
        for n in range(6)
        for side in (BASE, HEAD)
    ]
    write(tmp_path / "a.jsonl", rows)
    assert known_noise(tmp_path)[Case("alpha:cpu", LINEAR, 2)].pairs == 6


# Turns


@pytest.fixture
def chosen(monkeypatch):
    """Two backends that are there, whatever is installed; the interpreters that were asked."""
    asked = []

    def choose(names, threads, pythons):
        asked.append(dict(pythons))
        return Choice(("numba:cpu", "numpy:cpu"), ())

    monkeypatch.setattr(sources, "choose_backends", choose)
    return asked


def turns(tmp_path):
    options = Options(threads=1, pace=pace_of(3), out=tmp_path)
    return Turns.of(WORKS, [], {BASE: "/old/python", HEAD: "/new/python"}, options, Heard())


def test_each_backend_plays_against_itself_in_replicates_of_its_own(tmp_path, workers, chosen):
    path, rows = turns(tmp_path).measure(None, pairs=2, stage=0)
    assert set(chosen[0].values()) == {"/new/python"}
    assert load_rows(path) == rows
    of_replicate = {}
    for row in rows:
        of_replicate.setdefault(row.replicate, set()).add(row.backend)
    sides = [{labelled(name, side) for side in (BASE, HEAD)} for name in ("numba:cpu", "numpy:cpu")]
    assert sorted(of_replicate) == [0, 1, 2, 3]
    assert all(found in sides for found in of_replicate.values())
    pairs = both_sides(rows)
    assert len(pairs) == 4
    assert all(len(one.log_ratios) == 2 for one in pairs.values())
    assert not [row for row in rows if row.kind == "ceiling"]


def test_base_and_head_run_in_interpreters_of_their_own(tmp_path, workers, chosen):
    seen = set()

    def acts(worker, command):
        if isinstance(command, m.Open):
            seen.add((worker.python, command.backend.rpartition("#")[2]))

    workers.acts = acts
    turns(tmp_path).measure(None, pairs=1, stage=0)
    assert seen == {("/old/python", BASE), ("/new/python", HEAD)}


def test_both_sides_have_bursts_of_one_length(tmp_path, workers, chosen):
    """The head would take twice as many launches for a burst, had it been asked first."""
    turns(tmp_path).measure(None, pairs=2, stage=0)
    said = [(who, command) for who, command in workers.log if isinstance(command, m.Prepare)]
    first = {}
    for who, command in said:
        first.setdefault((who.partition("#")[0], command.work), command.launch_s)
    later = [command.launch_s for who, command in said[len(first) :]]
    assert set(first.values()) == {0.0}
    assert sum(launch_s == 0.0 for _, command in said for launch_s in [command.launch_s]) == len(first)
    assert all(later[-len(first) :])


def test_the_second_stage_measures_the_suspected_alone(tmp_path, workers, chosen):
    source = turns(tmp_path)
    wanted = Case("numpy:cpu", WORKS[1], 1)
    _, rows = source.measure([wanted], pairs=2, stage=10)
    assert {(row.backend.partition("#")[0], row.work) for row in rows} == {("numpy:cpu", WORKS[1])}
    assert {row.replicate for row in rows} == {10 * STAGE, 10 * STAGE + 1}


def test_a_side_that_speaks_another_protocol_is_a_failure_of_that_side(tmp_path, workers, chosen):
    def acts(worker, command):
        if isinstance(command, m.Open) and worker.python == "/old/python":
            return m.Failed("unavailable", "it speaks protocol 1")
        return None

    workers.acts = acts
    source = replace(turns(tmp_path), progress=Heard())
    verdict = gated(source, Rule(pairs=6), {}, NAMES, lambda text: None)
    assert verdict.exit_status == 2
    assert "the base fails: unavailable" in verdict.judged[0].reason
    assert fake_workers.CEILINGS not in {who for who, _ in workers.log}


def test_files_of_other_minutes_are_refused(tmp_path):
    write(
        tmp_path / "a.jsonl", [case(replicate=n, started_at=f"2026-11-28T10:0{n}:00+00:00") for n in range(3)]
    )
    write(
        tmp_path / "b.jsonl", [case(replicate=n, started_at=f"2026-11-28T10:1{n}:00+00:00") for n in range(3)]
    )
    with pytest.raises(NotPaired, match="were not measured in turn"):
        judged_files(str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), RULE, {})
