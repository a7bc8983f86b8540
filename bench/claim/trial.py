"""One experiment on one backend in one worker process: its arms take turns, each kept cold and checked.

>>> for outcome in run_trial(Trial("mine:cpu", arms, threads=2, seed=1, ...), tell):
...     outcome.index, outcome.status, outcome.samples_s

Arms of a group are prepared together and timed in rounds, in random order within each, so that they can be
compared within the process; groups follow each other. An arm that fails is an outcome with a status.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import ceil, inf
from pathlib import Path
from typing import Any

from membound.backends import registry
from membound.backends.api import CoRunner, Device
from membound.bench.ceilings.cpu import ROTATION, rotating_bytes
from membound.bench.ceilings.patterns import window_bytes
from membound.bench.claim.arms import Arm, named
from membound.bench.claim.offers import refusal
from membound.bench.claim.player import Outcome, Player
from membound.bench.machine.counters import device_delta, open_counters
from membound.bench.machine.fingerprint import last_level_cache_bytes
from membound.bench.machine.telemetry import delta, snapshot
from membound.bench.measure.case import DEVICE_SHARE, one_line
from membound.bench.measure.check import cached_reference
from membound.bench.measure.contestant import ColdMemory, Contestant, Refused
from membound.errors import BackendUnavailable, Unsupported
from membound.kernels.cpu.compile import set_threads
from membound.kernels.cpu.instruments import stream
from membound.kernels.cpu.instruments.co_runner import Thief
from membound.kernels.seeded import make_inputs, slots_to_defeat
from membound.kernels.work import Prefill, Step
from membound.results.claim.observation import NO_TIME, SKIPPED

Tell = Callable[[str, list[int]], None]
"""Called with the phase that begins and the indices of the arms that are in it."""

Hire = Callable[[list[int]], Thief]
"""The co-runner of a process, for the arms with these indices."""

LEAST_ROUNDS = 3
BURST_BYTES = 32 << 20
"""Small works have so many bytes in input sets that a burst of all of them lasts a millisecond or so."""
MOST_SLOTS = 33
THEFT_SLOTS = 5
"""A victim's burst lasts several duty cycles of the thief, or chunks of its work."""
EVICTION_STREAMS = 4


@dataclass(frozen=True, slots=True)
class Trial:
    """What a worker is asked to do. Timing of a group ends after `rounds`, or `seconds` and a few rounds.

    After `left_s` seconds no further arm is begun, and the timing at hand ends with its first round.
    """

    backend: str
    arms: tuple[Arm, ...]
    threads: int
    seed: int
    replicate: int
    rounds: int
    seconds: float
    memory_bytes: int
    thief_cpus: tuple[int, ...]
    reference_dir: Path
    left_s: float = inf


def run_trial(trial: Trial, tell: Tell) -> Iterator[Outcome]:
    """Measure all arms, group by group. Whatever a backend does, short of killing the process, is an outcome."""
    groups: dict[str, list[tuple[int, Arm]]] = {}
    for index, arm in enumerate(trial.arms):
        groups.setdefault(arm.group, []).append((index, arm))
    until = time.perf_counter() + trial.left_s
    set_threads(trial.threads)
    cold = _cold_memory(trial.threads)
    with ExitStack() as whole:
        hire = _hiring(trial, tell, whole)
        for members in groups.values():
            with ExitStack() as stack:
                yield from _Group(trial, members, cold, tell, hire, stack, until).run()
            gc.collect()


def _hiring(trial: Trial, tell: Tell, stack: ExitStack) -> Hire:
    """Starts the co-runner when it is asked for first; touching its memory takes seconds."""
    hired: list[Thief] = []

    def hire(indices: list[int]) -> Thief:
        if not hired:
            tell("starting the co-runner", indices)
            cpus = trial.thief_cpus
            hired.append(stack.enter_context(Thief(cpus, rotating_bytes(len(cpus)))))
        return hired[0]

    return hire


def _cold_memory(threads: int) -> ColdMemory:
    """Memory of nobody else, whose reading pushes operands out of the caches."""
    values = stream.allocate(rotating_bytes(threads), threads)
    place = stream.arrange(values.size, threads, EVICTION_STREAMS, window_bytes(values, threads))
    numbers = iter(range(1 << 62))

    def evict() -> int:
        stream.read(values, place, next(numbers) % place.windows, 0)
        return place.window_bytes

    return ColdMemory(ROTATION * last_level_cache_bytes(), evict)


