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
            found = base.execute("select * from rows")
            names = [column[0] for column in found.description]
            return [row_of(dict(zip(names, cells, strict=True))) for cells in found]
        finally:
            base.close()
    except sqlite3.Error as error:
        raise RowError(f"{path} is a database without rows of ours: {error}") from None
    except ValueError as error:
        raise RowError(f"{path}: {error}") from None
