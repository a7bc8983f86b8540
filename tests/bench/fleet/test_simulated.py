"""The driver's loop over Ray with devices that measure nothing: `python tests/fleet_bars simulate` in small."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import simulated_devices
from fleets import FLEET

from membound.results.store import load_rows

pytestmark = [
    pytest.mark.ray,  # which leaves files open that its head node writes to
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
TASKS, ROWS = 100, 5
MOST_ADDED_BYTES = 50_000_000
"""What 10,000 rows may add to the driver's memory, all told; these are 500."""


def test_a_hundred_devices_at_once_hand_over_each_row_once_and_fill_no_memory(tmp_path, monkeypatch):
    paths = [str(Path(simulated_devices.__file__).parent), os.environ.get("PYTHONPATH")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))  # for actors
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    done = simulated_devices.simulate(tmp_path, TASKS, ROWS)
    assert done.rows == TASKS * ROWS
    counts = Counter((row.run_id, row.replicate) for row in load_rows(tmp_path / f"{FLEET}.jsonl"))
    assert set(counts.values()) == {1}
    assert Counter(run_id for run_id, _ in counts) == {
        f"{FLEET}.node-{number}.all": ROWS for number in range(TASKS)
    }
    assert done.most_bytes - done.before_bytes < MOST_ADDED_BYTES
