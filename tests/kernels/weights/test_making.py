"""Arrays that processes make for each other: the same bits as drawing gives, made once, whoever dies and whatever is damaged."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from safetensors.numpy import save_file
from shared_arrays import LAYOUT, SIZE, assert_like, bytes_of, laid_out, refuse, take

from membound.kernels.models import get_model
from membound.kernels.seeded import make_inputs
from membound.kernels.weights import generate, making
from membound.kernels.weights.array_file import FIRST
from membound.kernels.weights.checkpoint import Checkpoint
from membound.kernels.weights.formats import FORMATS, KV_FORMATS, Array, Layout
from membound.kernels.weights.making import LEAST_BYTES, Making
from membound.kernels.work import parse


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A file with room for 100 MB."""
    return laid_out(tmp_path / "arrays", 10**8)


# The same numbers


def everything(inputs: Any) -> list[Array]:
    """All arrays of an inputs object."""
    slots, layers = range(inputs.slots), range(inputs.model.layers if hasattr(inputs, "layer") else 0)
    weights = [inputs.weight(slot) for slot in slots] if hasattr(inputs, "weight") else []
    caches = [inputs.cache(slot) for slot in slots] if hasattr(inputs, "q") else []
    norms: list[Any] = []
    for layer in map(inputs.layer, layers) if layers else ():
        weights += layer.matrices.values()
        norms += [layer.attention_norm, layer.mlp_norm]
    if layers:
        weights += [inputs.lm_head(), inputs.source.embedding_table()]
        caches += [inputs.cache(index) for index in layers if getattr(inputs.work, "cache", "") == "random"]
    found = [part for weight in weights for part in (weight.values, weight.scales)]
    latent = inputs.work.kind == "mla"  # whose values lie within its keys
    found += [part for c in caches for part in (c.k, c.k_scales, *(() if latent else (c.v, c.v_scales)))]
    return [part for part in (*norms, *found) if part is not None]


WORKS = [
    *(f"linear:n=96,k=256,weight={fmt}" for fmt in FORMATS),
    *(f"attention:context=70,batch=2,q_heads=4,kv_heads=2,head_dim=64,kv={fmt}" for fmt in KV_FORMATS),
    *(f"mla:context=33,kv={fmt}" for fmt in KV_FORMATS),
    *(f"step:model=tiny,context=20,weight={w},kv={kv}" for w, kv in (("bf16", "fp8"), ("int4g32", "f16"))),
    "prefill:model=tiny,tokens=20,weight=f16",
]


