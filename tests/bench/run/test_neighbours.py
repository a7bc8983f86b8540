"""The ceilings between the turns: through whom those of a device play, what happens when they die, their closing rows."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import pytest
from fake_workers import Workers, ceiling
from rows import ceiling as ceiling_row
from small_runs import cases, executed, planned

from membound.bench.measure.ceiling_process import MOST_STARTS
from membound.bench.protocol import messages as m
from membound.bench.protocol.process import WorkerDiedError
from membound.bench.run.neighbours import fastest_limits
from membound.kernels.work import parse
from membound.results.roofline import device_class
from membound.results.stats import records, summarize

WORK = parse("linear:n=37,k=64,m=1,weight=f32").spec
ONE, TWO, OFFLOAD, CPU = "torch:gpu:0", "onnxruntime:gpu:0+x", "torch:gpu:0+offload", "numba:cpu"
LINK = "host_to_device_pinned"


def offering(**rates: dict[str, float]) -> Any:
    """Backends by their first word with their limits: rates by name; none has others."""

    def acts(worker: Any, command: Any) -> Any:
        if not isinstance(command, m.MeasureBackend):
            return None
        found = rates.get(worker.who.partition(":")[0] if "offload" not in worker.who else "", {})
        config = {"variant": f"{worker.who}'s"}
        return m.Ceilings([ceiling(name, rate, "bytes/s", config=config) for name, rate in found.items()], {})

    return acts


def opened(workers: Workers) -> list[tuple[str, dict[str, str]]]:
    """Through which backend device ceilings were opened, and which limits with which variants."""
    found, last = [], ""
    for _, command in workers.log:
        if isinstance(command, m.Open):
            last = command.backend
        elif isinstance(command, m.OpenDeviceCeiling):
            found.append((last, command.variants))
    return found


@pytest.mark.parametrize(("one", "two", "fastest"), [(3e12, 2e12, ONE), (2e12, 3e12, TWO)])
def test_backends_on_a_device_share_its_ceilings_through_whoever_reads_fastest(
    tmp_path: Path, workers: Workers, one: float, two: float, fastest: str
) -> None:
    workers.acts = offering(torch={"read": one, "copy": 9e12}, onnxruntime={"read": two})
    rows, _ = executed(tmp_path, planned([ONE, TWO], [WORK], ceilings=True, replicates=2))
    assert opened(workers) == [(fastest, {"read": f"{fastest}'s"})] * 2
    assert not workers.said(m.OpenCeiling) + workers.said(m.MeasureMachine), (
        "the processor's are not asked for"
    )
    assert all(t.before.keys() == t.after.keys() == {"read"} for r in cases(rows) for t in r.turns)
    closing = [r for r in rows if r.kind == "ceiling" and "turns" in r.config]
    assert {(r.backend, r.work, r.unit, r.replicate, r.config["variant"]) for r in closing} == {
        (fastest, "read", "bytes/s", n, "best") for n in range(2)
    }
    assert all(line["mbu"] > 0 for line in records(summarize(rows)))


def test_the_ceilings_of_a_device_run_in_its_backends_interpreter(tmp_path: Path, workers: Workers) -> None:
    offers, seen = offering(torch={"read": 1e12}), []

    def acts(worker: Any, command: Any) -> Any:
        if isinstance(command, m.OpenDeviceCeiling):
            seen.append(worker.python)
        return offers(worker, command)

    workers.acts = acts
    executed(tmp_path, planned([ONE], [WORK], ceilings=True, replicates=1, pythons={"torch": "/env/python"}))
    assert seen == ["/env/python"]


def test_one_process_holds_all_links_of_a_device(tmp_path: Path, workers: Workers) -> None:
    """ONNX Runtime reads faster here, but only torch drives the link that weights stream over."""
    workers.links[OFFLOAD] = LINK
    workers.acts = offering(torch={"read": 2e12, LINK: 5e10}, onnxruntime={"read": 3e12})
    rows, _ = executed(tmp_path, planned([ONE, TWO, OFFLOAD], [WORK], ceilings=True, replicates=1))
    assert opened(workers) == [(ONE, {"read": f"{ONE}'s", LINK: f"{ONE}'s"})]
    (offload,) = (r for r in cases(rows) if r.backend == OFFLOAD)
    assert offload.memory_ceiling == LINK
    assert all(t.ceiling(LINK) for t in offload.turns)
    assert {r.work for r in rows if "turns" in r.config} == {"read", LINK}


def test_each_device_has_its_own_ceilings_between_its_turns(tmp_path: Path, workers: Workers) -> None:
    offers = offering(torch={"read": 1e12})

    def acts(worker: Any, command: Any) -> Any:
        if isinstance(command, m.TakeCeilingTurn):
            rate = 1e12 if "device" in vars(worker) else 1e10
            return m.CeilingTurned(dict.fromkeys(command.names, rate), {}, {}, 0)
        if isinstance(command, m.OpenDeviceCeiling):
            worker.device = True
        return offers(worker, command)

    workers.acts = acts
    rows, _ = executed(tmp_path, planned([ONE, CPU], [WORK], ceilings=True, replicates=1))
    for row in cases(rows):
        rate = 1e10 if row.backend == CPU else 1e12
        assert {side["read"] for t in row.turns for side in (t.before, t.after)} == {rate}
    closing = {r.backend: r.value for r in rows if "turns" in r.config and r.work == "read"}
    assert closing == {ONE: 1e12, "cpu": 1e10}


def test_a_device_whose_limits_nobody_could_measure_has_turns_without_neighbours(
    tmp_path: Path, workers: Workers
) -> None:
    workers.acts = offering(torch={"copy": 1e12})
    rows, _ = executed(tmp_path, planned([ONE], [WORK], ceilings=True, replicates=1))
    assert [(r.status, len(r.turns)) for r in cases(rows)] == [("ok", 4)]
    assert not any(t.before or t.after for r in cases(rows) for t in r.turns)
    assert opened(workers) == []


def test_limits_that_failed_are_no_candidates() -> None:
    def limit(backend: str, name: str, value: float | None, **more: Any) -> Any:
        return ceiling_row(name, value, "bytes/s", backend, config={"variant": f"{value}"}, **more)  # type: ignore[arg-type]

    rows = [
        limit("a:gpu:0", "read", None, status="wrong"),
        limit("b:gpu:0", "read", 5.0),
        limit("b:gpu", "read", 7.0),
        limit("b:gpu:1", "read", 9.0),
        limit("c:cpu", "read", 9.0),
    ]
    assert device_class("b:gpu") == "gpu:0"
    assert fastest_limits(rows, "gpu:0", ["read"]) == ("b:gpu", {"read": "7.0"})
    assert fastest_limits(rows[:1], "gpu:0", ["read"]) is None
    assert fastest_limits(rows, "gpu:0", []) is None


# What goes wrong


def test_ceilings_that_die_are_started_again_and_no_turn_is_lost(tmp_path: Path, workers: Workers) -> None:
    def acts(worker: Any, command: Any) -> None:
        if isinstance(command, m.TakeCeilingTurn) and len(workers.said(m.TakeCeilingTurn)) in (3, 7):
            raise WorkerDiedError("SIGKILL")

    workers.acts = acts
    rows, heard = executed(tmp_path, planned([CPU], [WORK], ceilings=True, replicates=1))
    assert [(r.status, len(r.turns)) for r in cases(rows)] == [("ok", 4)]
    assert all(t.ceiling("read") for r in cases(rows) for t in r.turns)
    assert heard.notes == ["the ceilings' process ended (SIGKILL); it is started again"] * 2
    assert len(workers.said(m.OpenCeiling)) == 3


@pytest.mark.parametrize("first", [1, 4])
def test_ceilings_that_die_every_time_are_a_failed_row_and_cases_go_on(
    tmp_path: Path, workers: Workers, first: int
) -> None:
    def acts(worker: Any, command: Any) -> None:
        if isinstance(command, m.TakeCeilingTurn) and len(workers.said(m.TakeCeilingTurn)) >= first:
            raise WorkerDiedError("SIGILL")

    workers.acts = acts
    rows, heard = executed(tmp_path, planned([CPU], [WORK], ceilings=True, replicates=1))
    assert [(r.status, len(r.turns)) for r in cases(rows)] == [("ok", 4)]
    failed = [r for r in rows if r.kind == "ceiling" and r.status != "ok"]
    assert [(r.backend, r.work, r.status, r.reason) for r in failed] == [
        ("cpu", "ceilings", "crashed", "while they took turns: SIGILL")
    ]
    assert len(workers.said(m.OpenCeiling)) == len(heard.notes) + 1 == MOST_STARTS
    assert [r.work for r in rows if "turns" in r.config] == ["read"] * (first > 1) + ["fma_f32"] * (first > 1)


def test_a_ceiling_whose_result_is_wrong_is_a_failed_row(tmp_path: Path, workers: Workers) -> None:
    def acts(worker: Any, command: Any) -> Any:
        opens = isinstance(command, m.OpenCeiling)
        return m.Failed("error", "CeilingError: read: its result is wrong") if opens else None

    workers.acts = acts
    rows, _ = executed(tmp_path, planned([CPU], [WORK], ceilings=True, replicates=1))
    assert [r.reason for r in rows if r.status != "ok"] == [
        "while they took turns: CeilingError: read: its result is wrong"
    ]
    assert [(r.status, len(r.turns)) for r in cases(rows)] == [("ok", 4)]
    assert not workers.alive


# Closing rows


def test_each_replicate_ends_with_how_far_its_ceilings_moved(tmp_path: Path, workers: Workers) -> None:
    rates: list[list[float]] = []

    def acts(worker: Any, command: Any) -> Any:
        if isinstance(command, m.OpenCeiling):
            rates.append([])
        if isinstance(command, m.TakeCeilingTurn):
            rates[-1].append(workers.rng.uniform(1e9, 9e9))
            return m.CeilingTurned({"read": rates[-1][-1]}, {"read": True}, {"read": "4 streams"}, 0)
        return None

    workers.acts = acts
    rows, _ = executed(tmp_path, planned([CPU], [WORK], ceilings=True, replicates=3))
    kinds = ["own" if r.backend == CPU and r.kind == "ceiling" else r.kind for r in rows]
    assert kinds == ["ceiling", "ceiling", "own", "case", "ceiling", "case", "ceiling", "case", "ceiling"]
    for number, seen in enumerate(rates):
        (row,) = (r for r in rows if "turns" in r.config and r.replicate == number)
        assert (row.work, row.unit, row.backend, row.threads, row.status) == (
            "read",
            "bytes/s",
            "cpu",
            1,
            "ok",
        )
        assert row.value == median(seen)
        expected = {"variant": "4 streams", "threads": 1, "turns": len(seen)}
        assert row.config == expected | {"lowest": min(seen), "highest": max(seen)}
    assert len(rates) == 3
