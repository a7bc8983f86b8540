"""What is shown while a point goes on, and that it costs the client next to nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from membound.bench.serving.client import Played
from membound.bench.serving.glance import MOST_LOOKED_AT, Glance
from membound.bench.serving.live import LiveLoad, line_of, view_of
from membound.bench.serving.raw import RawAnswer

MS = 1_000_000


def answered(
    first_ms: float = 50.0, gap_ms: float = 20.0, status: int = 200, end: str = "complete"
) -> RawAnswer:
    raw = RawAnswer(0, sent_ns=0, status=status)
    raw.reads.append((1 * MS, b"", b'data: {"choices":[{"delta":{"role":"assistant"}}]}'))
    for number in range(3):
        read_ns = int((first_ms + number * gap_ms) * MS)
        raw.reads.append((read_ns, b"", b'data: {"choices":[{"text":"w"}]}'))
    raw.finish(end, int(200 * MS))
    return raw


def looked(*answers: RawAnswer) -> dict[str, Any]:
    played = Played(time.monotonic_ns() - 10_000 * MS, list(answers), lag_ns=[MS] * 10)
    return Glance("rate 2", 2.0, 60.0).look(played)


def test_a_look_counts_what_there_is() -> None:
    told = looked(answered(), answered(), answered(status=429), answered(end="cut"), RawAnswer(0, sent_ns=0))
    assert (told["sent"], told["under_way"]) == (5, 1)
    assert told["ends"] == {"complete": 2, "HTTP 429": 1, "cut": 1}
    assert told["ttft_p50_s"] == pytest.approx(0.05)
    assert told["lag_p99_s"] == pytest.approx(0.001)
    assert told["left_s"] == pytest.approx(50, abs=2)
    assert told["sent_per_s"] == pytest.approx(0.5, abs=0.1)


def test_each_look_takes_only_what_is_new() -> None:
    glance, played = Glance("users 2", None, 60.0), Played(0, [RawAnswer(0)])
    assert glance.look(played)["ends"] == {}
    played.answers[0].finish("complete", 1)
    played.answers[0].status = 200
    played.answers.append(answered())
    assert glance.look(played)["ends"] == {"complete": 2}
    assert glance.look(played)["ends"] == {"complete": 2}
    many = [answered() for _ in range(3 * MOST_LOOKED_AT)]
    played.answers += many
    assert glance.look(played)["ends"] == {"complete": 2 + len(many)}


def test_lines_and_tables_say_it() -> None:
    told = looked(answered(), answered(status=429))
    line = line_of(told)
    assert line.startswith("rate 2: ")
    assert "of 2/s" in line
    assert "1 done, 1 HTTP 429, first token 50 ms" in line
    shown = StringIO()
    Console(file=shown, width=80).print(view_of(told))
    assert "between chunks" in shown.getvalue()
    assert "20 ms" in shown.getvalue()
    assert "–" in "".join(_text(view_of(looked())))


def _text(view: Any) -> str:
    shown = StringIO()
    Console(file=shown, width=80).print(view)
    return shown.getvalue()


def test_without_a_terminal_lines_come_rarely() -> None:
    shown = StringIO()
    with LiveLoad(Console(file=shown, width=80)) as live:
        for _ in range(5):
            live.show(looked(answered()))
    assert shown.getvalue().count("\n") == 1


def test_the_process_that_draws_ends_with_its_input() -> None:
    told = json.dumps(looked(answered())).encode() + b"\n"
    command = [sys.executable, "-m", "membound.bench.serving.live"]
    ended = subprocess.run(command, input=told * 2, capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_terminal_that_knows_ascii_alone_is_drawn_on_with_escapes() -> None:
    """A time that is not known yet is a dash, which ASCII has not."""
    told = json.dumps(looked()).encode() + b"\n"
    command = [sys.executable, "-m", "membound.bench.serving.live"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict", "FORCE_COLOR": "1", "TERM": "xterm"}
    ended = subprocess.run(command, input=told, capture_output=True, timeout=60, check=False, env=environment)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"between chunks" in ended.stdout
    assert b"\\u2013" in ended.stdout


def test_on_a_terminal_another_process_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    with LiveLoad(Console(file=StringIO(), force_terminal=True)) as live:
        live.show(looked(answered()))
        drawing = live._drawing
        assert drawing is not None
    assert drawing.returncode == 0
