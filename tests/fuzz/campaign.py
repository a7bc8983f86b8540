"""Long fuzzing by mutation of seeds: as many executions as asked for, each distinct failure once, its input kept.

>>> told = campaign(TARGETS["rows"], executions=1000, seconds=60, seed=1, kept=Path("build/fuzz"))
>>> told.executions, told.failures
(1000, {})
"""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from random import Random

from guard import Hang, memory_bound, time_bound
from target import Target, strict_warnings

ROOT = Path(__file__).parents[2]
EVERY_S = 30.0
LENGTH_BYTES, MOST_BYTES = 8, 1 << 24
"""Of an input in hand: its length first; more of it is not held."""


@dataclass(slots=True)
class Told:
    """What came of a campaign."""

    executions: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)
    """Exception and place in the package, and how often."""


def campaign(
    target: Target, executions: int, seconds: float, seed: int, kept: Path, say: Callable[[str], None] = print
) -> Told:
    """Check inputs until there were that many or time is up. The first input of each failure is written to `kept`."""
    told, rng, start = Told(), Random(seed), time.monotonic()
    said, _ = start, target.known  # seeds are made without bounds
    with memory_bound(), strict_warnings(), in_hand(kept, target, say) as hold, time_bound() as begin:
        while told.executions < executions and (now := time.monotonic()) - start < seconds:
            if now - said > EVERY_S:
                said = now
                say(
                    f"{target.name}: {told.executions} executions, {now - start:.0f} s, {len(told.failures)} failures"
                )
            content = target.input(rng)
            hold(content)
            told.executions += 1
            begin()
            failure = failure_of(target, content)
            told.slowest_s = max(told.slowest_s, time.monotonic() - now)
            if failure:
                if failure not in told.failures:
                    say(f"{target.name}: {failure}\n    {keep(kept, target, content)}")
                told.failures[failure] = told.failures.get(failure, 0) + 1
    told.seconds = time.monotonic() - start
    return told


def failure_of(target: Target, content: bytes) -> str:
    """The exception that this input causes and where, or ''."""
    try:
        target.check(content)
    except (Exception, Hang) as error:  # whatever is not documented is what is looked for
        frames = reversed(traceback.extract_tb(error.__traceback__))
        own = (frame for frame in frames if Path(frame.filename).is_relative_to(ROOT))
        place = next(
            (f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in own), "elsewhere"
        )
        return f"{type(error).__name__} at {place}"
    return ""


@contextmanager
def in_hand(folder: Path, target: Target, say: Callable[[str], None]) -> Iterator[Callable[[bytes], None]]:
    """What takes the input that is about to be checked, in a mapped file: it is there whatever becomes of this process.

    What a campaign left in hand that was killed, or crashed the interpreter, is kept as a failure's input is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{target.name}.in-hand"
    if path.exists():
        left = path.read_bytes()
        content = left[LENGTH_BYTES : LENGTH_BYTES + int.from_bytes(left[:LENGTH_BYTES], "little")]
        say(f"{target.name}: in hand when the last campaign ended\n    {keep(folder, target, content)}")
    with path.open("w+b") as file:
        file.truncate(LENGTH_BYTES + MOST_BYTES)
        memory = mmap(file.fileno(), 0)
    with memory:

        def hold(content: bytes) -> None:
            part = content[:MOST_BYTES]
            memory[LENGTH_BYTES : LENGTH_BYTES + len(part)] = part
            memory[:LENGTH_BYTES] = len(part).to_bytes(LENGTH_BYTES, "little")

        yield hold
    path.unlink()


def keep(folder: Path, target: Target, content: bytes) -> Path:
    """Write an input by its hash and return its path."""
    path = folder / f"{target.name}-{hashlib.sha256(content).hexdigest()[:16]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
