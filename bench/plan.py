"""What a run will do, decided and checked before anything is allocated: cells, order, budgets, sizes.

>>> plan = make_plan(["numba:cpu", "torch:cpu"], [], Options(), memory=available_memory_bytes())
>>> plan.cells[0]
Cell(backend='torch:cpu', replicate=0, works=('linear:n=14336,k=4096,m=16,weight=bf16', ...))

A cell is one worker process: all works on one backend, once. The order of cells within a replicate, and
of works within a cell, is shuffled with the seed, so that slow drift of the machine hits all alike.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from membound.backends import registry
from membound.backends.api import MemboundError
from membound.bench.machine import default_threads
from membound.bench.timing import Budget
from membound.kernels.cpu.compile import cache_folder
from membound.kernels.work import Prefill, Step, Work, parse

_WIDE = "linear:n=14336,k=4096"  # Llama-3-8B's gate and up projections

DEFAULT_WORKS = (
    f"{_WIDE},m=1,weight=bf16",
    f"{_WIDE},m=1,weight=f32",
    f"{_WIDE},m=1,weight=int8,act=int8",
    f"{_WIDE},m=1,weight=int4g32,act=int8",
    f"{_WIDE},m=16,weight=bf16",
    "attention:q_heads=32,kv_heads=8,head_dim=128,context=8192,kv=bf16",
    "attention:q_heads=32,kv_heads=8,head_dim=128,context=8192,kv=f32",
    "step:model=llama-3.2-1b,context=1024,weight=int8,act=int8,kv=f32",
    "step:model=llama-3.2-1b,context=1024,weight=bf16,kv=bf16",
)
"""The suite of `membound run`: every operation, the formats that matter, two whole steps."""

QUICK_WORKS = (
    f"{_WIDE},m=1,weight=bf16",
    f"{_WIDE},m=1,weight=int8,act=int8",
    "attention:q_heads=32,kv_heads=8,head_dim=128,context=8192,kv=bf16",
    "step:model=llama-3.2-1b,context=1024,weight=int8,act=int8,kv=f32,layers=2",
)
"""The suite of `membound run --quick`: does everything work, and roughly how fast."""

DEFAULT_BUDGET = Budget(warmup_s=0.3, timing_s=0.9)
QUICK_BUDGET = Budget(warmup_s=0.2, timing_s=0.4)
HIGH_BUDGET = Budget(warmup_s=1.0, timing_s=2.0)

DEFAULT_LIMIT_S = 285.0
"""The default suite's aim of five minutes, less the time a last worker needs to end."""
HIGH_REPLICATES = 10
MAX_REPLICATES = 40
RIGORS = ("normal", "high")

COPIES = 3
"""Runtimes hold a work up to so many times while they prepare it: as given, as packed, as exported."""
ROTATION_SHARE = 0.4
"""Share of the available memory that rotating input sets may take."""


class PlanError(MemboundError):
    """A run cannot be done as asked: the message says what is wrong and what would be possible."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose. Zeros and None mean: decide for this machine."""

    threads: int = 0
    replicates: int = 0
    rigor: str = "normal"
    quick: bool = False
    seed: int = 1
    budget: Budget | None = None
    time_limit_s: float | None = None
    pythons: Mapping[str, str] = field(default_factory=dict)
    """Backend name (before the colon) to the Python interpreter of its environment."""
    out: Path = Path("results/runs")
    command: str = ""
    ceilings: bool = True
    reference_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One worker process: `works` (specs, in order) on `backend`."""

    backend: str
    replicate: int
    works: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, fixed. `memory_bytes` is what the input sets of one case may take; `notes` what was picked."""

    cells: tuple[Cell, ...]
    seed: int
    threads: int
    replicates: int
    max_replicates: int
    rigor: str
    quick: bool
    budget: Budget
    memory_bytes: int
    time_limit_s: float | None
    repeats: int
    pythons: Mapping[str, str]
    out: Path
    reference_dir: Path
    command: str
    ceilings: bool
    notes: tuple[str, ...] = ()

    @property
    def total_cells(self) -> int:
        """Cases to measure: one work in one replicate on one backend each."""
        return sum(len(cell.works) for cell in self.cells)

    def python_for(self, backend: str) -> str | None:
        """The interpreter chosen for ``backend:device``; None is the one that runs the harness."""
        return self.pythons.get(backend) or self.pythons.get(backend.partition(":")[0])


