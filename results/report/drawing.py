"""The library that draws, and the look that all charts share.

>>> svg_of(chart)[:4], png_of(chart)[1:4]
('<svg', b'PNG')

Altair defines, vl-convert renders without a browser (extra `report`). Colours are those of Okabe and Ito, made darker where
they would be faint on white; a page in dark mode replaces them by lighter ones (page.css). No meaning is carried by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

import pandas as pd

from membound.errors import MemboundError
from membound.results.plain_text import visible

if TYPE_CHECKING:
    import altair

COLORS = ("#0072b2", "#d55e00", "#00805e", "#a8528a", "#7a5c00", "#3b86b8", "#5f5f5f")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
INK, LINE, GRID = "#1b1b1b", "#888888", "#dddddd"
FONT = "Arial, Helvetica, Liberation Sans, sans-serif"
"""Fonts of the system with the same widths: texts are placed by the renderer, which knows them."""
WIDTH = 440
"""Of a plot without its axes: with them it fits a phone held upright at three quarters of its size."""
LONG = 30
"""Characters of a name from which on a legend has one column."""
PNG_SCALE = 2


class ReportUnavailable(MemboundError, RuntimeError):
    """The libraries that draw are not installed; the message says how to get them."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One chart, or why there is none."""

    name: str
    """Of its file and its anchor: ``roofline-1``."""
    family: str
    """The heading above it."""
    title: str
    caption: str
    chart: Any = None
    """Altair's definition, from which SVG and PNG are made; None where it is left out."""
    absent: str = ""
    """Why it is left out."""


def drawing_library() -> Any:
    """Altair, ready to draw. Raises ReportUnavailable, which says how to get it."""
    try:
        import altair
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise ReportUnavailable(
            f"charts need {error.name}, which is not installed: pip install 'membound[report]'"
        ) from None
    altair.data_transformers.disable_max_rows()
    return altair


def styled(chart: Any) -> Any:
    """The definition in the look of the house."""
    axis = {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "gridColor": GRID,
        "labelFlush": False,
    }
    legend = {
        "orient": "bottom",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "columns": 2,
        "columnPadding": 18,
        "labelLimit": 260,
    }
    return chart.configure(
        background="white",
        font=FONT,
        axis=axis | {"domainColor": LINE, "tickColor": LINE, "labelColor": INK, "titleColor": INK},
        legend=legend | {"labelColor": INK, "titleColor": INK, "titleFontWeight": "normal"},
        title={"fontSize": 13, "color": INK, "anchor": "start"},
        view={"stroke": None},
    )


def svg_of(chart: altair.TopLevelMixin) -> str:
    """The text of an SVG file."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(_text_of(chart), vl_version=_version()))


def png_of(chart: altair.TopLevelMixin) -> bytes:
    """The content of a PNG file, at twice the size of the SVG."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(_text_of(chart), vl_version=_version(), scale=PNG_SCALE))


def _text_of(chart: altair.TopLevelMixin) -> Any:
    """The definition with its texts as they can be shown: a control character among them would end this process."""
    return _shown(chart.to_dict(validate=False))


def _shown(part: Any) -> Any:
    if isinstance(part, dict):
        return {_shown(key): _shown(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_shown(value) for value in part]
    return visible(part) if isinstance(part, str) else part


def _version() -> str:
    """Of Vega-Lite, for which Altair writes, as the renderer names it."""
    import altair

    return "_".join(str(altair.SCHEMA_VERSION).split(".")[:2])


def ticks(low: float, high: float) -> list[float]:
    """Values of a logarithmic axis: 1, 2 and 5 of each decade, or powers of ten where there are many decades."""
    first, last = floor(log10(low)), ceil(log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    return [
        step * 10.0**power
        for power in range(first, last + 1)
        for step in steps
        if low <= step * 10.0**power <= high
    ]


GRADES = {"clean": 0.9, "unknown": 0.9, "contended": 0.35, "invalid": 0.02}
"""How full a mark is: those that were disturbed are lighter, and hollow where no process counts. Captions say so."""


def scale_of(alt: Any, names: Iterable[str]) -> Any:
    """The colour of each name, the same wherever the same names are drawn."""
    known = sorted(set(names))
    return alt.Scale(domain=known, range=[COLORS[i % len(COLORS)] for i in range(len(known))])


def shapes_of(alt: Any, names: Iterable[str]) -> Any:
    """The shape of each name; beyond seven names a colour comes again with another shape."""
    known = sorted(set(names))
    shapes = [SHAPES[(i + i // len(COLORS)) % len(SHAPES)] for i in range(len(known))]
    return alt.Scale(domain=known, range=shapes)


def look_of_marks(alt: Any, table: pd.DataFrame, field: str = "backend") -> list[Any]:
    """Encodings of points: colour and shape by a field, fullness by `validity`, and the hint in `tip`."""
    names, shapes = scale_of(alt, table[field]), shapes_of(alt, table[field])
    legend = (
        alt.Legend(columns=1, labelLimit=WIDTH)
        if max(map(len, table[field]), default=0) > LONG
        else alt.Legend()
    )
    grades = alt.Scale(type="ordinal", domain=list(GRADES), range=list(GRADES.values()))
    return [
        alt.Stroke(f"{field}:N", title=field, scale=names, legend=legend),
        alt.Fill(f"{field}:N", title=field, scale=names, legend=legend),
        alt.Shape(f"{field}:N", title=field, scale=shapes, legend=legend),
        alt.FillOpacity("validity:N", scale=grades, legend=None),
        alt.Description("tip:N"),
    ]
