"""Threads of every runtime are at rest when the next contestant's turn, or a ceiling's, begins.

Those that spin take a core from whoever plays next, and nobody counts it as a disturbance: they give way when asked.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from membound.bench.machine.environment import worker_environment
from membound.bench.measure.turns import PAUSE_S

LAUNCHES = 20
SLEPT_S = 0.04
MOST_S = 0.2 * SLEPT_S
"""CPU time of a process at rest, in SLEPT_S; one thread that spins takes all of it."""
SCRIPT = f"""
import sys, time
from pathlib import Path
from membound.backends import registry
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

name, folder = sys.argv[1:]
work = parse("linear:n=1024,k=1024,weight=f32")
backend = registry.create(name)
backend.open(registry.device_of(name), 2)
backend.prepare(work, make_inputs(work, 1, 1, Path(folder)))
for _ in range(5):
    for _ in range({LAUNCHES}):
        backend.launch(0)
    backend.sync()
    time.sleep({PAUSE_S})
    began = time.process_time()
    time.sleep({SLEPT_S})
    print(time.process_time() - began)
"""


@pytest.mark.parametrize(
    "name",
    [
        "numpy:cpu",
        "onnxruntime:cpu",
        pytest.param("numba:cpu", marks=pytest.mark.slow),
        pytest.param("torch:cpu", marks=pytest.mark.slow),
    ],
)
def test_nobody_spins_into_the_turn_of_the_next(name: str, tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, str(tmp_path)],
        env=worker_environment(2, os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    spent_s = sorted(map(float, told.stdout.split()))
    assert len(spent_s) == 5
    assert spent_s[2] < MOST_S, spent_s
