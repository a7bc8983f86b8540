"""What a run will do, decided and checked before anything is allocated: cells, order, pace, sizes.

>>> plan = make_plan(["numba:cpu", "torch:cpu"], [], Options(), memory=24 * 10**9)
>>> plan.cells[0]
Cell(backend='torch:cpu', replicate=0, works=('linear:n=14336,k=4096,m=16,weight=bf16', ...))

A cell is one worker process: all works on one backend, once. The processes of a replicate take turns, so that
whatever the machine does meanwhile hits all alike.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from membound.backends import registry
from membound.bench.machine.fingerprint import default_threads
from membound.bench.measure.rounds import Pace
from membound.bench.planning.suites import PlanError, check_memory, check_weights, suite
from membound.kernels.cpu.kernel_cache import cache_folder
from membound.kernels.work import OnnxStep, Prefill, Step, Work, parse
from membound.results.roofline import device_class
from membound.spec_text import identity

DEFAULT_PACE = Pace(rounds=11, seconds=4.0, least=4)
QUICK_PACE = Pace(rounds=7, seconds=2.0, least=3)
HIGH_PACE = Pace(rounds=25, seconds=15.0, least=7)
DUEL_ROUNDS = 15
LONGEST_S = 1e9
"""Seconds that no run lasts: a pace whose rounds alone count."""

DEFAULT_LIMIT_S = 285.0
"""The default suite should take five minutes; this is less by what the last worker needs to finish."""
DEVICE_LIMIT_S = 420.0
"""The same if an accelerator takes part: larger works on more variants, in eight minutes."""
HIGH_REPLICATES = 10
MAX_REPLICATES = 40
RIGORS = ("normal", "high")

ROTATION_SHARE = 0.4
"""Share of the available memory that rotating input sets may take."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose. Zero and None mean that membound decides for this machine."""

    threads: int = 0
    replicates: int = 0
    rigor: str = "normal"
    quick: bool = False
    seed: int = 1
    pace: Pace | None = None
    time_limit_s: float | None = None
    pythons: Mapping[str, str] = field(default_factory=dict)
    """From a backend (before the colon), a device or a label of one to the Python interpreter of its environment."""
    out: Path = Path("results/runs")
    command: str = ""
    ceilings: bool = True
    reference_dir: Path | None = None
    placement: str = ""
    """Name of a `machine.placement`: on which CPUs works run, in which memory; '' is wherever the system puts them."""
    beside: tuple[str, ...] = ()
    """What else is busy meanwhile, as `run.companion` has it."""


def duel_options(rounds: int, **chosen: Any) -> Options:
    """Options of a run of one work in which every process takes that many turns, however long they last."""
    return Options(pace=Pace(rounds, LONGEST_S, rounds), **chosen)


