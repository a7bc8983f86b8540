"""What makes a client the limit of a point."""

from __future__ import annotations

import pytest

from membound.bench.serving.client import Played
from membound.bench.serving.client_limits import client_facts, client_reasons
from membound.bench.serving.clocks import TIMESPEC, Clocks
from membound.bench.serving.raw import RawAnswer
from membound.bench.serving.unpacking import unpack
from membound.results.serving.request import Request
from membound.results.serving.window import Window

MS = 1_000_000
WELL = {
    "lag_p99_s": 0.0002,
    "late_p99_s": 0.0004,
    "cpu_share": 0.1,
    "kernel_times": True,
    "behind_share": 0.0,
}


def request(reads: list[int], sent_s: float = 0.0) -> Request:
    times = [1.0 + read for read in reads]
    return Request(0.0, sent_s, times, [1] * len(reads), reads, ended_s=times[-1])


def test_a_client_that_keeps_up_spoils_nothing() -> None:
    assert client_reasons(WELL) == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"lag_p99_s": 0.006}, "loop was 6.0 ms late"),
        ({"lag_p99_s": 0.002, "kernel_times": False}, "loop was 2.0 ms late"),
        ({"late_p99_s": 0.007}, "sent 7.0 ms after they were due"),
        ({"cpu_share": 0.93}, "took 93% of a core"),
        ({"behind_share": 0.12}, "12% of the chunks came several a read"),
    ],
)
def test_each_sign_is_a_reason(more: dict[str, float], words: str) -> None:
    (reason,) = client_reasons(WELL | more)
    assert words in reason


def test_lag_within_a_millisecond_of_reading_is_allowed_where_times_are_the_kernels() -> None:
    assert client_reasons(WELL | {"lag_p99_s": 0.004}) == []


def test_facts_are_shares_of_all_chunks() -> None:
    """Two chunks of one read that waited, two of one that did not, and one alone that waited."""
    played = Played(0, [RawAnswer(0, late={0, 2})], [MS, 3 * MS], cpu_s=0.5, wall_s=2.0)
    facts = client_facts(played, [request([0, 0, 1, 1, 2], sent_s=0.004)], Window(0.0, 2.0))
    assert facts["coalesced_share"] == pytest.approx(2 / 5)
    assert facts["behind_share"] == pytest.approx(2 / 5)
    assert facts["late_p99_s"] == pytest.approx(0.004)
    assert facts["cpu_share"] == 0.25
    assert facts["lag_p99_s"] == pytest.approx(0.00298)


@pytest.mark.parametrize(("stamped", "unstamped", "told"), [(0, 0, True), (198, 2, True), (197, 3, False)])
def test_times_are_the_kernels_where_nearly_all_reads_have_one(
    stamped: int, unstamped: int, told: bool
) -> None:
    answers = [RawAnswer(0, stamped=stamped), RawAnswer(0, unstamped=unstamped)]
    facts = client_facts(Played(0, answers), [request([0]), request([0])], Window(0.0, 2.0))
    assert facts["kernel_times"] is told


def test_a_read_is_late_by_what_lies_between_the_kernels_time_and_its_own() -> None:
    clocks = Clocks()
    clocks._at_ns, clocks._offset_ns = [0], [0]  # both clocks are one
    raw = RawAnswer(0, sent_ns=0, end="complete")
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na"
    for read_ms, received_ms, data in ((10.0, 9.5, head), (20.0, 16.5, b"b"), (30.0, 29.9, b"c")):
        raw.reads.append((int(read_ms * MS), TIMESPEC.pack(0, int(received_ms * MS)), data))
    unpack(raw, clocks)
    assert raw.late == {1}
    assert (raw.stamped, raw.unstamped) == (3, 0)
    assert [at for at, _, _ in raw.parts] == [int(9.5 * MS), int(16.5 * MS), int(29.9 * MS)]
