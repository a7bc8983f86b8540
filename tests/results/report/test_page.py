"""The page: self-contained, whatever texts come from files; figures with hints, missing ones with reasons."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser

import pytest
from report_rows import EVIL, report_rows
from rows import case

from membound.results.plain_text import as_html
from membound.results.report.page import SCRIPT, page_html
from membound.results.report.whole import Report, whole_report
from membound.results.report.whole_markdown import report_markdown
from membound.results.row import Row


class Elements(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def page_of(rows: list[Row]) -> tuple[str, Elements]:
    html = page_html(whole_report(rows))
    return html, Elements(html)


def test_the_page_opens_with_the_answer_and_loads_nothing():
    html, page = page_of(report_rows())
    assert html.index("Which is fastest") < html.index("All cases</h2>")
    assert [tag for tag, _ in page.found if tag in ("link", "img", "iframe", "object", "base")] == []
    assert not [a for _, a in page.found if a.get("src")]
    links = {str(a["href"]) for a in page.of("a")}
    ids = [a["id"] for _, a in page.found if a.get("id")]
    assert links
    assert {link[1:] for link in links} <= set(ids)
    assert len(ids) == len(set(ids))


def test_only_its_own_script_may_run():
    _, page = page_of(report_rows())
    (policy,) = [a["content"] for a in page.of("meta") if a.get("http-equiv")]
    digest = b64encode(sha256(SCRIPT.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none'")
    assert len(page.of("script")) == 1


def test_strings_of_files_are_text():
    html, page = page_of(report_rows(evil=True))
    assert EVIL not in html
    assert as_html(EVIL) in html
    assert EVIL in page.text
    assert "\x1b" not in html
    assert "be\\x1b[31mta:cpu" in page.text
    assert "=cmd|' /C calc'!A0" in page.text


def test_every_figure_has_its_interval_validity_and_command():
    _, page = page_of(report_rows())
    times = [
        a
        for a in page.of("td")
        if "f" in str(a.get("class")).split() and "95 % interval" in str(a.get("data-t"))
    ]
    assert len(times) >= 30
    hows = [a for a in page.of("details") if a.get("data-v")]
    assert len(hows) == 30
    assert {str(a["data-v"]).split()[0] for a in hows} == {"clean", "contended"}
    assert page.text.count("membound run step:model=llama-3.2-1b") == 30


def test_disturbed_rows_are_graded_and_there():
    _, page = page_of(report_rows())
    grades = [a.get("class") for a in page.of("tr") if str(a.get("id", "")).startswith("c")]
    assert grades.count("contended") == 15
    assert "◐ contended" in page.text


def test_the_cells_of_a_narrow_screen_are_labelled_with_the_columns_own_names():
    html, _ = page_of(report_rows())
    labels = re.findall(r'::before\{content:"([^"]*)"\}', html)
    assert {"machine", "work", "±", "×best"} <= set(labels)


def test_what_is_missing_is_a_dash_with_its_reason():
    html, _ = page_of([case(bytes=0, flops=0)])
    hints = dict.fromkeys(re.findall(r'data-t="([^"]*)">–<', html))
    assert "nothing says how many bytes it moves" in hints
    assert "no ceiling that bounds this work was measured on this device in its run" in hints
    assert "no interval: it takes three processes" in hints


def test_without_a_time_the_page_says_why():
    html, page = page_of([case(samples=(), status="oom", reason="8 GB are not there", error=None)])
    assert "No case has a time, so nothing is decided." in page.text
    assert 'data-t="oom: 8 GB are not there">–' in html


def test_without_the_libraries_the_page_says_what_to_install():
    report = whole_report(report_rows())
    reason = "charts need altair, which is not installed: pip install 'membound[report]'"
    html = page_html(
        Report(report.answers, report.shown, report.points, report.ceilings, (), without_charts=reason)
    )
    assert as_html(f"No charts: {reason}") in html
    assert "<svg" not in html


@pytest.mark.parametrize("count", [1000])
def test_a_thousand_cases_leave_room_for_their_charts(count):
    rows = [
        case(
            f"backend{n % 5}:cpu+variant",
            f"linear:n=14336,k=4096,m={n},weight=bf16,act=float",
            samples=[1e-3 + 1e-6 * n],
        )
        for n in range(count)
    ]
    html, page = page_of(rows)
    assert len([a for a in page.of("tr") if str(a.get("id", "")).startswith("c")]) == count
    assert len(html.encode()) < 1_600_000  # of 3 MB; a thousand marks in two charts take less than another


def test_markdown_has_the_answer_and_the_links():
    rows = report_rows(evil=True)
    text = report_markdown(whole_report(rows), rows, {})
    assert "- **Which is fastest**: alpha:cpu in 5 of 5 works" in text
    assert EVIL not in text
    assert "**load:rate=10**" in text
