"""What the pytest fixture `bandwidth_benchmark` does: it times any callable cold and compares it with the ceilings.

>>> def test_product(bandwidth_benchmark: BandwidthBenchmark):
...     inputs = bandwidth_benchmark.inputs("linear:n=4096,k=4096,weight=f32")
...     sets = [(inputs.x, inputs.weight(slot).values.T) for slot in range(inputs.slots)]
...     bandwidth_benchmark(np.matmul, sets, inputs=inputs)

pytest-benchmark does the timing. Around it stands the protocol of `membound run`: the ceilings take a turn between any
two rounds, input sets rotate through all launches, the output is compared with the float64 reference before and after,
counters say which rounds were disturbed.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import membound
from membound.backends.api import Device, Tokens
from membound.bench.machine.commit import versions_of
from membound.bench.machine.fingerprint import HARNESS_PACKAGES, available_memory_bytes, fingerprint
from membound.bench.machine.telemetry import delta, snapshot
from membound.bench.machine.validity import grade_turns
from membound.bench.measure.ceiling_process import CeilingProcess
from membound.bench.measure.check import check_output
from membound.bench.measure.cold_backend import MAX_LAUNCHES
from membound.bench.measure.cold_memory import cache_and_room
from membound.bench.measure.failures import WrongAnswerError
from membound.bench.measure.turns import BURST_S
from membound.bench.planning.plan import DUEL_ROUNDS, ROTATION_SHARE
from membound.bench.planning.suites import check_memory, check_weights
from membound.bench.pytest_plugin.between import Between
from membound.bench.pytest_plugin.rotation import Rotation
from membound.bench.run.neighbours import due_ceilings
from membound.kernels import reference
from membound.kernels.inputs import Inputs
from membound.kernels.seeded import make_inputs
from membound.kernels.slots import sets_to_defeat, slots_to_defeat
from membound.kernels.work import parse
from membound.no_collections import no_collections
from membound.results.exchange.pytest_benchmark import info_of
from membound.results.roofline import device_class
from membound.results.row import Row
from membound.results.stats import records, summarize
from membound.spec_text import quoted

SEED = 1
PACKAGES = (*HARNESS_PACKAGES, "pytest-benchmark")


class DeclarationError(ValueError):
    """A benchmark's arguments are wrong; the message says what is wrong and what to write."""


@dataclass(slots=True)
class Table:
    """The rows of one pytest session.

    `ceilings` is called when the first benchmark on a kind of device needs them, and gives the rows of those that
    take no turns, and the process of those that do, None where they were read from a stored run.
    """

    run_id: str
    threads: int
    command: str
    ceilings: Callable[[Device], tuple[list[Row], CeilingProcess | None]]
    machine: dict[str, Any] = field(default_factory=fingerprint)
    cases: list[Row] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    moved: list[Row] = field(default_factory=list)
    _limits: dict[str, tuple[list[Row], CeilingProcess | None]] = field(default_factory=dict)

    def limits(self, device: Device) -> tuple[list[Row], CeilingProcess | None]:
        """The ceilings of that kind of device, measured or read at the first use."""
        kind = device_class(device.id)
        if kind not in self._limits:
            rows, playing = self.ceilings(device)
            self._limits[kind] = self._complete(rows), playing
        return self._limits[kind]

    def close(self, moved: list[Row]) -> None:
        """Add the rows that say how far the ceilings moved, once the session has ended."""
        self.moved += self._complete(moved)

    def _complete(self, rows: list[Row]) -> list[Row]:
        """With what was not known where they were measured; rows of a stored run have all."""
        for row in rows:
            row.machine, row.command = row.machine or self.machine, row.command or self.command
        return rows

    @property
    def rows(self) -> list[Row]:
        """Ceilings and cases so far; measures nothing."""
        measured = [row for rows, _ in self._limits.values() for row in rows]
        return [*measured, *self.moved, *self.cases]

    def add(self, row: Row) -> dict[str, Any]:
        """Add a case and return its line of the summary."""
        self.cases.append(row)
        limits = (r for rows, _ in self._limits.values() for r in rows)
        (line,) = records(summarize([*limits, row]))
        return line


