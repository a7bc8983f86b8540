"""Runs as JUnit XML: a test case for each case, so that CI systems list times and failures as they do those of tests.

>>> path.write_text(junit_text(rows))

A case that failed is a failure, one that a runtime cannot do, or whose device is missing, is skipped. The figures are
properties of each test case. A slow case does not fail: that is for `membound gate`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree

from membound.results.plain_text import visible
from membound.results.row import Row
from membound.results.stats import records, summarize

SKIPPED = ("unsupported", "unavailable")
PROPERTIES = ("bytes", "flops", "mbu", "mfu", "of_bound", "verdict", "validity", "replicates")


def junit_text(rows: Iterable[Row]) -> str:
    """The document: a suite for each run."""
    lines = records(summarize(rows))
    root = ElementTree.Element("testsuites", name="membound")
    for run in dict.fromkeys(line["run_id"] for line in lines):
        cases = [line for line in lines if line["run_id"] == run]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_text(run),
            tests=str(len(cases)),
            failures=str(sum(_failed(line) for line in cases)),
            skipped=str(sum(line["status"] in SKIPPED for line in cases)),
            errors="0",
            time=repr(float(sum(line["time_s"] or 0 for line in cases))),
        )
        for line in cases:
            _case(suite, line)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _failed(line: dict[str, Any]) -> bool:
    return line["status"] not in ("ok", *SKIPPED)


def _case(suite: ElementTree.Element, line: dict[str, Any]) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", classname=_text(line["backend"]), name=_text(line["work"])
    )
    if line["time_s"] is not None:
        case.set("time", repr(line["time_s"]))
    properties = ElementTree.SubElement(case, "properties")
    for name in PROPERTIES:
        if line[name] is not None:
            ElementTree.SubElement(properties, "property", name=name, value=_text(line[name]))
    if _failed(line):
        ElementTree.SubElement(case, "failure", type=_text(line["status"]), message=_text(line["reason"]))
    elif line["status"] in SKIPPED:
        ElementTree.SubElement(case, "skipped", message=_text(f"{line['status']}: {line['reason']}"))


def _text(value: Any) -> str:
    """What XML can hold: no control characters, which `visible` shows as escapes, and neither of the two that are none."""
    return visible(str(value)).replace("\ufffe", "").replace("\uffff", "")
