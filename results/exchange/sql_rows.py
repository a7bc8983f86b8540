"""Tables in SQL as llama.cpp's tools print them: one CREATE TABLE, then an INSERT a row.

>>> rows_of_sql(document, "llama_bench")[0]["avg_ns"]

SQLite reads them, in memory and without access to files, rather than a parser of ours.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from membound.results.exchange.document import Document
from membound.results.exchange.sqlite import STORED, bounded
from membound.results.row import RowError

FILLING = (
    *(sqlite3.SQLITE_CREATE_TABLE, sqlite3.SQLITE_CREATE_INDEX, sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE),
    *(sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_REINDEX),
)
"""What making a table of written values takes: no function, no recursion, no other file."""
PAGE_BYTES, FEWEST_PAGES = 4096, 1000
GROWTH = 4
"""By so much may a table be larger than the text that makes it."""


def rows_of_sql(document: Document, table: str) -> list[dict[str, Any]]:
    """The rows of a table that the statements of the file make; nothing if they do not begin with it. Raises RowError."""
    start = document.head.strip().lower()
    if not (start.startswith("create table") and table in start) and not start.startswith(
        f"insert into {table} "
    ):
        return []
    base = sqlite3.connect(":memory:")
    try:
        base.execute(f"pragma max_page_count = {FEWEST_PAGES + GROWTH * len(document.text) // PAGE_BYTES}")
        bounded(base, len(document.text), FILLING)
        base.executescript(document.text)
        bounded(base, len(document.text), STORED)
        found = base.execute(f"select * from {table}")
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found]
    except sqlite3.Error as error:
        raise RowError(f"its SQL cannot be read: {error}") from None
    finally:
        base.close()
