"""A CPU that passes for an accelerator in torch's backend: its events and streams are faked, its arithmetic is real.

>>> install(monkeypatch)                      # PyTorch().open("fake:0+graph", 2) now works
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from membound.backends.api import Accelerator
from membound.backends.pytorch import backend as pytorch
from membound.backends.pytorch import parallel
from membound.backends.pytorch.backend import PyTorch

FACTS = Accelerator(1 << 30, 1 << 16, 132, "9.0", "0000:04:00.0")


class FakeEvent:
    """Records the order in which streams and events are used."""

    log: list[str]
    ticks = 0

    def __init__(self, name: str = "event", enable_timing: bool = False) -> None:
        self.name = name

    def record(self, stream: Any = None) -> None:
        FakeEvent.ticks += 1
        self.tick = FakeEvent.ticks
        FakeEvent.log.append(f"record {self.name}")

    def elapsed_time(self, end: FakeEvent) -> float:
        return float(end.tick - self.tick)


class FakeStream:
    """Runs everything at once, as a CPU does."""

    def wait_event(self, event: FakeEvent) -> None:
        FakeEvent.log.append(f"wait {event.name}")

    def wait_stream(self, stream: Any) -> None: ...

    def __enter__(self) -> FakeStream:
        FakeEvent.log.append("copy")
        return self

    def __exit__(self, *_: object) -> None: ...


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU passes for an accelerator of a kind called fake."""
    FakeEvent.log = []
    monkeypatch.setattr(PyTorch, "_on_cpu", property(lambda self: False))
    monkeypatch.setattr(pytorch, "check_device", lambda base: "cpu")
    monkeypatch.setattr(pytorch, "describe", lambda base: FACTS)
    monkeypatch.setattr(pytorch, "accelerator_name", lambda base: "a fake")
    monkeypatch.setattr(torch, "Event", FakeEvent)

    def event(_: str) -> FakeEvent:
        made = FakeEvent()
        made.record()
        return made

    monkeypatch.setattr(pytorch, "timed_event", event)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda *_: FakeStream())


def install_ranks(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The same for ranks, which are processes of their own and talk by gloo: PyTorch().open("fake:0+tp2", 2) now works."""
    install(monkeypatch)
    monkeypatch.setattr(parallel, "accelerators_of", lambda first, ranks: ["cpu"] * ranks)
    monkeypatch.setattr(parallel, "DEVICE_BYTES", 1 << 20)
    rank = Path(__file__).with_name("fake_accelerator_rank.py")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{rank}" "$4"  # after -P -m MODULE\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
