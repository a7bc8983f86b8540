"""Databases and Parquet files of rows: cells of other types, other tables, damaged pages.

>>> other_database(Random(1), databases()[0])[:15]
b'SQLite format 3'
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from io import BytesIO
from random import Random
from typing import Any

import mutation
import seeds
from target import Target, folder, refusing, written

from membound.results.exchange import parquet, sqlite
from membound.results.exchange.row_table import COLUMNS
from membound.results.row import Row, RowError
from membound.results.store import StoreError, load_rows

OTHER_SCHEMAS = (
    "create view more as select * from rows",
    "drop table rows",
    "create table cases2 as select * from rows",
    "alter table rows add column more",
    "alter table rows drop column reason",
    "alter table rows rename column kind to sort",
    "insert into rows select * from rows",
    "delete from rows",
)


def check_table(content: bytes) -> None:
    """A table of rows is refused, or its rows can be stored."""
    name = "rows.sqlite" if content.startswith(b"SQLite") else "rows.parquet"
    with refusing(RowError, StoreError, parquet.ParquetUnavailable):
        for row in load_rows(written(name, content)):
            assert Row.from_json(row.to_json()) == row


def _rows() -> list[list[Row]]:
    return [[Row.from_json(line) for line in run.decode().split("\n")] for run in seeds.runs_of_rows()[:4]]


def databases() -> list[bytes]:
    """Small databases as `membound export` writes them."""
    found = []
    for rows in _rows():
        path = folder() / "seed.sqlite"
        sqlite.write_rows(path, rows)
        found.append(path.read_bytes())
        path.unlink()
    return found


def other_database(rng: Random, content: bytes) -> bytes:
    """The same with other cells or tables, or with changed bytes."""
    if not rng.randrange(3):
        return mutation.damaged(rng, content)
    path = written("other.sqlite", content)
    with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as base, base:
        for _ in range(rng.choice((1, 1, 2))):
            if not rng.randrange(4):
                base.execute(rng.choice(OTHER_SCHEMAS))
            else:
                name = rng.choice(list(COLUMNS))
                base.execute(
                    f"update rows set {name} = ? where rowid % 2 = 0", (_cell(mutation.strange(rng)),)
                )
    return path.read_bytes()


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, str):
        return (
            value.encode("utf-8", "surrogatepass")[:10] if value[:1] == "a" else value.replace("\ud800", "")
        )
    if isinstance(value, int) and abs(value) >= 2**63:
        return str(value)[:40]
    return value


def parquets() -> list[bytes]:
    """The same as Parquet; none without pyarrow."""
    found = []
    with suppress(parquet.ParquetUnavailable):
        for rows in _rows():
            path = folder() / "seed.parquet"
            parquet.write_rows(path, rows)
            found.append(path.read_bytes())
    return found or [b"PAR1"]


def other_parquet(rng: Random, content: bytes) -> bytes:
    """Changed bytes, or a column of other cells."""
    if rng.randrange(2):
        return mutation.damaged(rng, content)
    with suppress(ImportError, ValueError, TypeError, OverflowError, UnicodeError):
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(BytesIO(content))
        at = rng.randrange(table.num_columns)
        column = pa.array([mutation.strange(rng)] * table.num_rows)
        out = BytesIO()
        pq.write_table(table.set_column(at, table.schema.names[at], column), out)
        return out.getvalue()
    return content


TABLES = (
    Target("databases", databases, other_database, check_table),
    Target("parquets", parquets, other_parquet, check_table),
)
