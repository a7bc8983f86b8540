"""Default runs with real processes, killed at random moments and resumed: what is lost, doubled, or left alive.

    python tests/kill_bars --kills 60 --seed 1 --folder build/kills

The first run is left alone: how long it takes, and which cases and ceilings it has, is what the others are compared with.
Each other run is killed at three moments, uniform over that time: by KILL twice, then by TERM, HUP, INT or KILL, all to the
harness alone, and resumed by `membound run --resume latest`. TERM, HUP and INT end a run in order: it may lack cases.
Looked for after every kill: rows and turns that were on disk before, processes that the run started (by a mark in their
environment), files among its temporary ones, and in /dev/shm. Prints a line of JSON for each, and exits with 1 if
anything was found.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/fakes"))


def main() -> int:
    """0 if nothing was lost, doubled or left."""
    from killed import LAST, Killed, Tally, say, undisturbed

    parser = argparse.ArgumentParser("python tests/kill_bars", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=240.0, help="no other run begins after them")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/kills")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    tally, rng = Tally(), random.Random(asked.seed)
    whole, end, number = undisturbed(folder / "whole"), time.monotonic() + 60 * asked.minutes, 0
    say(
        whole_s=round(whole.seconds),
        start_s=round(whole.start_s, 1),
        rows=whole.rows,
        cases=len(whole.cases),
        ceilings=len(whole.ceilings),
    )
    while tally.kills.total() < asked.kills and time.monotonic() < end:
        Killed(folder / str(number), whole, tally, rng, LAST[number % len(LAST)]).to_its_end()
        number += 1
    say(kills=dict(tally.kills), total=tally.kills.total(), after_rows=tally.after_rows, runs=number, whole=tally.whole,
        resumed=tally.resumed, ended_in_order=tally.ended_in_order, found=tally.found)  # fmt: skip
    return int(bool(tally.found))


if __name__ == "__main__":
    sys.exit(main())
