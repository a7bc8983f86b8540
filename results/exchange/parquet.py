"""Rows in a Parquet file, a column a field. It needs the extra `parquet` (pyarrow).

>>> write_rows(Path("rows.parquet"), rows)
>>> rows_from(Path("rows.parquet")) == rows
True
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from membound.errors import MemboundError
from membound.results.exchange.row_table import COLUMNS, cells_of, row_of
from membound.results.row import SCHEMA_VERSION, Row, RowError

WORDS = {str: "texts", int: "whole numbers", float: "numbers"}
BATCH = 10_000
"""Rows of a group: what is in memory at a time."""


class ParquetUnavailable(MemboundError, RuntimeError):
    """pyarrow is not installed; the message says how to get it."""


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ParquetUnavailable(
            "Parquet needs pyarrow, which is not installed: pip install 'membound[parquet]'"
        ) from None
    return pyarrow, pyarrow.parquet


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows. Raises ParquetUnavailable, OSError."""
    pa, pq = _pyarrow()
    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        lines = iter(rows)
        while some := list(islice(lines, BATCH)):
            writer.write_table(pa.Table.from_pylist([cells_of(row) for row in some], schema))


def rows_from(path: Path) -> list[Row]:
    """Every row. Raises RowError that names the file, ParquetUnavailable, OSError."""
    return [_row(path, cells) for batch in batches(path) for cells in batch.to_pylist()]


def group_sizes(path: Path) -> list[int]:
    """Rows of each group of rows. Raises as `rows_from`."""
    with _opened(path) as file:
        return [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]


def batches(
    path: Path,
    columns: Sequence[str] | None = None,
    alike: Sequence[str] = (),
    groups: Sequence[int] | None = None,
) -> Iterator[Any]:
    """Record batches of pyarrow with the columns, and of the groups of rows, that are asked for, or all. Raises as `rows_from`.

    Texts of columns that are `alike` in many rows come with a dictionary, each once.
    """
    with _opened(path, [name for name in alike if COLUMNS[name] is str]) as file:
        names = list(columns) if columns else None
        yield from file.iter_batches(BATCH, row_groups=groups, columns=names)


@contextmanager
def _opened(path: Path, read_dictionary: Sequence[str] = ()) -> Iterator[Any]:
    pa, pq = _pyarrow()
    try:
        with pq.ParquetFile(path, read_dictionary=read_dictionary) as file:
            if missing := {"run_id", "kind", "backend", "work", "status", "schema_version"} - set(
                file.schema_arrow.names
            ):
                raise RowError(
                    f"{path} is a Parquet file without rows of ours: it has no column {min(missing)}"
                )
            if wrong := next(filter(None, map(_wrong_column, file.schema_arrow)), ""):
                raise RowError(f"{path} is no Parquet file of ours: {wrong}")
            if file.metadata.num_rows > path.stat().st_size:
                raise RowError(f"{path} is no Parquet file of ours: it tells more rows than it has bytes")
            yield file
    except pa.ArrowException as error:
        raise RowError(f"{path} is no whole Parquet file: {' '.join(str(error).split())[:200]}") from None


def _wrong_column(column: Any) -> str:
    """What is wrong with a column's type, or ''. Columns that we do not know are the row's to refuse."""
    pa, _ = _pyarrow()
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_whole, is_text = pa.types.is_integer(kind), pa.types.is_string(kind) or pa.types.is_large_string(kind)
    fits = {str: is_text, int: is_whole, float: is_whole or pa.types.is_floating(kind)}
    wanted = COLUMNS.get(column.name)
    if wanted is None or fits[wanted] or pa.types.is_null(kind):
        return ""
    return f"its column {column.name} holds {kind}, not {WORDS[wanted]}"


def _row(path: Path, cells: dict[str, Any]) -> Row:
    try:
        return row_of(cells)
    except ValueError as error:
        raise RowError(f"{path}: {error} (this membound writes schema {SCHEMA_VERSION})") from None
