"""Output of nvbandwidth (``--json``): the links of a machine as ceilings, one a cell of each matrix.

>>> rows = rows_of(Source("nvbandwidth", document))

Unit and direction stand in the description of a test case, such as ``memcpy CE CPU(row) -> GPU(column) bandwidth
(GB/s)``; its GB are 10⁹ bytes. A description without a unit that is known leaves its test case without a figure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from membound.results.exchange.document import Document
from membound.results.exchange.measurement import Source, number_of, time_of
from membound.results.row import Row

UNITS = {"GB/s": (1e9, "bytes/s"), "ns": (1e-9, "s")}
STATUSES = {"Passed": "ok", "Waived": "unsupported", "Not Found": "unsupported"}
UNIT = re.compile(r"\(([^()]*)\)\s*$")
NO_FIGURE = "N/A"


def recognises(document: Document) -> bool:
    """Whether it is a file of the program."""
    return document.has("nvbandwidth") and isinstance(document.content["nvbandwidth"], dict)


def rows_of(source: Source) -> list[Row]:
    """A ceiling for each pair of devices of each test case; one without figures is a row with its reason."""
    found = source.document.content["nvbandwidth"]
    version = {"nvbandwidth": str(found["version"])} if found.get("version") else {}
    driver = {"driver": found["Driver Version"]} if found.get("Driver Version") else {}
    rows = [row for case in found.get("testcases") or () for row in _test_case(source, case, version, driver)]
    if found.get("error"):
        rows.append(
            source.row(
                "ceiling",
                "nvbandwidth:unknown",
                "limits",
                status="error",
                reason=str(found["error"]),
                versions=version,
            )
        )
    return rows


def _test_case(
    source: Source, case: Mapping[str, Any], version: dict[str, str], driver: dict[str, Any]
) -> list[Row]:
    name, description = str(case.get("name")), str(case.get("bandwidth_description") or "")
    status = STATUSES.get(str(case.get("status")), "error")
    matched = UNIT.search(description)
    unit = matched[1] if matched else ""
    common: dict[str, Any] = {"versions": version, "accelerator": dict(driver)}
    if status != "ok" or unit not in UNITS:
        reason = str(case.get("error") or case.get("status") or "no status")
        if status == "ok":
            status, reason = "error", f"its description names no unit that is known: {description!r}"
        return [source.row("ceiling", "nvbandwidth:unknown", name, status=status, reason=reason, **common)]
    scale, stored = UNITS[unit]
    cells = [
        (row, column, time_of(cell, f"a cell of {name}"))
        for row, line in enumerate(case.get("bandwidth_matrix") or ())
        for column, cell in enumerate(line)
        if cell != NO_FIGURE
    ]
    if number_of(case.get("sum")) is not None:
        source.expect(
            f"the sum of {name}", case["sum"], sum(value for *_, value in cells), "adding its cells"
        )
    return [
        source.ceiling(
            f"nvbandwidth:cuda:{column}",
            name,
            value * scale,
            stored,
            config={"variant": description, "row": row, "column": column},
            **common,
        )
        for row, column, value in cells
        if value
    ]
