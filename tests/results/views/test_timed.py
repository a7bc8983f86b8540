"""Tables on terminals of any width: no figure is cut, none loses its unit, no word of a note is lost."""

import io
import re

import pytest
from rows import case, ceiling

from membound.results.compare import compare_backends
from membound.results.stats import records, summarize
from membound.results.views.comparison import comparison_view
from membound.results.views.console import PlainConsole
from membound.results.views.table import benchmarks_view, duel_view, run_view
from membound.results.views.timed import half_width, times_best
from membound.results.wording import duration, gigabytes_per_s, percent

NAMES = ("mine:cpu+compile", "another:cpu", "onnxruntime:cpu+export")


def rows():
    disturbed = {"grade": "contended", "grade_reasons": ["stolen time: 9 %"]}
    samples = [0.002758, 0.002759, 0.002761]
    return [
        ceiling("read", 24.6e9, "bytes/s"),
        ceiling("fma_f32", 162e9, "FLOP/s"),
        *(
            case(name, samples=[s * (1 + i) for s in samples], replicate=r, **disturbed)
            for i, name in enumerate(NAMES)
            for r in range(3)
        ),
    ]


def shown(view, width):
    out = io.StringIO()
    PlainConsole(file=out, width=width, force_terminal=False).print(view)
    return out.getvalue()


@pytest.mark.parametrize("width", [20, 30, 45, 57, 58, 60, 70, 79, 80, 120, 200])
def test_every_figure_of_a_run_is_whole_at_any_width(width):
    text = shown(run_view(rows()), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    together = re.sub(r"\s+", "", text)
    for line in records(summarize(rows())):
        figures = [duration(line["time_s"]), half_width(line), gigabytes_per_s(line["achieved_bytes_per_s"])]
        figures += [percent(line["mbu"]), percent(line["mfu"]), times_best(line), line["verdict"]]
        for figure in figures:
            assert re.sub(r"\s+", "", figure) in together, figure
        if width >= 45:
            assert duration(line["time_s"]) in text
    assert len(re.findall("contended", together)) >= len(NAMES)
    if width >= 58:
        assert text.count("contended") >= len(NAMES)


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("view", ["benchmarks", "compare", "duel"])
def test_other_tables_cut_nothing_either(view, width):
    lines = records(summarize(rows()))
    made = {
        "benchmarks": lambda: benchmarks_view(rows()),
        "compare": lambda: comparison_view(records(compare_backends(rows(), *NAMES[:2]).table)),
        "duel": lambda: duel_view(lines),
    }[view]()
    text = shown(made, width)
    assert "…" not in text
    together = re.sub(r"\s+", "", text)
    assert "2.759ms" in together or width < 60
    if width >= 60:
        assert "2.759 ms" in text


def test_narrow_tables_have_their_notes_below():
    text = shown(run_view(rows()), 60)
    assert "another:cpu: contended" in text
    assert "another:cpu: contended" not in shown(run_view(rows()), 80)


def test_bytes_that_are_not_known_are_no_bandwidth():
    unknown = case(work="custom:name=test_it", bytes=0, flops=0, traffic={})
    text = shown(run_view([unknown]), 80)
    assert "0.0" not in text
    assert "0 B" not in text
    assert gigabytes_per_s(None) == "–"
    assert (gigabytes_per_s(27.94e9), gigabytes_per_s(3.2e12)) == ("27.9", "3200")
