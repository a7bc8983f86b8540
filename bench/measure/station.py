"""What a worker holds and does: an opened backend, the contestants prepared on it, ceilings; a method a command.

>>> from membound.bench.protocol.messages import Open
>>> station = Station(threads=2, tell=print)
>>> station.open(Open("mine:cpu", seed=1, memory_bytes=1 << 30, reference_dir="references"))
Opened(device='my processor', ...)

Commands and answers are those of `protocol.messages`. What a backend raises goes through.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psutil

from membound.backends import registry
from membound.backends.api import Backend, CoRunner, Device
from membound.bench.ceilings.ceiling import Ceiling
from membound.bench.claim.arms import Arm, named
from membound.bench.claim.co_runners import CoRunners
from membound.bench.claim.offers import offered, refusal
from membound.bench.claim.timed_arm import TimedArm, slots_of_arms
from membound.bench.machine.commit import versions_of
from membound.bench.machine.counters import device_delta, open_counters
from membound.bench.machine.fingerprint import HARNESS_PACKAGES
from membound.bench.machine.reading import Counters, Reading
from membound.bench.machine.telemetry import Snapshot, delta, snapshot
from membound.bench.measure.closing import closed
from membound.bench.measure.cold_backend import ColdBackend, Preparation, prepare_cold
from membound.bench.measure.cold_memory import ColdMemory, cold_memory, slots_for
from membound.bench.measure.devices import try_devices
from membound.bench.measure.failures import failure_of, said
from membound.bench.measure.figures import (
    device_fields,
    exchanged_bytes,
    plain,
    settings,
    stored_bytes,
)
from membound.bench.measure.gated import NOT_GATED, Gated
from membound.bench.measure.turns import Turn
from membound.bench.protocol import messages as m
from membound.errors import Unsupported
from membound.kernels import reference
from membound.kernels.cpu.watching import watch_compilation
from membound.kernels.work import parse
from membound.no_collections import no_collections


@dataclass(slots=True)
class Seat:
    """A contestant of this worker with the counters that run beside it."""

    one: ColdBackend
    counters: Counters
    arms: list[TimedArm] = field(default_factory=list)
    """What an experiment asks for; none where a work is measured as it is."""
    before: Snapshot | None = None
    device_before: Reading | None = None


@dataclass(slots=True)
class Station:
    """The state of a worker. `tell` is called with the phase that begins and the contestants in it."""

    threads: int
    tell: Callable[[str, list[int]], None]
    gated: Gated = NOT_GATED
    opening: m.Open | None = None
    seats: dict[int, Seat] = field(default_factory=dict)
    ceilings: Any = None
    co_runners: CoRunners | None = None
    cold: ColdMemory | None = None
    _stack: ExitStack = field(default_factory=ExitStack)
    _phase: str = ""

    METHODS: ClassVar[Mapping[type[Any], str]] = {
        m.Probe: "probe",
        m.AskCoverage: "ask_coverage",
        m.MeasureMachine: "measure_machine",
        m.OpenCeiling: "open_ceiling",
        m.OpenDeviceCeiling: "open_device_ceiling",
        m.TakeCeilingTurn: "take_ceiling_turn",
        m.Open: "open",
        m.MeasureBackend: "measure_backend",
        m.AskOffers: "ask_offers",
        m.Prepare: "prepare",
        m.TakeTurn: "take_turn",
        m.Check: "check",
        m.Release: "release",
    }

    # Devices and ceilings

    def probe(self, command: m.Probe) -> m.Found:
        """Devices of an entry point."""
        return m.Found(try_devices(command.entry, command.devices, self.threads))

    def ask_coverage(self, command: m.AskCoverage) -> m.Coverage:
        """What every device of an entry point says of these works."""
        from membound.bench.planning.coverage import ask

        return m.Coverage([asdict(answers) for answers in ask(command.entry, self.threads, command.works)])

    def measure_machine(self, command: m.MeasureMachine) -> m.Ceilings:
        """The limits of the processor that do not take turns."""
        from membound.bench.ceilings.cpu import measure_ceilings

        before = snapshot()
        with self._watching([]):
            found = measure_ceilings(self.threads, command.quick, lambda text: self._enter(text, []))
        return m.Ceilings([c.as_told() for c in found], delta(before, snapshot()))

    def open_ceiling(self, command: m.OpenCeiling) -> m.CeilingOpened:
        """Ceilings of the processor that take turns."""
        from membound.bench.ceilings.in_turn import CpuCeilings

        self._enter("checking the ceilings", [])
        with self._watching([]):
            self.ceilings = CpuCeilings(self.threads, command.products)
        return m.CeilingOpened(dict(self.ceilings.units))

    def open_device_ceiling(self, command: m.OpenDeviceCeiling) -> m.CeilingOpened:
        """Ceilings of the opened backend's accelerator that take turns."""
        from membound.bench.ceilings.in_turn import DeviceCeilings

        backend, _ = self._fresh()
        self._stack.callback(closed, backend)
        self.ceilings = DeviceCeilings(backend, command.variants)
        return m.CeilingOpened(dict(self.ceilings.units))

    def take_ceiling_turn(self, command: m.TakeCeilingTurn) -> m.CeilingTurned:
        """A turn of each ceiling that is named."""
        seen = self.ceilings.take_turn(command.names)
        return m.CeilingTurned(seen.rates, seen.clean, seen.variants, seen.moved_bytes)

    # Backends

    def open(self, command: m.Open) -> m.Opened:
        """Open the device to learn what it is; contestants open it again, each for itself."""
        self.opening = command
        backend, device = self._fresh()
        try:
            told = device_fields(device)
            facts = open_counters(device.accelerator).facts() if told["accelerator"] is not None else {}
        finally:
            closed(backend)
        versions = versions_of(HARNESS_PACKAGES) | told["versions"]
        return m.Opened(told["name"], versions, (told["accelerator"] or {}) | facts, told["memory_ceiling"])

    def measure_backend(self, command: m.MeasureBackend) -> m.Ceilings:
        """What the backend can do at most, on its accelerator and in products of its own."""
        from membound.bench.ceilings.backend import measure_backend_ceilings
        from membound.bench.ceilings.device import measure_device_ceilings

        def tell(text: str) -> None:
            self._enter(text, [])

        before, found = snapshot(), list[Ceiling]()
        backend, device = self._fresh()
        counters = open_counters(device.accelerator)
        device_before = counters.read()
        try:
            with self._watching([]):
                found += measure_device_ceilings(backend, device, command.quick, tell)
                found += measure_backend_ceilings(backend, device, tell, command.quick, command.formats)
        except Exception as error:  # the boundary around a runtime: what was found before it failed is kept
            failure = failure_of(error)
            of = {"backend": device.id}
            found.append(Ceiling("backend", None, "", (), of, failure.status, failure.reason))
        finally:
            closed(backend)
        telemetry = delta(before, snapshot()) | device_delta(device_before, counters.read())
        return m.Ceilings([c.as_told() for c in found], telemetry)

    def ask_offers(self, command: m.AskOffers) -> m.Offers:
        """What the backend says it can do of the experiments asked about."""
        asked = {int(number): [Arm(**arm) for arm in arms] for number, arms in command.asked.items()}
        refused = offered(self._asked.backend, self.threads, asked)
        return m.Offers(
            {str(n): {arm: said(why) for arm, why in arms.items()} for n, arms in refused.items()}
        )

    # Contestants

    def prepare(self, command: m.Prepare) -> m.Prepared:
        """Prepare a work, on inputs of its own; the first output is right when this returns.

        Nothing is left of one that fails.
        """
        who = command.contestant
        self.release(m.Release(who))
        before = _resident_bytes()
        self._enter("opening", [who])
        arms = [Arm(**arm) for arm in command.arms]
        with self._watching([who]):
            one = self._prepared(command, arms)
        try:
            seat = Seat(one, open_counters(one.device.accelerator), [TimedArm(arm, one) for arm in arms])
            self.seats[who] = seat
            for arm in seat.arms:
                arm.choose_burst()
                if arm.arm.trade:
                    self._enter("starting the co-runner", [who])
                    arm.co_runner = self._co_runner(one)
            gc.collect()
            return _told(one, max(0, _resident_bytes() - before))
        except BaseException:
            with suppress(Exception):  # the boundary around a runtime: what failed first is what is reported
                self.release(m.Release(who))
            raise

    def _prepared(self, command: m.Prepare, arms: Sequence[Arm]) -> ColdBackend:
        opening, who = self._asked, [command.contestant]
        how = Preparation(
            self.threads,
            opening.seed,
            opening.memory_bytes,
            Path(opening.reference_dir),
            lambda phase: self._enter(phase, who),
            command.launch_s,
            self.gated.slowdown,
            command.shared,
        )
        if self.cold is None:
            self.cold = cold_memory(self.threads)
        return prepare_cold(
            named(opening.backend, arms[0].variant) if arms else opening.backend,
            parse(command.work),
            how,
            self.cold,
            slots_of_arms(arms) if arms else slots_for,
            _refusing(arms),
        )

    def take_turn(self, command: m.TakeTurn) -> m.Turned:
        """One timed burst of a contestant."""
        arrived = time.perf_counter()
        seat = self.seats[command.contestant]
        one = seat.one
        one.cold.passed_bytes += command.passed_bytes
        if seat.before is None:
            seat.before, seat.device_before = snapshot(), seat.counters.read()
        passed = one.cold.passed_bytes
        with no_collections():
            dispatch_s = time.perf_counter() - arrived
            turn, launches, device_s, telemetry = self._taken(seat, command)
        return m.Turned(
            time_s=turn.time_s / launches,
            launches=launches,
            device_s=device_s,
            disturbance=turn.disturbance,
            retaken_s=[seconds / launches for seconds, _ in turn.retaken],
            moved_bytes=one.cold.passed_bytes - passed if one.device.accelerator is None else 0,
            dispatch_s=dispatch_s,
            stolen=seat.arms[command.arm].stolen if seat.arms else {},
            telemetry=telemetry,
        )

    def _taken(self, seat: Seat, command: m.TakeTurn) -> tuple[Turn, int, float | None, dict[str, Any]]:
        """The turn, the launches of its burst, seconds a launch by the device's clock, the device's counters."""
        one = seat.one
        if command.seconds:
            before = seat.counters.read()
            start = time.perf_counter()
            device_s, launches = one.device_turn(command.seconds)
            turn = Turn(time.perf_counter() - start, None)
            return turn, max(1, launches), device_s, device_delta(before, seat.counters.read())
        if command.hot:
            return one.hot_turn(), one.launches, None, {}
        if seat.arms:
            arm = seat.arms[command.arm]
            turn = arm.take_turn()
            # a co-runner is at rest by now: what the device's clock would tell is no victim's time
            return turn, one.launches, None if arm.arm.trade else one.device_turn()[0], {}
        return one.take_turn(), one.launches, one.device_turn()[0], {}

    def check(self, command: m.Check) -> m.Checked:
        """The last output against the reference, the settings, and the counters since the first turn."""
        seat = self.seats[command.contestant]
        telemetry: dict[str, Any] = {}
        if seat.before is not None:
            telemetry = delta(seat.before, snapshot()) | device_delta(
                seat.device_before, seat.counters.read()
            )
        self._enter("checking", [command.contestant])
        seat.one.check()
        told = settings(seat.one.backend) | seat.one.checked
        told |= self.gated.told(seat.one)
        return m.Checked(
            seat.one.error, told | {"working_set_bytes": seat.one.working_set_bytes}, plain(telemetry)
        )

    def release(self, command: m.Release) -> m.Done:
        """Give back what a contestant holds; nothing if it was never prepared."""
        seat = self.seats.pop(command.contestant, None)
        if seat is not None:
            self._leave(seat)
            if self.cold is not None and not self.seats:
                self.cold.free()
            del seat
            gc.collect()
        return m.Done()

    def close(self) -> None:
        """Give everything back; a backend that cannot close does not keep others from it."""
        for seat in self.seats.values():
            with suppress(Exception):  # the boundary around a runtime: everything was measured before
                self._leave(seat)
        self.seats.clear()
        self._stack.close()

    # Parts

    @property
    def _asked(self) -> m.Open:
        """How the backend of this worker was asked for."""
        if self.opening is None:
            raise AssertionError("no backend was opened")
        return self.opening

    def _fresh(self) -> tuple[Backend, Device]:
        """The backend of this worker, opened anew."""
        backend = registry.create(self._asked.backend)
        try:
            device = backend.open(registry.device_of(self._asked.backend), self.threads)
            device_fields(device)
        except BaseException:
            closed(backend)
            raise
        return backend, device

    def _watching(self, who: list[int]) -> Any:
        """Compiling interrupts the phase at hand, which goes on afterwards."""
        return watch_compilation(
            lambda name: self.tell(f"{m.COMPILING} {name}", who), lambda: self.tell(self._phase, who)
        )

    def _enter(self, phase: str, who: list[int]) -> None:
        self._phase = phase
        self.tell(phase, who)

    def _leave(self, seat: Seat) -> None:
        """Close a contestant, and before it the co-runner that lives on its device."""
        try:
            if self.co_runners is not None:
                self.co_runners.leave(seat.one)
        finally:
            seat.one.close()

    def _co_runner(self, one: ColdBackend) -> CoRunner:
        if self.co_runners is None:
            self.co_runners = self._stack.enter_context(CoRunners(self._asked.co_runner_cpus))
        return self.co_runners.for_device(one)


def _refusing(arms: Sequence[Arm]) -> Callable[[Backend, Device], None]:
    """Raises Unsupported where the backend cannot do an arm; asks it for the extra arithmetic where it can."""

    def ready(backend: Backend, device: Device) -> None:
        for arm in arms:
            reason = refusal(backend, device, arm)
            if reason is not None:
                raise Unsupported(reason)

    return ready


def _told(one: ColdBackend, resident_bytes: int) -> m.Prepared:
    work = one.inputs.work
    return m.Prepared(
        slots=one.slots,
        working_set_bytes=one.working_set_bytes,
        footprint_bytes=work.footprint_bytes,
        resident_bytes=resident_bytes,
        prepare_s=one.prepare_s,
        first_s=one.first_s,
        launch_s=one.launch_s,
        launches=one.launches,
        error=one.error,
        tolerance=reference.tolerance(work),
        stored_bytes=stored_bytes(one.backend),
        exchanged_bytes=exchanged_bytes(one.backend),
        unshared=one.unshared,
    )


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)
