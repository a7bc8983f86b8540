"""Tables of records for pandas, whatever their texts hold.

>>> frame([{"backend": "alpha:cpu", "time_s": 0.1}], ["backend", "time_s"]).shape
(1, 2)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd


def frame(lines: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> pd.DataFrame:
    """A table with a line for each record."""
    found = list(lines)
    return pd.DataFrame({name: [encodable(line.get(name)) for line in found] for name in columns})


def encodable(value: Any) -> Any:
    """The value; of text that UTF-8 cannot say, as of a file name that is none, escapes: Arrow, where it is there, takes no other."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
