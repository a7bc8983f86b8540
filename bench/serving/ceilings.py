"""What the device of a server can do at most, measured while the server idles: before the first point and after each.

>>> with IdleCeilings(served, "cpu", threads=1, seed=1) as ceilings:
...     before = ceilings.turns()
[{'read': 2.1e10, 'fma_f32': 1.2e11}, ...]

Ceilings have a process of their own, as in every run, and the threads of the engine. It gets ready while the server starts. Between
points alone is there a moment without load: a client that waits for this takes none of it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from threading import Thread
from types import TracebackType
from typing import Any

from membound.bench.machine.fingerprint import available_memory_bytes
from membound.bench.measure.ceiling_process import CeilingProcess
from membound.bench.measure.contestant import Setting
from membound.bench.serving.served import Served
from membound.kernels.work import Step
from membound.results.roofline import compute_ceilings

TURNS = 3
SHARE = 0.25
"""Of the memory that is free, for the arrays of ceilings."""
CPU = "cpu"


class IdleCeilings:
    """A context manager: leaving it ends the process. `unknown` says why there are none."""

    def __init__(self, served: Served, device: str, threads: int, seed: int) -> None:
        self.unknown = "" if device == CPU else f"ceilings of {device} are not measured beside a server"
        self._spec = served.work.spec
        setting = Setting(threads, seed, int(SHARE * available_memory_bytes()), "")
        products = ("f32",) if served.work.weight == "f32" else ("f32", "bf16")
        self._process = CeilingProcess(setting, products, names=("read", *compute_ceilings(self._spec)))
        self._stack = ExitStack()
        self._starting = Thread(target=self._process.get_ready, daemon=True)

    def __enter__(self) -> IdleCeilings:
        self._stack.enter_context(self._process)
        if not self.unknown:
            self._starting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._starting.is_alive() and (pid := self._process.pid) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # nobody waits for it any more
        self._started()
        self._stack.__exit__(kind, error, trace)

    def _started(self) -> None:
        if not self.unknown:
            self._starting.join()

    def turns(self) -> list[dict[str, float]]:
        """The rates of some turns, by the ceilings' names; [] where none can be measured."""
        if self.unknown:
            return []
        self._started()
        found = [dict(self._process.take_turn().rates) for _ in range(TURNS)]
        if self._process.failure is not None:
            self.unknown = f"ceilings could not be measured: {self._process.failure.reason}"
        return [rates for rates in found if rates]


def step_of(served: Served) -> dict[str, float]:
    """A step's bytes and FLOPs as sums over the batch and the context, in which they are linear."""
    one = replace(served.work, batch=1, context=1)
    longer, wider = replace(one, context=2), replace(one, batch=2)

    def sums(size: Mapping[Step, int]) -> tuple[int, int, int]:
        of_context = size[longer] - size[one]
        of_sequence = size[wider] - size[one] - of_context
        return size[one] - of_sequence - of_context, of_sequence, of_context

    works = (one, longer, wider)
    weights, sequence, context = sums({work: work.traffic.total_bytes for work in works})
    _, flops, context_flops = sums({work: work.flops for work in works})
    return {
        "weights_bytes": float(weights),
        "sequence_bytes": float(sequence),
        "context_bytes": float(context),
        "sequence_flops": float(flops),
        "context_flops": float(context_flops),
    }


def roofline_config(
    served: Served | None, turns: list[dict[str, float]], step_backend: str = ""
) -> dict[str, Any]:
    """For a row: the step's model and the turns of ceilings around the point; {} where the model is not known.

    `step_backend`: the backend and device that measure the engine's steps alone.
    """
    if served is None:
        return {}
    alone = {"step_backend": step_backend} if step_backend else {}
    return {"work": served.work.spec, "step": step_of(served), "ceilings": turns, **alone}
