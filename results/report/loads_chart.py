"""Latency against throughput of points of load: what a user waits, at what a server delivers.

>>> figures = list(load_figures(alt, points))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from membound.results.frame import frame
from membound.results.report.drawing import WIDTH, Figure, look_of_marks
from membound.results.report.points import ShownPoint, described_point

FAMILY = "Latency against throughput"
HEIGHT = 220
LATENCIES = {"ttft": "first token", "tpot": "a token after the first"}
CAPTION = (
    "Median latency of whole answers against the output tokens a second, each mark a point of load with its 95 % interval over the "
    "blocks of its window. Where the curve turns upwards, the server keeps no more."
    " Lighter marks were disturbed."
)
COLUMNS = ["server", "tokens", "latency_ms", "low_ms", "high_ms", "validity", "tip"]


def load_figures(alt: Any, points: Sequence[ShownPoint]) -> Iterator[Figure]:
    """A chart for each latency."""
    for name, words in LATENCIES.items():
        known = [one for one in points if one.record[f"{name}_p50_s"] and one.record["output_tokens_per_s"]]
        if known:
            table = frame([_line(one, name) for one in known], COLUMNS)
            yield Figure(
                f"load-{name}",
                FAMILY,
                f"Time to {words}" if name == "ttft" else f"Time of {words}",
                CAPTION,
                _chart(alt, table),
            )
    if not any(one.record["output_tokens_per_s"] for one in points):
        yield Figure(
            "load", FAMILY, "", CAPTION, absent="there is no point of load with an answer (membound load)"
        )


def _line(one: ShownPoint, name: str) -> dict[str, Any]:
    seconds = one.record[f"{name}_p50_s"]
    low, high = one.record[f"{name}_p50_ci_s"] or (seconds, seconds)
    return {
        "server": one.server,
        "tokens": one.record["output_tokens_per_s"],
        "latency_ms": 1e3 * seconds,
        "low_ms": 1e3 * low,
        "high_ms": 1e3 * high,
        "validity": one.record["validity"],
        "tip": described_point(one),
    }


def _chart(alt: Any, table: Any) -> Any:
    scale = alt.Scale(type="log", nice=False)
    x = alt.X("tokens:Q", title="output tokens a second", axis=alt.Axis(format="~s"))
    base = alt.Chart(table)
    look = look_of_marks(alt, table, "server")
    return alt.layer(
        base.mark_line(strokeWidth=1.5, aria=False).encode(x, alt.Y("latency_ms:Q", scale=scale), look[0]),
        base.mark_rule(strokeWidth=1.5, aria=False).encode(
            x, alt.Y("low_ms:Q", scale=scale), look[0], y2="high_ms:Q"
        ),
        base.mark_point(size=45, opacity=1).encode(
            x, alt.Y("latency_ms:Q", title="median, ms", scale=scale, axis=alt.Axis(format="~g")), *look
        ),
    ).properties(width=WIDTH, height=HEIGHT)
