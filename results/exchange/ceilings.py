"""Ceilings of a stored run under the rows of an imported file, so that their bytes become shares of a named limit.

>>> rows = with_ceilings(rows, limits, "20261128T210353-intel-xeon-d8e2")

The copies say in their `config` which run they are from. Other tools' files hardly ever name their device, so it must
follow from the run: one that measured several devices is refused unless the rows name one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from membound.errors import MemboundError
from membound.results.roofline import device_class
from membound.results.row import Row

UNKNOWN = "unknown:0"
"""The class of a device that a file does not name."""


class CeilingsMissing(MemboundError, ValueError):
    """The named run cannot serve as a limit; the message says what it lacks."""


def with_ceilings(rows: Sequence[Row], limits: Sequence[Row], name: str) -> list[Row]:
    """The rows, after copies of the ceilings of `limits` for each device and number of threads in them.

    Raises CeilingsMissing if there are none, or if it is open whose they are.
    """
    known = [row for row in limits if row.kind == "ceiling" and row.status == "ok" and row.unit != "s"]
    classes = sorted({device_class(row.backend) for row in known})
    if not known:
        raise CeilingsMissing(
            f"{name} holds no ceilings of bandwidth or arithmetic; name a run that measured some"
        )
    copies: list[Row] = []
    for of_rows, threads in dict.fromkeys(
        (device_class(r.backend), r.threads) for r in rows if r.kind == "case"
    ):
        of_limits = of_rows if of_rows in classes else classes[0]
        if of_rows not in classes and (of_rows != UNKNOWN or len(classes) > 1):
            raise CeilingsMissing(
                f"{name} has ceilings of {', '.join(classes)}, the file is of "
                f"{'a device that it does not name' if of_rows == UNKNOWN else of_rows}; name a run of that device alone"
            )
        for one in known:
            if device_class(one.backend) == of_limits:
                backend = "unknown:unknown" if of_rows == UNKNOWN else one.backend
                config = one.config | {"of_run": one.run_id}
                copies.append(
                    replace(one, run_id=rows[0].run_id, backend=backend, threads=threads, config=config)
                )
    return [*copies, *rows]
