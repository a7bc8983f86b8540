"""One replicate: a process for each backend and one for each device's ceilings; works play in it one after the other.

>>> with Replicate(run, number=0, backends=["mine:cpu", "other:cpu"]) as replicate:
...     replicate.open_all()
...     replicate.play("linear:n=4096,k=4096,m=1,weight=bf16,act=float", ["mine:cpu", "other:cpu"], Pace(12, 3.0))
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from math import inf
from random import Random
from types import TracebackType

from membound.backends.registry import unlabelled
from membound.bench.machine.fingerprint import available_memory_bytes
from membound.bench.measure.ceiling_process import CeilingProcess, Moment
from membound.bench.measure.cold_memory import slots_for
from membound.bench.measure.contestant import (
    BROKEN,
    BackendProcess,
    Contestant,
    FailedError,
    Setting,
    Traffic,
)
from membound.bench.measure.failures import Failure, failure_of, lacked_memory
from membound.bench.measure.rounds import Pace, play
from membound.bench.protocol.messages import Ceilings, MeasureBackend
from membound.bench.protocol.process import WorkerTimeoutError, WorkerUnavailableError
from membound.bench.run.apart import FAILED, keep_apart
from membound.bench.run.case_rows import About, blank_row, failed_row, measured_row
from membound.bench.run.ceiling_rows import ceiling_rows, failed_ceilings, turned_rows
from membound.bench.run.machine_ceilings import MACHINE
from membound.bench.run.neighbours import due_ceilings, fastest_limits, moments_of
from membound.bench.run.room import FREE_SHARE, expected_bytes
from membound.bench.run.running import Running
from membound.bench.run.sharing import Sharing, pays, shareable_bytes
from membound.kernels.work import Work, parse
from membound.results.roofline import device_class
from membound.results.row import Row
from membound.results.turns import StoredTurn

DEVICE_QUEUE_S = 0.5
"""An accelerator's counters run beside a queue of launches this long: their grain is some tens of milliseconds."""


