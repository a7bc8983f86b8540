"""Reports of claims: the same figures as Markdown and as a page, which needs nothing from outside."""

from __future__ import annotations

import json
import os
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from claims import whole_claim, write_claim

from membound.bench.claim.report import (
    check_reports,
    judged,
    load_reports,
    write_html,
    write_into,
    write_markdown,
)
from membound.bench.cli import main
from membound.bench.report.write import ReportError
from membound.results.claim.experiments import load_experiments
from membound.results.claim.finding import NOT_RUN, REFUTED, Figure
from membound.results.plain_text import as_markdown
from membound.results.report.claim_charts import CAPTIONS, charts_of
from membound.results.report.curves import (
    batch_table,
    elasticity_table,
    free_compute_table,
    region_table,
    residency_table,
    theft_table,
)
from membound.results.report.drawing import ReportUnavailable
from membound.results.report.markdown import MarksMissing, claim_markdown, replaced
from membound.results.report.page import page_html
from membound.results.report.summary import summary_markdown
from membound.results.report.text import provenance
from membound.results.report.whole import whole_report
from membound.results.store import StoreError
from membound.results.views.claim import figure_text

CLAIM = whole_claim()
REPORT = judged(CLAIM, load_experiments())


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return charts_of(CLAIM.observations, REPORT.findings, REPORT.cells)


def test_curves_hold_times_and_both_ceilings():
    table = free_compute_table(CLAIM.observations)
    assert sorted(set(table.curve)) == ["alpha:cpu linear_f32", "beta:cpu linear_f32"]
    of = table[table.curve == "alpha:cpu linear_f32"]
    assert list(of.k) == [0, 1, 2, 4, 8, 11, 16, 24, 32, 48]
    assert (of.low_ms <= of.time_ms).all()
    assert (of.time_ms <= of.high_ms).all()
    assert of.memory_ms.nunique() == 1
    assert (of.compute_ms / (of.k + 1)).round(6).nunique() == 1
    assert sorted(set(batch_table(CLAIM.observations).curve)) == ["alpha:cpu attention", "alpha:cpu linear"]


def test_points_of_theft_residency_and_the_map():
    theft = theft_table(CLAIM.observations)
    assert len(theft) == 2 * 3 * 4
    whole = theft[(theft.thief == "bandwidth") & (theft.share == 1.0)]
    assert whole.slowdown.mean() == pytest.approx(0.5, abs=0.05)
    residency = residency_table(CLAIM.observations)
    assert residency[residency.caches < 1].share.mean() == pytest.approx(1.8, rel=0.05)
    assert len(region_table(REPORT.cells)) == len(REPORT.cells)


def test_every_elasticity_is_in_the_forest():
    table = elasticity_table(REPORT.findings)
    assert set(table.kind) >= {
        "d ln t / d ln bytes",
        "d ln t / d ln FLOPs below the knee",
        "d ln t / d ln FLOPs",
    }
    assert len(table) == sum("d ln t" in f.name for one in REPORT.findings for f in one.figures)


def test_nothing_measured_gives_no_chart():
    assert charts_of([], [], []) == {}


def test_every_chart_is_svg_with_its_names_and_no_address(drawn):
    assert set(drawn) == set(CAPTIONS)
    for name, svg in drawn.items():
        root = ET.fromstring(svg)
        assert float(root.get("width", "0")) > 200, name
        assert set(re.findall(r"https?://[^\"'\s)]+", svg)) <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
        }
    assert "bytes / bandwidth" in drawn["free compute"]
    assert "FLOPs / peak" in drawn["free compute"]
    assert "alpha:cpu linear_f32" in drawn["free compute"]
    assert "refuted" in drawn["elasticities"]


