"""Rows as the lines of a table: a column for each field, those with parts as JSON, so that nothing is lost.

>>> row_of(cells_of(row)) == row
True
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from membound.results.fields import read_json, short
from membound.results.frame import encodable
from membound.results.row import Row, RowError

HINTS = get_type_hints(Row)
SIMPLE = {str: str, int: int, float: float, int | None: int, float | None: float}
"""Annotations of fields that a table can hold as they are."""
COLUMNS = {f.name: SIMPLE.get(HINTS[f.name], str) for f in fields(Row)}
"""Every field with the type of its column."""
NESTED = tuple(f.name for f in fields(Row) if HINTS[f.name] not in SIMPLE)
"""Fields that are stored as JSON."""


def cells_of(row: Row) -> dict[str, Any]:
    """The row as numbers and texts by column; what UTF-8 cannot say becomes an escape, as in every table."""
    stored = json.loads(row.to_json())
    values = stored | {name: json.dumps(stored[name], separators=(",", ":")) for name in NESTED}
    return {
        name: None if values[name] is None else encodable(kind(values[name]))
        for name, kind in COLUMNS.items()
    }


def row_of(cells: Mapping[str, Any]) -> Row:
    """The row of such cells; columns that the table lacks have their defaults. Raises RowError, also on a newer schema."""
    for name, value in cells.items():
        if not isinstance(value, str | int | float | None):
            raise RowError(f"{name} is {short(value)}, neither text nor a number")
    try:
        stored = {
            name: read_json(value) if name in NESTED and isinstance(value, str) else value
            for name, value in cells.items()
        }
    except ValueError as error:
        raise RowError(f"not JSON: {error}") from None
    return Row.from_json(json.dumps(stored))
