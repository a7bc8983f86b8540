"""Claims as Markdown: a section for each, the experiments, and the generated part of a document.

>>> path.write_text(claim_markdown([report], plots={}))
>>> document.write_text(replaced(document.read_text(), CLAIMS, "the new text"))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest

from membound.errors import MemboundError
from membound.results.claim.experiments import TEXTS, Experiment, Register
from membound.results.plain_text import as_markdown
from membound.results.report.claim_charts import CAPTIONS
from membound.results.report.text import (
    CEILING_HEAD,
    FIGURE_HEAD,
    LEGEND,
    MAP_HEAD,
    VERDICT_HEAD,
    ClaimReport,
    Lines,
    ceiling_lines,
    figure_lines,
    heading,
    map_lines,
    provenance,
    verdict_lines,
)
from membound.results.views.markdown import LEFT, table_lines

CLAIMS = "claims"
"""The generated part of a document is between ``<!-- claims -->`` and ``<!-- /claims -->``."""


class MarksMissing(MemboundError, ValueError):
    """A document lacks the marks of its generated part; the message names them."""


def claim_markdown(claims: Iterable[ClaimReport], plots: Mapping[str, Mapping[str, str]]) -> str:
    """A section for each claim; `plots` are links to its charts, if there are any, by claim and name."""
    lines: list[str] = []
    for report in claims:
        lines += _section(report, plots.get(report.claim.meta.claim_id, {}))
    return "\n".join([*lines, LEGEND, ""])


def experiments_markdown(register: Register) -> str:
    """Every experiment as it was registered, with the numbers of its rule."""
    lines = [f"Version {register.version}.", ""]
    for one in register:
        lines += [f"## {one.id}. {one.name}", "", *_texts(one)]
        lines += ["| arm | | | factor | |", "| :-- | :-- | :-- | :-- | :-- |"]
        for arm, factor in zip_longest(one.arms.items(), one.factors.items(), fillvalue=("", "")):
            lines.append(f"| {_code(arm[0])} | {arm[1]} | | {_code(factor[0])} | {factor[1]} |")
        lines += ["", "Numbers: " + ", ".join(f"`{k}` {v:g}" for k, v in one.thresholds.items()) + ".", ""]
    return "\n".join(lines)


def replaced(document: str, name: str, generated: str) -> str:
    """The document with a new text between the marks of that name. Raises MarksMissing."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, begins, rest = document.partition(begin)
    _, ends, after = rest.partition(end)
    if not begins or not ends:
        raise MarksMissing(f"no place for the {name}: the document lacks the lines {begin} and {end}")
    return f"{before}{begin}\n\n{generated}\n{end}{after}"


def _texts(experiment: Experiment) -> Iterator[str]:
    """The texts of an experiment as a list."""
    for key in TEXTS:
        yield f"- **{key.replace('_', ' ').capitalize()}**: {getattr(experiment, key)}"
    yield ""


def _code(name: str) -> str:
    return f"`{name}`" if name else ""


def _section(report: ClaimReport, plots: Mapping[str, str]) -> Iterator[str]:
    yield from (f"## {as_markdown(heading(report))}", "")
    yield from (as_markdown(report.paragraph), "", as_markdown(provenance(report)), "")
    yield from _table(VERDICT_HEAD, verdict_lines(report))
    for name, link in plots.items():
        yield from (f"![{name}]({link})", "", CAPTIONS[name], "")
    yield from ("<details><summary>Figures, ceilings and the map</summary>", "")
    yield from _table(FIGURE_HEAD, figure_lines(report))
    yield from _table(CEILING_HEAD, ceiling_lines(report))
    yield from _table(MAP_HEAD, map_lines(report))
    yield from ("</details>", "")


def _table(head: Sequence[str], lines: Lines) -> Iterator[str]:
    if lines:
        yield from table_lines(head, [LEFT] * len(head), ([as_markdown(c) for c in line] for line in lines))
