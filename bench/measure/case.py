"""One case in a worker: prepare a work on a backend, check it, time it, check it again; the outcome is a row.

>>> row = run_case(Case("torch:cpu", "linear:n=4096,k=4096", seed=1, threads=2, ...), tell)

A failure of any kind is a row with its status and reason. Output is held against the float64 reference
before anything is timed, and again on the input set that was timed last.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path

import numpy as np

from membound.backends import registry
from membound.backends.api import Backend, Device
from membound.bench.machine.counters import device_delta, open_counters
from membound.bench.machine.fingerprint import last_level_cache_bytes, package_versions
from membound.bench.machine.telemetry import delta, snapshot
from membound.bench.machine.validity import grade
from membound.bench.measure.check import cached_reference, error_of, first_tokens
from membound.bench.measure.timing import Budget, Samples, launch_once, measure
from membound.errors import BackendUnavailable, Unsupported
from membound.kernels import reference
from membound.kernels.inputs import Inputs, ModelInputs
from membound.kernels.seeded import make_inputs, slots_to_defeat
from membound.kernels.work import Work, parse
from membound.results.row import Row

Tell = Callable[[str], None]
"""Called with the phase that begins: preparing, checking, timing."""

DEVICE_SHARE = 0.5
"""Share of an accelerator's memory that rotating input sets may take; runtimes keep workspaces beside them."""
HARNESS_PACKAGES = ("membound", "numpy", "numba", "llvmlite")


@dataclass(frozen=True, slots=True)
class Case:
    """What a worker is asked to measure. `memory_bytes` is what all input sets together may take."""

    backend: str
    work: str
    seed: int
    threads: int
    replicate: int
    budget: Budget
    memory_bytes: int
    reference_dir: Path


class WrongAnswerError(Exception):
    """An output misses the reference. Carries the error (None: not finite or of another shape)."""

    def __init__(self, reason: str, error: float | None) -> None:
        super().__init__(reason)
        self.error = error


def run_case(case: Case, tell: Tell) -> Row:
    """Measure one case; whatever the backend does, short of killing the process, becomes a row."""
    row = _blank(case)
    try:
        _measure(case, row, tell)
    except BackendUnavailable as error:
        row.status, row.reason = "unavailable", f"{error.reason}; {error.remedy}".removesuffix("; ")
    except Unsupported as error:
        row.status, row.reason = "unsupported", str(error)
    except WrongAnswerError as error:
        row.status, row.reason, row.error = "wrong", str(error), error.error
    except MemoryError as error:
        row.status, row.reason = "oom", one_line(error)
    except Exception as error:  # the outermost boundary around runtimes that raise classes of their own
        row.status, row.reason = "error", one_line(error)
    gc.collect()
    return row


def _blank(case: Case) -> Row:
    work = parse(case.work)
    traffic = work.traffic
    return Row(
        run_id="",
        kind="case",
        backend=case.backend,
        work=work.spec,
        status="ok",
        replicate=case.replicate,
        seed=case.seed,
        threads=case.threads,
        started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        bytes=traffic.total_bytes,
        flops=work.flops,
        traffic=asdict(traffic),
        versions=package_versions(HARNESS_PACKAGES),
        tolerance=reference.tolerance(work),
    )


def _measure(case: Case, row: Row, tell: Tell) -> None:
    backend = registry.create(case.backend)
    try:
        device = backend.open(registry.device_of(case.backend), case.threads)
        _describe(row, device)
        work = parse(case.work)
        reason = backend.supports(work)
        if reason is not None:
            raise Unsupported(reason)
        _prepare(case, row, backend, device, work, tell)
    finally:
        backend.close()


def _describe(row: Row, device: Device) -> None:
    row.device = device.name
    row.memory_ceiling = device.memory_ceiling
    row.versions = row.versions | device.versions


def _prepare(case: Case, row: Row, backend: Backend, device: Device, work: Work, tell: Tell) -> None:
    """The protocol from preparation to the last check. Fills the row."""
    tell("preparing")
    counters = open_counters(device.accelerator)
    if device.accelerator is not None:
        row.accelerator = asdict(device.accelerator) | counters.facts()
    row.slots = slots_to_defeat(work, *_cache_and_room(case, device))
    row.working_set_bytes = row.slots * work.footprint_bytes
    inputs = make_inputs(work, case.seed, row.slots, case.reference_dir)
    start = time.perf_counter()
    backend.prepare(work, inputs)
    row.prepare_s = time.perf_counter() - start
    row.stored_bytes = backend.stored_bytes()
    tell("checking")
    first_s = launch_once(backend, 0)
    row.error = _check(case, row, backend, inputs, 0)
    tell("timing")
    before, device_before = snapshot(), counters.read()
    samples = measure(backend, row.slots, case.budget, first_s)
    device_after, after = counters.read(), snapshot()
    row.telemetry = delta(before, after) | device_delta(device_before, device_after)
    row.grade, row.grade_reasons = grade(row.telemetry, case.threads)
    _keep(row, samples)
    row.config |= backend.settings()
    tell("checking")
    row.error = max(row.error, _check(case, row, backend, inputs, samples.last_slot))


def _cache_and_room(case: Case, device: Device) -> tuple[int, int]:
    """Bytes of the cache that rotation must defeat, and bytes that all input sets may take."""
    accelerator = device.accelerator
    if accelerator is None:
        return last_level_cache_bytes(), case.memory_bytes
    room = int(DEVICE_SHARE * accelerator.memory_bytes) or case.memory_bytes
    return accelerator.cache_bytes or last_level_cache_bytes(), min(room, case.memory_bytes)


def _keep(row: Row, samples: Samples) -> None:
    row.launches, row.first_s, row.warmup_s = samples.launches, samples.first_s, samples.warmup_s
    row.samples_s, row.hot_samples_s = samples.samples_s, samples.hot_samples_s
    row.device_samples_s, row.timed_launches = samples.device_samples_s, samples.total_launches


def _check(case: Case, row: Row, backend: Backend, inputs: Inputs, slot: int) -> float:
    """The output's error against the reference. Raises WrongAnswerError beyond the tolerance."""
    output = backend.output()
    expected = cached_reference(inputs, slot, case.reference_dir)
    wanted = expected.shape if isinstance(output, np.ndarray) else (len(expected), output.launches)
    if output.shape != wanted or not output.shape[-1]:
        raise WrongAnswerError(f"output has shape {output.shape}, the reference {wanted}", None)
    if isinstance(inputs, ModelInputs):
        row.config.setdefault("greedy_tokens", first_tokens(output))
    error = error_of(output, inputs, expected)
    assert row.tolerance is not None
    if not isfinite(error):
        raise WrongAnswerError(f"output on input set {slot} holds values that are not finite", None)
    if error > row.tolerance:
        raise WrongAnswerError(f"error {error:.2g} on input set {slot} exceeds {row.tolerance:.2g}", error)
    return error


def one_line(error: BaseException) -> str:
    """The class and the first line of an exception: a row's reason."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__
