"""A report as one HTML page that loads nothing from outside: it contains its style, its charts and its script.

>>> from membound.results.report.whole import whole_report, with_charts
>>> path.write_text(page_html(with_charts(whole_report(rows, claims))))

A policy in the page (Content-Security-Policy) forbids it to load anything and to run any script but its own.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import groupby
from pathlib import Path

from membound.results.plain_text import as_html
from membound.results.report.answer import Answer
from membound.results.report.case_table import (
    NO_LIMIT,
    SIGNS,
    absent_table,
    case_table,
    ceiling_table,
    point_table,
    run_table,
)
from membound.results.report.cases import ShownCase, described
from membound.results.report.claim_section import claim_section, experiments_section
from membound.results.report.drawing import Figure
from membound.results.report.fleet_section import fleet_section
from membound.results.report.pictures import page_svg
from membound.results.report.tables import GRADE, NUMBER, SHORT, WIDE, Cell, Column, Line, table_html
from membound.results.report.text import LEGEND as CLAIM_LEGEND
from membound.results.report.token_table import token_table
from membound.results.report.whole import Report
from membound.results.views.fleet import headline
from membound.results.views.table import LEGEND
from membound.results.wording import duration, percent, short

STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
TITLE = "What limits LLM decoding here"
MOST_WINNERS = 12
"""Works in the answer of a machine; the others are in the table of all cases."""
GRADES = (
    "● clean: nothing disturbed it. ○ unknown: the system does not tell. ◐ contended: others used the machine. "
    "✕ invalid: so much that nothing of it counts where another process does."
)
KEYS = (
    "Every figure has its interval, its validity and its command in a hint: point at it, or reach it by the Tab key and go on by "
    "the arrow keys. “how” opens the same in the row. A mark in a chart leads to its row."
)


def page_html(report: Report) -> str:
    """The whole page."""
    script = b64encode(sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>membound: {as_html(_title(report))}</title><style>{STYLE}</style></head><body>",
            "<a class=skip href=#answer>Skip to the answer</a>",
            *_header(report),
            "<main>",
            *_sections(report),
            f"</main><script>{SCRIPT}</script></body></html>",
            "",
        ]
    )


def _title(report: Report) -> str:
    return report.claims[0].register.claim if report.claims and not report.shown else TITLE


def _header(report: Report) -> Iterator[str]:
    yield f"<header><h1>{as_html(_title(report))}</h1><p class=note>{as_html(_scope(report))}</p></header>"
    links = {"answer": "The answer", "fleet": "The fleet" if report.fleet else ""}
    links |= {"charts": "Charts" if report.figures else ""}
    links |= (
        {"all-cases": "All cases", "no-time": "What has no time", "the-ceilings": "Ceilings"}
        if report.shown
        else {}
    )
    links |= {"points": "Points of load"} if report.points else {}
    links |= {"claims": "The claim"} if report.claims else {}
    links |= {"reading": "How to read it"}
    items = "".join(f'<li><a href="#{key}">{words}</a></li>' for key, words in links.items() if words)
    yield f"<nav aria-label=Contents><ul>{items}</ul></nav>"


def _scope(report: Report) -> str:
    """How much of what there is."""
    runs = {str(one.line["run_id"]) for one in report.shown} | {
        str(one.record["run_id"]) for one in report.points
    }
    counts = {
        "run": len(runs),
        "machine": len({one.place for one in report.shown}),
        "case": len(report.shown),
        "point of load": len(report.points),
        "claim": len(report.claims),
        "device of a fleet": len(report.fleet.devices) if report.fleet else 0,
    }
    words = (f"{n} {_plural(name) if n > 1 else name}" for name, n in counts.items() if n)
    starts = [one.started_at for one in report.shown]
    starts += [one.started_at for one in report.fleet.runs] if report.fleet else []
    began = sorted(start[:10] for start in starts if start)
    when = f", measured {began[0]}{f' to {began[-1]}' if began[-1] != began[0] else ''}" if began else ""
    return f"{', '.join(words)}{when}."


def _plural(name: str) -> str:
    first, *rest = name.split(" ")
    return " ".join([f"{first}s", *rest])


def _sections(report: Report) -> Iterator[str]:
    yield "<section id=answer><h2>The answer</h2>"
    for number, answer in enumerate(report.answers, 1):
        yield from _answer(answer, number)
    if not report.answers and report.shown:
        yield "<p class=lead>No case has a time, so nothing is decided. What has no time, and why, is below.</p>"
    yield from _fleet_in_short(report)
    yield from _claims_in_short(report)
    yield "</section>"
    if report.fleet:
        yield from fleet_section(report.fleet)
    if report.without_charts:
        yield f"<p class=absent>No charts: {as_html(report.without_charts)}</p>"
    if report.figures:
        yield from _charts(report.figures)
    if report.shown:
        yield f"<section id=all-cases><h2>All cases</h2><p class=note>{as_html(KEYS)}</p>"
        yield from (*case_table(report.shown), "</section>")
        yield from (
            "<section id=no-time><h2>What has no time</h2>",
            *absent_table(report.shown),
            "</section>",
        )
        yield "<section id=the-ceilings><h2>Ceilings and runs</h2>"
        yield from (*ceiling_table(report.ceilings), "<h3>Runs</h3>", *run_table(report.shown), "</section>")
    if report.points:
        yield from ("<section id=points><h2>Points of load</h2>", *point_table(report.points))
        yield from (*token_table(report.points), "</section>")
    yield from _claims(report)
    yield from _reading(report)


def _answer(answer: Answer, number: int) -> Iterator[str]:
    yield f"<article class=card><h3>{as_html(answer.place.label)}</h3><dl>"
    yield f"<dt>Which is fastest</dt><dd class=big>{as_html(answer.fastest)}</dd>"
    yield f"<dt>How near the limit</dt><dd class=big>{as_html(answer.near)}</dd>"
    yield f"<dt>What bounds it</dt><dd>{as_html(answer.bound)}</dd><dt>What to doubt</dt>"
    doubts = "".join(f"<li>{as_html(doubt)}</li>" for doubt in answer.doubts)
    yield (
        f"<dd class=doubt><ul>{doubts}</ul></dd>"
        if doubts
        else "<dd class=fine>Nothing speaks against these figures.</dd>"
    )
    yield "</dl>"
    columns = [
        Column("work", WIDE),
        Column("fastest", SHORT),
        Column("time", NUMBER),
        Column("of the limit", NUMBER),
    ]
    columns += [Column("bound by", SHORT), Column("validity", GRADE), Column("next", SHORT)]
    lines = [_winner(one, answer.runners_up.get(one.work)) for one in answer.winners[:MOST_WINNERS]]
    more = len(answer.winners) - MOST_WINNERS
    rest = f"; {more} more works are in the table of all cases" if more > 0 else ""
    caption = f"The fastest of each work on {answer.place.label}{rest}"
    yield from table_html(f"answer-{number}", caption, columns, lines)
    yield "</article>"


def _winner(one: ShownCase, other: ShownCase | None) -> Line:
    share = one.line["of_bound"]
    width = min(1.0, share or 0.0)
    bar = (
        f'<span class=bar aria-hidden=true><i style="width:{width:.0%}"></i></span>'
        if share is not None
        else ""
    )
    ratio = other.line["ratio_to_fastest"] if other is not None else None
    following = "–" if other is None else f"{other.backend}{f' ×{ratio:.2f}' if ratio else ''}"
    link = f'<a href="#{one.key}">{as_html(short(one.work))}</a>'
    cells = [
        Cell("", html=link),
        Cell(one.backend),
        Cell(duration(one.time_s), one.time_s, described(one)),
        Cell("", share, NO_LIMIT if share is None else described(one), html=f"{bar}{percent(share)}"),
        Cell(str(one.line["verdict"]), hint=str(one.line["verdict_reason"])),
        Cell(f"{SIGNS[one.validity]} {one.validity}", hint=str(one.line["validity_reasons"])),
        Cell(following, hint="" if other is not None else "no other backend has a time of it in that run"),
    ]
    return Line(cells, grade=one.validity)


def _charts(figures: Sequence[Figure]) -> Iterator[str]:
    yield "<section id=charts><h2>Charts</h2>"
    for family, some in groupby(figures, key=lambda one: one.family):
        group = list(some)
        drawn = [one for one in group if one.chart is not None]
        yield f"<h3>{as_html(family)}</h3>"
        if drawn:
            yield "<div class=charts>"
            yield from (_figure(one) for one in drawn)
            yield "</div>"
        for one in group:
            if one.chart is None:
                where = f"{one.title}: " if one.title else ""
                yield f"<p class=absent>Left out: {as_html(where + one.absent)}.</p>"
    yield "</section>"


def _figure(one: Figure) -> str:
    svg = page_svg(one.chart, f"{one.family}: {one.title}" if one.title else one.family, one.name)
    title = f"<h4>{as_html(one.title)}</h4>" if one.title else ""
    return f"<figure id={one.name}>{title}{svg}<figcaption>{as_html(one.caption)}</figcaption></figure>"


def _fleet_in_short(report: Report) -> Iterator[str]:
    if report.fleet:
        said = as_html(headline(report.fleet.comparison))
        yield f"<article class=card><h3><a href=#fleet>The fleet</a></h3><p>{said}</p></article>"


def _claims_in_short(report: Report) -> Iterator[str]:
    for number, one in enumerate(report.claims, 1):
        yield f"<article class=card><h3>The claim: <a href=#claim-{number}>{as_html(one.claim.meta.claim_id)}</a></h3>"
        yield f"<p>{as_html(one.paragraph)}</p></article>"


def _claims(report: Report) -> Iterator[str]:
    if not report.claims:
        return
    register = report.claims[0].register
    yield f"<section id=claims><h2>{as_html(register.claim)}</h2>"
    yield f"<p class=lead>As it can be tested: {as_html(register.region)}</p>"
    charts = report.claim_charts or [{} for _ in report.claims]
    for number, (one, drawn) in enumerate(zip(report.claims, charts, strict=True), 1):
        yield from claim_section(one, drawn, f"claim-{number}")
    yield from experiments_section(register)
    yield "</section>"


def _reading(report: Report) -> Iterator[str]:
    yield f"<section id=reading><h2>How to read it</h2><p>{as_html(LEGEND)}</p><p>{as_html(GRADES)}</p>"
    if report.claims:
        yield f"<p>{as_html(CLAIM_LEGEND)}</p>"
    yield "</section>"