def make_plan(backends: Sequence[str], works: Sequence[Work | str], options: Options, memory: int) -> Plan:
    """Check everything and fix the order. `works` empty: the default suite, cut to fit `memory` bytes.

    Raises PlanError, UnknownBackend or SpecError, each with one line for the user.
    """
    if not backends:
        raise PlanError("no backend to measure; `membound list` says which there are and what would help")
    for backend in backends:
        registry.entry_for(backend)
    threads, replicates = _counts(options)
    asked = [parse(work) if isinstance(work, str) else work for work in works]
    notes: tuple[str, ...] = ()
    if not asked:
        suite = QUICK_WORKS if options.quick else DEFAULT_WORKS
        asked, notes = _fit([parse(spec) for spec in suite], memory)
    for work in asked:
        check_memory(work, memory)
    high = options.rigor == "high"
    specs = tuple(dict.fromkeys(work.spec for work in asked))
    limit_s = options.time_limit_s
    if limit_s is None and not (works or high or options.replicates):
        limit_s = DEFAULT_LIMIT_S
    return Plan(
        cells=tuple(interleave(list(dict.fromkeys(backends)), specs, range(replicates), options.seed)),
        seed=options.seed,
        threads=threads,
        replicates=replicates,
        max_replicates=max(replicates, MAX_REPLICATES) if high else replicates,
        rigor=options.rigor,
        quick=options.quick,
        budget=options.budget or (HIGH_BUDGET if high else QUICK_BUDGET if options.quick else DEFAULT_BUDGET),
        memory_bytes=int(memory * ROTATION_SHARE),
        time_limit_s=limit_s,
        repeats=3 if high else 0 if options.quick else 1,
        pythons=dict(options.pythons),
        out=options.out,
        reference_dir=options.reference_dir
        or cache_folder().parent.parent / "reference" / cache_folder().name,
        command=options.command,
        ceilings=options.ceilings,
        notes=notes,
    )


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


def interleave(
    backends: Sequence[str], specs: Sequence[str], replicates: Sequence[int], seed: int
) -> list[Cell]:
    """Cells by replicate, the backends in random order within each, the works in random order within a cell."""
    cells = []
    for replicate in replicates:
        rng = random.Random(f"{seed} {replicate}")
        for backend in rng.sample(backends, len(backends)):
            cells.append(Cell(backend, replicate, tuple(rng.sample(specs, len(specs)))))
    return cells


def needed_bytes(work: Work) -> int:
    """Memory that a work takes at least: one model, or two input sets, so that they can rotate."""
    return work.footprint_bytes * (1 if isinstance(work, Step | Prefill) else 2)


def check_memory(work: Work, memory: int) -> None:
    """Raises PlanError with both figures if a work cannot fit `memory` bytes."""
    needed = needed_bytes(work)
    if needed > memory:
        fewer = "; layers=N runs fewer layers" if isinstance(work, Step | Prefill) else ""
        raise PlanError(
            f"{work.spec} does not fit memory: it needs {_gigabytes(needed)}, "
            f"{_gigabytes(memory)} are available{fewer}"
        )


def _fit(suite: list[Work], memory: int) -> tuple[list[Work], tuple[str, ...]]:
    """The suite's works that fit with room for copies, steps cut to fewer layers; and what was changed."""
    fitting: list[Work] = []
    notes = []
    for work in suite:
        fitted = _fit_layers(work, memory // COPIES) if isinstance(work, Step | Prefill) else work
        if fitted is None or needed_bytes(fitted) > memory // COPIES:
            notes.append(f"left out for lack of memory ({_gigabytes(memory)} available): {work.spec}")
            continue
        if fitted != work:
            notes.append(f"fewer layers to fit memory ({_gigabytes(memory)} available): {fitted.spec}")
        fitting.append(fitted)
    if not fitting:
        raise PlanError(f"no work of the suite fits memory: {_gigabytes(memory)} are available")
    return fitting, tuple(notes)


def _fit_layers(work: Step | Prefill, memory: int) -> Step | Prefill | None:
    """The work with as many layers as fit `memory` bytes; None if not even one does."""
    for layers in range(work.shape.layers, 0, -1):
        fewer = work if layers == work.shape.layers else replace(work, layers=layers)
        if needed_bytes(fewer) <= memory:
            return fewer
    return None


def _gigabytes(size: int) -> str:
    """A size for a message: ``12.3 GB (12345678901 bytes)``."""
    return f"{size / 1e9:.1f} GB ({size} bytes)"