@dataclass(frozen=True, slots=True)
class Cell:
    """One worker process: `works` (specs, in order) on `backend`."""

    backend: str
    replicate: int
    works: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A run as it will be done. `memory_bytes` is what the input sets of one case may take; `notes` say what was picked."""

    cells: tuple[Cell, ...]
    seed: int
    threads: int
    replicates: int
    max_replicates: int
    rigor: str
    quick: bool
    pace: Pace
    memory_bytes: int
    time_limit_s: float | None
    repeats: int
    pythons: Mapping[str, str]
    out: Path
    reference_dir: Path
    command: str
    ceilings: bool
    notes: tuple[str, ...] = ()
    placement: str = ""
    beside: tuple[str, ...] = ()

    @property
    def total_cells(self) -> int:
        """Cases to measure: one work in one replicate on one backend each."""
        return sum(len(cell.works) for cell in self.cells)

    def python_for(self, backend: str) -> str | None:
        """The interpreter chosen for ``backend:device``, or for one label of it; None is the one that runs the harness."""
        name = registry.unlabelled(backend)
        known = (self.pythons.get(one) for one in (backend, name, name.partition(":")[0]))
        return next(filter(None, known), None)


def make_plan(
    backends: Sequence[str],
    works: Sequence[Work | str],
    options: Options,
    memory: int,
    device_memory: Mapping[str, int] | None = None,
) -> Plan:
    """Check everything and fix the order. If `works` is empty, each backend gets its suite, cut to fit `memory` bytes.

    `device_memory` is the memory of accelerators by backend, in bytes.
    Raises PlanError, UnknownBackend or SpecError, each with one line for the user.
    """
    if not backends:
        raise PlanError("no backend to measure; `membound list` says which there are and what would help")
    for backend in backends:
        registry.entry_for(backend)
    threads, replicates = _counts(options)
    parsed = [parse(work) if isinstance(work, str) else work for work in works]
    asked, notes = _distinct(parsed)
    for work in asked:
        check_memory(work, memory)
        check_weights(work, options.seed)
    suites = {backend: tuple(asked) for backend in backends}
    if not asked:
        suites, notes = _suites(backends, options.quick, memory, device_memory or {})
    specs = {backend: list(dict.fromkeys(work.spec for work in found)) for backend, found in suites.items()}
    high = options.rigor == "high"
    limit_s = options.time_limit_s
    if limit_s is None and not (works or high or options.replicates):
        limit_s = DEFAULT_LIMIT_S if all(device_class(b) == "cpu" for b in backends) else DEVICE_LIMIT_S
    return Plan(
        cells=tuple(interleave(specs, range(replicates), options.seed)),
        seed=options.seed,
        threads=threads,
        replicates=replicates,
        max_replicates=max(replicates, MAX_REPLICATES) if high else replicates,
        rigor=options.rigor,
        quick=options.quick,
        pace=options.pace or (HIGH_PACE if high else QUICK_PACE if options.quick else DEFAULT_PACE),
        memory_bytes=int(memory * ROTATION_SHARE),
        time_limit_s=limit_s,
        repeats=3 if high else 0 if options.quick else 1,
        pythons=dict(options.pythons),
        out=options.out,
        reference_dir=options.reference_dir
        or cache_folder().parent.parent / "reference" / cache_folder().name,
        command=options.command,
        ceilings=options.ceilings,
        notes=tuple(notes),
        placement=options.placement,
        beside=options.beside,
    )


def _distinct(works: Sequence[Work]) -> tuple[list[Work], dict[str, None]]:
    """Each work once, and notes on what a name may not have meant: the same folder under two paths, a built-in model."""
    found: dict[str, Work] = {}
    notes: dict[str, None] = {}
    for work in works:
        first = found.setdefault(identity(work.spec), work)
        if isinstance(work, OnnxStep) and first != work and isinstance(first, OnnxStep):
            notes[f"{work.file} and {first.file} are the same file: it is measured once"] = None
        if isinstance(work, Step | Prefill):
            if first != work and isinstance(first, Step | Prefill):
                notes[f"{work.model} and {first.model} are the same model: it is measured once"] = None
            if not work.shape.folder and os.path.isfile(os.path.join(work.model, "config.json")):
                notes[f"{work.model} is the built-in model; the folder of that name is ./{work.model}"] = None
    return list(found.values()), notes


def _suites(
    backends: Sequence[str], quick: bool, memory: int, device_memory: Mapping[str, int]
) -> tuple[dict[str, tuple[Work, ...]], dict[str, None]]:
    """The suite of each backend, and notes on what was changed to fit, each of them once."""
    found, notes = {}, dict[str, None]()
    for backend in backends:
        found[backend], changed = suite(backend, quick, memory, device_memory.get(backend, 0))
        notes |= dict.fromkeys(changed)
    return found, notes


def _counts(options: Options) -> tuple[int, int]:
    """Threads and replicates, checked."""
    cpus = len(os.sched_getaffinity(0))
    threads = options.threads or default_threads()
    if not 1 <= threads <= cpus:
        raise PlanError(f"threads={options.threads} must be from 1 to {cpus}, the CPUs membound may use here")
    if options.rigor not in RIGORS:
        raise PlanError(f"rigor={options.rigor!r} is unknown; allowed: {', '.join(RIGORS)}")
    if not 0 <= options.replicates <= 1000:
        raise PlanError(f"replicates={options.replicates} must be from 1 to 1000")
    if options.seed < 0:
        raise PlanError(f"seed={options.seed} must not be negative")
    least = HIGH_REPLICATES if options.rigor == "high" else 1 if options.quick else 3
    return threads, max(options.replicates, least) if options.rigor == "high" else options.replicates or least


def interleave(suites: Mapping[str, Sequence[str]], replicates: Sequence[int], seed: int) -> list[Cell]:
    """Cells by replicate, the backends in random order within each, the works in random order within a cell."""
    cells = []
    for replicate in replicates:
        rng = random.Random(f"{seed} {replicate}")
        for backend in rng.sample(list(suites), len(suites)):
            specs = suites[backend]
            cells.append(Cell(backend, replicate, tuple(rng.sample(specs, len(specs)))))
    return cells
