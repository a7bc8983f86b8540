"""Plans beside their rows: nothing of one that could not be written, or whose run is finished, is left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from small_runs import planned

from membound.bench import api
from membound.bench.run.progress import Silent
from membound.bench.run.resume import keep_plan

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from small_runs import planned
from membound.bench.run.resume import keep_plan
from membound.results.store import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1))
try:
    keep_plan(planned(), Path(sys.argv[1]))
except StoreError as error:
    print(error)
"""


def test_a_plan_that_does_not_fit_the_disk_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout == f"{path}.plan cannot be written: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_killed_in_its_last_moment_left_goes_with_the_next_one(tmp_path: Path, workers) -> None:
    """Killed between the file's last name and the end of its plan and turns; runs under way keep theirs."""
    plan = planned(out=tmp_path, replicates=1)
    for name in ("finished.jsonl", "going.jsonl"):
        keep_plan(plan, tmp_path / name)
        (tmp_path / f"{name}.turns").touch()
    (tmp_path / "finished.jsonl").touch()
    (tmp_path / "going.jsonl.partial").touch()
    path, _ = api.measure(plan, Silent())
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(
        [path.name, "finished.jsonl", "going.jsonl.partial", "going.jsonl.plan", "going.jsonl.turns"]
    )