@pytest.mark.parametrize("spec", WORKS)
def test_what_is_read_is_bit_for_bit_what_is_drawn(
    spec: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every format, those too whose drawing is as cheap."""
    monkeypatch.setattr(generate, "SHARED", tuple({**FORMATS, **KV_FORMATS}))
    monkeypatch.setattr(making, "LEAST_BYTES", 1)
    drawn = everything(make_inputs(parse(spec), 5, 2))
    with Making(path, threads=2) as first:
        made = everything(make_inputs(parse(spec), 5, 2, take=first.take))
    for name in ("_draw_weight", "_draw_cache"):
        monkeypatch.setattr(generate, name, lambda *_: refuse())
    with Making(path, threads=3) as second:
        read = everything(make_inputs(parse(spec), 5, 2, take=second.take))
    assert (first.unshared, second.unshared) == ("", "")
    assert len(drawn) == len(made) == len(read) > 0
    for one, other, expected in zip(made, read, drawn, strict=True):
        assert_like(one, expected)
        assert_like(other, expected)


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_checkpoint_is_quantised_once(
    fmt: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "LEAST_BYTES", 1)
    folder = checkpoints.folder_of(tmp_path / "model", hidden_size=256, num_attention_heads=8)
    work = parse(f"step:model={folder},context=4,weight={fmt},kv=f32")
    quantised = everything(make_inputs(work, 5))
    with Making(path) as first:
        made = everything(make_inputs(work, 5, take=first.take))
    monkeypatch.setattr(Checkpoint, "_quantised", lambda *_: refuse())
    with Making(path) as second:
        read = everything(make_inputs(work, 5, take=second.take))
    for one, other, expected in zip(made, read, quantised, strict=True):
        assert_like(one, expected)
        assert_like(other, expected)


def test_a_checkpoint_that_has_changed_is_another_one(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "LEAST_BYTES", 1)
    model = get_model(str(checkpoints.folder_of(tmp_path / "model")))
    with Making(path) as one:
        before = Checkpoint(model, "bf16", 1, one.take).lm_head().values
        (file,) = (tmp_path / "model").glob("*.safetensors")
        tensors = {name: -values for name, values in checkpoints.tensors_of(model).items()}
        save_file(tensors, file)
        os.utime(file, ns=(1, 1))
        after = Checkpoint(model, "bf16", 1, one.take).lm_head().values
    assert (before != after).mean() > 0.9


def test_each_seed_slot_and_gain_has_numbers_of_its_own(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "LEAST_BYTES", 1)
    with Making(path) as one:
        found = [
            generate.random_weight(fmt, n, 64, stream, gain, one.take).values.tobytes()
            for fmt in ("bf16", "f16")
            for n in (8, 16)
            for stream in (1, 2)
            for gain in (1, 4)
        ]
    assert len(set(found)) == len(found) == 16


def test_what_is_cheap_or_small_or_not_to_be_shared_is_made_by_everybody(path: str) -> None:
    small: Layout = (((LEAST_BYTES - 1,), "u1"),)
    made = [np.zeros(LEAST_BYTES - 1, np.uint8)]
    with Making(path) as one:
        assert one.take("cheap", LAYOUT, lambda: [bytes_of("cheap")], share=False)[0].size == SIZE
        assert one.take("small", small, lambda: made, share=True) is made
    assert os.path.getsize(path) == FIRST


def test_without_a_file_or_after_its_end_all_is_made_here(path: str) -> None:
    with Making() as alone:
        assert_like(take(alone, "a"), bytes_of("a"))
    with Making(path) as one:
        take(one, "a")
    made = [np.zeros(SIZE, np.uint8)]
    assert take(one, "a", lambda: made) is made[0]
    assert 0 < one.seconds < 60


def test_what_has_no_room_is_made_here_and_what_is_small_enough_still_shared(tmp_path: Path) -> None:
    path, large = laid_out(tmp_path / "arrays", 2 * SIZE), (((3 * SIZE,), "u1"),)
    with Making(path) as one:
        assert (
            one.take("large", large, lambda: [np.ones(3 * SIZE, np.uint8)], share=True)[0].sum() == 3 * SIZE
        )
        for name in "abc":
            assert_like(take(one, name), bytes_of(name))
        assert one.unshared == ""
    with Making(path) as other:
        for name in "ab":
            assert_like(take(other, name, refuse), bytes_of(name))
        with pytest.raises(AssertionError, match="it was there"):
            take(other, "c", refuse)
    assert os.path.getsize(path) == FIRST + 2 * SIZE


def test_what_making_raises_goes_through_and_the_next_one_makes_it(path: str) -> None:
    def fails() -> Any:
        raise FileNotFoundError("model.safetensors")

    with Making(path) as one:
        with pytest.raises(FileNotFoundError, match="safetensors"):
            take(one, "a", fails)
        assert_like(take(one, "a"), bytes_of("a"))
        assert one.unshared == ""
    with Making(path) as other:
        assert_like(take(other, "a", refuse), bytes_of("a"))


def test_threads_of_a_process_make_an_array_once(path: str) -> None:
    made: list[str] = []

    def make(name: str) -> list[Array]:
        made.append(name)
        return [bytes_of(name).copy()]

    with Making(path, threads=2) as one, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: take(one, name, lambda: make(name)), "abababab" * 3))
    assert sorted(made) == ["a", "b"]
    for name, array in zip("abababab" * 3, found, strict=True):
        assert_like(array, bytes_of(name))
