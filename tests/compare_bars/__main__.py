"""How long `membound compare` takes over large runs, and how much memory.

    python tests/compare_bars                               # a million rows in two files, 2,000 cases
    python tests/compare_bars --rows 100000 --cases 50000   # most of the time goes into the pairs
    python tests/compare_bars --format parquet
    python tests/compare_bars --unsealed                    # rows without checksums, whose every field is checked

The rows are those of a published run under other works, replicates and times, so that a row is as long as real ones are.
The bar is 20 s and 2 GB for a million rows on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from membound.results import store
from membound.results.checksum import sealed, unsealed
from membound.results.exchange.parquet import BATCH as ROWS_OF_GROUP
from membound.results.exchange.parquet import write_rows
from membound.results.row import Row

PUBLISHED = Path(store.__file__).with_name("published") / "intel-xeon-amx-2-cores"
RUN_ID = re.compile(rb'"run_id":"[^"]*"')
WORK = re.compile(rb'"work":"[^"]*"')
REPLICATE = re.compile(rb'"replicate":\d+')
TIME = re.compile(rb'(?<="time_s":)[^,]*')
DIFFERENT = 3
MOST_S, MOST_BYTES, OF_ROWS = 20.0, 2_000_000_000, 1_000_000


def templates() -> list[bytes]:
    """The cases of the published runs that have turns, without their checksums."""
    lines = [line for path in sorted(PUBLISHED.glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    found = [unsealed(line) for line in lines if b'"kind":"case"' in line and TIME.search(line)]
    return [line for line in found if b'"status":"ok"' in line and b'"work":"linear:' in line]


def rows(side: int, count: int, cases: int) -> Iterator[bytes]:
    """So many rows of one run; those of a case follow each other at a distance, as replicates do."""
    found, chance = templates(), random.Random(side)
    for number in range(count):
        replicate, case = divmod(number, cases)
        line = RUN_ID.sub(
            b'"run_id":"20261129T12000%d-compare-bars-%04x"' % (side, side), found[case % len(found)]
        )
        line = WORK.sub(b'"work":"linear:n=%d,k=4096,m=1,weight=bf16,act=float"' % (16 * (case + 1)), line)
        line = REPLICATE.sub(b'"replicate":%d' % replicate, line)
        factor = chance.lognormvariate(0.02 * side, 0.02)
        yield TIME.sub(partial(scaled, factor), line)


def scaled(factor: float, time_s: re.Match[bytes]) -> bytes:
    """A time of the template as that of another process."""
    return repr(float(time_s[0]) * factor).encode()


def write(path: Path, side: int, count: int, cases: int, seal: bool) -> None:
    """One side's rows as JSON lines."""
    with path.open("wb") as file:
        file.writelines((sealed(line) if seal else line) + b"\n" for line in rows(side, count, cases))


def write_table(path: Path, side: int, count: int, cases: int) -> None:
    """The same as Parquet; rows of DIFFERENT replicates are repeated under other numbers, as making them takes milliseconds each."""
    import pyarrow as pa
    from pyarrow import compute, parquet

    few = min(count, DIFFERENT * cases)
    write_rows(path, (Row.from_json(line.decode()) for line in rows(side, few, cases)))
    table = parquet.read_table(path)
    at = table.schema.get_field_index("replicate")
    with parquet.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for copy in range(-(-count // few)):
            replicates = compute.add(table.column(at), pa.scalar(DIFFERENT * copy, pa.int64()))
            writer.write_table(table.set_column(at, table.schema.field(at), replicates), ROWS_OF_GROUP)


def measured(paths: list[Path]) -> tuple[float, int, int]:
    """Seconds, most bytes of the command's process, and pairs that it printed."""
    command = [sys.executable, "-m", "membound", "compare", *map(str, paths), "--json"]
    start = time.perf_counter()
    with tempfile.TemporaryFile() as answer:
        process = subprocess.Popen(command, stdout=answer)
        _, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - start
        if status:
            sys.exit(f"membound compare ended with {os.waitstatus_to_exitcode(status)}")
        answer.seek(0)
        return took, used.ru_maxrss * 1024, len(json.load(answer)["pairs"])


def main() -> None:
    """Write both files, compare them, and say how it went. Exit status 1 if a bar is missed at a million rows or more."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=OF_ROWS, help="of both files together")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl")
    parser.add_argument("--unsealed", action="store_true", help="without checksums")
    parser.add_argument("--runs", type=int, default=3, help="of the command")
    parser.add_argument(
        "--folder", type=Path, help="for the files, some 4 kB a row; default: a temporary one"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        paths = [Path(folder) / f"side{side}.{asked.format}" for side in (0, 1)]
        for side, path in enumerate(paths):
            if asked.format == "parquet":
                write_table(path, side, asked.rows // 2, asked.cases)
            else:
                write(path, side, asked.rows // 2, asked.cases, not asked.unsealed)
        size = sum(path.stat().st_size for path in paths)
        print(f"{asked.rows} rows of {asked.cases} cases, {size / 1e9:.2f} GB as {asked.format}")
        missed = False
        for _ in range(asked.runs):
            took, most, pairs = measured(paths)
            print(f"{took:.1f} s, {most / 1e6:.0f} MB, {pairs} pairs", flush=True)
            missed |= took > MOST_S or most > MOST_BYTES
    if missed and asked.rows >= OF_ROWS:
        sys.exit(f"more than {MOST_S:.0f} s or {MOST_BYTES / 1e9:.0f} GB")


if __name__ == "__main__":
    main()
