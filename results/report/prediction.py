"""The record of predictions as a chart: every measured row against what was said of its device unseen.

>>> prediction_chart(record)[:4]
'<svg'
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from membound.results.predict.record import MODELS, Record
from membound.results.report.drawing import drawing_library, styled, svg_of

SIZE = 260


def record_table(record: Record) -> pd.DataFrame:
    """A line for each held-out row and model: tokens a second as measured and as predicted."""
    return pd.DataFrame(
        [
            {
                "model": h.model,
                "works": h.row.group,
                "device": h.row.device,
                "row": h.row.id,
                "measured": h.row.demand.batch / h.row.seconds,
                "predicted": h.row.demand.batch / h.seconds,
            }
            for h in record.held_out
        ]
    )


def prediction_chart(record: Record) -> str:
    """SVG with a panel for each model; on the line a prediction is right. Raises ReportUnavailable."""
    alt = drawing_library()
    table = record_table(record)
    ends = [
        float(table[["measured", "predicted"]].min().min()),
        float(table[["measured", "predicted"]].max().max()),
    ]
    panels = [_panel(alt, table[table.model == model], model, ends) for model in MODELS]
    return svg_of(styled(alt.hconcat(*panels)))


def _panel(alt: Any, table: pd.DataFrame, model: str, ends: list[float]) -> Any:
    scale = alt.Scale(type="log", domain=ends, nice=False)
    x = alt.X("measured:Q", title="measured, tokens/s", scale=scale)
    y = alt.Y("predicted:Q", title="predicted, tokens/s", scale=scale)
    right = alt.Chart(pd.DataFrame({"measured": ends, "predicted": ends})).mark_line(
        strokeDash=[5, 3], color="grey"
    )
    points = alt.Chart(table).mark_point(filled=True, opacity=0.7).encode(
        x, y, alt.Color("works:N", scale=alt.Scale(scheme="tableau10")), alt.Shape("works:N")
    )  # fmt: skip
    return (right.encode(x, y) + points).properties(
        width=SIZE, height=SIZE, title=f"{model} ({len(table)} rows)"
    )
