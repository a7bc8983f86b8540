"""How often the gate errs on this machine: alarms of a commit against itself, and slowdowns that it finds.

    python tests/gate_bars noise --runs 3       # what the gate then goes by
    python tests/gate_bars alarms --runs 40     # HEAD against HEAD
    python tests/gate_bars power --runs 20      # a head slowed down by what the gate itself calls detectable
    python tests/gate_bars result

Every run is the command as users start it, with real processes: of a benchmark that takes a fifth of a second, or, with
`--works`, of two products on NumPy, which takes minutes a run. Beside it another process comes and goes, unless --quiet:
for up to ten seconds nothing, then for up to five it copies memory. Results are added to a folder, so that a campaign can
be run in parts.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WORKS = ("linear:n=2048,k=2048,m=1,weight=f32", "linear:n=4096,k=1024,m=1,weight=f32")
OF_WORKS = [*WORKS, "--backends", "numpy:cpu"]
"""On the backend that starts fastest: what is tested is the gate."""
OUT = "{out}"
MOST_ALARMS, RUNS_OF_ALARMS = 1, 40
FEWEST_FOUND, RUNS_OF_POWER = 18, 20
BESIDE = """
import os, random, time
import numpy as np
here, there, parent = np.ones(8 << 20), np.empty(8 << 20), os.getppid()
while os.getppid() == parent:
    time.sleep(random.uniform(0, 10))
    end = time.monotonic() + random.uniform(0, 5)
    while time.monotonic() < end:
        np.copyto(there, here)
"""
"""Copies 64 MB again and again, at random times, until the one that started it has ended, by KILL too."""


@contextmanager
def beside(wanted: bool) -> Iterator[None]:
    """A process that comes and goes, ended with the runs."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", BESIDE], start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def command(arguments: Sequence[str]) -> tuple[int, Any]:
    """Run `membound` with --json: its status and what it printed."""
    words = [sys.executable, "-m", "membound", *arguments, "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        raise SystemExit(f"{' '.join(words)}\nended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.returncode, json.loads(done.stdout)


def benchmark(slowdown: float = 0.0) -> str:
    """A command for the gate."""
    return shlex.join([sys.executable, str(Path(__file__).with_name("work.py")), OUT, repr(slowdown)])


def learn(options: argparse.Namespace) -> None:
    """Pairs of the same against itself, and what is stored of them as detectable."""
    what = OF_WORKS if options.works else ["--command", benchmark()]
    for _ in range(options.runs):
        folder = ["--out", str(options.out / "noise")]
        _, cases = command(["noise", *what, "--pairs", str(options.pairs), *folder])
    for case in cases:
        print(
            f"{case['work']}: {case['pairs']} pairs, spread {case['spread']:.1%}, finds {case['detectable']:.1%}"
        )


def alarms(options: argparse.Namespace) -> None:
    """The same against itself: whatever has regressed is a false alarm."""
    sides = [*OF_WORKS, "--base", "HEAD", "--head", "HEAD"]
    both = ["--base-command", benchmark(), "--head-command", benchmark()]
    for _ in range(options.runs):
        note(options, "alarms", sides if options.works else both)


def power(options: argparse.Namespace) -> None:
    """A head slowed down by what the gate calls detectable, the larger of its cases'."""
    for _ in range(options.runs):
        size = slowdown(options)
        slowed = [*OF_WORKS, "--selftest", "--slowdown", f"{100 * size:.2f}%"]
        both = ["--base-command", benchmark(), "--head-command", benchmark(size)]
        note(options, "power", slowed if options.works else both, size)


def slowdown(options: argparse.Namespace) -> float:
    """What the gate says of this machine, given all noise that was learnt."""
    from membound.bench.gate.gating import known_noise
    from membound.results.gate import EFFECT

    known = known_noise(options.out / "noise")
    if not known:
        raise SystemExit("no noise was learnt: python tests/gate_bars noise")
    return max(one.detectable(options.pairs, len(known), EFFECT) for one in known.values())


def note(options: argparse.Namespace, kind: str, arguments: list[str], size: float = 0.0) -> None:
    """Run a gate and add what it said."""
    folders = ["--noise", str(options.out / "noise"), "--out", str(options.out / "gates")]
    folders += ["--pairs", str(options.pairs), "--seed", str(time.time_ns() % 10**9)]
    began = time.monotonic()
    status, said = command(["gate", *arguments, *folders])
    line = {
        "kind": kind,
        "status": status,
        "size": size,
        "seconds": time.monotonic() - began,
        "cases": said["cases"],
    }
    with (options.out / "runs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    shown = ", ".join(
        f"{one['status']} {one['first']['ratio']:.3f}" if one["first"] else one["status"]
        for one in said["cases"]
    )
    print(f"{kind}: {status}, {shown}, {line['seconds']:.0f} s", flush=True)


def result(options: argparse.Namespace) -> None:
    """Both bars. Exits with 1 if one is missed, or was not run to its end."""
    path = options.out / "runs.jsonl"
    runs = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )
    of_alarms, of_power = ([run for run in runs if run["kind"] == kind] for kind in ("alarms", "power"))
    raised = sum(run["status"] == 1 for run in of_alarms)
    unsure = sum(run["status"] == 2 for run in of_alarms)
    print(f"alarms: {raised} in {len(of_alarms)} runs of HEAD against HEAD; {unsure} cannot tell")
    by_work: dict[str, list[bool]] = {}
    for run in of_power:
        for case in run["cases"]:
            by_work.setdefault(case["work"], []).append(case["status"] == "regressed")
    for work, found in by_work.items():
        print(f"power: found in {sum(found)} of {len(found)} runs of {work}")
    met = len(of_alarms) >= RUNS_OF_ALARMS and raised <= MOST_ALARMS * len(of_alarms) / RUNS_OF_ALARMS
    share = FEWEST_FOUND / RUNS_OF_POWER
    met &= bool(by_work) and all(
        len(f) >= RUNS_OF_POWER and sum(f) >= share * len(f) for f in by_work.values()
    )
    print("both bars are met" if met else "a bar is missed, or there are too few runs")
    sys.exit(0 if met else 1)


KINDS = {"noise": learn, "alarms": alarms, "power": power, "result": result}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--works", action="store_true", help="products on NumPy instead of a quick command")
    parser.add_argument("--quiet", action="store_true", help="nothing beside it")
    parser.add_argument("--out", type=Path, default=ROOT / "build/gate-bars")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with beside(options.kind != "result" and not options.quiet):
        KINDS[options.kind](options)


if __name__ == "__main__":
    main()
