"""A claim whose workers are scripts: what they are asked, what they tell, what becomes of it on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from membound.bench.claim import execute as claim
from membound.bench.claim.execute import Claiming
from membound.bench.claim.plan import ClaimPlan, make_claim_plan
from membound.bench.planning.plan import Options
from membound.bench.run.progress import Silent
from membound.results.claim.experiments import load_experiments
from membound.results.claim.file import load_claim
from membound.results.claim.observation import Observation
from membound.results.store import RunWriter

REGISTER = load_experiments()
READ, PEAK = 2e10, 2.2e11
CEILINGS = {"read": (READ, "bytes/s"), "fma_f32": (PEAK, "FLOP/s")}


class Notes(Silent):
    """Remembers notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class FakeWorker:
    """Stands in for a process: `script` maps a job to its events, or raises."""

    jobs: ClassVar[list[dict[str, Any]]]
    script: Any

    def __init__(self, job: dict[str, Any], python: str = "") -> None:
        type(self).jobs.append(job)
        self.job = job

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *_: object) -> None: ...

    def events(self, limit_s: Any) -> Iterator[dict[str, Any]]:
        yield from type(self).script(self.job)


def install(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    """Workers that do as they are told, in place of processes; their class, to give it another script."""

    class Scripted(FakeWorker):
        jobs: ClassVar[list[dict[str, Any]]] = []
        script = staticmethod(honest)

    monkeypatch.setattr(claim, "Worker", Scripted)
    return Scripted


def ceilings(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    found = CEILINGS if job["job"] == "ceilings" else {"launch": (1e-6, "s")}
    made = [
        {"name": n, "value": v * job["threads"] if u != "s" else v, "unit": u, "config": {}, "samples": [0.1]}
        | {"status": "ok", "reason": ""}
        for n, (v, u) in found.items()
    ]
    yield {"event": "ceilings", "ceilings": made, "telemetry": {}}


def outcome(index: int, **fields: Any) -> dict[str, Any]:
    plain = {"status": "ok", "reason": "", "samples_s": [0.3, 0.1, 0.2], "factors": {}, "grade": "clean"}
    return {"event": "outcome", "index": index, "grade_reasons": [], "telemetry": {}} | plain | fields


def honest(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if job["job"] != "trial":
        yield from ceilings(job)
        return
    for index in range(len(job["arms"])):
        yield {"event": "phase", "phase": "timing", "arms": [index]}
        yield outcome(index)


def planned(folder: Path, *only: int, backends: tuple[str, ...] = ("numba:cpu",), **more: Any) -> ClaimPlan:
    options = Options(threads=2, out=folder, reference_dir=folder / "reference")
    plan = make_claim_plan(only, backends, options, REGISTER, 10**11)
    return replace(plan, co_runner_cpus=(1,), **more)


def run(folder: Path, plan: ClaimPlan, stored: tuple[Observation, ...] = ()) -> tuple[Claiming, list[str]]:
    notes = Notes()
    path = folder / "claim-x.jsonl"
    with RunWriter(path) as writer:
        claiming = Claiming(plan, REGISTER, writer, notes, "x").run(stored)
    kept = load_claim(path)
    assert list(kept.observations) == claiming.observations
    assert list(kept.ceilings) == claiming.ceilings
    assert kept.meta.experiments_sha256 == REGISTER.sha256
    return claiming, notes.notes
