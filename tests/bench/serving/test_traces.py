"""Traces of real services, by their columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from membound.bench.serving.schedule import LoadError
from membound.bench.serving.traces import Arrival, read_trace

MOONCAKE = (
    '{"timestamp": 3000, "input_length": 1024, "output_length": 52, "hash_ids": [0, 7]}\n'
    '{"timestamp": 3000, "input_length": 512, "output_length": 1, "hash_ids": [0]}\n'
    '{"timestamp": 6000, "input_length": 7, "output_length": 3, "hash_ids": [9]}\n'
)
BURST = (
    "Timestamp,Session ID,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,1,ChatGPT,472,18,490,Conversation log\n"
    "45,1,ChatGPT,1087,0,1087,Conversation log\n"
    "118,1,GPT-4,417,276,693,Conversation log\n"
)
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:50.9951690,396,109\n"
)
AZURE_2024 = AZURE.replace(".6805900", ".6805900+00:00").replace(".9951690", ".9951690+00:00")


def trace(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a trace"
    path.write_text(text)
    return path


def test_mooncake(tmp_path: Path) -> None:
    assert list(read_trace(trace(tmp_path, MOONCAKE))) == [
        Arrival(0.0, 1024, 52, (0, 7)),
        Arrival(0.0, 512, 1, (0,)),
        Arrival(3.0, 7, 3, (9,)),
    ]


def test_burst_gpt_leaves_out_what_failed_there_and_finds_columns_by_name(tmp_path: Path) -> None:
    assert list(read_trace(trace(tmp_path, BURST), speed=2.0)) == [
        Arrival(0.0, 472, 18),
        Arrival(56.5, 417, 276),
    ]


@pytest.mark.parametrize("text", [AZURE, AZURE_2024])
def test_azure_with_and_without_a_zone(tmp_path: Path, text: str) -> None:
    first, second = read_trace(trace(tmp_path, text))
    assert first == Arrival(0.0, 374, 44)
    assert second.due_s == pytest.approx(4.314579, abs=1e-6)


def test_a_long_trace_is_not_read_ahead(tmp_path: Path) -> None:
    path = trace(tmp_path, BURST + "no number,1,x,1,1,1,x\n")
    rows = read_trace(path)
    assert [next(rows).output_tokens for _ in range(2)] == [18, 276]
    with pytest.raises(LoadError, match="line 5"):
        next(rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no trace that is known"),
        ("a,b\n1,2\n", "columns are a, b"),
        (MOONCAKE.replace("6000", "1000"), "line 3: its time is before"),
        (MOONCAKE.replace("6000", "-1"), "line 3"),
        (MOONCAKE.replace("1024", '"many"'), "line 1"),
        (MOONCAKE.replace("1024", "1.5"), "line 1"),
        (MOONCAKE.replace("1024", "1e400"), "line 1"),
        (MOONCAKE.replace("1024", "Infinity"), "line 1"),
        (MOONCAKE.replace("6000", "9" * 400), "line 3"),
        ("Timestamp\rRequest tokens,Response tokens\n", "no trace that is known"),
        ("a" * 200_000 + ",b\n", "no trace that is known"),
        (BURST + '"' + "9" * 200_000 + '",x,1,1,1,x,x\n', "line 5"),
        ('{"timestamp": 1}\n', "no 'input_length'"),
        ("[1]\n", "columns"),
        (AZURE + "yesterday,1,2\n", "line 4"),
        (BURST + "1,2\n", "line 5"),
    ],
)
def test_what_is_no_trace_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(LoadError, match=words):
        list(read_trace(trace(tmp_path, text)))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="cannot be read: No such file"):
        list(read_trace(tmp_path / "none"))
    with pytest.raises(LoadError, match="speed=0"):
        list(read_trace(tmp_path / "none", speed=0.0))
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LoadError, match="no text in UTF-8"):
        list(read_trace(binary))
