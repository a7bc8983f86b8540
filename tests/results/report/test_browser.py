"""The page in a headless Chromium: no console error, no request, nothing that shuts people out, on wide and narrow screens."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from claims import whole_claim
from fleet_rows import fleet_rows
from report_rows import EVIL, STEERING, case, report_rows

from membound.bench.claim.report import judged
from membound.results.claim.experiments import load_experiments
from membound.results.report.page import page_html
from membound.results.report.whole import whole_report, with_charts

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = importlib.util.find_spec("axe_playwright_python") and importlib.util.find_spec("playwright")
WHY = (
    "needs Chromium: apt-get install chromium"
    if CHROMIUM is None
    else "needs a driver: pip install -c constraints.txt 'membound[browser]'"
    if DRIVER is None
    else ""
)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(WHY), reason=WHY)]
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with every section, its texts hostile."""
    claim = judged(whole_claim(), load_experiments())
    path = tmp_path_factory.mktemp("page") / "report.html"
    fleet = fleet_rows(20, slow={4: 0.9}, days=["2026-11-01", "2026-11-02"], names={4: EVIL, 5: STEERING})
    path.write_text(page_html(with_charts(whole_report([*report_rows(evil=True), *fleet], [claim]))))
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def opened(browser: Any, address: str, **options: Any) -> tuple[Any, list[str]]:
    """The page, and what it complained of or asked for."""
    page = browser.new_context(**options).new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: (heard.append("dialog"), dialog.dismiss()))
    page.on("request", lambda request: heard.append(request.url) if request.url != address else None)
    page.goto(address)
    assert page.evaluate("document.documentElement.dataset.ready")
    return page, heard


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_nothing_is_broken_and_nobody_is_shut_out(browser, address, width, scheme):
    import axe_playwright_python

    view = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    page, heard = opened(browser, address, **view, bypass_csp=True)
    assert heard == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in SERIOUS] == []
    page.context.close()


def test_charts_are_as_wide_as_the_screen_at_most(browser, address):
    page, _ = opened(browser, address, viewport={"width": 400, "height": 800})
    widths = page.evaluate(
        "[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().width)"
    )
    assert len(widths) > 20
    assert 200 < min(widths) <= max(widths) <= 400
    page.context.close()


def test_tables_sort_and_filter(browser, address):
    page, _ = opened(browser, address)
    times = "[...document.querySelectorAll('#cases tbody tr:not([hidden])')].map(r => +r.querySelector('td[data-n]').dataset.n)"
    before = page.evaluate(times)
    page.click("#cases th button:text('time')")
    assert page.evaluate(times) == sorted(before)
    page.click("#cases th button:text('time')")
    assert page.evaluate(times) == sorted(before, reverse=True)
    assert page.get_attribute("#cases th[aria-sort]", "aria-sort") == "descending"
    page.fill("#all-cases input[type=search]", "context=4096 alpha")
    assert len(page.evaluate(times)) == 3
    assert page.inner_text("#all-cases [role=status]") == "3 of 30 rows"
    page.context.close()


def test_a_cell_of_the_fleet_leads_to_the_row_of_its_device(browser, address):
    page, _ = opened(browser, address)
    assert page.inner_text("#fleet .card h3").startswith("<script>alert(1)</script> cuda:0, rack r1: ")
    assert page.locator("#fleet-map-1 a").count() == 20
    page.focus("#fleet-map-1 a[tabindex='0']")
    page.keyboard.press("Enter")
    key = page.evaluate("location.hash.slice(1)")
    assert page.inner_text(f"#{key} td:nth-child(1)") == "node-00"
    page.fill("#fleet input[type=search]", "slower")
    assert page.locator("#fleet-devices tbody tr:not([hidden])").count() == 1
    page.context.close()


def test_hints_come_by_pointer_and_by_keyboard(browser, address):
    page, _ = opened(browser, address)
    page.hover("#cases td.f[data-n]")
    shown = page.inner_text("#tip")
    assert "95 % interval" in shown
    assert "membound run step:" in shown
    page.focus("#cases td.f[tabindex='0']")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('tr').rowIndex") == 2
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
    page.keyboard.press("Escape")
    assert page.is_hidden("#tip")
    page.focus("#roofline-1 a[tabindex='0']")
    page.keyboard.press("ArrowRight")
    assert "membound run step:" in page.inner_text("#tip")
    assert page.evaluate("document.querySelectorAll('#roofline-1 a[tabindex=\"0\"]').length") == 1
    page.context.close()


def test_a_mark_leads_to_its_row_though_it_was_filtered_out(browser, address):
    page, _ = opened(browser, address)
    page.fill("#all-cases input[type=search]", "nothing has this")
    page.focus("#roofline-1 a[tabindex='0']")
    page.keyboard.press("Enter")
    key = page.evaluate("location.hash.slice(1)")
    page.wait_for_function("key => document.getElementById(key).querySelector('details').open", arg=key)
    assert page.is_visible(f"#{key}")
    page.context.close()


def test_a_thousand_cases_answer_at_once(browser, tmp_path):
    """From opening the file to a filtered table: 0.9 to 1.3 s on two cores of an AMD Zen 4, twice that beside four processes.

    Two seconds are the bar; a test that runs beside others has room for more.
    """
    rows = [
        case(
            f"backend{n % 5}:cpu+variant",
            f"linear:n=14336,k=4096,m={n // 5 + 1},weight=bf16,act=float",
            samples=[1e-3 + 1e-6 * n],
        )
        for n in range(1000)
    ]
    path = tmp_path / "report.html"
    path.write_text(page_html(with_charts(whole_report(rows))))
    assert path.stat().st_size <= 3_000_000
    took = []
    for _ in range(3):
        begun = time.monotonic()
        page, heard = opened(browser, path.as_uri())
        page.fill("#all-cases input[type=search]", "m=77 backend3")
        assert page.inner_text("#all-cases [role=status]") == "1 of 1000 rows"
        took.append(time.monotonic() - begun)
        assert heard == []
        page.context.close()
    assert min(took) <= 5


def test_without_scripts_everything_is_there(browser, address):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(address)
    assert page.locator("#cases tbody tr").count() == 30
    page.locator("#cases summary").first.press("Enter")
    assert page.locator("#cases details[open] code").first.is_visible()
    page.context.close()


def test_it_prints_without_its_controls(browser, address):
    page, _ = opened(browser, address)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.is_hidden("nav")
    assert page.is_hidden(".filters >> nth=0")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert (
        page.evaluate("getComputedStyle(document.querySelector('figure svg text:not([fill=white])')).fill")
        == "rgb(0, 0, 0)"
    )
    page.context.close()


def test_paper_cuts_nothing_off(browser, address):
    page, _ = opened(browser, address, viewport={"width": 718, "height": 1000})
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    page.context.close()
