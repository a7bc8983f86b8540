"""What stored points say about the highest rate."""

from __future__ import annotations

from io import StringIO

from membound.results.row import Row
from membound.results.serving.request import Request
from membound.results.serving.search import Searched, keeps, searched
from membound.results.views.console import PlainConsole
from membound.results.views.serving import serving_view


def point(rate: float, ttft_s: float, grade: str = "clean") -> Row:
    requests = [
        Request(
            float(i), float(i), [i + ttft_s, i + ttft_s + 0.01], [1, 1], [0, 1], ended_s=i + ttft_s + 0.02
        )
        for i in range(10)
    ]
    config = {"rate": rate, "warm_s": 0.0, "end_s": 10.0, "slo": "ttft=100", "search": True}
    return Row(
        "a-run",
        "serving",
        "url",
        f"serving:rate={rate:g}",
        "ok",
        requests=requests,
        config=config,
        grade=grade,
    )


def test_a_rate_must_be_kept_twice_of_three_and_lie_below_what_was_missed() -> None:
    assert keeps(point(1, 0.05))
    assert not keeps(point(1, 0.2))
    rows = [point(1, 0.05), point(2, 0.05), point(2, 0.05), point(4, 0.2), point(8, 0.05), point(8, 0.05)]
    assert searched(rows) == Searched("ttft=100", 2, 4, False)
    assert searched(rows[:2]) == Searched("ttft=100", None, None, False)
    twice_of_three = [*rows[:3], point(2, 0.2), point(4, 0.2), point(4, 0.05), point(4, 0.2)]
    assert searched(twice_of_three) == Searched("ttft=100", 2, 4, False)
    assert searched([*rows[:3], point(4, 0.2), point(4, 0.05)]) == Searched("ttft=100", 2, None, False)
    assert searched([*rows[:3], point(4, 0.2, "invalid")]) == Searched("ttft=100", 2, 4, True)


def test_points_that_are_no_search_have_no_outcome() -> None:
    row = point(1, 0.05)
    row.config["search"] = False
    assert searched([row]) is None


def test_the_outcome_is_shown() -> None:
    shown = StringIO()
    rows = [point(2, 0.05), point(2, 0.05), point(4, 0.2, "invalid")]
    PlainConsole(file=shown, width=80).print(serving_view(rows))
    text = " ".join(shown.getvalue().split())
    assert "highest rate that keeps ttft=100 for 99% of the requests: 2/s; 4/s does not keep it" in text
    assert "the client was the limit there" in text
