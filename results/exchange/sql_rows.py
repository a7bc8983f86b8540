"""Tables in SQL as llama.cpp's tools print them: one CREATE TABLE, then an INSERT a row.

>>> rows_of_sql(document, "llama_bench")[0]["avg_ns"]

SQLite reads them, in memory and without access to files, rather than a parser of ours.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from membound.results.exchange.document import Document
from membound.results.row import RowError

REFUSED = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA, sqlite3.SQLITE_DROP_TABLE)


def rows_of_sql(document: Document, table: str) -> list[dict[str, Any]]:
    """The rows of a table that the statements of the file make; nothing if they do not begin with it. Raises RowError."""
    start = document.head.strip().lower()
    if not (start.startswith("create table") and table in start) and not start.startswith(
        f"insert into {table} "
    ):
        return []
    base = sqlite3.connect(":memory:")
    base.set_authorizer(lambda action, *_: sqlite3.SQLITE_DENY if action in REFUSED else sqlite3.SQLITE_OK)
    try:
        base.executescript(document.text)
        found = base.execute(f"select * from {table}")
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found]
    except sqlite3.Error as error:
        raise RowError(f"its SQL cannot be read: {error}") from None
    finally:
        base.close()