@dataclass(slots=True)
class _Group:
    """Arms that are prepared together; `stack` closes what they open."""

    trial: Trial
    members: Sequence[tuple[int, Arm]]
    cold: ColdMemory
    tell: Tell
    hire: Hire
    stack: ExitStack
    until: float
    """When no more time is left, by the clock of `time.perf_counter`."""
    device: Device | None = None
    thief: CoRunner | None = None
    """Of an accelerator, once an arm has asked for one."""

    def run(self) -> Iterator[Outcome]:
        """Outcomes of arms that cannot take part, then those of the others."""
        known: dict[tuple[str, int | None, str], Contestant | Outcome] = {}
        players: list[Player] = []
        for index, arm in self.members:
            key = arm.contestant
            if key not in known:
                known[key] = self._enter(arm, [i for i, a in self.members if a.contestant == key])
            found = known[key]
            if isinstance(found, Contestant):
                players.append(Player(index, arm, found))
            else:
                yield replace(found, index=index)
        if players and self._late:
            yield from (Outcome(player.index, SKIPPED, NO_TIME) for player in players)
        elif players:
            telemetry = self._play(players)
            for player in players:
                outcome = self._checked(player)
                outcome.telemetry |= telemetry
                yield outcome

    @property
    def _late(self) -> bool:
        return time.perf_counter() > self.until

    def _enter(self, arm: Arm, indices: list[int]) -> Contestant | Outcome:
        """A contestant whose first output is right and whose burst is chosen; or why there is none."""
        if self._late:
            return Outcome(0, SKIPPED, NO_TIME)
        try:
            self.tell("preparing", indices)
            contestant = self._prepared(arm)
            contestant.launch()
            self.tell("checking", indices)
            self._check(contestant)
            self.tell("fitting the burst", indices)
            _choose_burst(contestant, arm)
        except BackendUnavailable as error:
            return Outcome(0, "unavailable", f"{error.reason}; {error.remedy}".removesuffix("; "))
        except Unsupported as error:
            return Outcome(0, "unsupported", str(error))
        except Refused as refused:
            return Outcome(0, refused.status, str(refused))
        except MemoryError as error:
            return Outcome(0, "oom", one_line(error))
        except Exception as error:  # the outermost boundary around runtimes that raise classes of their own
            return Outcome(0, "error", one_line(error))
        return contestant

    def _prepared(self, arm: Arm) -> Contestant:
        trial, work, cold = self.trial, arm.parsed, self.cold
        name = named(trial.backend, arm.variant)
        backend = registry.create(name)
        self.stack.callback(backend.close)
        self.device = device = backend.open(registry.device_of(name), trial.threads)
        reason = refusal(backend, device, arm)
        if reason is not None:
            raise Unsupported(reason)
        if arm.thief and device.accelerator is not None and self.thief is None:
            self.tell("starting the co-runner", [index for index, one in self.members if one.thief])
            self.thief = self.stack.enter_context(backend.thief())
        inputs = make_inputs(work, trial.seed, _slots(trial, arm, device))
        backend.prepare(work, inputs)
        if device.accelerator is not None:  # rotation defeats its cache; the CPU's do not matter to it
            cold = ColdMemory(0, cold.evict)
        last_use = [cold.passed_bytes] * inputs.slots
        return Contestant(name, backend, inputs, cold, last_use, inputs.slots - 1)

    def _play(self, players: Sequence[Player]) -> dict[str, Any]:
        """Rounds in random order until their number, or the time, is up; the counters beside them."""
        trial, victims = self.trial, [player.index for player in players if player.arm.thief]
        thief = self.thief or (self.hire(victims) if victims else None)
        counters = open_counters(self.device.accelerator if self.device is not None else None)
        rng = random.Random(f"{trial.seed} {trial.replicate} {trial.backend}")
        gc.collect()
        gc.disable()
        before, device_before = snapshot(), counters.read()
        end = time.perf_counter() + trial.seconds
        try:
            for done in range(trial.rounds):
                if (done >= LEAST_ROUNDS and time.perf_counter() > end) or (done and self._late):
                    break
                for player in rng.sample(players, len(players)):
                    if done and self._late:
                        break
                    self.tell("timing", [player.index])
                    player.take_turn(thief)
        finally:
            gc.enable()
        device_after, after = counters.read(), snapshot()
        return delta(before, after) | device_delta(device_before, device_after)

    def _check(self, contestant: Contestant) -> None:
        """Hold the last output against the reference, which another process may have computed. Raises Refused."""
        slot = contestant.slot
        contestant.check({slot: cached_reference(contestant.inputs, slot, self.trial.reference_dir)})

    def _checked(self, player: Player) -> Outcome:
        """The outcome of a player whose last output is right, too."""
        self.tell("checking", [player.index])
        try:
            self._check(player.contestant)
        except Refused as refused:
            return Outcome(player.index, refused.status, str(refused))
        except Exception as error:  # the same boundary
            return Outcome(player.index, "error", one_line(error))
        return player.outcome()


def _slots(trial: Trial, arm: Arm, device: Device) -> int:
    """Input sets: one where it shall stay in a cache, else two or more, so that a burst finds cold ones."""
    work, accelerator = arm.parsed, device.accelerator
    if arm.resident or isinstance(work, Step | Prefill):
        return 1
    if accelerator is not None:
        room = min(int(DEVICE_SHARE * accelerator.memory_bytes) or trial.memory_bytes, trial.memory_bytes)
        slots = slots_to_defeat(work, accelerator.cache_bytes or last_level_cache_bytes(), room)
        wanted = min(THEFT_SLOTS, room // work.footprint_bytes) if arm.thief else 0
        return max(slots, wanted)
    if arm.thief:
        return THEFT_SLOTS
    return min(MOST_SLOTS, max(2, ceil(BURST_BYTES / work.footprint_bytes) + 1))


def _choose_burst(contestant: Contestant, arm: Arm) -> None:
    if arm.thief:
        contestant.launches = contestant.slots - 1
    elif arm.resident:
        contestant.launches = ceil(BURST_BYTES / contestant.inputs.work.footprint_bytes)
    else:
        contestant.fit_burst()


def trial_of(job: dict[str, Any]) -> Trial:
    """The trial that a job describes."""
    fields = {name: job[name] for name in ("backend", "threads", "seed", "replicate", "rounds", "seconds")}
    return Trial(
        **fields,
        arms=tuple(Arm(**arm) for arm in job["arms"]),
        memory_bytes=job["memory_bytes"],
        thief_cpus=tuple(job["thief_cpus"]),
        reference_dir=Path(job["reference_dir"]),
        left_s=inf if job["left_s"] is None else job["left_s"],
    )
