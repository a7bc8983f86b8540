"""Servers that say the right thing and the wrong one while they are under load, by token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from servers import null_server

from membound.bench.serving import drawing
from membound.bench.serving.endpoint import parse_url
from membound.bench.serving.lengths import parse_lengths
from membound.bench.serving.load import Load
from membound.bench.serving.null_server import Script
from membound.bench.serving.schedule import LoadError, Pattern
from membound.bench.serving.served import check_formats, parse_served
from membound.bench.serving.session import prepare, run_load
from membound.errors import MemboundError
from membound.kernels.inputs import ModelInputs
from membound.kernels.prompt import scores
from membound.kernels.seeded import make_inputs
from membound.kernels.work import SpecError
from membound.results.row import Row

pytest.importorskip("uvloop")

SPEC = "step:model=tiny,weight=f32,layers=1"
SERVED = parse_served(SPEC)


def greedy(prompt: Any, total: int) -> list[int]:
    """What the model says, one token after the other."""
    chosen: list[int] = []
    work = replace(SERVED.work, context=len(prompt) - 1)
    made = make_inputs(work, SERVED.seed)
    assert isinstance(made, ModelInputs)
    made = replace(made, tokens=np.array([prompt]), held=[])
    for _ in range(total):
        told = scores(made, np.array([[*chosen, 0]]))
        chosen.append(int(told[0, -1].argmax()))
    return chosen


def once_wrong(prompt: Any, total: int) -> list[int]:
    """The same but for one token, the last."""
    right = greedy(prompt, total)
    return [*right[:-1], (right[-1] + 1) % SERVED.vocab]


def row_of(choose: Callable[[Any, int], Sequence[int]], fault: str = "", **more: Any) -> Row:
    kept: list[Row] = []
    with null_server(Script(0.001, 0.001, fault=fault), choose) as url:
        load = Load(
            parse_url(url),
            users=(1,),
            seconds=0.5,
            warm_s=0.0,
            drain_s=5.0,
            prompt=parse_lengths("6"),
            output=parse_lengths("3"),
            served=SERVED,
        )
        run_load(prepare(replace(load, **more)), "a-run", "membound load", kept.append)
    return Row.from_json(kept[0].to_json())


def test_a_server_that_is_right_is_ok() -> None:
    row = row_of(greedy)
    assert row.status == "ok", row.reason
    assert row.error is not None
    assert row.tolerance is not None
    assert row.error <= 1e-6 < row.tolerance
    assert row.config["truth"]["requests"] >= 1
    assert row.config["truth"]["tokens"] == 3 * row.config["truth"]["requests"]


@pytest.mark.parametrize("choose", [once_wrong, lambda prompt, total: [17] * total])
def test_a_server_that_is_faster_and_wrong_is_wrong(choose: Callable[[Any, int], Sequence[int]]) -> None:
    row = row_of(choose)
    assert row.status == "wrong"
    assert "the server's tokens are not the model's" in row.reason
    assert row.error is not None
    assert row.tolerance is not None
    assert row.error > row.tolerance


def test_where_the_window_has_none_those_before_it_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "EVERY", 10_000)  # the first request alone is kept
    even = {"users": (), "rates": (4.0,), "pattern": Pattern("constant")}
    row = row_of(greedy, warm_s=0.2, drain_s=30.0, **even)
    assert (row.status, row.config["truth"]["requests"]) == ("ok", 1)


def test_tokens_beyond_the_vocabulary_are_wrong() -> None:
    for beyond in (SERVED.vocab, 10**30):  # the second is no number of NumPy's either
        assert row_of(lambda prompt, total, beyond=beyond: [beyond] * total).status == "wrong"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"served": None}, "--reference names it"),
        ({"chat": True}, "no answer that could be compared"),
        ({"prompt": parse_lengths("1")}, "no answer that could be compared"),
    ],
)
def test_what_cannot_be_compared_is_unknown_and_not_right(more: dict[str, Any], words: str) -> None:
    row = row_of(lambda prompt, total: [17] * total, **more)
    assert row.status == "ok"
    assert row.error is None
    assert words in row.config["truth"]["unknown"]


def test_a_server_that_does_not_tell_its_tokens_is_unknown() -> None:
    row = row_of(greedy, fault="no-token-ids")
    assert (row.status, row.error) == ("ok", None)
    assert row.config["truth"]["unknown"] == "the server does not tell its tokens"


# Naming the model


def test_a_model_is_named_by_itself_by_a_folder_or_by_a_step(tmp_path: Any) -> None:
    from membound.kernels.export import export_model

    assert parse_served("tiny").work.spec.endswith("weight=bf16,kv=bf16,act=float,cache=prompt")
    assert SERVED.work.kv == "f32"
    assert parse_served("step:model=tiny,batch=4,weight=f32,kv=bf16").work.batch == 1
    inputs = make_inputs(SERVED.work, 1)
    assert isinstance(inputs, ModelInputs)
    export_model(inputs, tmp_path / "a-model")
    served = parse_served(str(tmp_path / "a-model"))
    assert (served.name, served.work.weight, served.work.kv, served.vocab) == ("a-model", "f32", "f32", 1000)


@pytest.mark.parametrize("content", [b"[" * 200_000, b"", b"\xff", b'{"torch_dtype": []}', b"[1]"])
def test_a_folder_that_describes_no_model_is_refused(tmp_path: Any, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(MemboundError):
        parse_served(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "error"),
    [("nothing-known", SpecError), ("linear:n=4,k=4", LoadError), ("prefill:model=tiny", LoadError)],
)
def test_what_names_no_model(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_served(text)


@pytest.mark.parametrize("text", ["step:model=tiny,weight=int8", "step:model=tiny,weight=f32,kv=bf16"])
def test_formats_that_an_engine_does_not_take(text: str) -> None:
    with pytest.raises(LoadError, match="the engine takes weight=f32"):
        check_formats(parse_served(text), ("f32",))
