"""Rows in an SQLite database: the table `rows`, a column a field, and the table `cases` with what is derived from them.

>>> write_rows(Path("rows.sqlite"), rows)
>>> rows_from(Path("rows.sqlite")) == rows
True

``select work, backend, mbu from cases order by mbu desc`` then needs no Python.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from membound.results.exchange.row_table import COLUMNS, cells_of, row_of
from membound.results.row import Row, RowError
from membound.results.stats import COLUMNS as FIGURES
from membound.results.stats import records, summarize

TYPES = {str: "TEXT", int: "INTEGER", float: "REAL"}


STORED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ)
"""All that reading a table of a file takes."""
MOST_CELL = 64 << 20
"""Bytes of a text."""
STEPS_A_BYTE, FEWEST_STEPS = 10, 1_000_000
"""Of SQLite's machine, for a file or a text of SQL of that size: ten times what its rows take. A damaged file may tell without end."""
STEPS_AT_ONCE = 10_000


def bounded(base: sqlite3.Connection, size: int, allowed: Iterable[int]) -> None:
    """Let a stranger's `size` bytes do nothing but what is allowed, no longer than they can need; else sqlite3.Error is raised."""
    actions, left = frozenset(allowed), [(FEWEST_STEPS + STEPS_A_BYTE * size) // STEPS_AT_ONCE]

    def spent() -> bool:
        left[0] -= 1
        return left[0] < 0

    base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_CELL)
    base.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in actions else sqlite3.SQLITE_DENY)
    base.set_progress_handler(spent, STEPS_AT_ONCE)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write both tables into a new file. Raises OSError."""
    every = list(rows)
    base = sqlite3.connect(path)
    try:
        columns = ", ".join(f"{name} {TYPES[kind]}" for name, kind in COLUMNS.items())
        base.execute(f"create table rows ({columns})")
        _insert(base, "rows", list(COLUMNS), (cells_of(row) for row in every))
        base.execute(f"create table cases ({', '.join(FIGURES)})")
        _insert(base, "cases", list(FIGURES), records(summarize(every)))
        base.commit()
    except sqlite3.Error as error:
        raise OSError(str(error)) from None
    finally:
        base.close()


def _insert(
    base: sqlite3.Connection, table: str, names: Sequence[str], lines: Iterable[dict[str, Any]]
) -> None:
    places = ", ".join("?" for _ in names)
    base.executemany(
        f"insert into {table} values ({places})", ([_cell(line[name]) for name in names] for line in lines)
    )


def _cell(value: Any) -> Any:
    """What SQLite can hold; whole numbers beyond its 64 bits become real ones."""
    if isinstance(value, list):
        return json.dumps(value)
    return float(value) if isinstance(value, int) and abs(value) >= 2**63 else value


def rows_from(path: Path) -> list[Row]:
    """Every row. Raises RowError that names the file."""
    try:
        base = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            computed = base.execute(
                "select count(*) from pragma_table_xinfo('rows') where hidden"
            ).fetchone()[0]
            bounded(base, path.stat().st_size, STORED)
            place = base.execute(
                "select rootpage from sqlite_master where type = 'table' and name = 'rows'"
            ).fetchone()
            if computed or not place or not place[0]:  # what views and virtual tables compute may have no end
                raise RowError(f"{path} is a database without rows of ours: it has no table of rows")
            found = base.execute("select * from rows")
            names = [column[0] for column in found.description]
            return [row_of(dict(zip(names, cells, strict=True))) for cells in found]
        finally:
            base.close()
    except sqlite3.Error as error:
        raise RowError(f"{path} is a database without rows of ours: {error}") from None
    except ValueError as error:
        raise RowError(f"{path}: {error}") from None
