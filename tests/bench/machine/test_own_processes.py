"""Processes on a device: those of this run are no disturbance, whatever they are called on the host."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from membound.bench.machine import own_processes
from membound.bench.machine.own_processes import others_among
from membound.bench.protocol.guardian import HARNESS

STRANGER = 2**30
HOLD = "import sys; held = open(sys.argv[1]); print(flush=True); sys.stdin.read()"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(HARNESS, "the-mark-of-this-test")
    others_among.cache_clear()
    yield
    others_among.cache_clear()


@pytest.fixture
def device_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "nvidia0"
    path.touch()
    monkeypatch.setattr(own_processes, "DEVICE_FILES", (str(path),))
    return path


@pytest.fixture
def worker(device_file: Path) -> Iterator[int]:
    """Another one of this harness, which holds the device."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, device_file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_workers_of_this_run_are_no_others(worker: int) -> None:
    assert others_among((os.getpid(), worker)) == 0
    assert others_among((os.getpid(), worker, STRANGER)) == 1


def test_workers_of_another_run_are(worker: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HARNESS, "another mark")
    assert others_among((os.getpid(), worker)) == 1
    monkeypatch.delenv(HARNESS)
    assert others_among((worker, os.getpid(), STRANGER)) == 2


def test_ids_of_the_host_are_counted_against_those_who_hold_the_device(
    worker: int, device_file: Path
) -> None:
    """Neither this process nor the worker is in the list; both hold the device, then the worker alone."""
    with device_file.open("rb"):
        assert others_among((STRANGER, STRANGER + 1)) == 0
        assert others_among((STRANGER, STRANGER + 1, STRANGER + 2)) == 1
    others_among.cache_clear()
    assert others_among((STRANGER, STRANGER + 1)) == 1
    assert others_among((STRANGER,)) == 0
