"""A backend that knows the answers, and a clock that runs only while it works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from membound.backends.api import Backend, Device
from membound.kernels import reference
from membound.kernels.inputs import Inputs
from membound.kernels.work import Linear, Work

WORK = Linear(n=96, k=64, m=2, weight="f32")


SIZE = WORK.footprint_bytes


class Fake(Backend):
    """Knows the answers; notes every launch, and has a clock that runs only while it works."""

    def __init__(self, cost_s: Callable[[int], float] = lambda slot: 1e-4) -> None:
        self.cost_s, self.now_s = cost_s, 0.0
        self.slots: list[int] = []
        self.closed = self.pending = 0
        self.has_clock = False
        self.on_launch: Callable[[int], None] = lambda slot: None

    def open(self, device: str, threads: int) -> Device:
        return Device("fake:cpu", "fake", threads)

    def supports(self, work: Work) -> str | None:
        return None

    def prepare(self, work: Work, inputs: Inputs) -> None:
        self.inputs = inputs

    def launch(self, slot: int) -> None:
        self.on_launch(slot)
        self.slots.append(slot)
        self.pending += 1
        self.now_s += self.cost_s(slot)

    def sync(self) -> None:
        self.pending = 0

    def output(self) -> Any:
        return reference.compute(self.inputs, self.slots[-1]).astype(np.float32)

    def mark(self) -> object | None:
        return self.now_s if self.has_clock else None

    def elapsed_s(self, start: Any, end: Any) -> float:
        assert self.pending == 0, "marks are read after a sync"
        return float(end - start)

    def close(self) -> None:
        self.closed += 1
