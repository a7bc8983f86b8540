"""What kind of file it is, by how it begins: rows of ours as lines or in a table, or another tool's.

>>> kind_of(Path("results.json"))
'foreign'
"""

from __future__ import annotations

import json
from pathlib import Path

SUFFIX = ".jsonl"
PARTIAL = ".partial"
OWN, FOREIGN = "rows", "foreign"
MAGIC = {"parquet": b"PAR1", "sqlite": b"SQLite format 3\x00"}
"""How a file begins that holds our own rows in a table of others, as `membound export` writes them."""
MOST_FIRST_LINE = 1 << 24
"""A row with the turns of a whole night has a hundredth of it."""


def kind_of(path: Path, by_name: bool = True) -> str:
    """``rows`` for lines of ours, ``parquet``, ``sqlite``, or ``foreign``. Raises OSError.

    by_name: whether a file that is nobody's counts as damaged rows if it is called like a run.
    """
    with path.open("rb") as file:
        first = file.readline(MOST_FIRST_LINE)
    for kind, magic in MAGIC.items():
        if first.startswith(magic):
            return kind
    if first.startswith(b'{"run_id":') or _is_row(first):
        return OWN
    if not by_name or path.suffix not in (SUFFIX, PARTIAL):
        return FOREIGN
    from membound.results.exchange import formats

    return FOREIGN if formats.is_foreign(path) else OWN


def _is_row(line: bytes) -> bool:
    """Whether a line is an object with the marks of a row, in whatever order; other tools' files may hold rows deep inside."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"schema_version", "run_id", "kind"} <= found.keys()