class Replicate:
    """The processes of one replicate. A context manager: leaving it ends them all."""

    def __init__(self, run: Running, number: int, backends: Sequence[str]) -> None:
        plan = run.plan
        self._run, self.number, self._backends = run, number, list(backends)
        self._setting = Setting(
            plan.threads, plan.seed, plan.memory_bytes, str(plan.reference_dir), run.timeouts
        )
        self._traffic = Traffic()
        self._processes: dict[str, BackendProcess] = {}
        self._broken: dict[str, Failure] = {}
        self._ceilings: dict[str, CeilingProcess] = {}
        self._rng = Random(f"{plan.seed} {number} turns")
        self._sharing = Sharing(run.note_once)
        self._compiled: set[tuple[str, str]] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Replicate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for device, one in self._ceilings.items() if kind in (None, KeyboardInterrupt) else ():
                self._keep_ceilings(device, one)
        finally:
            self._stack.__exit__(kind, error, trace)

    # Processes

    def open_all(self) -> None:
        """Start every process, those of the ceilings too; the first time, measure what each backend can do at most."""
        known = self._run.with_ceilings
        for backend in self._backends:
            self._start(backend)
        for backend in self._backends:
            self._begin(backend)
        self._begin_ceilings()
        opened = [backend for backend in self._backends if self._opened(backend) is not None]
        for one in self._ceilings.values():
            one.get_ready()
        for backend in opened if self._run.plan.ceilings else ():
            if backend not in known:
                known.add(backend)
                self._measure_backend(backend)
        self._make_ceilings()

    def _start(self, backend: str) -> None:
        python = self._run.plan.python_for(backend)
        process = BackendProcess(backend, self._setting, python, self._traffic, self._run.on_phase)
        try:
            self._processes[backend] = self._stack.enter_context(process)
        except WorkerUnavailableError as error:
            self._broken[backend] = failure_of(error)

    def _begin(self, backend: str) -> None:
        """Runtimes take seconds to import: all do it at once, before anything is timed."""
        if backend not in self._broken:
            try:
                self._processes[backend].begin_open()
            except BROKEN as error:
                self._broken[backend] = failure_of(error)

    def _opened(self, backend: str) -> BackendProcess | None:
        """The backend's process with its device open, started again if it has died; None if it cannot be had."""
        if backend in self._broken:
            return None
        process = self._processes.get(backend)
        if process is not None and process.alive and process.device is not None:
            return process
        try:
            if process is None or not process.alive:
                self._start(backend)
            if backend in self._broken:
                return None
            process = self._processes[backend]
            self._run.progress.cell(backend, "", self.number, "starting")
            process.open()
        except FailedError as error:
            self._broken[backend] = error.failure
            return None
        except BROKEN as error:
            self._broken[backend] = failure_of(error)
            return None
        return process

    # Ceilings

    def _measure_backend(self, backend: str) -> None:
        """A failure is a row as well, and the works go on."""
        run, process = self._run, self._processes[backend]
        limit_s = run.timeouts.other_s
        try:
            command = MeasureBackend(run.plan.rigor != "high", list(run.gemms))
            answer = process.ask(command, Ceilings, limit_s, "measuring its ceilings")
        except FailedError as error:
            run.keep(self._failed_ceilings(backend, error.failure))
        except BROKEN as error:
            run.keep(self._failed_ceilings(backend, failure_of(error)))
        else:
            keep_apart(run, ceiling_rows(answer, run.run_id, backend, self.number, run.plan.threads))

    def _failed_ceilings(self, backend: str, failure: Failure) -> Row:
        about = (self._run.run_id, backend, self.number, self._run.plan.threads)
        return failed_ceilings(*about, failure.status, failure.reason)

    def _make_ceilings(self) -> None:
        """A process for the ceilings of each device that takes part; they play now, and not first in the time of a work."""
        run = self._run
        others = set(map(device_class, self._backends)) - {MACHINE} if run.plan.ceilings else ()
        for device in sorted(others):
            if found := fastest_limits(run.rows, device, self._links(device)):
                one = self._ceiling_process(device)
                one.backend, one.variants = found
                one.python = run.plan.python_for(one.backend) or ""
        for one in self._ceilings.values():
            one.take_turn()

    def _begin_ceilings(self) -> None:
        """The processor's need nothing of the backends' and may start beside them."""
        if self._run.plan.ceilings and MACHINE in map(device_class, self._backends):
            one = self._ceiling_process(MACHINE)
            one.products = self._run.products
            one.begin()

    def _ceiling_process(self, device: str) -> CeilingProcess:
        note, on_phase = self._run.progress.note, self._run.on_phase
        one = CeilingProcess(self._setting, traffic=self._traffic, note=note, on_phase=on_phase)
        self._ceilings[device] = self._stack.enter_context(one)
        return one

    def _links(self, device: str) -> list[str]:
        """What the cases on a device are bound by: its memory, or a link to it."""
        opened = [p.device for b, p in self._processes.items() if device_class(b) == device]
        return list(dict.fromkeys(one.memory_ceiling for one in opened if one is not None))

    def _keep_ceilings(self, device: str, one: CeilingProcess) -> None:
        """Rows that say how far they moved in this replicate, a killed process's part of it included."""
        run = self._run
        mine = [r for r in run.cases if r.replicate == self.number and device_class(r.backend) == device]
        for row in self._turned(device, one, moments_of(mine)):
            run.keep(row)
        self._keep_ceilings_failure(device, one)

    def _keep_ceilings_failure(self, device: str, one: CeilingProcess) -> None:
        """Say at once, and once, why turns have no neighbours any more: this process may be killed before its end."""
        if one.failure is not None:
            told = replace(one.failure, reason=f"while they took turns: {one.failure.reason}")
            failed = self._failed_ceilings(one.backend or device, told)
            key = (failed.backend, self.number, FAILED, failed.reason)
            if key not in ((r.backend, r.replicate, r.work, r.reason) for r in self._run.rows):
                self._run.keep(failed)

    def _turned(self, device: str, one: CeilingProcess, more: Sequence[Moment] = ()) -> list[Row]:
        """A row for each ceiling that took turns until now."""
        run = self._run
        about = (run.run_id, one.backend or device, self.number, run.plan.threads)
        moments = {tuple(sorted(m.rates.items())): m for m in (*one.moments, *more)}
        return turned_rows(list(moments.values()), one.seen_variants, *about)

    def _choose_ceilings(self, group: Sequence[Contestant]) -> None:
        """Have those take turns that this work can run into."""
        for device, ceilings in self._ceilings.items():
            here = [one for one in group if device_class(one.backend) == device]
            rows = [blank_row(self._about(one.backend, one.work)) for one in here]
            known = [*self._run.rows, *self._turned(device, ceilings)]
            names = dict.fromkeys(name for row in rows for name in due_ceilings(row, known))
            ceilings.names = tuple(names)

    # Works

    def play(self, spec: str, backends: Sequence[str], pace: Pace) -> None:
        """All backends on a work, in as many groups as memory demands; every outcome becomes a row."""
        run, start, playing_s, rounds = self._run, time.perf_counter(), 0.0, [0]
        once_s = run.minutes.once_s
        waiting = self._rng.sample(list(backends), len(backends))
        while waiting:
            group, waiting = self._gather(spec, waiting)
            if not group:
                continue
            part = len(group) / (len(group) + len(waiting))
            due = replace(pace, seconds=part * (pace.seconds - playing_s))
            began, unfinished = time.perf_counter(), list(group)
            try:
                rounds.append(self._rounds(group, due, sum(rounds)))
                playing_s += time.perf_counter() - began
                self._finish(unfinished)
            except KeyboardInterrupt:
                self._finish(unfinished, further=False)
                raise
            for one in group:
                one.process.release(one.number)
        run.minutes.enter("")
        run.progress.worked(spec, self.number)
        around_s = time.perf_counter() - start - playing_s - (run.minutes.once_s - once_s)
        run.minutes.learn(spec, around_s, playing_s / max(rounds) if max(rounds) else None)

    def _gather(self, spec: str, waiting: Sequence[str]) -> tuple[list[Contestant], list[str]]:
        """Prepare backends as long as memory lasts; those that have to wait for the next group.

        Meanwhile they share their inputs, which are gone before anything is timed.
        """
        group: list[Contestant] = []
        later: list[str] = []
        try:
            self._begin_together(spec, waiting)
            for backend in waiting:
                begun = backend in self._processes and self._processes[backend].preparing
                if not begun and not self._fits(backend, parse(spec)) and group:
                    later.append(backend)
                    continue
                found = self._prepared(backend, spec)
                if isinstance(found, Failure) and lacked_memory(found) and self._sharing.path:
                    self._sharing.give_way()
                    found = self._prepared(backend, spec)
                if isinstance(found, Contestant):
                    group.append(found)
                elif (found.status == "oom" and group) or self._compiled_in_vain(found, backend, spec):
                    later.append(backend)
                else:
                    self._keep_failure(backend, spec, found)
        finally:
            self._sharing.end()
        return group, later

    def _compiled_in_vain(self, failure: Failure, backend: str, spec: str) -> bool:
        """Whether the memory that it lacked may be what compiling took: a fresh process finds the kernels on disk. Once."""
        process, key = self._processes.get(backend), (backend, spec)
        first = (
            lacked_memory(failure) and process is not None and process.compiled and key not in self._compiled
        )
        self._compiled |= {key} if first else set()
        return first

    def _begin_together(self, spec: str, backends: Sequence[str]) -> None:
        """Have those prepare at once that fit together, going by what they took in an earlier process.

        Preparing is packing and generating, most of it in one thread. In the first process each has the machine
        to itself, so that its `prepare_s` is its own.
        """
        free = room = FREE_SHARE * available_memory_bytes()
        together: dict[str, BackendProcess] = {}
        for backend in backends:
            room -= self._run.sizes.get((backend, spec), inf)
            process = self._opened(backend) if room >= 0 else None
            if process is not None:
                together[backend] = process
        work = parse(spec)
        if pays(work, len([backend for backend in backends if backend not in self._broken])):
            taken = sum(self._run.sizes[backend, spec] for backend in together)
            slots = slots_for(work, None, self._run.plan.memory_bytes)
            self._sharing.begin(shareable_bytes(work, slots), free - taken)
        for backend, process in together.items():
            self._run.progress.cell(backend, spec, self.number, "preparing")
            with suppress(WorkerTimeoutError):  # who takes no command is found out when its answer is due
                process.begin_prepare(0, spec, self._launch_s(backend, spec), self._sharing.path)

    def _launch_s(self, backend: str, spec: str) -> float:
        """What a launch took in the first process; of a backend that plays twice, that of either: bursts of two lengths
        would be two ways of measuring."""
        return self._run.launches_s.get((unlabelled(backend), spec), 0.0)

    def _fits(self, backend: str, work: Work) -> bool:
        """Whether memory suffices for one more; inputs are not shared any longer where they are in its way."""
        known = self._run.sizes.get((backend, work.spec))
        need = expected_bytes(work, self._run.plan.memory_bytes) if known is None else known
        if need + self._sharing.due_bytes > FREE_SHARE * available_memory_bytes():
            self._sharing.give_way()
        return need <= FREE_SHARE * available_memory_bytes()

    def _prepared(self, backend: str, spec: str) -> Contestant | Failure:
        process = self._opened(backend)
        if process is None:
            return self._broken[backend]
        self._run.progress.cell(backend, spec, self.number, "preparing")
        try:
            launch_s = self._launch_s(backend, spec)
            one = process.prepare(0, spec, launch_s=launch_s, shared=self._sharing.path)
        except FailedError as error:
            if error.failure.status == "oom":
                process.__exit__(None, None, None)  # a fresh process has nothing left of what was too much
            return error.failure
        except BROKEN as error:
            return failure_of(error)
        if one.prepared.unshared:
            self._run.note_once(
                f"{backend} makes inputs itself that others have made: {one.prepared.unshared}"
            )
        size = one.prepared.resident_bytes + one.prepared.slots * one.prepared.footprint_bytes
        self._run.sizes[backend, spec] = size
        self._run.launches_s.setdefault((unlabelled(backend), spec), one.prepared.launch_s)
        one.turns += self._run.journal.left.get((backend, self.number, spec), ())
        return one

    def _rounds(self, group: Sequence[Contestant], pace: Pace, first: int) -> int:
        run = self._run
        before = [turn for one in group for turn in one.turns]
        first = max([first, *(turn.round + 1 for turn in before)])
        process = max((turn.process + 1 for turn in before), default=0)

        def keep(one: Contestant, turn: StoredTurn) -> None:
            run.journal.add(one.backend, self.number, one.work, turn)
            run.progress.turn(one.backend, one.work, self.number, turn)

        self._choose_ceilings(group)
        return play(group, self._ceilings, pace, self._rng, run.began, keep, first, process)

    def _finish(self, unfinished: list[Contestant], further: bool = True) -> None:
        """Check each again, take it off the list and write its row. `further`: figures of another kind too."""
        for kind, ceilings in self._ceilings.items():
            self._keep_ceilings_failure(kind, ceilings)
        while unfinished:
            one = unfinished[0]
            hot = long = None
            if further and one.turns:
                hot = one.take_turn(hot=True) if one.prepared.slots > 1 else None
                device = one.process.device
                on_device = device is not None and device.accelerator
                long = one.take_turn(seconds=DEVICE_QUEUE_S) if on_device else None
            checked = one.check() if one.turns else None
            about = self._about(one.backend, one.work, one)
            del unfinished[0]  # before its row is written: Ctrl-C meanwhile must not double it
            if checked is not None:
                self._keep(measured_row(one, checked, about, hot, long))
            elif one.failure is not None:
                self._keep(failed_row(about, one.failure, one.turns))

    def _keep(self, row: Row) -> None:
        self._run.keep(row)
        self._run.journal.settle([(row.backend, row.replicate, row.work)])

    def _keep_failure(self, backend: str, spec: str, failure: Failure) -> None:
        left = self._run.journal.left.get((backend, self.number, spec), ())
        self._keep(failed_row(self._about(backend, spec), failure, left))

    def _about(self, backend: str, spec: str, one: Contestant | None = None) -> About:
        run, process = self._run, self._processes.get(backend)
        return About(
            run.run_id,
            backend,
            spec,
            self.number,
            run.plan.threads,
            run.plan.seed,
            process.device if process is not None else None,
            one.prepared if one is not None else None,
        )
