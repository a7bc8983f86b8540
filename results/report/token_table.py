"""Where the time of a token goes: a table of the points of load whose model is known.

>>> html = "".join(token_table(points))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from membound.results.report.points import ShownPoint
from membound.results.report.tables import NUMBER, WIDE, Cell, Column, Line, table_html
from membound.results.serving.roofline import PARTS
from membound.results.wording import duration, percent

HEADINGS = {
    "bytes": "bytes",
    "step": "its step alone",
    "engine": "rest of the engine",
    "http": "server, HTTP",
    "client": "client",
}
NOT_MEASURED = "not measured"


def token_table(points: Sequence[ShownPoint]) -> Iterator[str]:
    """A line for each such point; nothing where there is none."""
    known = [one for one in points if one.record["bytes_per_token"] is not None]
    if not known:
        return
    columns = [
        Column("load", WIDE),
        Column("server", WIDE, chooses=True),
        *(Column(name, NUMBER) for name in ("batch", "a token", *HEADINGS.values(), "MBU")),
    ]
    lines = (Line(list(_cells(one))) for one in known)
    yield from table_html("tokens", "Where the time of a token goes", columns, lines)


def _cells(one: ShownPoint) -> Iterator[Cell]:
    x = one.record
    yield from (Cell(str(x["work"])), Cell(one.server))
    context = "unknown" if x["decode_context"] is None else f"{x['decode_context']:.0f} tokens"
    yield Cell(f"{x['decode_batch']:.3g}", x["decode_batch"], f"context {context}")
    yield Cell(duration(x["itl_mean_s"], 3), x["itl_mean_s"], "from the first token to the last, mean")
    for name in HEADINGS:
        seconds = x[f"itl_{name}_s"]
        yield Cell(duration(seconds, 3), seconds, PARTS[name] if seconds is not None else _why(one, name))
    mbu = x["mbu"]
    yield Cell(percent(mbu), mbu, NOT_MEASURED if mbu is None else "of the bandwidth measured around it")


def _why(one: ShownPoint, name: str) -> str:
    """Why a part is missing, and what measures it."""
    how = one.record["step_how"]
    return f"{NOT_MEASURED}: {how}" if name == "step" and how else NOT_MEASURED
