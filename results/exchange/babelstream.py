"""Output of BabelStream (``--csv``): five kernels as cases with their bytes, and three of them as ceilings.

>>> rows = rows_of(Source("babelstream", document))

Its bytes follow from the table: two or three arrays a kernel. `Dot` only reads and is the `read` ceiling, `Copy` and
`Triad` are those of that name. The table does not name the device. Lines before the header, which the program prints
without ``--csv`` as well, are passed by.
"""

from __future__ import annotations

import re

from membound.results.exchange.document import Document, rows_of_csv
from membound.results.exchange.measurement import Source, custom, time_of
from membound.results.row import Row, RowError

ARRAYS = {"Copy": 2, "Mul": 2, "Add": 3, "Triad": 3, "Dot": 2, "Nstream": 4}
"""Arrays that a kernel reads or writes: the program's own count."""
CEILINGS = {"Dot": "read", "Copy": "copy", "Triad": "triad"}
RATES = {
    "max_mbytes_per_sec": 1e6,
    "max_MB_per_sec": 1e6,
    "max_MiB_per_sec": 2.0**20,
    "max_mibytes_per_sec": 2.0**20,
}
RATES |= {"max_GB_per_sec": 1e9, "max_GiB_per_sec": 2.0**30}
"""The column's name has its unit."""
HEADER = re.compile(r"^function,num_times,n_elements,sizeof,", re.M)


def recognises(document: Document) -> bool:
    """Whether the table of the program stands in it."""
    return bool(HEADER.search(document.text))


def rows_of(source: Source) -> list[Row]:
    """A case for each kernel, and the ceilings."""
    text = source.document.text
    start = HEADER.search(text)
    found = rows_of_csv(source.document.path, text[start.start() if start else 0 :])
    rows: list[Row] = []
    for one in found:
        name, count, size = one["function"], _whole(one, "n_elements"), _whole(one, "sizeof")
        if name not in ARRAYS:
            raise RowError(f"unknown function {name!r}; known: {', '.join(ARRAYS)}")
        moved = ARRAYS[name] * count * size
        times = {
            short: time_of(one[f"{long}_runtime"], f"{long}_runtime")
            for short, long in (("min", "min"), ("max", "max"), ("mean", "avg"))
        }
        rate = _rate(one)
        if rate is not None and times["min"]:
            source.expect(f"the rate of {name}", rate, moved / times["min"], "its bytes over min_runtime")
        rows.append(
            source.case(
                "babelstream:unknown",
                custom(name.lower(), elements=count, bytes=size),
                [],
                times,
                note=f"{one['num_times']} runs",
                bytes=moved,
            )
        )
        if name in CEILINGS and times["min"]:
            sizes = {
                "array_bytes": count * size,
                "variant": f"BabelStream {name}, best of {one['num_times']}",
            }
            rows.append(
                source.ceiling(
                    "babelstream:unknown", CEILINGS[name], moved / times["min"], "bytes/s", config=sizes
                )
            )
    return rows


def _rate(one: dict[str, str]) -> float | None:
    """Bytes a second of the fastest run; None where no column has a unit that is known."""
    return next((time_of(one[key], key) * scale for key, scale in RATES.items() if key in one), None)


def _whole(one: dict[str, str], key: str) -> int:
    if not one[key].isdecimal():
        raise RowError(f"{key}={one[key]!r} is not a whole number")
    return int(one[key])
