"""A step that ranks share: logits against the reference, bytes by hand, and ranks that die, hang or cannot be had."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from membound.backends.pytorch.backend import PyTorch
from membound.backends.pytorch.ranks import Launch, Ranks, Reduce
from membound.bench.measure.contestant import BackendProcess, Setting, Timeouts
from membound.bench.measure.failures import Failure
from membound.errors import BackendUnavailable, ProcessEnded, ProcessSilent
from membound.kernels.inputs import ModelInputs
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.split import exchanges, rank_inputs
from membound.kernels.weights.formats import dequantize
from membound.kernels.work import Step, parse

F32 = "step:model=tiny,context=9,batch=3,weight=f32,kv=f32"


@pytest.fixture(scope="module")
def two() -> Iterator[PyTorch]:
    backend = PyTorch()
    backend.open("cpu+tp2", 2)
    yield backend
    backend.close()


def step_of(spec: str) -> Step:
    work = parse(spec)
    assert isinstance(work, Step)
    return work


def model_inputs(work: Step, folder: Path | None = None) -> ModelInputs:
    inputs = make_inputs(work, 3, folder=folder)
    assert isinstance(inputs, ModelInputs)
    return inputs


@pytest.mark.parametrize(
    "spec",
    [
        F32,
        "step:model=tiny,context=33,weight=bf16,kv=bf16",
        "step:model=tiny,context=7,batch=2,weight=f32,kv=f32,cache=prompt",
        pytest.param(  # biases of q, k and v
            "step:model=qwen2.5-0.5b,layers=1,context=5,weight=f32,kv=f32", marks=pytest.mark.slow
        ),
    ],
)
def test_two_ranks_give_the_logits_of_the_reference(two: PyTorch, spec: str, tmp_path: Path) -> None:
    work = step_of(spec)
    inputs = model_inputs(work, tmp_path)
    assert two.supports(work) is None
    two.prepare(work, inputs)
    expected = compute(inputs, 0)
    for _ in range(2):
        two.launch(0)
        two.sync()
        assert relative_error(two.output(), expected) < tolerance(work)


def test_bytes_of_exchanges_by_hand(two: PyTorch) -> None:
    """tiny: 2 layers, 256 wide, 1000 logits. 3 rows: 4 all-reduces of 3 · 256 · 4 bytes, and half of the logits."""
    work = step_of(F32)
    two.prepare(work, model_inputs(work))
    two.launch(0)
    two.sync()
    told = two.settings()["ranks"]
    assert (told["count"], told["threads"]) == (2, 1)
    assert (told["all_reduces"], told["all_reduce_bytes"]) == (4, 3072)
    assert told["gather_bytes"] == 3 * 500 * 4
    assert (
        told["link_bytes"] == 4 * 3072 + 6000
    )  # of two ranks each sends a half, twice; the second its logits besides
    assert two.exchanged_bytes() == 4 * 2 * 3072 + 6000
    assert len(told["working_s"]) == len(told["exchanging_s"]) == 2
    assert (
        min(*told["working_s"], *told["exchanging_s"], told["link_latency_s"], told["link_bytes_per_s"]) > 0
    )
    norms = 4 * 256 * (2 * 2 + 1)  # which each rank holds
    assert two.stored_bytes() == work.traffic.weights_bytes + work.traffic.kv_read_bytes + norms


def test_bytes_of_four_ranks_and_of_bf16() -> None:
    moved = exchanges(step_of("step:model=llama-3.2-1b,batch=2,weight=bf16"), 4, 2)
    assert moved.all_reduces == 32
    assert moved.all_reduce_bytes == 2 * 2048 * 2
    assert moved.ring_bytes == 1.5 * 8192
    assert moved.gather_bytes == 2 * 96192 * 4
    assert moved.link_bytes == 32 * 12288 + 2 * 32064 * 4
    assert moved.total_bytes == 32 * 4 * 12288 + 2 * 96192 * 4


def test_parts_are_those_of_the_whole() -> None:
    inputs = model_inputs(step_of("step:model=qwen2.5-0.5b,layers=1,context=4,weight=f32,kv=f32"))
    parts = [rank_inputs(inputs, rank, 2) for rank in range(2)]
    whole, layers = inputs.layer(0), [part.layer(0) for part in parts]
    for name, axis in {"q": 0, "k": 0, "v": 0, "o": 1, "gate": 0, "up": 0, "down": 1}.items():
        joined = np.concatenate([dequantize(layer.matrices[name]) for layer in layers], axis)
        assert np.array_equal(joined, dequantize(whole.matrices[name])), name
    for name in ("q_bias", "k_bias", "v_bias"):
        assert np.array_equal(np.concatenate([layer.vectors[name] for layer in layers]), whole.vectors[name])
    heads = np.concatenate([part.cache(0).k for part in parts], 1)
    assert np.array_equal(heads, inputs.cache(0).k)
    head = np.concatenate([dequantize(part.lm_head()) for part in parts])
    assert np.array_equal(head, dequantize(inputs.lm_head()))


@pytest.mark.parametrize(
    ("spec", "ranks", "why"),
    [
        ("step:model=tiny,weight=f32,kv=f32", 4, "4 ranks do not divide the 2 KV heads of tiny"),
        (
            "step:model=gpt-3-175b,layers=1",
            2,
            "2 ranks do not divide the 50257 rows of the LM head of gpt-3-175b",
        ),
        (
            "step:model=tiny,weight=int8",
            2,
            "ranks share steps with f32, bf16, f16 weights, which have no scales",
        ),
        (
            "step:model=mixtral-8x7b,layers=1",
            2,
            "ranks share steps of dense models with heads of one width, without experts and latent attention",
        ),
        ("linear:n=8,k=32", 2, "ranks (tp2) share decode steps only"),
        ("prefill:model=tiny", 2, "ranks (tp2) share decode steps only"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_a_rank_starts(spec: str, ranks: int, why: str) -> None:
    backend = PyTorch()
    backend.open(f"cpu+tp{ranks}", ranks)
    assert backend.supports(parse(spec)) == why
    assert not backend.helpers()
    backend.close()


@pytest.mark.parametrize(
    ("device", "threads", "why"),
    [
        ("cpu+tp4", 2, "4 ranks take a thread each, and there are 2"),
        ("cpu+tp2", 3, "2 ranks do not divide 3 threads"),
        ("cpu+tp1", 2, "unknown variant 'tp1'"),
        ("cpu+tp2+compile", 2, "variants tp2+compile do not go together"),
    ],
)
def test_ranks_that_cannot_be_had(device: str, threads: int, why: str) -> None:
    with pytest.raises(BackendUnavailable, match=why.replace("+", r"\+")):
        PyTorch().open(device, threads)


def test_a_torch_without_gloo_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_backend_available", lambda link: link != "gloo")
    with pytest.raises(BackendUnavailable, match="built without gloo"):
        PyTorch().open("cpu+tp2", 2)


def gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in pids)


def test_a_killed_rank_is_named_and_none_is_left() -> None:
    ranks = Ranks(2, 1)
    assert [given for _, given in ranks.ask(Reduce(64, 2))] == [2.0, 2.0]
    pids = ranks.pids
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(ProcessEnded, match=r"rank 1 of 2 ended: SIGKILL"):
        ranks.ask(Reduce(64, 2))
    assert gone(pids)


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_and_none_is_left() -> None:
    ranks = Ranks(2, 1, turn_s=3.0)
    ranks.ask(Reduce(64, 2))
    pids = ranks.pids
    os.kill(pids[1], signal.SIGSTOP)
    with pytest.raises(ProcessSilent, match=r"rank 1 of 2 gave no answer for \d+ s"):
        ranks.ask(Reduce(64, 2))
    assert gone(pids)


@pytest.mark.slow
def test_what_a_rank_raises_is_said_with_its_name() -> None:
    ranks = Ranks(2, 1)
    with pytest.raises(RuntimeError, match="rank 0 of 2: AssertionError: launch before prepare"):
        ranks.ask(Launch())
    assert ranks.pids == []


ALONE = """
import os, sys
from membound.backends.pytorch.ranks import Ranks, Reduce
ranks = Ranks(2, 1)
ranks.ask(Reduce(64, 1))
print(*ranks.pids, flush=True)
os.kill(os.getpid(), 9)
"""


def test_ranks_end_with_the_worker_that_is_killed() -> None:
    worker = subprocess.run([sys.executable, "-c", ALONE], stdout=subprocess.PIPE, check=False, timeout=120)
    assert worker.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in worker.stdout.split()]
    assert len(pids) == 2
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], 10)
    assert gone(pids)


@pytest.mark.slow
def test_a_rank_that_dies_in_a_turn_is_the_row_of_its_backend(tmp_path: Path) -> None:
    setting = Setting(2, 1, 1 << 30, str(tmp_path), Timeouts(other_s=240.0))
    with BackendProcess("torch:cpu+tp2", setting) as process:
        process.open()
        one = process.prepare(0, parse(F32).spec)
        assert one.prepared.exchanged_bytes == 4 * 2 * 3072 + 6000
        turned = one.take_turn()
        assert turned is not None
        assert turned.time_s > 0
        ranks = psutil.Process(process.pid).children()
        assert len(ranks) == 2
        assert all(rank.environ()["MEMBOUND_WORKER"] for rank in ranks), "the guardian finds them by it"
        ranks[0].kill()
        assert one.take_turn() is None
        assert one.failure == Failure("crashed", "rank 0 of 2 ended: SIGKILL")
        assert process.alive, "its other works go on"
        again = process.prepare(0, parse(F32).spec)
        assert again.take_turn() is not None
        ranks += psutil.Process(process.pid).children()
    assert gone([rank.pid for rank in ranks])
