"""The ceilings of a pytest session: those that take no turns, measured once, and those that play between rounds.

>>> ceilings = SessionCeilings("20261122T010203-epyc-1f3a", threads=2, note=print)
>>> rows, playing = ceilings.of(Device("cpu", "my processor"))
>>> playing.take_turn().rates["read"]
4.9e10
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from membound.backends.api import Device
from membound.bench.measure.ceiling_process import CeilingProcess
from membound.bench.measure.contestant import BROKEN, BackendProcess, FailedError, Setting
from membound.bench.measure.failures import failure_of
from membound.bench.protocol.messages import Ceilings, MeasureBackend
from membound.bench.run.ceiling_rows import ceiling_rows, failed_ceilings, turned_rows
from membound.bench.run.machine_ceilings import machine_ceilings
from membound.results.roofline import best_ceilings
from membound.results.row import Row

LIMIT_S = 300.0
PRODUCTS = ("f32", "bf16", "int8")


@dataclass(slots=True)
class SessionCeilings:
    """Rows are named as of `run_id`; `note` is called with what is about to take a while."""

    run_id: str
    threads: int
    note: Callable[[str], None] = lambda text: None
    _stack: ExitStack = field(default_factory=ExitStack)
    _playing: list[CeilingProcess] = field(default_factory=list)

    def of(self, device: Device) -> tuple[list[Row], CeilingProcess | None]:
        """The ceilings of a device that take no turns, and the process of those that do. A failure is a row as well."""
        setting = Setting(self.threads, 0, 0, str(Path()))
        if device.accelerator is None:
            self.note("this machine")
            playing = CeilingProcess(setting, PRODUCTS)
            rows = machine_ceilings(self.run_id, self.threads, True, LIMIT_S)
        else:
            self.note(device.id)
            rows = self._backend(device.id, setting)
            known = {row.work: row for _, row in best_ceilings(rows)}
            fastest = known.get(device.memory_ceiling)
            if fastest is None:
                return rows, None
            variant = str(fastest.config.get("variant", ""))
            playing = CeilingProcess(setting, (), device.id, {device.memory_ceiling: variant})
        self._playing.append(self._stack.enter_context(playing))
        return rows, playing

    def close(self) -> list[Row]:
        """End the processes; rows that say how far the ceilings moved, or why they could not be measured."""
        rows = []
        for one in self._playing:
            about = (self.run_id, one.backend or "cpu", 1, self.threads)
            rows += turned_rows(one.moments, one.seen_variants, *about)
            if one.failure is not None:
                rows.append(failed_ceilings(*about, one.failure.status, one.failure.reason))
        self._playing.clear()
        self._stack.close()
        return rows

    def _backend(self, backend: str, setting: Setting) -> list[Row]:
        about = (self.run_id, backend, 0, self.threads)
        try:
            with BackendProcess(backend, setting) as process:
                process.open()
                found = process.ask(MeasureBackend(True), Ceilings, LIMIT_S, "measuring its ceilings")
        except FailedError as error:
            return [failed_ceilings(*about, error.failure.status, error.failure.reason)]
        except BROKEN as error:
            failure = failure_of(error)
            return [failed_ceilings(*about, failure.status, failure.reason)]
        return ceiling_rows(found, *about)
