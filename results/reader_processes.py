"""Two processes that read the parts of a large row file in turn, and hand over what a comparison needs of them.

>>> for process in processes_of_parts(path, False, [(0, 8 << 20), (8 << 20, 16 << 20)], "lines", known={}):
...     print(process.work, process.time_s)

They are interpreters of their own, started by a command: multiprocessing would start the user's script again, which may
not be made for that. The columns come back pickled, through pipes, in the order of the parts.
"""

from __future__ import annotations

import gc
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from membound.errors import MemboundError
from membound.results.process import Process
from membound.results.process_columns import Columns, Unpacker
from membound.results.run_files import StoreError

READERS = 2
"""More cores are not asked for: one process waits for what two hand over."""
CODE = (
    "import json, sys; path, turns, parts, kind, sys.path[:] = json.loads(sys.stdin.readline()); "
    "from membound.results.processes import columns_of; from membound.results.reader_processes import hand_over; "
    "hand_over(columns_of(path, turns, kind), path, parts)"
)


def processes_of_parts(
    path: Path, turns: bool, parts: Sequence[tuple[int, int]], kind: str, known: dict[Any, Any]
) -> Iterator[Process]:
    """The processes that the parts hold, in order, as `processes.columns_of` reads a file of that kind. `known` has what others share.

    Raises what a reader raised, and StoreError if one ended early.
    """
    unpackers = [Unpacker(known) for _ in range(READERS)]
    readers = [
        _started(path, turns, parts[number::READERS], kind) for number in range(min(READERS, len(parts)))
    ]
    try:
        for number in range(len(parts)):
            reader = readers[number % READERS]
            try:
                found: Columns | MemboundError = pickle.load(cast(IO[bytes], reader.stdout))
            except (EOFError, pickle.UnpicklingError):
                raise StoreError(
                    f"{path} cannot be read: a reading process ended ({reader.wait()})"
                ) from None
            if isinstance(found, MemboundError):
                raise found
            yield from unpackers[number % READERS].processes(found)
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()


def _started(path: Path, turns: bool, parts: Sequence[tuple[int, int]], kind: str) -> subprocess.Popen[bytes]:
    reader = subprocess.Popen([sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    asked = cast(IO[bytes], reader.stdin)
    asked.write(json.dumps([str(path), turns, parts, kind, sys.path]).encode() + b"\n")
    asked.flush()
    return reader


def hand_over(
    read: Callable[[tuple[int, int]], Columns], path: str, parts: Sequence[tuple[int, int]]
) -> None:
    """What a reader does: pickled columns for each part, or the error that ended it."""
    gc.disable()  # nothing of a reader goes in circles, and a collection would walk through all of it
    for start, end in parts:
        try:
            found: object = read((start, end))
        except MemboundError as error:
            found = error
        except OSError as error:
            found = StoreError(f"{path} cannot be read: {error.strerror or error}")
        pickle.dump(found, sys.stdout.buffer, protocol=pickle.HIGHEST_PROTOCOL)
        sys.stdout.buffer.flush()
        if isinstance(found, MemboundError):
            return
