"""A claim under way and what it has so far: where observations and reports go, how much time is left.

>>> from membound.results.claim.experiments import load_experiments
>>> claim = Claiming(plan, load_experiments(), writer, progress, run_id)
>>> claim.keep(observation)                     # written, reported
>>> claim.keep_unmeasured(cell, arms, OUT_OF_TIME)         # an observation for each arm that was not measured
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from membound.bench.claim.arms import Arm, named
from membound.bench.claim.budget import CellClock
from membound.bench.claim.observe import AboutArm, unobserved
from membound.bench.claim.plan import ClaimPlan, ExperimentCell
from membound.bench.claim.scene import Scene, scene_of
from membound.bench.machine.commit import versions_of
from membound.bench.machine.fingerprint import HARNESS_PACKAGES, fingerprint
from membound.bench.measure.contestant import (
    BROKEN,
    BackendProcess,
    FailedError,
    Setting,
    Timeouts,
    Traffic,
)
from membound.bench.measure.failures import Failure, failure_of
from membound.bench.run.ceiling_rows import now
from membound.bench.run.progress import Reporter
from membound.kernels.work import Linear
from membound.results.claim.experiments import Register
from membound.results.claim.observation import NO_TIME, SKIPPED, ClaimMeta, Observation
from membound.results.roofline import limits_of
from membound.results.row import Row
from membound.results.store import RunWriter

SILENCE_S = 300.0
"""Seconds a worker may be silent: compiling the largest kernels takes a fraction of it."""
FLOAT32 = Linear(1, 1, weight="f32").spec
"""Extra multiply-adds are float32, whatever the format of the weights."""
OUT_OF_TIME = Failure(SKIPPED, NO_TIME)
FAILING = (FailedError, *BROKEN)
"""How a worker's command can fail, whether the worker lives on or not."""


def failure_in(error: Exception) -> Failure:
    """What one of FAILING makes of the arms at hand."""
    return error.failure if isinstance(error, FailedError) else failure_of(error)


@dataclass(slots=True)
class Claiming:
    """The state of a claim. Seconds are those of `time.perf_counter`."""

    plan: ClaimPlan
    register: Register
    writer: RunWriter
    progress: Reporter
    run_id: str
    started_s: float = field(default_factory=lambda: time.perf_counter())
    machine: dict[str, Any] = field(default_factory=fingerprint)
    ceilings: list[Row] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    clock: CellClock = field(default_factory=CellClock)
    traffic: Traffic = field(default_factory=Traffic)
    interrupted: bool = False

    @property
    def left_s(self) -> float:
        """Seconds until the time limit; infinite without one."""
        limit_s = self.plan.time_limit_s
        return inf if limit_s is None else limit_s - (time.perf_counter() - self.started_s)

    @property
    def meta(self) -> ClaimMeta:
        """The first line of the file."""
        plan = self.plan
        return ClaimMeta(
            self.run_id,
            self.register.version,
            self.register.sha256,
            self.machine,
            plan.threads,
            plan.seed,
            now(),
            plan.command,
            plan.rigor,
            list(plan.experiments),
            versions_of(HARNESS_PACKAGES),
        )

    # What is kept

    def keep(self, one: Observation) -> None:
        """Write an observation and report it."""
        self.writer.append(one)
        self.observations.append(one)
        if one.status != SKIPPED:  # one note names them all
            row = Row(self.run_id, "case", one.backend, one.work, one.status, one.reason, one.replicate)
            self.progress.done(row)

    def keep_ceiling(self, row: Row) -> None:
        """Complete a ceiling with what the harness knows, write it, report it."""
        row.machine, row.command = self.machine, self.plan.command
        self.writer.append(row)
        self.ceilings.append(row)
        self.progress.done(row)

    def keep_unmeasured(self, cell: ExperimentCell, arms: Iterable[Arm], failure: Failure) -> None:
        """Observations of arms that were not measured."""
        for arm in arms:
            self.keep(unobserved(cell, arm, failure, self.about(cell, arm)))

    # What arms depend on

    def about(self, cell: ExperimentCell, arm: Arm) -> AboutArm:
        """The threads of an arm, and the ceilings that took no turns with it."""
        arithmetic = arm.work if arm.extra_fmas is None else FLOAT32
        threads = self.plan.threads_of(cell.experiment, cell.backend)
        backend = named(cell.backend, arm.variant)

        def row(threads: int) -> Row:
            return Row(self.run_id, "case", backend, arithmetic, "ok", threads=threads)

        whole = limits_of(row(self.plan.threads), self.ceilings)
        limits = limits_of(row(threads), self.ceilings)
        return AboutArm(threads, limits, arithmetic, whole.read_bytes_per_s)

    def scene(self, backend: str) -> Scene:
        """What the arms of a backend depend on."""
        plan = self.plan
        room = min(plan.memory_bytes, plan.device_room.get(backend, plan.memory_bytes))
        cache = plan.device_cache.get(backend, 0)
        more = (len(plan.co_runner_cpus), cache, plan.variants.get(backend, ()))
        return scene_of(backend, self.machine, self.ceilings, plan.threads, room, *more)

    # Processes

    def setting(self, threads: int) -> Setting:
        """What the processes with that many threads have in common."""
        plan = self.plan
        return Setting(
            threads,
            plan.seed,
            plan.memory_bytes,
            str(plan.reference_dir),
            Timeouts(SILENCE_S),
            plan.co_runner_cpus,
        )

    def process(self, backend: str, threads: int) -> BackendProcess:
        """A process of a backend, not yet started."""
        python = self.plan.python_for(backend)
        return BackendProcess(backend, self.setting(threads), python, self.traffic, self._phase)

    def _phase(self, backend: str, phase: str) -> None:
        self.clock.enter(phase)
        self.progress.phase(backend, phase)
