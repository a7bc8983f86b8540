"""When other tools measured: their ways to write a date, as one."""

from pathlib import Path

import pytest

from membound.results.exchange.formats import read_foreign
from membound.results.exchange.moment import moment_of

FILES = Path(__file__).with_name("files")


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("20261128-151137", "2026-11-28T15:11:37"),
        ("2026-11-28T15:05:58.098366", "2026-11-28T15:05:58.098"),
        ("2026-11-29T20:23:48Z", "2026-11-29T20:23:48+00:00"),
        ("2026-11-29T00:16:44+02:00", "2026-11-28T22:16:44+00:00"),
        (1795878785.3113985, "2026-11-28T15:13:05.311+00:00"),
        *((value, "") for value in ("yesterday", "", None, True, [], 0, -1.0, float("nan"), 1e300)),
        ("0001-01-01T00:00:00+02:00", ""),
    ],
)
def test_a_date_is_written_in_one_way_or_is_none(value, moment):
    assert moment_of(value) == moment


@pytest.mark.parametrize(
    ("name", "moments"),
    [
        ("vllm-serve.json", {"2026-11-28T15:11:37"}),
        ("aiperf.json", {"2026-11-28T15:13:58.394"}),
        ("aiperf.jsonl", {"2026-11-28T15:13:58.398+00:00"}),
        ("guidellm.json", {"2026-11-28T15:13:05.311+00:00"}),
        ("google-benchmark.json", {"2026-11-29T00:16:44+00:00"}),
        ("pytest-benchmark.json", {"2026-11-28T15:46:51.397+00:00"}),
        ("backend-ops.csv", {"2026-11-28T12:00:00+00:00", "2026-11-28T12:00:01+00:00"}),
    ],
)
def test_rows_say_when_the_file_was_measured(name, moments):
    assert {row.started_at for row in read_foreign(FILES / name).rows} >= moments


def test_files_of_several_tools_are_in_the_order_of_time():
    names = ("google-benchmark.json", "vllm-serve.json", "guidellm-burst.json", "aiperf-starved.json")
    began = {read_foreign(FILES / name).rows[0].started_at: name for name in names}
    assert [began[moment] for moment in sorted(began)] == [
        "aiperf-starved.json",
        "vllm-serve.json",
        "guidellm-burst.json",
        "google-benchmark.json",
    ]
