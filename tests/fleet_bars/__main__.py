"""What a fleet must keep to, on a real Ray cluster of this machine: each row once, little memory, many rows a second.

    python tests/fleet_bars kills --runs 10             # 4 nodes, 3 works, a random node killed in each run
    python tests/fleet_bars simulate --tasks 1000       # fake devices that measure nothing; memory and rows/s of the driver

The first runs the command as users start it, with a backend that answers at once. The second runs the driver's own loop
against actors that stand for many devices each, with rows as large as real ones, over Ray.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import fake_backends
import ray_clusters
from fleet_drivers import LIMIT_S
from simulated_devices import simulate

from membound.results.row import Row
from membound.results.store import load_rows

NODES = 4
MOST_ADDED_BYTES, OF_ROWS = 50_000_000, 10_000


@contextmanager
def cluster() -> Iterator[ray_clusters.RayCluster]:
    """Four nodes with a backend that answers at once, a cache of their own, no telemetry."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        fake_backends.install(folder / "backends", patch)
        for variable, value in ray_clusters.HEALTH.items():
            patch.setenv(variable, value)
        patch.setenv("MEMBOUND_CACHE_DIR", str(folder / "cache"))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        with ray_clusters.RayCluster(folder, NODES) as made:
            yield made


def wrong_in(rows: list[Row]) -> str:
    """What is missing, or there twice; ''."""
    counts = Counter((row.run_id, row.backend, row.replicate, row.work) for row in rows if row.kind == "case")
    if twice := [key for key, count in counts.items() if count > 1]:
        return f"there twice: {twice}"
    suites = Counter(run_id for run_id, *_ in counts)
    if short := [run_id for run_id, count in suites.items() if count != len(ray_clusters.WORKS)]:
        return f"cases are missing of {short}"
    whole = Counter(row.run_id for row in rows if row.kind == "case" and row.status == "ok")
    if (
        sum(count == len(ray_clusters.WORKS) for count in whole.values()) < NODES
    ):  # one more: it died when all was stored
        return f"suites that were measured in full are fewer than {NODES}: {dict(whole)}"
    return ""


def kills(runs: int, seed: int) -> int:
    """Start fleets, kill a random node of each at a random row, have another one join, and count."""
    rng, failed = random.Random(seed), 0
    with cluster() as made:
        for number in range(runs):
            before = set(made.out.glob("*.jsonl"))
            fleet = made.start(*ray_clusters.WORKS, *ray_clusters.QUICKLY, "--repeat", "1")
            rows = rng.randrange(NODES * len(ray_clusters.WORKS) - 3)
            at = made.stored
            made.until(
                lambda before=before, rows=rows, at=at: (
                    started(made, before) and at() >= rows + stored_of(before)
                )
            )
            victim = rng.randrange(NODES)
            made.kill(os.uname().nodename + (f"#{victim + 1}" if victim else ""))
            made.add()
            out, err = fleet.communicate(timeout=LIMIT_S)
            made.processes.remove(fleet)  # it has ended in order, and the next one is not taken for it
            (path,) = set(made.out.glob("*.jsonl")) - before or {made.out / "none"}
            wrong = wrong_in(load_rows(path)) if path.exists() else f"no file: {err or out}"
            failed += bool(wrong)
            print(
                f"run {number + 1}: node killed at {rows} rows, exit status {fleet.returncode}: {wrong or 'every row once'}",
                flush=True,
            )
    print(f"{runs - failed} of {runs} runs have every row once")
    return int(failed > 0)


def started(made: ray_clusters.RayCluster, before: set[Path]) -> bool:
    """Whether the fleet has begun to store."""
    return any(
        path.name.removesuffix(".partial") not in {p.name for p in before}
        for path in made.out.glob("*.jsonl.partial")
    )


def stored_of(before: set[Path]) -> int:
    """Rows of earlier fleets."""
    return sum(path.read_bytes().count(b"\n") for path in before)


def simulation(tasks: int, rows: int) -> int:
    """Run it and compare what the driver adds with the bar."""
    with tempfile.TemporaryDirectory() as folder:
        done = simulate(Path(folder), tasks, rows)
    print(
        f"{tasks} tasks, {done.rows} rows of {done.row_bytes} bytes in {done.seconds:.1f} s: {done.rows / done.seconds:.0f} rows/s, "
        f"and {done.rows / done.cpu_s:.0f} for each second of a processor that the driver had; "
        f"the driver had {done.before_bytes / 1e6:.0f} MB before and {done.most_bytes / 1e6:.0f} MB at most: "
        f"{(done.most_bytes - done.before_bytes) / 1e6:.1f} MB added"
    )
    added = (done.most_bytes - done.before_bytes) * OF_ROWS / max(done.rows, OF_ROWS)
    return int(added > MOST_ADDED_BYTES)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    killing = commands.add_parser("kills")
    killing.add_argument("--runs", type=int, default=10)
    killing.add_argument("--seed", type=int, default=int(time.time()))
    simulating = commands.add_parser("simulate")
    simulating.add_argument("--tasks", type=int, default=1000)
    simulating.add_argument("--rows", type=int, default=10, help="of each")
    asked = parser.parse_args()
    paths = [str(Path(fake_backends.__file__).parent), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # for actors
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if asked.command == "kills":
        return kills(asked.runs, asked.seed)
    return simulation(asked.tasks, asked.rows)


if __name__ == "__main__":
    sys.exit(main())
