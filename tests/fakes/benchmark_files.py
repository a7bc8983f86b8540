"""Files of pytest-benchmark as its plugin writes them."""

from __future__ import annotations

import json

from membound.results.exchange.pytest_benchmark import file_info, info_of
from membound.results.stats import records, summarize


def write(path, value):
    path.write_text(json.dumps(value))
    return path


SAMPLES = [0.011, 0.010, 0.012, 0.010, 0.030]
STATS = {"min": 0.010, "q1": 0.010, "median": 0.011, "q3": 0.0165, "max": 0.030, "rounds": 5, "iterations": 3}


def content(extra_info=None, data=SAMPLES, **top):
    stats = STATS | ({"data": list(data)} if data else {})
    found = {"name": "test_it[x:1]", "fullname": "tests/test_a.py::test_it[x:1,2]", "stats": stats}
    return {
        "benchmarks": [found | {"extra_info": extra_info or {}}],
        "machine_info": {"cpu": {"brand_raw": "Some CPU"}},
        "datetime": "2026-11-22T01:02:03+00:00",
        **top,
    }


def stored(row, ceilings):
    (line,) = records(summarize([*ceilings, row]))
    return content(info_of(row, line), membound=file_info(ceilings))
