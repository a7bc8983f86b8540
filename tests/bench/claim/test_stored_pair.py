"""Experiment 9 from stored runs: decode and prompts apart, only what both machines measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from rows import MACHINE, case, ceiling

from membound.bench.claim.plan import ClaimError
from membound.bench.claim.stored_pair import pair_observations
from membound.results.claim.observation import Observation
from membound.results.row import Row
from membound.results.store import RunWriter
from membound.results.turns import StoredTurn

DECODE = "linear:n=4096,k=4096,m=1,weight=bf16,act=float"
BETWEEN = "linear:n=4096,k=4096,m=64,weight=bf16,act=float"
PROMPT = "prefill:model=tiny,batch=1,tokens=64,weight=bf16,kv=bf16,act=float"


def stored(folder: Path, name: str, read: float, works: list[str], cpu: str) -> str:
    """A run file of two processes a work, the second 10 % slower; its machine is `cpu`."""
    rows: list[Row] = [ceiling("read", read, "bytes/s", run_id=name)]
    for work in works:
        for replicate in range(2):
            time_s = 1e9 / read * (1 + 0.1 * replicate)
            rows.append(case(work=work, samples=[time_s] * 3, run_id=name, replicate=replicate))
    with RunWriter(folder / f"{name}.jsonl") as writer:
        for row in rows:
            row.machine, row.device = MACHINE | {"cpu": cpu}, cpu
            writer.append(row)
    return name


def test_works_of_both_runs_become_observations(tmp_path: Path) -> None:
    a = stored(tmp_path, "a", 1e10, [DECODE, BETWEEN, PROMPT], "First")
    b = stored(tmp_path, "b", 2e10, [DECODE, PROMPT], "Second")
    found = pair_observations((a, b), tmp_path)
    assert {(o.arm, o.work, o.factors["machine"]) for o in found} == {
        (arm, work, machine)
        for arm, work in (("decode", DECODE), ("prefill", PROMPT))
        for machine in ("First", "Second")
    }
    assert {o.replicate for o in found} == {0, 1}
    slow = [o for o in found if o.factors["machine"] == "First" and o.arm == "decode"]
    assert {o.number("read_bytes_per_s") for o in slow} == {1e10}
    assert sorted(o.seconds for o in slow) == pytest.approx([0.1, 0.11])
    assert len(found) == 8


def test_a_work_that_took_turns_is_compared_with_the_ceilings_of_its_moments(tmp_path: Path) -> None:
    """The run's own ceilings, of other minutes, are 1e10 and 2e10."""
    names = []
    for name, read, moments in (("a", 1e10, (3e10, 5e10, 4e10)), ("b", 2e10, (9e10, 8e10, 7e10))):
        rows = [
            ceiling("read", read, "bytes/s", run_id=name),
            ceiling("fma_f32", 1e12, "FLOP/s", run_id=name),
        ]
        turns = [
            StoredTurn(
                at, float(at), 0.1 * (at + 1), 1, 0.5, {"read": seen - 1e9}, {"read": seen + 1e9}, None, 0.0
            )
            for at, seen in enumerate(moments)
        ]
        rows.append(case(work=DECODE, samples=(), turns=turns, run_id=name))
        with RunWriter(tmp_path / f"{name}.jsonl") as writer:
            for row in rows:
                row.machine, row.device = MACHINE | {"cpu": name}, name
                writer.append(row)
        names.append(name)
    first, second = pair_observations((names[0], names[1]), tmp_path)
    assert (first.read_bytes_per_s, second.read_bytes_per_s) == (4e10, 8e10)
    assert (first.number("read_bytes_per_s"), second.number("read_bytes_per_s")) == (4e10, 8e10)
    assert first.samples_s == pytest.approx([0.1, 0.2, 0.3])
    assert first.seconds == pytest.approx(0.2)
    assert [len(one.turns) for one in (first, second)] == [3, 3]
    assert first.compute_flops_per_s == 1e12
    assert Observation.from_json(first.to_json()) == first


@pytest.mark.parametrize(
    ("works", "cpu", "part"),
    [([DECODE], "First", "both are of First"), ([BETWEEN], "Second", "no decode or prompt work in common")],
)
def test_runs_that_make_no_pair_are_refused(tmp_path: Path, works: list[str], cpu: str, part: str) -> None:
    a = stored(tmp_path, "a", 1e10, [DECODE, BETWEEN], "First")
    b = stored(tmp_path, "b", 2e10, works, cpu)
    with pytest.raises(ClaimError, match=part):
        pair_observations((a, b), tmp_path)