@dataclass(frozen=True, slots=True)
class _Declared:
    """What a benchmark moves and does: `inputs` with a reference, or bytes and FLOPs alone."""

    work: str
    bytes: int
    flops: int
    footprint_bytes: int
    traffic: dict[str, int]
    inputs: Inputs | None


@dataclass(slots=True)
class BandwidthBenchmark:
    """The fixture. `benchmark` is that of pytest-benchmark; `name` tells the test from others of the session."""

    benchmark: Any
    table: Table
    name: str
    config: Any
    """Of pytest."""
    source: Path = Path(membound.__file__)
    """The file of the test, whose commit the row names."""

    @property
    def threads(self) -> int:
        """The CPU threads of the ceilings, which the callable should use too."""
        return self.table.threads

    def inputs(self, work: str, device: Device | None = None) -> Inputs:
        """Seeded inputs of a work (`kernels/seeded.py`), with as many input sets as defeat the device's cache.

        If nothing is timed (``--benchmark-disable``) there are two. Raises SpecError, and PlanError if they do not fit
        memory, with the bytes that they need, or if a model folder is damaged.
        """
        parsed = parse(work)
        check_memory(parsed, available_memory_bytes())
        check_weights(parsed, SEED)
        cache_bytes, room = _room(device)
        slots = slots_to_defeat(parsed, cache_bytes, room)
        return make_inputs(parsed, SEED, slots if self.benchmark.enabled else min(2, slots))

    def slots(self, bytes: int, device: Device | None = None) -> int:
        """How many input sets of that size defeat the last-level cache, within the memory that is free."""
        cache_bytes, room = _room(device)
        return sets_to_defeat(bytes, cache_bytes, room) if self.benchmark.enabled else 2

    def __call__(
        self,
        function: Callable[..., Any],
        sets: Iterable[tuple[Any, ...]],
        *,
        inputs: Inputs | None = None,
        bytes: int = 0,
        flops: int = 0,
        sync: Callable[[], object] | None = None,
        output: Callable[[], Any] | None = None,
        label: str = "",
        device: Device | None = None,
    ) -> Any:
        """Time ``function(*arguments)`` with the `sets` of arguments in rotation; returns its last result.

        inputs: what `inputs` made; its work gives bytes and FLOPs, and the result (or what `output` returns)
        is compared with the float64 reference before and after.
        bytes, flops: of one call, if there is no such work; nothing can be checked then.
        sync: called after each call within the timed part, for a device that returns early.
        label: the name of the row, default that of the test. device: as a backend's `open` returned it, default the CPU.
        Raises DeclarationError, AssertionError.
        """
        declared = self._declare(inputs, bytes, flops)
        rotation = Rotation(function, list(sets), sync, output or (lambda: rotation.result))
        self._check_sets(declared, rotation)
        start = time.perf_counter()
        rotation.launch()
        first_s = time.perf_counter() - start
        error = _error(declared, rotation)
        if not self.benchmark.enabled:
            return self.benchmark(rotation.launch)
        where = device or Device("cpu", str(self.table.machine["cpu"]), self.threads)
        limits, playing = self.table.limits(where)  # measured now, if ever: not between warm-up and timing
        row = self._row(declared, label or self.name, where)
        row.config = {"ceilings": limits[0].config["from"]} if limits and "from" in limits[0].config else {}
        row.slots, row.first_s = len(rotation.sets), first_s
        row.working_set_bytes = row.slots * declared.footprint_bytes
        if playing is not None:
            playing.names = due_ceilings(row, limits)
        result = self._time(row, Between(rotation, playing, self.table.began))
        self.benchmark.has_error = (
            True  # until the result is known to be right: files leave such a benchmark out
        )
        if error is not None:
            row.error = max(error, _error(declared, rotation) or 0.0)
        self.benchmark.has_error = False
        self.benchmark.extra_info.update(info_of(row, self.table.add(row)))
        return result

    def _declare(self, inputs: Inputs | None, bytes: int, flops: int) -> _Declared:
        if (inputs is None) == (not bytes):
            raise DeclarationError(
                "declare either inputs=bandwidth_benchmark.inputs(SPEC) or bytes=N, flops=M"
            )
        if inputs is not None:
            work = inputs.work
            traffic = work.traffic
            return _Declared(
                work.spec, traffic.total_bytes, work.flops, work.footprint_bytes, asdict(traffic), inputs
            )
        if bytes < 0 or flops < 0:
            raise DeclarationError(f"bytes={bytes} and flops={flops} must not be negative")
        return _Declared(
            f"custom:name={quoted(self.name)},bytes={bytes},flops={flops}", bytes, flops, bytes, {}, None
        )

    def _check_sets(self, declared: _Declared, rotation: Rotation) -> None:
        if not rotation.sets or not all(isinstance(arguments, tuple) for arguments in rotation.sets):
            raise DeclarationError("sets must hold a tuple of arguments for each input set, and one at least")
        slots = declared.inputs.slots if declared.inputs else 0
        if slots and len(rotation.sets) != slots:
            raise DeclarationError(f"{len(rotation.sets)} sets for inputs with {slots} input sets")

    def _row(self, declared: _Declared, label: str, device: Device) -> Row:
        backend = f"{label.replace(':', '-')}:{device.id.partition(':')[2] or 'cpu'}"
        if any((row.backend, row.work) == (backend, declared.work) for row in self.table.cases):
            raise DeclarationError(
                f"two benchmarks are called {backend} on {declared.work}; give one a label"
            )
        return Row(
            run_id=self.table.run_id,
            kind="case",
            backend=backend,
            work=declared.work,
            status="ok",
            seed=SEED,
            threads=self.table.threads,
            device=device.name,
            accelerator=asdict(device.accelerator) if device.accelerator else {},
            memory_ceiling=device.memory_ceiling,
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            bytes=declared.bytes,
            flops=declared.flops,
            traffic=declared.traffic,
            tolerance=reference.tolerance(declared.inputs.work) if declared.inputs else None,
            machine=self.table.machine,
            versions=versions_of(PACKAGES, self.source) | device.versions,
            command=self.table.command,
        )

    def _time(self, row: Row, between: Between) -> Any:
        """Warm up, let pytest-benchmark time rounds with a turn of the ceilings between them, and fill the row."""
        rotation = between.rotation
        for _ in rotation.sets:
            row.warmup_s += between.warm_up(0.0)
        launches = max(1, min(round(BURST_S / min(row.warmup_s)), len(rotation.sets) - 1, MAX_LAUNCHES))
        gc.collect()
        with no_collections():
            before = snapshot()
            result = self.benchmark.pedantic(
                rotation.launch,
                rounds=self._rounds(),
                iterations=launches,
                warmup_rounds=1,
                teardown=between,
            )
            row.telemetry = delta(before, snapshot())
        times = list(self.benchmark.stats.stats.data)
        row.launches, turns = self.benchmark.stats.iterations, between.turns(times, launches)
        if between.ceilings is not None:
            row.turns = turns
        else:
            row.samples_s = times
        row.grade, row.grade_reasons = grade_turns(turns, row.telemetry)
        return result

    def _rounds(self) -> int:
        """As many as a duel has, or as --benchmark-min-rounds asks for."""
        return max(DUEL_ROUNDS, int(self.config.getoption("benchmark_min_rounds")))


def _room(device: Device | None) -> tuple[int, int]:
    """Bytes of the cache that rotation must defeat, and bytes that all input sets may take."""
    return cache_and_room(device, int(available_memory_bytes() * ROTATION_SHARE))


def _error(declared: _Declared, rotation: Rotation) -> float | None:
    """The last result's error against the reference; None without one. Raises AssertionError if it is wrong."""
    if declared.inputs is None:
        return None
    result = rotation.output()
    if not isinstance(result, Tokens) and not np.iscomplexobj(result):  # half of those would be dropped
        result = np.asarray(result, np.float32)
    try:
        return check_output(result, declared.inputs, rotation.slot)[0]
    except WrongAnswerError as error:
        raise AssertionError(str(error)) from None
