"""What a `membound claim` will do, decided before anything runs: experiments, backends, processes, minutes.

>>> from membound.results.claim.experiments import load_experiments
>>> plan = make_claim_plan([1, 4], ["mine:cpu"], Options(), load_experiments(), memory=8 << 30)
>>> plan.experiments, plan.processes, plan.time_limit_s
((1, 4), 3, 570.0)
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from membound.bench.claim.arms import Arm
from membound.bench.claim.budget import Pair
from membound.bench.claim.scene import Scene
from membound.bench.machine.fingerprint import default_threads, pick_cpus
from membound.bench.planning.plan import ROTATION_SHARE, Options, make_plan
from membound.errors import MemboundError
from membound.kernels.work import held_bytes
from membound.results.claim.experiments import Register
from membound.results.roofline import device_class

TIME_LIMIT_S = 570.0
"""Ten minutes, less the time that a last worker needs to end and the verdicts take."""
ROUNDS = {"normal": 7, "high": 15}
LEAST_ROUNDS = 3
MOST_DIGITS = 9
GROUP_S = {"normal": 3.0, "high": 6.0}
"""Seconds after which the turns of a group of arms end, a few rounds done."""
HIGH_PROCESSES = 10
THEFT, CLOCKS = 4, 8
"""Experiments with rules of their own: a victim on one core; more processes than all others."""
RESIDENT_SETS, ROTATING_SETS = 1, 2
"""Input sets of an arm that stays in a cache, and of one that must not."""


class ClaimError(MemboundError):
    """A claim cannot be tested as asked: the message says what is wrong and what would be possible."""


@dataclass(frozen=True, slots=True)
class ExperimentCell:
    """One worker process: an experiment on a backend."""

    experiment: int
    backend: str
    replicate: int

    @property
    def pair(self) -> Pair:
        """What all processes of it measure."""
        return self.experiment, self.backend


@dataclass(frozen=True, slots=True)
class ClaimPlan:
    """Everything that was chosen. `memory_bytes` is what the input sets of a group may take.

    `device_room` is the same on accelerators with memory of their own, `device_cache` what their caches hold;
    `variants` are those that each backend's device is also offered as. `processes` is those of every experiment
    but the clocks.
    """

    experiments: tuple[int, ...]
    backends: tuple[str, ...]
    threads: int
    processes: int
    clock_processes: int
    rounds: int
    group_s: float
    seed: int
    rigor: str
    memory_bytes: int
    time_limit_s: float | None
    co_runner_cpus: tuple[int, ...]
    pythons: Mapping[str, str]
    out: Path
    reference_dir: Path
    command: str
    device_room: Mapping[str, int]
    device_cache: Mapping[str, int]
    variants: Mapping[str, tuple[str, ...]]

    def python_for(self, backend: str) -> str | None:
        """The interpreter chosen for ``backend:device``; None is the one that runs the harness."""
        return self.pythons.get(backend) or self.pythons.get(backend.partition(":")[0])

    def threads_of(self, experiment: int, backend: str) -> int:
        """CPU threads of the works: one core for a victim that runs on them, so that its co-runner has another."""
        return 1 if experiment == THEFT and device_class(backend) == "cpu" else self.threads

    def processes_of(self, experiment: int) -> int:
        """Worker processes of an experiment on each backend."""
        return self.clock_processes if experiment == CLOCKS else self.processes

    def cells(self, backend: str, replicate: int) -> list[ExperimentCell]:
        """Every experiment that has so many processes, once, in random order."""
        cells = [
            ExperimentCell(number, backend, replicate)
            for number in self.experiments
            if replicate < self.processes_of(number)
        ]
        return random.Random(f"{self.seed} {backend} {replicate}").sample(cells, len(cells))


def make_claim_plan(
    only: Collection[int],
    backends: Sequence[str],
    options: Options,
    register: Register,
    memory: int,
    device_memory: Mapping[str, int] | None = None,
    device_cache: Mapping[str, int] | None = None,
    variants: Mapping[str, tuple[str, ...]] | None = None,
) -> ClaimPlan:
    """Check everything. `only` empty: all experiments; memory and caches in bytes, those of accelerators by name.

    Raises ClaimError, PlanError, UnknownBackend.
    """
    known = [experiment.id for experiment in register]
    unknown = sorted(set(only) - set(known))
    if unknown:
        raise ClaimError(f"--only: experiment {unknown[0]} is unknown; there are {known[0]} to {known[-1]}")
    checked = make_plan(backends, ["linear:n=1,k=1"], options, memory)
    chosen = tuple(number for number in known if not only or number in only)
    high = options.rigor == "high"
    needed = {number: register[number].processes for number in chosen}
    least = max((n for number, n in needed.items() if number != CLOCKS), default=needed.get(CLOCKS, 1))
    processes = options.replicates or (max(HIGH_PROCESSES, least) if high else least)
    return ClaimPlan(
        experiments=chosen,
        backends=tuple(dict.fromkeys(backends)),
        threads=checked.threads,
        processes=processes,
        clock_processes=options.replicates or max(processes, needed.get(CLOCKS, 0)),
        rounds=ROUNDS[options.rigor],
        group_s=GROUP_S[options.rigor],
        seed=options.seed,
        rigor=options.rigor,
        memory_bytes=int(memory * ROTATION_SHARE),
        time_limit_s=None if high or options.replicates else TIME_LIMIT_S,
        co_runner_cpus=tuple(pick_cpus(default_threads())[1:]),
        pythons=dict(options.pythons),
        out=options.out,
        reference_dir=checked.reference_dir,
        command=options.command,
        device_room={name: int(size * ROTATION_SHARE) for name, size in (device_memory or {}).items()},
        device_cache=dict(device_cache or {}),
        variants=dict(variants or {}),
    )


def parse_only(text: str) -> list[int]:
    """``1,4`` as numbers. Raises ClaimError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ClaimError(
            "--only names no experiment: leave it out for all, or give numbers, as in --only 1,4"
        )
    for part in parts:
        if not part.isdecimal() or len(part) > MOST_DIGITS:
            raise ClaimError(
                f"--only {text!r}: {part!r} is not the number of an experiment, as in --only 1,4"
            )
    return [int(part) for part in parts]


def plain_devices(backends: Sequence[str]) -> tuple[list[str], list[str]]:
    """Devices without and with a variant (``device+variant``): a claim takes the latter only when named."""
    return [b for b in backends if "+" not in b], [b for b in backends if "+" in b]


def fitting(arms: Sequence[Arm], scene: Scene) -> tuple[list[Arm], list[Arm]]:
    """Arms whose groups fit the room, and those that were left out: the largest work of a group first.

    A work is there once for every dose of extra arithmetic and for every variant.
    """
    out = set()
    for group in dict.fromkeys(arm.group for arm in arms):
        prepared = {arm.contestant: arm for arm in arms if arm.group == group}
        sizes: dict[str, int] = {}
        for arm in prepared.values():
            sizes[arm.work] = sizes.get(arm.work, 0) + _bytes(arm)
        by_size = sorted(sizes, key=lambda spec: sizes[spec])
        total = sum(sizes.values())
        while by_size and total > scene.room_bytes:
            largest = by_size.pop()
            total -= sizes[largest]
            out.add((group, largest))
    kept = [arm for arm in arms if (arm.group, arm.work) not in out]
    return kept, [arm for arm in arms if arm not in kept]


def _bytes(arm: Arm) -> int:
    """Memory of an arm's input sets."""
    return held_bytes(arm.parsed, RESIDENT_SETS if arm.resident else ROTATING_SETS)
