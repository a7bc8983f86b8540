"""The ceilings of a claim: those that are measured once at its start, and those that play between the turns of arms.

>>> measure_machine(claim, threads=2)
>>> with TurningCeilings(claim) as ceilings:
...     playing = ceilings.between(cell, arms)         # what `measure.rounds.play` has take turns between the arms
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType

from membound.bench.claim.arms import Arm
from membound.bench.claim.claiming import FAILING, SILENCE_S, Claiming, failure_in
from membound.bench.claim.plan import ExperimentCell
from membound.bench.measure.ceiling_process import CeilingProcess
from membound.bench.measure.contestant import FailedError
from membound.bench.protocol.messages import (
    AskOffers,
    Ceilings,
    MeasureBackend,
    Offers,
)
from membound.bench.run.ceiling_rows import ceiling_rows, failed_ceilings, turned_rows
from membound.bench.run.machine_ceilings import machine_ceilings
from membound.results.roofline import best_ceilings, compute_ceilings, device_class

PRODUCTS = ("f32", "bf16")
"""Formats whose arithmetic peaks take turns: no arm multiplies integers (act=int8)."""
READ = "read"
BINDS = 0.2
"""A peak takes turns with a group of arms if one of them has FLOPs for at least this share of its bytes' time."""
Refused = dict[int, dict[str, str]]
"""What a backend cannot do, by its own word: experiment, name of the arms, reason."""


def measure_machine(claim: Claiming, threads: int) -> None:
    """The processor's limits that take no turns, as rows. A failure is a row as well."""
    rows = machine_ceilings(
        claim.run_id,
        threads,
        claim.plan.rigor != "high",
        SILENCE_S,
        lambda seen: claim.progress.phase("ceilings", seen.name),
    )
    for row in rows:
        claim.keep_ceiling(row)


def ask_backend(claim: Claiming, backend: str, asked: Mapping[int, Sequence[Arm]]) -> Refused | None:
    """Measure a backend's own ceilings, as rows; what it refuses of the arms asked about, None if it could not say.

    If it fails, a row says how, unless it is unavailable: of such every arm says so.
    """
    plan, refused = claim.plan, None
    about = (claim.run_id, backend, 0, plan.threads)
    arms = {str(number): [arm.as_json() for arm in found] for number, found in asked.items()}
    try:
        with claim.process(backend, plan.threads) as process:
            process.open()
            with suppress(FailedError):
                offers = process.ask(AskOffers(arms), Offers, SILENCE_S, "asking")
                refused = {int(number): found for number, found in offers.refused.items()}
            quick = True
            measured = process.ask(MeasureBackend(quick), Ceilings, SILENCE_S, "measuring its ceilings")
    except FAILING as error:
        failure = failure_in(error)
        if failure.status != "unavailable":
            claim.keep_ceiling(failed_ceilings(*about, failure.status, failure.reason))
    else:
        for row in ceiling_rows(measured, *about):
            claim.keep_ceiling(row)
    return refused


class TurningCeilings:
    """The processes that play between arms: one a device and number of threads, for the whole claim.

    A context manager: leaving it ends them and keeps a row of each ceiling, which says how far the machine moved.
    """

    def __init__(self, claim: Claiming) -> None:
        self._claim = claim
        self._playing: dict[tuple[str, int], CeilingProcess] = {}
        self._kept: set[tuple[str, int]] = set()

    def __enter__(self) -> TurningCeilings:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self._playing.values():
            one.__exit__(kind, error, trace)
        if kind in (None, KeyboardInterrupt):
            for (device, threads), one in self._playing.items():
                about = (self._claim.run_id, one.backend or device, 0, threads)
                for row in turned_rows(one.moments, one.seen_variants, *about):
                    self._claim.keep_ceiling(row)

    def between(self, cell: ExperimentCell, arms: Sequence[Arm]) -> dict[str, CeilingProcess]:
        """What plays between these arms, by device class; nothing where a device has no read ceiling.

        A process is started ahead of the arms that need it first, which counts as done once for all.
        """
        claim, device = self._claim, device_class(cell.backend)
        key = (device, claim.plan.threads_of(cell.experiment, cell.backend))
        if key not in self._playing:
            made = self._made(*key)
            if made is None:
                return {}
            self._playing[key] = made
        one = self._playing[key]
        one.names = due(claim, cell, arms)
        one.starts = 0  # however long the claim: one that dies at times is started again, one that dies every time is not
        if not one.moments:
            claim.clock.enter("checking the ceilings")
            one.take_turn()
            claim.clock.enter("")
        return {device: one}

    def keep_failures(self) -> None:
        """A row of each process that has failed for good, once: turns have no neighbours any more."""
        for key, one in self._playing.items():
            if one.failure is not None and key not in self._kept:
                self._kept.add(key)
                device, threads = key
                failed = failed_ceilings(
                    self._claim.run_id,
                    one.backend or device,
                    0,
                    threads,
                    one.failure.status,
                    f"while they took turns: {one.failure.reason}",
                )
                self._claim.keep_ceiling(failed)

    def _made(self, device: str, threads: int) -> CeilingProcess | None:
        claim = self._claim
        one = CeilingProcess(
            claim.setting(threads),
            traffic=claim.traffic,
            note=claim.progress.note,
            on_phase=claim.progress.phase,
        )
        if device == "cpu":
            one.products = PRODUCTS
            return one
        known = [row for _, row in best_ceilings(claim.ceilings) if device_class(row.backend) == device]
        fastest = next((row for row in known if row.work == READ), None)
        if fastest is None:
            return None
        one.backend, one.python = fastest.backend, claim.plan.python_for(fastest.backend) or ""
        one.variants = {READ: str(fastest.config.get("variant", ""))}
        return one


def due(claim: Claiming, cell: ExperimentCell, arms: Sequence[Arm]) -> tuple[str, ...]:
    """The ceilings that take turns with a group: bandwidth, and peaks of its arithmetic where they can bind an arm."""
    names = [READ]
    for arm in arms:
        about = claim.about(cell, arm)
        read, peak = about.limits.read_bytes_per_s, about.limits.compute_flops_per_s
        bytes_, flops = arm.parsed.traffic.total_bytes, arm.flops
        if read is None or peak is None or flops / peak >= BINDS * bytes_ / read:
            names += compute_ceilings(about.arithmetic)
    return tuple(dict.fromkeys(names))