class Page(HTMLParser):
    """What a page loads, what it says, and whether its elements close."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.loaded += [f"{name}={given[name]}" for name in ("src", "href", "xlink:href") if given.get(name)]
        self.ids += [given["id"] or ""] if "id" in given else []

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_loads_nothing_and_says_everything(drawn):
    page = Page()
    html = page_html(replace(whole_report([], [REPORT, REPORT]), claim_charts=[drawn, {}]))
    page.feed(html)
    assert page.loaded
    assert {link.partition("#")[0] for link in page.loaded} == {"href="}  # places in the page
    assert not {"link", "iframe", "img"} & set(page.tags)
    assert page.tags.count("svg") == len(drawn)
    assert len(set(page.ids)) == len(page.ids)
    assert not re.search(r"@import|url\((?!#)", html)
    assert {link.partition("#")[2] for link in page.loaded} <= set(page.ids)
    text = " ".join("".join(page.text).split())
    assert REPORT.paragraph in text
    assert all(finding.sentence in text for finding in REPORT.findings)
    assert all(e.falsified_if in text for e in REPORT.register)
    assert "SIGSEGV & co" in text
    assert "linear_<int8>" in text
    assert REPORT.register.sha256 in text
    assert all(f"url(#{name})" in html for name in page.ids if "clip" in name)


def test_markdown_has_a_line_for_each_finding_and_figure():
    text = claim_markdown([REPORT], {})
    lines = text.splitlines()
    assert REPORT.paragraph in lines
    for finding in REPORT.findings:
        assert any(
            as_markdown(finding.sentence) in line and f"| {finding.verdict} |" in line for line in lines
        )
    figures = sum(len(f.figures) for f in REPORT.findings)
    assert sum(line.startswith("| ") for line in lines) >= figures + len(REPORT.findings)
    assert {line.count(" | ") for line in lines if line.startswith("| 1 free compute")} == {4, 6}
    free = next(f for f in REPORT.findings if f.experiment == 1)
    assert any(line.endswith(f"| {free.processes} | 0 of {free.observations} |") for line in lines)


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        (Figure("", 0.0312, 0.01, 0.052, "%"), "3.12 % [1 %, 5.2 %]"),
        (Figure("", 0.98, 0.9512, 1.0088), "0.98 [0.951, 1.01]"),
        (Figure("", 22.2, 21.0, float("inf"), "k"), "k = 22.2 [21, none]"),
        (Figure("", 3e-6, 0.0, 4e-6, "s"), "3 µs [0 s, 4 µs]"),
        (Figure("", 3e10, unit="bytes/s"), "30.0 GB/s"),
        (Figure("", 1.0, float("nan"), float("nan")), "1"),
        (Figure("", float("nan")), "–"),
    ],
)
def test_figures_are_written_with_units_and_intervals(figure, words):
    assert figure_text(figure) == words


def test_other_rules_than_those_of_the_measurement_are_told():
    assert "by which it is judged here too" in provenance(REPORT)
    other = replace(REPORT, claim=replace(CLAIM, meta=replace(CLAIM.meta, experiments_sha256="f" * 64)))
    assert f"judged here by version {REPORT.register.version}" in provenance(other)


# Files and the command


def linked(path: Path) -> list[Path]:
    """What a document leads to, without places in pages."""
    return [
        path.parent / link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8"))
    ]


def test_a_document_keeps_all_but_what_stands_between_its_marks(tmp_path):
    path = tmp_path / "notes.md"
    path.write_text("before\n<!-- claims -->\nstale text\n<!-- /claims -->\nafter\n")
    here, there = replace(REPORT, place="Big Iron"), replace(REPORT, place="laptop")
    written = write_into([here, there], path)
    assert sorted(one.relative_to(tmp_path).as_posix() for one in written) == [
        *("claims/big-iron.md", "claims/experiments.md", "claims/laptop.md", "notes.md")
    ]
    first = {one: one.read_text() for one in written}
    assert first[path].startswith("before\n<!-- claims -->\n")
    assert first[path].endswith("<!-- /claims -->\nafter\n")
    assert "stale text" not in first[path]
    assert set(linked(path)) == {*written} - {path}
    assert write_into([here, there], path) == written
    assert {one: one.read_text() for one in written} == first
    with pytest.raises(MarksMissing, match="lacks the lines <!-- claims --> and <!-- /claims -->"):
        replaced("nothing", "claims", "new")


def test_pages_have_their_claims_their_charts_and_the_way_back(tmp_path):
    path = tmp_path / "notes.md"
    path.write_text("<!-- claims --><!-- /claims -->")
    write_into([replace(REPORT, place="here"), replace(REPORT, place="there")], path)
    for name in ("here", "there"):
        page = tmp_path / f"claims/{name}.md"
        text = page.read_text()
        assert text.startswith(f"# {name}\n")
        assert text.count(REPORT.paragraph) == 1
        found = linked(page)
        assert found[0].resolve() == path
        assert len(found) == 1 + len(CAPTIONS)
        assert all(file.read_text().startswith("<svg") for file in found[1:])
    experiments = (tmp_path / "claims/experiments.md").read_text()
    assert all(e.falsified_if in experiments for e in REPORT.register)


def test_the_summary_has_a_column_for_each_machine_and_a_line_for_each_experiment():
    other = replace(
        REPORT,
        place="other",
        findings=[replace(f, verdict=REFUTED) for f in REPORT.findings if f.experiment == 4],
    )
    late = replace(CLAIM.meta, started_at="2027-01-02T03:04:05+00:00")
    text = summary_markdown(
        [
            replace(REPORT, place="one"),
            replace(REPORT, place="one", claim=replace(CLAIM, meta=late), findings=[]),
            other,
        ],
        "pages",
    )
    table = {
        row[0]: row[1:] for row in (line[2:-2].split(" | ") for line in text.splitlines() if line[:2] == "| ")
    }
    assert table[""] == ["[one](pages/one.md)", "[other](pages/other.md)"]
    assert table["machine"] == ["Test CPU, 2 threads"] * 2
    assert table["measured"] == [f"{CLAIM.meta.started_at[:10]}, 2027-01-02", CLAIM.meta.started_at[:10]]
    assert table["**the claim**"] == ["holds on alpha:cpu; fails on beta:cpu", "fails on alpha:cpu"]
    slopes = {
        f.backend: f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f}) on {f.backend}"
        for f in REPORT.findings
        if f.experiment == 2
        for one in f.figures[:1]
    }
    assert table["**d ln t / d ln bytes**"] == [f"{slopes['alpha:cpu']}; {slopes['beta:cpu']}", "–"]
    assert table["[4 theft](pages/experiments.md#4-theft)"] == ["1 supported", "1 refuted"]
    assert table["[8 clocks](pages/experiments.md#8-clocks)"] == ["not run", "not run"]
    for experiment in REPORT.register:
        (cell,) = [row for name, row in table.items() if name.startswith(f"[{experiment.id} ")]
        counted = sum(f.experiment == experiment.id and f.verdict != NOT_RUN for f in REPORT.findings)
        assert sum(map(int, re.findall(r"\d+", cell[0]))) == counted


def test_files_are_written_with_their_plots(tmp_path):
    write_markdown([REPORT], tmp_path / "claim.md")
    text = (tmp_path / "claim.md").read_text()
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(links) == len(CAPTIONS)
    assert all((tmp_path / link).read_text().startswith("<svg") for link in links)
    with pytest.raises(ReportError, match="cannot be written"):
        write_html([], tmp_path / "claim.md" / "page.html")
    with pytest.raises(ReportError, match="cannot be read"):
        write_into([], tmp_path / "none.md")


def test_reports_are_refused_before_anything_is_measured(tmp_path):
    check_reports(None, None)
    check_reports(tmp_path / "page.html", tmp_path / "claim.md")
    with pytest.raises(StoreError, match="is a folder; name a file"):
        check_reports(tmp_path, None)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="pipe is no file; name one"):
        check_reports(tmp_path / "pipe", None)
    with pytest.raises(StoreError, match="there is no folder"):
        check_reports(None, tmp_path / "none" / "claim.md")


def test_without_the_extra_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(ReportUnavailable, match=r"charts need altair.*pip install 'membound\[report\]'"):
        charts_of(CLAIM.observations, REPORT.findings, REPORT.cells)


def status_of(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    return int(stopped.value.code or 0)


def test_the_command_judges_stored_claims_again(tmp_path, capsys):
    write_claim(tmp_path / "machine", CLAIM)
    assert status_of("claim-report", tmp_path) == 0
    assert REPORT.paragraph in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert status_of("claim-report", tmp_path, "--html", page, "--json") == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["paragraph"] == REPORT.paragraph
    assert [f["verdict"] for f in record["findings"]] == [f.verdict for f in REPORT.findings]
    assert len(record["region"]) == len(REPORT.cells)
    assert "<svg" in page.read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such claim file or folder"),
        ("", "does not begin with a line of kind meta"),
        ('{"kind":"meta","schema_version":99}\n', "line 1: written by a newer membound"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, capsys, content, message):
    path = tmp_path / "claim-x.jsonl"
    if content is not None:
        path.write_text(content)
    assert status_of("claim-report", path) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_one_file_is_not_written_twice_and_nothing_by_halves(tmp_path, capsys):
    write_claim(tmp_path / "machine", CLAIM)
    for markdown, said in (
        ("x", "is named for both the page and the Markdown"),
        ("none/x.md", "there is no folder"),
    ):
        given = ("--html", tmp_path / "x", "--markdown", tmp_path / markdown)
        for command in (("claim-report", tmp_path / "machine"), ("claim",)):
            assert status_of(*command, *given) == 2
            assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["machine"]


@pytest.mark.parametrize("option", ["--html", "--markdown"])
def test_a_claim_is_not_measured_for_a_report_that_cannot_be_written(tmp_path, monkeypatch, capsys, option):
    monkeypatch.chdir(tmp_path)
    assert status_of("claim", option, tmp_path) == 2
    assert "is a folder; name a file" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert status_of("claim", option, tmp_path / "report") == 2
    assert "pip install 'membound[report]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_claims_says_what_makes_one(tmp_path):
    with pytest.raises(ReportError, match="`membound claim` makes one"):
        load_reports([tmp_path])
    with pytest.raises(StoreError, match="no such claim file or folder"):
        load_reports([tmp_path / "none"])
