"""docs/exchange.md and docs/published.md say what the importers, the exporters and the published files are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from membound.bench.claim.published_page import renew
from membound.results import compared_groups, partners
from membound.results.exchange.document import MOST_BYTES
from membound.results.exchange.exports import EXPORTERS
from membound.results.exchange.formats import FORMATS
from membound.results.exchange.request_metrics import METRICS
from membound.results.published_runs import INDEX, folder, index_of

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs/exchange.md").read_text()
ROWS = (ROOT / "docs/rows.md").read_text()


def table_after(text: str, heading: str) -> dict[str, str]:
    """The first table below a heading: names in backticks in the first cell to the rest of the line."""
    section = re.split(r"^## ", text.partition(heading)[2], maxsplit=1, flags=re.M)[0]
    lines = re.findall(r"^\| (`.*?) \| (.*) \|$", section, re.M)
    return {name: rest for cell, rest in lines for name in re.findall(r"`([^`]+)`", cell)}


def test_every_format_that_is_read_is_documented_and_no_other():
    before_metrics = DOC.partition("### ")[0]
    assert set(table_after(before_metrics, "## In")) == {one.name for one in FORMATS}


def test_every_format_that_is_written_is_documented_with_its_ending():
    told = table_after(DOC, "## Out")
    assert set(told) == set(EXPORTERS)
    for name, one in EXPORTERS.items():
        assert told[name].startswith(one.what)
        assert re.findall(r"`(\.\w+)`", told[name]) == list(one.suffixes)


def test_every_metric_is_documented_in_the_words_of_the_code():
    assert table_after(DOC, "### Requests to a server") == METRICS


def test_the_largest_file_is_documented():
    assert f"Files of up to {MOST_BYTES >> 20} MiB are read" in DOC


@pytest.mark.parametrize(
    ("heading", "columns"),
    [
        ("## Groups of a comparison", compared_groups.COLUMNS),
        ("## Cases without a partner", partners.COLUMNS),
    ],
    ids=["groups", "partners"],
)
def test_the_columns_of_a_comparisons_parts_are_documented(heading, columns):
    assert table_after(ROWS, heading) == columns


def test_the_published_index_and_page_are_what_the_command_makes_of_the_files(tmp_path):
    """Every published run is loaded, judged and summarised for it; the claims are by test_claim_docs.py."""
    hint = "renew them: membound published results/published --into docs/published.md"
    page, place = ROOT / "docs/published.md", tmp_path / "published"
    place.mkdir()
    for path in (ROOT / "results/published").glob("*/2*.jsonl"):
        (place / path.parent.name).mkdir(exist_ok=True)
        (place / path.parent.name / path.name).symlink_to(path)
    (tmp_path / "published.md").write_text(page.read_text())
    written = renew(place, index_of(place), tmp_path / "published.md")
    assert (tmp_path / "published.md").read_text() == page.read_text(), hint
    assert (place / INDEX).read_text() == (folder() / INDEX).read_text(), hint
    plots = {path.name for path in (ROOT / "docs/published-plots").iterdir()}
    assert plots == {path.name for path in written if path.suffix == ".svg"}, hint
