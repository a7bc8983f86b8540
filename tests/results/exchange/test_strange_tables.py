"""Databases, Parquet files and SQL of strangers: what computes its rows, or never ends, is refused in one line."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from rows import run_rows

from membound.results.exchange import sqlite
from membound.results.exchange.parquet import write_rows as write_parquet
from membound.results.processes import processes_of
from membound.results.row import RowError
from membound.results.store import load_rows

ENDLESS = (
    "with recursive c(run_id, kind, schema_version) as (select 'a', 'case', 1 union all select * from c) "
    "select * from c"
)


def database(path: Path, *statements: str) -> Path:
    """Rows of ours, and what these make of them."""
    sqlite.write_rows(path, run_rows())
    with sqlite3.connect(path) as base:
        for statement in statements:
            base.execute(statement)
    base.close()
    return path


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (("drop table rows", f"create view rows as {ENDLESS}"), "it has no table of rows"),
        (("drop table rows", "create virtual table rows using fts5(run_id)"), "it has no table of rows"),
        (("drop table rows",), "it has no table of rows"),
        (("update rows set device = x'00ff'",), r"device is b'\\x00\\xff', neither text nor a number"),
        (("update rows set threads = 'many'",), "threads='many' is not a whole number"),
        (("update rows set seed = 9e999",), "not JSON|is not a whole number"),
        ((f"update rows set config = '{'[' * 100_000}'",), "not JSON: it is nested too deeply"),
        (("update rows set turns = '{'",), "not JSON"),
        (
            ("alter table rows add column more text generated always as (hex(zeroblob(1000000)))",),
            "it has no table of rows",
        ),
    ],
)
def test_a_database_that_is_none_of_rows_is_refused(
    tmp_path: Path, statements: tuple[str, ...], said: str
) -> None:
    path = database(tmp_path / "rows.sqlite", *statements)
    with pytest.raises(RowError, match=said) as refused:
        load_rows(path)
    assert str(refused.value).startswith(str(path))


def test_reading_a_database_takes_steps_in_proportion_to_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = database(tmp_path / "rows.sqlite", *["insert into rows select * from rows"] * 8)
    with pytest.warns(UserWarning, match="rows that were read before: they count once"):
        assert load_rows(path) == run_rows()
    monkeypatch.setattr(sqlite, "FEWEST_STEPS", 0)
    monkeypatch.setattr(sqlite, "STEPS_A_BYTE", 0)
    with pytest.raises(RowError, match="interrupted"):
        load_rows(path)


@pytest.mark.parametrize(
    "sql",
    [
        f"insert into test_backend_ops {ENDLESS};",
        "insert into test_backend_ops select * from test_backend_ops;" * 60,
        "insert into test_backend_ops select a.* from test_backend_ops a, test_backend_ops b;" * 9,
        "insert into test_backend_ops (op_name) values (zeroblob(2000000000));",
        "create trigger more after insert on test_backend_ops begin select 1; end;",
        "attach database 'other' as other;",
        "create virtual table more using fts5(a);",
    ],
)
def test_sql_that_does_more_than_filling_a_table_is_refused(tmp_path: Path, sql: str) -> None:
    whole = (Path(__file__).parent / "files/backend-ops.sql").read_text(encoding="utf-8")
    path = tmp_path / "ops.sql"
    path.write_text(whole, encoding="utf-8")
    assert len(load_rows(path)) == 3
    path.write_text(f"{whole}\n{sql}", encoding="utf-8")
    with pytest.raises(RowError, match="its SQL cannot be read"):
        load_rows(path)
    assert not (tmp_path / "other").exists()


# Parquet


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("device", b"\x00\xff", "its column device holds binary, not texts"),
        ("samples_s", None, "samples_s=None is not a list"),
        ("turns", "[" * 100_000, "nested too deeply"),
        ("replicate", "two", "its column replicate holds string, not whole numbers"),
        ("error", [1.0], "its column error holds list<.*>, not numbers"),
        ("work", None, "work=None is not text"),
    ],
)
def test_cells_of_another_type_are_refused(tmp_path: Path, name: str, value: Any, said: str) -> None:
    pa = pytest.importorskip("pyarrow", reason="no pyarrow: pip install 'membound[parquet]'")
    pq = pytest.importorskip("pyarrow.parquet", reason="no pyarrow: pip install 'membound[parquet]'")
    path = tmp_path / "rows.parquet"
    write_parquet(path, run_rows())
    table = pq.read_table(path)
    place = table.schema.get_field_index(name)
    pq.write_table(table.set_column(place, name, pa.array([value] * len(table))), path)
    with pytest.raises(RowError, match=said):
        load_rows(path)
    with pytest.raises(RowError, match=r"rows\.parquet"):
        list(processes_of(path, turns=True))


def test_more_rows_than_bytes_are_refused(tmp_path: Path) -> None:
    """Equal rows take next to nothing in Parquet: a small file may tell of any number of them."""
    pa = pytest.importorskip("pyarrow", reason="no pyarrow: pip install 'membound[parquet]'")
    pq = pytest.importorskip("pyarrow.parquet", reason="no pyarrow: pip install 'membound[parquet]'")
    path = tmp_path / "rows.parquet"
    names = ("run_id", "kind", "backend", "work", "status")
    columns = {name: pa.array(["a"] * 200_000) for name in names} | {
        "schema_version": pa.array([1] * 200_000)
    }
    pq.write_table(pa.table(columns), path, compression="zstd")
    assert path.stat().st_size < 200_000
    with pytest.raises(RowError, match="it tells more rows than it has bytes"):
        load_rows(path)
